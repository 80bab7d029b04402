"""Where the numbers come from: manifests, settings per arm, wall time per rule."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from lmmr1.types import UserError
from reports.files import Run, read_json, read_text, run_of

Manifests = dict[Run, dict[str, Any]]


def read_manifests(paths: list[Path]) -> Manifests:
    """Manifest of each run, in the order given. Raises UserError on a missing or malformed file."""
    return {run_of(path): read_json(path) for path in paths}


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
    found = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, json.dumps(value))]
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
