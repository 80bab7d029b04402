"""The command `lmmr1 contamination`: overlap with training prompts, and completion of cut-off problems."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmmr1.files import write
from lmmr1.types import UserError

HEADS = (
    "problems", "checked", "overlap", "%", "whole", "same picture", "words alone", "completed %", "ROUGE-L",
)  # fmt: skip

if TYPE_CHECKING:
    from evals.completion import Completion
    from evals.problems import Problem
    from evals.registry import Benchmark


def contamination(
    benchmarks: Annotated[str, typer.Option(help="Names from evals/benchmarks.yaml, separated by commas.")],
    train: Annotated[Optional[list[Path]], typer.Option(help="Training prompts; may be repeated.")] = None,  # noqa: UP045
    model: Annotated[Optional[str], typer.Option(help="Let this checkpoint or Hub id complete the problems.")] = None,  # noqa: UP045
    data_root: Annotated[Optional[Path], typer.Option(help="Read local files instead of the Hub.")] = None,  # noqa: UP045
    benchmark_dir: Annotated[Optional[Path], typer.Option(help="Folder of the micro benchmarks.")] = None,  # noqa: UP045
    any_data: Annotated[bool, typer.Option("--any-data", help="Also files that are not the pinned ones.")] = False,
    if_there: Annotated[
        bool, typer.Option("--if-there", help="Name benchmarks whose files are not on this machine; download nothing.")
    ] = False,
    n: Annotated[int, typer.Option("--words", help="Length of a run of words.")] = 13,
    limit: Annotated[Optional[int], typer.Option(min=1, help="First N problems of each benchmark.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write the JSON object to this file.")] = None,  # noqa: UP045
) -> None:
    """How much of a benchmark stands in training prompts, and how much of it a model completes from its beginning."""
    from evals.completion import INSTRUCTION
    from evals.contamination import overlaps, summary
    from evals.training_texts import training_texts

    if not train and model is None:
        raise UserError("nothing to compare with: give --train FILE, --model CHECKPOINT, or both")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}; make it or give another file")
    files = train or []
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        source = _Source(data_root, benchmark_dir, limit, Path(workspace), any_data)
        problems, absent = _problems(benchmarks, source, if_there)
        found = overlaps(problems, (text for file in files for text in training_texts(file)), n) if files else []
        key, completed = _complete(model, problems, batch_size) if model is not None else (None, [])
    settings = {
        "train": {str(file): hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "words": n,
        "model": model,
        "checkpoint": key,
        "instruction": INSTRUCTION,
    }
    result = summary(found, completed, settings, absent)
    if out is not None:
        write(out, json.dumps(result, indent=1) + "\n", sealed=True)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where benchmarks are read from; the fields are those of evals/inputs.py: prepare."""

    data_root: Path | None
    benchmark_dir: Path | None
    limit: int | None
    workspace: Path
    any_data: bool

    def problems(self, benchmark: Benchmark) -> Sequence[Problem]:
        from evals.inputs import prepare

        places = (self.data_root, self.benchmark_dir, self.limit, self.workspace)
        return prepare(benchmark, *places, self.any_data).problems


def _problems(names: str, source: _Source, if_there: bool) -> tuple[dict[str, Sequence[Problem]], dict[str, str]]:
    """The problems of each benchmark; with `if_there` also why others are left out."""
    from evals.registry import find

    found = [find(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise UserError("--benchmarks: give at least one name")
    problems: dict[str, Sequence[Problem]] = {}
    absent: dict[str, str] = {}
    if if_there:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hub's library is imported, which nothing did yet
    for benchmark in found:
        if if_there and (reason := _absence(benchmark, source)):
            absent[benchmark.name] = reason
        else:
            problems[benchmark.name] = source.problems(benchmark)
    return problems, absent


def _absence(benchmark: Benchmark, source: _Source) -> str:
    """Why a benchmark's file is not on this machine; empty where it is. A damaged file is there, and an error."""
    kind, _, name = benchmark.source.partition(":")
    if kind == "micro":
        files = [source.benchmark_dir / benchmark.file_name] if source.benchmark_dir else []
    elif source.data_root is not None:
        files = [source.data_root / file.path for file in benchmark.files]
    elif kind == "hub":
        try:
            source.problems(benchmark)
        except UserError as e:
            return str(e)
        return ""
    else:
        from evals.vlmevalkit import downloaded

        files = [downloaded(name)]
    return "" if any(file.exists() for file in files) else f"no file {' or '.join(file.name for file in files)}"


def _complete(source: str, problems: dict[str, Sequence[Problem]], batch_size: int) -> tuple[str, list[Completion]]:
    """The checkpoint's key, a Hub id with its commit, and what it made of each benchmark."""
    from evals.completion import complete
    from evals.generation import load_model
    from evals.run import identify

    found = identify(source)
    model = load_model(found.weights, found.revision)
    return found.key, [complete(model, name, rows, batch_size) for name, rows in problems.items()]


def _show(result: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table("benchmark", box=None, padding=(0, 1))
    for head in HEADS:
        table.add_column(head, justify="right")
    for name, cell in result["benchmarks"].items():
        overlap, completion = cell.get("overlap"), cell.get("completion")
        left = _overlap_texts(overlap) if overlap else [str(completion["problems"]), *["-"] * (len(HEADS) - 3)]
        right = [f"{100 * completion['exact']:.2f}", f"{completion['rouge_l']:.3f}"] if completion else ["-", "-"]
        table.add_row(escape(name), *left, *right)
    console.print(table)
    for name, reason in result["not_checked"].items():
        console.print(escape(f"  {name}: not checked, {reason}"), soft_wrap=True)
    for name, cell in result["benchmarks"].items():
        for example in cell.get("overlap", {}).get("examples", []):
            text = (
                f"{name} {example['problem']} = {example['training']}, {100 * example['share']:.0f} %: {example['run']}"
            )
            console.print("  " + escape("".join(c if c.isprintable() else " " for c in text)), soft_wrap=True)


def _overlap_texts(cell: dict[str, Any]) -> list[str]:
    """The cells of HEADS up to the completion's. Pictures: equal ones, and near copies behind a plus sign."""
    counts = [str(cell[key]) for key in ("problems", "checked", "shared")]
    pictures = f"{cell['same_picture']}+{cell['near_picture']}" if cell["pictured"] else "-"
    alone = f"{cell['words_only']}/{cell['words_checked']}" if cell["pictured"] else "-"
    return [*counts, f"{100 * cell['rate']:.2f}", str(cell["whole"]), pictures, alone]
