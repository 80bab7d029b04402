"""`lmmr1 status`: what a run has done, is doing, and will cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmmr1.types import UserError

if TYPE_CHECKING:
    from reproduce.status import Job, Status

COLOURS = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
OptionalPath = Optional[Path]  # noqa: UP045  Typer reads it at run time


def status(
    results: Annotated[OptionalPath, typer.Argument(help="results/NAME (default: of --profile)")] = None,
    profile: Annotated[str, typer.Option(help="Whose run, where no folder is given.")] = "micro",
    as_json: Annotated[bool, typer.Option("--json", help="For programs; the keys are in docs/estimate.md.")] = False,
) -> None:
    """What a run has done, is doing, and will cost: finished, running, failed (with the fix), waiting, missing.

    Exit code 0 whatever the state; 2 where there is no such run.
    """
    from lmmr1.config import read_mapping
    from reproduce.plan import ROOT, Plan
    from reproduce.status import status_of

    if results is not None:
        if not (results / "profile.json").is_file():
            raise UserError(f"{results}: not a run's folder (no profile.json); give results/NAME, or --profile")
        plan, root = Plan.load(read_mapping(results / "profile.json")), results.resolve().parents[1]
    else:
        plan, root = Plan.load({"profile": profile}), ROOT
    found = status_of(plan, root)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        show(found, Console())


def show(found: Status, console: Console) -> None:
    """A line per run, then what failed, then the sum."""
    table = Table(box=None, padding=(0, 1))
    for head in ("run", "training", "step", "s/step", "left", "evaluated"):
        table.add_column(head, no_wrap=True)
    runs = dict.fromkeys((j.arm, j.seed) for j in sorted(found.jobs, key=lambda j: (j.arm, j.seed)))
    order = list(dict.fromkeys(j.arm for j in reversed(found.jobs)))[::-1]
    for arm, seed in sorted(runs, key=lambda run: (order.index(run[0]), run[1])):
        table.add_row(*_row([j for j in found.jobs if (j.arm, j.seed) == (arm, seed)]))
    console.print(table)
    for job in {(j.log, j.message): j for j in found.jobs if j.state == "failed"}.values():
        console.print(f"[red]failed[/] {job.kind} {job.arm}: {escape(job.message)} ({escape(job.log)})", soft_wrap=True)
    counts = ", ".join(f"{n} {state}" for state, n in found.counts.items())
    report = "there" if found.report else "not there yet"
    console.print(f"{escape(found.name)}: {counts}; report {report}", highlight=False)
    left = sum(j.seconds_left or 0 for j in found.jobs)
    if left:
        console.print(f"left: {_time(left)} of job time ({escape(found.basis)})", highlight=False)


def _row(jobs: list[Job]) -> list[str]:
    train = next((j for j in jobs if j.kind == "train"), None)
    tests = [j for j in jobs if j.kind == "evaluate"]
    done = sum(j.state == "finished" for j in tests)
    bad = next((f" [red]{j.state}[/]" for j in tests if j.state == "failed"), "")
    run, left = f"{jobs[0].arm}/{jobs[0].seed}", _time(sum(j.seconds_left or 0 for j in jobs))
    if train is None:
        return [run, "[dim]adopted[/]", "", "", left, f"{done}/{len(tests)}{bad}"]
    step = f"{train.step}/{train.max_steps}"
    pace = f"{train.seconds_per_step:.2f}" if train.seconds_per_step else ""
    return [run, f"[{COLOURS.get(train.state, 'dim')}]{train.state}[/]", step, pace, left, f"{done}/{len(tests)}{bad}"]


def _time(seconds: float) -> str:
    if seconds < 1:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
