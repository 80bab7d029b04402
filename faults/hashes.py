"""sha256 of every artefact of a tree, but of the files that tell the time."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from lmmr1.files import sha256_file

TIMED = {
    "*/timings/*": "what Snakemake measured of its jobs",
    "*/timing.json": "seconds of each benchmark",
    "*timings.jsonl*": "seconds of each training step (and the seal of that file)",
    "*/logs/*": "what commands printed",
    "*/harness.log": "what a harness printed",
    "*/lm_eval_results.json": "lm-eval's own summary, with its start and end",
    "*/.record.json": "a second name of record.json",
}
"""Pattern of paths -> why such a file has other bytes in every run."""

BETWEEN_RUNS = {"*/report/index.html": "the page shows the wall time of every rule"}
"""The same for two runs from nothing; made again from the same files, the page is the same."""


def hashes(roots: Iterable[Path], base: Path, left_out: Iterable[str] = TIMED) -> dict[str, str]:
    """{path relative to `base`: hex sha256} of all files below `roots`, sorted, but those that match `left_out`."""
    patterns = list(left_out)
    found = {}
    for path in sorted(p for root in roots for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(base).as_posix()
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            found[name] = sha256_file(path)
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """One line for every file that is missing, more, or different."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"more: {name}" for name in found if name not in expected]
    lines += [f"different: {name}" for name in expected if name in found and found[name] != expected[name]]
    return sorted(lines)
