"""All records of one arm as one tidy table, one value per row.

    python -m reports.scores --out results/micro/fre/scores.csv \\
        --records results/micro/fre/0/eval/micro_chain/record.json results/micro/fre/0/eval/micro_table/record.json ...

Profile, arm and seed are read from the path of each record. Columns: see COLUMNS.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from evals.protocols import prompts_may_differ
from evals.records import Protocol, read_records
from lmmr1.types import UserError
from reports.files import read_text, run_cli, run_of, write_text

COLUMNS = [
    "profile",
    "arm",
    "seed",
    "benchmark",
    "subset",
    "metric",
    "value",
    "stderr",
    "n",
    "checkpoint",
    "protocol",
    "prompt",
    "protocol_hash",
    "settings_hash",
    "record",
    "samples",
    "aggregation",
]
"""`value` and `stderr` in [0, 1]; `settings_hash`: of the protocol without its prompt; `record` and `samples` are paths
relative to the working directory."""


TEXTS = ("checkpoint", "protocol", "prompt", "protocol_hash", "settings_hash", "subset")
"""Columns that are texts whatever they look like."""


def collect(records: list[Path]) -> pd.DataFrame:
    """Read record files into one row per value, in the order of (arm as given, seed, benchmark as given, subset).

    Raises UserError on a missing or malformed file, a value that is there twice, or mixed protocols.
    """
    frames = []
    for path in records:
        run = run_of(path)
        rows = record_rows(path, run.profile, run.arm, run.seed)
        for benchmark in rows.benchmark:
            if benchmark != path.parent.name:
                raise UserError(f"{path}: holds benchmark {benchmark!r}; move it to eval/{benchmark}/")
        frames.append(rows)
    scores = pd.concat(frames, ignore_index=True)
    check(scores)
    return scores


def record_rows(path: Path, profile: str, arm: str, seed: int) -> pd.DataFrame:
    """The values of one record file (see COLUMNS). Raises UserError on a missing or malformed file."""
    rows = [
        [
            profile,
            arm,
            seed,
            r.benchmark,
            r.subset,
            r.metric,
            r.value,
            r.stderr,
            r.n,
            r.checkpoint,
            r.protocol.protocol,
            r.protocol.prompt,
            r.protocol.hash,
            r.protocol.settings_hash,
            str(path),
            str(path.parent / r.samples),
            r.protocol.aggregation,
        ]
        for r in read_records(path)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def check(scores: pd.DataFrame) -> None:
    """Raise UserError where scores cannot stand in one table: duplicates, two profiles, two protocols."""
    twice = scores[scores.duplicated(["profile", "arm", "seed", "benchmark", "subset", "metric"])]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(f"{row.record}: {row.metric} of {row.benchmark}/{row.subset} is there twice; pass it once")
    if scores.profile.nunique() > 1:
        raise UserError(f"profiles {', '.join(sorted(set(scores.profile)))} are mixed; pass the files of one profile")
    check_protocols(scores, any_prompt=True)


def check_protocols(scores: pd.DataFrame, any_prompt: bool = False) -> None:
    """Raise UserError where one benchmark was measured in two ways, saying in what they differ.

    A protocol may ask the baseline and trained arms in different words (evals/protocols.yaml): that alone is allowed
    between arms, though not between the runs of one. any_prompt: so may a profile (eval.arm_prompts), whose tables say
    in which words each arm was asked.
    """
    for (_, benchmark), rows in scores.groupby(["arm", "benchmark"], sort=False):
        _require_one(benchmark, rows, "protocol_hash")
    for benchmark, rows in scores.groupby("benchmark", sort=False):
        allowed = [prompts_may_differ(protocol, benchmark) for protocol in dict.fromkeys(rows.protocol)]
        differ = len(allowed) == 1 and (any_prompt or set(rows.prompt) <= allowed[0])
        _require_one(benchmark, rows, "settings_hash" if differ else "protocol_hash")


def _require_one(benchmark: str, rows: pd.DataFrame, hashes: str) -> None:
    firsts = rows.drop_duplicates(hashes)
    if len(firsts) > 1:
        a, b = firsts.iloc[0], firsts.iloc[1]
        difference = _difference(Path(a.record), Path(b.record))
        raise UserError(
            f"{b.record}: {benchmark} of arm {b.arm} was measured with protocol {b.protocol_hash}, arm {a.arm} "
            f"with {a.protocol_hash} ({a.record}){difference}; evaluate both the same way"
        )


def prompts_of(scores: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """{arm: the prompt styles that it was asked in}, in the order of the scores."""
    return {str(arm): tuple(dict.fromkeys(rows.prompt)) for arm, rows in scores.groupby("arm", sort=False)}


def _difference(a: Path, b: Path) -> str:
    """Which protocol fields differ, for the message; empty where a record is out of reach."""
    if not (a.is_file() and b.is_file()):
        return ""
    first, second = (asdict(_protocol(path)) for path in (a, b))
    return ", they differ in " + ", ".join(f"{k}: {first[k]} / {second[k]}" for k in first if first[k] != second[k])


def _protocol(path: Path) -> Protocol:
    return read_records(path)[0].protocol


def read_scores(paths: list[Path]) -> pd.DataFrame:
    """Join the scores.csv of several arms, in the order given. Raises UserError as `check` does, or on a bad file."""
    frames = []
    for path in paths:
        if not read_text(path).startswith(",".join(COLUMNS) + "\n"):
            raise UserError(f"{path}: not made by reports.scores (other columns); make it again")
        frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False)
        if frame.empty:
            raise UserError(f"{path}: holds no scores; run the evaluations of this arm first")
        frames.append(frame)
    scores = pd.concat(frames, ignore_index=True)
    check(scores)
    return scores


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.scores", description="Collect one arm's records.")
    parser.add_argument("--records", nargs="+", type=Path, required=True, help="record.json files of one arm")
    parser.add_argument("--out", type=Path, required=True, help="scores.csv")
    args = parser.parse_args(argv)
    write_text(args.out, collect(args.records).to_csv(index=False, lineterminator="\n"), sealed=True)


if __name__ == "__main__":
    sys.exit(run_cli(main))
