"""Put small faults into the code, one at a time, and see that the tests named for each of them notice.

    python -m mutants                        # all (`make mutants`)
    python -m mutants --part 1/4             # a quarter, always the same one
    python -m mutants --only cosine-floor --only lora-scaling

Exit code 0: every fault was noticed; 1: one survived, or broke the code so that no test could judge it; 2: a test fails
without any fault, or the list does not fit the code.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from lmmr1.exits import run_cli
from lmmr1.files import write
from lmmr1.types import UserError
from mutants.listed import LIST, Mutant, mutated, read_list
from mutants.run import Result, copies, require_passing

ROOT = Path(__file__).resolve().parents[1]
console, progress = Console(), Console(stderr=True)
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def chosen(mutants: Sequence[Mutant], part: str | None, only: Sequence[str]) -> list[Mutant]:
    """The mutants asked for. Raises UserError for an unknown id and a part that is none."""
    known = {mutant.id: mutant for mutant in mutants}
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: no such mutant; --list shows them")
    if part is None:
        return [known[name] for name in only] or list(mutants)
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {part}: give one of several parts, such as 1/4")
    return [m for m in mutants if m.part(int(match[2])) == int(match[1]) and (not only or m.id in only)]


def judge(mutants: Sequence[Mutant], workers: int, timeout: float, root: Path) -> list[Result]:
    """What becomes of each mutant, in the list's order. Raises UserError where the list or the tests are not sound."""
    for mutant in mutants:
        mutated(mutant, root)
    with copies(root, min(workers, len(mutants))) as made:
        require_passing(made, mutants, timeout)
        running = made.each(lambda copy, mutant: copy.judge(mutant, timeout), mutants)
        shown = track(running, "mutants", len(mutants), console=progress, disable=not progress.is_terminal)
        found: dict[str, Result] = {}
        for result in shown:
            found[result.id] = result
            if not result.proven:  # said at once: the whole takes minutes
                progress.print(f"{result.id} {result.fate}: {result.by}", markup=False, soft_wrap=True)
    return [found[mutant.id] for mutant in mutants]


def summary(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The outcome as JSON has it."""
    return {
        **Counter(result.fate for result in results),
        "mutants": [asdict(result) for result in results],
        "seconds": round(seconds, 1),
        "mean_seconds": round(sum(result.seconds for result in results) / max(len(results), 1), 2),
    }


def show(mutants: Sequence[Mutant]) -> None:
    """One line for each."""
    for m in mutants:
        where = " ".join(filter(None, (m.file, m.setting, "gpu" if m.gpu else "")))
        console.print(f"{m.id} ({where}): {m.why}", markup=False, highlight=False, soft_wrap=True)


def report(mutants: Sequence[Mutant], results: Sequence[Result], seconds: float) -> None:
    """One line, and a table of what was not noticed."""
    counts = Counter(result.fate for result in results)
    console.print(f"{len(results)} mutants in {seconds:.0f} s: {', '.join(f'{n} {k}' for k, n in counts.items())}")
    table = Table("fate", "id", "file", "what happened", "what would go wrong", box=None, padding=(0, 1))
    for mutant, result in zip(mutants, results, strict=True):
        if result.fate != "killed":
            table.add_row(result.fate, mutant.id, mutant.file, escape(result.by), escape(mutant.why))
    if table.row_count:
        console.print(table)


@cli.command(help=(__doc__ or "").splitlines()[0])
def main(
    part: Annotated[str | None, typer.Option(help="One of several parts, e.g. 1/4.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="This mutant; may be repeated.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the mutants and run nothing.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Tests that run at once.")] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a mutant counts as endless.")] = 120,
    out: Annotated[Path | None, typer.Option(help="Write the outcome into this JSON file.")] = None,
) -> None:
    """Command line; see the top of this file."""
    mutants = chosen(read_list(LIST), part, only or ())
    if listing:
        show(mutants)
        return
    began = time.monotonic()
    results = judge(mutants, workers, timeout, ROOT)
    seconds = time.monotonic() - began
    report(mutants, results, seconds)
    if out:
        write(out, json.dumps(summary(results, seconds), indent=1) + "\n")
    if not all(result.proven for result in results):
        sys.exit(1)


if __name__ == "__main__":
    run_cli(cli)
