"""Are two runs the same? sha256 of every table, record, sample file and checkpoint of two clones.

    python -m faults.twice hashes . > first.txt         # in one clone, after `make reproduce`
    python -m faults.twice compare first.txt ../second  # each side: a list of hashes, or a clone

Files that tell the time are left out; the list at the end of `hashes` names them (docs/reliability.md says why).
Exit code 0: the same; 1: not; 2: nothing to compare.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from faults.hashes import BETWEEN_RUNS, TIMED, differences, hashes
from lmmr1.exits import exit_code
from lmmr1.store import read_manifest
from lmmr1.types import UserError


def of_clone(clone: Path, profile: str) -> dict[str, str]:
    """Hashes of a profile's results and of their checkpoints, not of another profile's. Raises UserError for none."""
    results = clone / "results" / profile
    weights = {read_manifest(path).weights for path in results.glob("*/*/manifest.json")}
    made_here = sorted({(clone / name).parent for name in weights if name.startswith("checkpoints/")})
    absent = [folder for folder in made_here if not folder.is_dir()]
    if absent or not weights:
        what = absent[0] if absent else results
        raise UserError(f"{what}: nothing there; run `make reproduce PROFILE={profile}` in {clone} first")
    return hashes([results, *made_here], clone, {**TIMED, **BETWEEN_RUNS})


def side(path: Path, profile: str) -> dict[str, str]:
    """One side of a comparison: a clone, or what `hashes` printed of one. Raises UserError for anything else."""
    if path.is_dir():
        return of_clone(path, profile)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: neither a clone nor a list of hashes ({e})") from None
    pairs = [line.partition("  ") for line in lines]
    if not pairs or any(len(digest) != 64 or not name for digest, _, name in pairs):
        raise UserError(f"{path}: not a list that `python -m faults.twice hashes` printed")
    return {name: digest for digest, _, name in pairs}


def kind(name: str) -> str:
    """What a file is, for the summary."""
    kinds = {"record.json": "record files", "samples.jsonl": "sample files", ".safetensors": "weight files"}
    kinds |= {"manifest.json": "manifests", ".csv": "tables", ".md": "tables", ".tex": "tables"}
    kinds |= {".svg": "figures", ".png": "images and figures", ".jsonl": "prompts, benchmarks and training logs"}
    return next((title for end, title in kinds.items() if name.endswith(end)), "other files")


def summary(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """A Markdown table: files of each kind, and how many of them are the same on both sides."""
    counts: dict[str, list[int]] = {}
    for name in {**first, **second}:
        count = counts.setdefault(kind(name), [0, 0])
        count[0] += 1
        count[1] += first.get(name) == second.get(name)
    rows = [f"| {title} | {n} | {same} |" for title, (n, same) in sorted(counts.items())]
    return ["| what | files | the same |", "| --- | ---: | ---: |", *rows]


def run(args: argparse.Namespace) -> int:
    """The sub-command."""
    if args.command == "hashes":
        for name, digest in of_clone(args.clone, args.profile).items():
            print(f"{digest}  {name}")
        for pattern, why in {**TIMED, **BETWEEN_RUNS}.items():
            print(f"# left out: {pattern} ({why})")
        return 0
    first, second = side(args.first, args.profile), side(args.second, args.profile)
    found = differences(first, second)
    print("\n".join([*summary(first, second), "", *found, f"{len(found)} differences"]))
    return int(bool(found))


def main() -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m faults.twice", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="micro", help="folder under results/")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("hashes", help="print the hashes of a clone")
    listing.add_argument("clone", type=Path)
    comparison = commands.add_parser("compare", help="compare two clones, or lists of their hashes")
    comparison.add_argument("first", type=Path)
    comparison.add_argument("second", type=Path)
    args = parser.parse_args()
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
