"""Where the numbers come from: records behind each cell, manifests, settings per arm, wall time per rule."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from evals.records import read_records
from lmmr1.types import UserError
from reports.files import Run, read_json, read_text, run_of

Manifests = dict[Run, dict[str, Any]]


def read_manifests(paths: list[Path]) -> Manifests:
    """Manifest of each run, in the order given. Raises UserError on a missing or malformed file."""
    return {run_of(path): read_json(path) for path in paths}


class Trail:
    """The way from every cell of the page back to its records: file, value, checkpoint, weights, commit, protocol."""

    def __init__(self, scores: pd.DataFrame, manifests: Manifests, page: Path) -> None:
        """scores: rows of `reports.cells.headline`; page: the file that links to the records, relative to it.

        Raises UserError where a record was not measured on the checkpoint of its run's manifest.
        """
        self.cells: list[dict[str, Any]] = []
        self.records = [_record(row, manifests, page.parent) for row in scores.itertuples()]
        self.protocols = _protocols(scores)
        self._at = {row.record: at for at, row in enumerate(scores.itertuples())}

    def add(self, title: str, facts: dict[str, str], records: str) -> dict[str, int]:
        """Register a cell: `cell`, its number, and `record`, that of its first record, -1 without any.

        records: paths joined by `;`, as the tables have them. Raises UserError on one that the scores do not have.
        """
        paths = records.split(";") if records else []
        if unknown := [p for p in paths if p not in self._at]:
            raise UserError(f"{unknown[0]}: behind a table cell, but in no scores.csv given; make the tables again")
        found = [self._at[p] for p in paths]
        self.cells.append({"title": title, "facts": list(facts.items()), "records": found})
        return {"cell": len(self.cells) - 1, "record": found[0] if found else -1}

    def as_json(self) -> dict[str, Any]:
        """What the page's script looks up."""
        return {"cells": self.cells, "records": self.records, "protocols": self.protocols}


def _record(row: Any, manifests: Manifests, folder: Path) -> dict[str, Any]:
    manifest = manifests.get(Run(row.profile, row.arm, row.seed), {})
    if manifest and manifest.get("key") != row.checkpoint:
        raise UserError(
            f"{row.record}: measured on checkpoint {row.checkpoint}, but the manifest of its run is of "
            f"{manifest.get('key')}; run the evaluation again"
        )
    return {
        "file": row.record,
        "href": link(Path(row.record), folder),
        "samples": link(Path(row.samples), folder),
        "arm": row.arm,
        "seed": row.seed,
        "benchmark": row.benchmark,
        "value": f"{100 * row.value:.1f}" + (" points" if row.metric == "score" else " %"),
        "n": row.n,
        "checkpoint": row.checkpoint,
        "weights": str(manifest.get("weights_sha256") or "not given"),
        "commit": str(manifest.get("code") or "not given"),
        "protocol": row.protocol_hash,
    }


def _protocols(scores: pd.DataFrame) -> dict[str, dict[str, str]]:
    """{hash: {field: value}} of every protocol, read from the first record that has it."""
    found = {}
    for row in scores.drop_duplicates("protocol_hash").itertuples():
        fields = asdict(read_records(Path(row.record))[0].protocol)
        found[row.protocol_hash] = dict(_flat(fields, ""))
    return found


def link(path: Path, folder: Path) -> str:
    """A link from a page in `folder` to a file, which opens from disk."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def settings(manifests: Manifests) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Settings of the trained arms: ({key: value} that all share, {key: {arm: value}} that differ), keys dotted.

    A setting that varies over an arm's seeds shows all its values. Runs without a parent (adopted) are left out: their
    settings, if any, are those of another kind of training.
    """
    per_arm: dict[str, dict[str, list[str]]] = {}
    for run, manifest in manifests.items():
        config = manifest.get("config") if manifest.get("parent") else None
        for key, value in _flat(config or {}, ""):
            values = per_arm.setdefault(run.arm, {}).setdefault(key, [])
            values += [value] if value not in values else []
    common, different = {}, {}
    for key in dict.fromkeys(k for config in per_arm.values() for k in config):
        values = {arm: ", ".join(config.get(key, ["not set"])) for arm, config in per_arm.items()}
        if len(set(values.values())) == 1:
            common[key] = next(iter(values.values()))
        else:
            different[key] = values
    return common, different


def _flat(config: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    """(dotted key, value as text) of nested settings."""
    found = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found += _flat(value, f"{name}.")
        else:
            found.append((name, value if isinstance(value, str) else json.dumps(value)))
    return found


def versions(manifests: Manifests) -> dict[str, str]:
    """Package versions; all of them where runs differ."""
    seen: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name, version in (manifest.get("versions") or {}).items():
            values = seen.setdefault(name, [])
            values += [str(version)] if str(version) not in values else []
    return {name: ", ".join(values) for name, values in sorted(seen.items())}


def wall_times(paths: list[Path]) -> list[tuple[str, int, float, float]]:
    """(rule, jobs, seconds in all, most memory of a job in MB) from Snakemake's benchmark files.

    A file is named after its rule: `timings/micro/fre/0/train.tsv` belongs to rule `train`.
    Raises UserError on another kind of file.
    """
    rules: dict[str, list[tuple[float, float]]] = {}
    for path in paths:
        for row in csv.DictReader(io.StringIO(read_text(path)), delimiter="\t"):
            try:
                rules.setdefault(path.stem, []).append((float(row["s"]), _number(row.get("max_rss"))))
            except (KeyError, ValueError, TypeError):
                raise UserError(f"{path}: no seconds in column `s`; pass benchmark files of Snakemake") from None
    return [(rule, len(jobs), sum(s for s, _ in jobs), max(mb for _, mb in jobs)) for rule, jobs in rules.items()]


def _number(text: str | None) -> float:
    """Snakemake writes `-` or `NA` for a job too short to be measured."""
    return 0.0 if text in (None, "", "-", "NA") else float(text)
