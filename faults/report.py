"""The result table in docs/reliability.md, between two markers."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable
from pathlib import Path

from faults.campaign import Result, stages_of
from lmmr1.files import write
from lmmr1.store import code_version
from lmmr1.types import UserError

BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def table(results: Iterable[Result]) -> list[str]:
    """Rows: stage, fault, how many, outcomes, how the disturbed run itself ended, seconds until all was well."""
    found = list(results)
    lines = [
        "| Stage | Fault | n | same bytes | clear stop | wrong or lost | the disturbed run | s to recover (median) |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for stage in stages_of(found):
        kinds = dict.fromkeys(r.kind for r in found if r.stage == stage)
        lines += [_row(stage, kind, [r for r in found if (r.stage, r.kind) == (stage, kind)]) for kind in kinds]
    lines.append(_row("**all**", "", found))
    return lines


def _row(stage: str, kind: str, rows: list[Result]) -> str:
    same, stop = (sum(r.outcome == name for r in rows) for name in ("same bytes", "clear stop"))
    endings = [r.first for r in rows if r.first]
    counts = ", ".join(f"{name} {endings.count(name)}" for name in dict.fromkeys(endings))
    seconds = statistics.median(r.seconds for r in rows)
    return (
        f"| {stage} | {kind} | {len(rows)} | {same} | {stop} | {len(rows) - same - stop} | {counts} | {seconds:.1f} |"
    )


def text(results: list[Result], seed: int, minutes: float, mounted: bool) -> str:
    """All between the markers."""
    killed = sum("kill -9" in r.kind for r in results)
    bad = [r for r in results if not r.good]
    how = "a small disk in memory" if mounted else "RLIMIT_FSIZE (no right to mount)"
    head = (
        f"{len(results)} faults, {killed} of them `kill -9` at random moments; seed {seed}; commit `{code_version()}`; "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {minutes:.0f} minutes; full disks and read-only folders by "
        f"{how}. **{len(bad)} artefacts lost or silently wrong.**"
    )
    faulty = [f"- {r.stage}, {r.kind}: {r.what}: {r.outcome}: {r.line[:300]}" for r in bad]
    return "\n".join([head, "", *table(results), *([""] if faulty else []), *faulty])


def put(path: Path, body: str) -> None:
    """Replace what stands between the markers of a Markdown file. Raises UserError where it has none."""
    old = path.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise UserError(f"{path}: needs the markers {BEGIN} and {END}, each once")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    write(path, f"{before}{BEGIN}\n{body}\n{END}{after}")
