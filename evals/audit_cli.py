"""The command `lmmr1 audit`: tables of what each scorer says of the same stored answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from lmmr1.types import UserError

if TYPE_CHECKING:
    from evals.audit import ArmFacts, BenchmarkAudit, Cell, Gain

FACTS = ("cut off %", "empty", "no reply")
"""Columns of the table of scores that are the same under every scorer."""

WIDTH = 130
"""Columns of the tables where standard output is no terminal."""


def audit(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders (or files) with stored answers.")],
    data_root: Annotated[Optional[Path], typer.Option(help="Folder with mathvision/test.jsonl.")] = None,  # noqa: UP045
    baseline: Annotated[Optional[str], typer.Option(help="Arm that gains refer to; else `baseline`.")] = None,  # noqa: UP045
    also: Annotated[Optional[list[str]], typer.Option(help="A stock scorer to apply to every benchmark.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write audit.json and disagreements.jsonl there.")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option(min=1, help="Processes; the verdicts do not depend on it.")] = 2,
) -> None:
    """Score stored answers with every scorer that applies, and say which gains exist under which scorer."""
    from evals.audit import audit as audited
    from evals.importers import read_answers

    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is not a folder; give another")
    answers = read_answers(paths, data_root)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    found, rows = [], []
    for result, differing in audited(answers, baseline, workers, also or (), _track):
        found.append(result)
        rows += differing
        if not as_json:
            _show(console, result)
    if as_json:
        print(json.dumps(_plain(found), indent=1))
    else:
        _show_interaction(console, found)
    if out is not None:
        _write(out, found, rows)


def _track(steps: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    errors = Console(stderr=True)
    return track(steps, f"scoring by {what}", total, console=errors, disable=not errors.is_terminal, transient=True)


def _plain(found: Sequence[BenchmarkAudit]) -> dict[str, Any]:
    """All audits as plain data: benchmark -> its counts, with the verdict of each arm."""
    return {
        result.benchmark: asdict(result)
        | {"verdicts": {f.arm: _verdicts(result, f.arm) for f in result.arms if f.arm != result.baseline}}
        for result in found
    }


def _verdicts(result: BenchmarkAudit, arm: str) -> dict[str, str]:
    return {"gain": result.verdict(arm, 1), "loss": result.verdict(arm, -1)}


def _write(out: Path, found: Sequence[BenchmarkAudit], rows: Sequence[dict[str, Any]]) -> None:
    from evals.scoring import write_jsonl

    out.mkdir(parents=True, exist_ok=True)
    partial = out / "audit.json.partial"
    partial.write_text(json.dumps(_plain(found), indent=1) + "\n", encoding="utf-8")
    partial.replace(out / "audit.json")
    write_jsonl(out / "disagreements.jsonl", rows)


# --------------------------------------------------------------------------------------------------------- tables


def _show(console: Console, result: BenchmarkAudit) -> None:
    console.rule(f"[bold]{_shown(result.benchmark)}[/], gains against {_shown(result.baseline)}", align="left")
    console.print(_score_table(result))
    confusion = _confusion_table(result)
    if confusion.row_count:
        console.print(confusion)
    for note in result.notes:
        console.print(f"  note: {_shown(note, 400)}", soft_wrap=True)


def _score_table(result: BenchmarkAudit) -> Table:
    table = _table("arm", "scorer")
    for head in (*FACTS, "right %", "no answer %", "failed", "only here", "only ours", "gain", "p", "vs ours", "p"):
        table.add_column(head, justify="right")
    gains = {(gain.arm, gain.scorer): gain for gain in result.gains}
    for fact in result.arms:
        runs = f" ({len(fact.runs)} runs)" if len(fact.runs) > 1 else ""
        for number, cell in enumerate(cell for cell in result.cells if cell.arm == fact.arm):
            arm, known = (f"{_shown(fact.arm)}{runs}", _known(fact)) if number == 0 else ("", ("",) * len(FACTS))
            columns = _gain_columns(gains.get((cell.arm, cell.scorer)))
            table.add_row(arm, _shown(cell.scorer), *known, *_counts(cell), *columns)
    return table


def _known(fact: ArmFacts) -> tuple[str, ...]:
    """What is known of an arm's answers before they are judged, in the order of FACTS."""
    return _percent(fact.truncated, fact.with_finish), str(fact.empty or ""), str(fact.failed_requests or "")


def _counts(cell: Cell) -> tuple[str, ...]:
    return (
        _percent(cell.right, cell.n), _percent(cell.no_answer, cell.n), str(cell.failed or ""),
        str(cell.only_here or ""), str(cell.only_ours or ""),
    )  # fmt: skip


def _gain_columns(gain: Gain | None) -> tuple[str, ...]:
    if gain is None:
        return ("", "", "", "")
    same = not gain.beyond_ours and gain.interaction_p == 1
    return (
        f"{100 * gain.gain:+.2f}{'*' if gain.direction else ''}", _p(gain.p),
        "" if same else f"{100 * gain.beyond_ours:+.2f}", "" if same else _p(gain.interaction_p),
    )  # fmt: skip


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _confusion_table(result: BenchmarkAudit) -> Table:
    """Pairs of scorers by arm; pairs that never differ are left out of the table, not of the JSON."""
    table = _table("arm", "first", "second")
    for head in ("both right", "only first", "only second", "both wrong", "same %"):
        table.add_column(head, justify="right")
    before = ""
    for pair in result.pairs:
        counts = (pair.both, pair.only_first, pair.only_second, pair.neither)
        if pair.only_first or pair.only_second:
            arm, before = "" if pair.arm == before else _shown(pair.arm), pair.arm
            same = _percent(pair.both + pair.neither, sum(counts))
            table.add_row(arm, _shown(pair.first), _shown(pair.second), *map(str, counts), same)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _show_interaction(console: Console, found: Sequence[BenchmarkAudit]) -> None:
    """The last table: which gains and losses exist under which scorers."""
    table = _table("benchmark", "arm", "lowest", "highest")
    for head in ("gains under", "loses under"):
        table.add_column(head)
    for result in found:
        for fact in result.arms:
            if fact.arm != result.baseline:
                verdicts = _verdicts(result, fact.arm)
                points = [100 * gain.gain for gain in result.gains if gain.arm == fact.arm]
                ends = [f"{end(points):+.2f}" for end in (min, max)] if points else ["-", "-"]
                names = map(_shown, (result.benchmark, fact.arm))
                table.add_row(*names, *ends, verdicts["gain"], verdicts["loss"])
    if table.row_count:
        console.rule("[bold]which gains exist under which scorer[/]", align="left")
        console.print(table)
        console.print(
            "Gains in points. * every run differs from the baseline, exact McNemar p < 0.05, not corrected for the\n"
            "number of cells; p is the largest of the runs. `vs ours`: the gain minus that under math_verify."
        )


def _shown(text: str, most: int = 60) -> str:
    """One line, escaped: names come from files."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return escape(line if len(line) <= most else line[: most - 1] + "…")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"
