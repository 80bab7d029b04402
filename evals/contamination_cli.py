"""The command `lmmr1 contamination`: overlap with training prompts, and completion of cut-off problems."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmmr1.types import UserError

if TYPE_CHECKING:
    from evals.contamination import Completion
    from evals.problems import Problem


def contamination(
    benchmarks: Annotated[str, typer.Option(help="Names from evals/benchmarks.yaml, separated by commas.")],
    train: Annotated[Optional[list[Path]], typer.Option(help="Training prompts; may be repeated.")] = None,  # noqa: UP045
    model: Annotated[Optional[str], typer.Option(help="Let this checkpoint or Hub id complete the problems.")] = None,  # noqa: UP045
    data_root: Annotated[Optional[Path], typer.Option(help="Read local files instead of the Hub.")] = None,  # noqa: UP045
    benchmark_dir: Annotated[Optional[Path], typer.Option(help="Folder of the micro benchmarks.")] = None,  # noqa: UP045
    n: Annotated[int, typer.Option("--words", help="Length of a run of words.")] = 13,
    limit: Annotated[Optional[int], typer.Option(min=1, help="First N problems of each benchmark.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write the JSON object to this file.")] = None,  # noqa: UP045
) -> None:
    """How much of a benchmark stands in training prompts, and how much of it a model completes from its beginning."""
    from evals.contamination import INSTRUCTION, overlaps, summary, training_texts

    if not train and model is None:
        raise UserError("nothing to compare with: give --train FILE, --model CHECKPOINT, or both")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}; make it or give another file")
    files = train or []
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        problems = _problems(benchmarks, data_root, benchmark_dir, limit, Path(workspace))
        found = overlaps(problems, (text for file in files for text in training_texts(file)), n) if files else []
        key, completed = _complete(model, problems, batch_size) if model is not None else (None, [])
    settings = {
        "train": {str(file): hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "words": n,
        "model": model,
        "checkpoint": key,
        "instruction": INSTRUCTION,
    }
    result = summary(found, completed, settings)
    if out is not None:
        partial = out.with_name(out.name + ".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        partial.replace(out)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)


def _problems(
    benchmarks: str, data_root: Path | None, benchmark_dir: Path | None, limit: int | None, workspace: Path
) -> dict[str, Sequence[Problem]]:
    from evals.inputs import prepare
    from evals.registry import find

    found = [find(name.strip()) for name in benchmarks.split(",") if name.strip()]
    if not found:
        raise UserError("--benchmarks: give at least one name")
    return {b.name: prepare(b, data_root, benchmark_dir, limit, workspace).problems for b in found}


def _complete(source: str, problems: dict[str, Sequence[Problem]], batch_size: int) -> tuple[str, list[Completion]]:
    """The checkpoint's key, a Hub id with its commit, and what it made of each benchmark."""
    from evals.contamination import complete
    from evals.generation import load_model
    from evals.run import identify

    found = identify(source)
    model = load_model(found.weights, found.revision)
    return found.key, [complete(model, name, rows, batch_size) for name, rows in problems.items()]


def _show(result: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table("benchmark", box=None, padding=(0, 1))
    heads = ("problems", "checked", "overlap", "%", "whole", "same image", "completed %", "ROUGE-L")
    for head in heads:
        table.add_column(head, justify="right")
    for name, cell in result["benchmarks"].items():
        overlap, completion = cell.get("overlap"), cell.get("completion")
        counts = [overlap[key] for key in ("problems", "checked", "shared")] if overlap else []
        left = [*map(str, counts), f"{100 * overlap['rate']:.2f}"] if overlap else [str(completion["problems"]), *"---"]
        middle = [str(overlap["whole"]), str(overlap["same_image"])] if overlap else ["-", "-"]
        right = [f"{100 * completion['exact']:.2f}", f"{completion['rouge_l']:.3f}"] if completion else ["-", "-"]
        table.add_row(escape(name), *left, *middle, *right)
    console.print(table)
    for name, cell in result["benchmarks"].items():
        for example in cell.get("overlap", {}).get("examples", []):
            text = (
                f"{name} {example['problem']} = {example['training']}, {100 * example['share']:.0f} %: {example['run']}"
            )
            console.print("  " + escape("".join(c if c.isprintable() else " " for c in text)), soft_wrap=True)
