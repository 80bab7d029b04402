"""From a table's cell back to what made it: records, answers, checkpoint, settings, data, parents, commit, versions.

Each link is checked again, from the bytes on disk: what agrees is `verified`, what does not is `broken`, and what
cannot be checked here (a Hub model, a commit of another clone, a file that was not kept) is `unknown`, with the reason.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from evals.inputs import download_hub
from evals.records import Protocol, read_records
from lmmr1.config import TrainConfig, parse_settings
from lmmr1.data import data_sha256, parse_samples
from lmmr1.files import are_weights, sha256_file, sha256_weights
from lmmr1.hub_commits import cached_snapshot
from lmmr1.store import read_manifest, run_key
from lmmr1.types import Manifest, UserError
from reports.cells import headline, load_cells, read_table, summarise
from reports.layout import BASELINE, columns, parse_benchmarks
from reports.scores import record_rows
from reports.statistics import ends_text

State = Literal["verified", "broken", "unknown"]
AT_COMMIT = r"[^@#]+@[0-9a-f]{40}#.*"
"""A record's `data_pin` where the problems came from the Hub."""


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the way back, and the steps behind it."""

    what: str
    """cell, record, answers, problems, checkpoint, weights, settings, data, commit or versions."""
    name: str
    """Path, key or number."""
    state: State
    found: str
    """What was compared, or why it could not be."""
    behind: tuple[Link, ...] = ()

    def walk(self) -> Iterator[Link]:
        """This link and all behind it, in reading order."""
        yield self
        for link in self.behind:
            yield from link.walk()

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def trace(table: Path, cell: str) -> Link:
    """The way back from `ARM:COLUMN` of a table1.csv that the workflow wrote.

    Raises UserError where the file is no such table, lies outside results/NAME/report/, or has no such cell.
    """
    if table.parent.name != "report" or len(table.resolve().parents) < 4:
        raise UserError(f"{table}: expected results/NAME/report/table1.csv; give the table that the workflow wrote")
    run = Run(table.resolve().parents[3], table.resolve().parents[1])
    arm, _, column = cell.partition(":")
    rows = read_table(table)
    row = rows[(rows.arm == arm) & (rows.column == column)]
    if row.empty:
        known = ", ".join(f"{r.arm}:{r.column}" for r in rows.head(4).itertuples())
        raise UserError(f"--cell {cell!r}: not in {table}; give ARM:COLUMN, e.g. {known}")
    records = [run.base / r for r in str(row.records.iloc[0]).split(";")]
    checkpoints = [run.checkpoint(arm, seed) for seed in str(row.seeds.iloc[0]).split(";")]
    behind = (*(run.record(path) for path in records), *checkpoints)
    return replace(run.cell(row.iloc[0], rows), behind=behind)


@dataclass(frozen=True, slots=True)
class Run:
    """The results folder of one profile and the folder that the paths in its files are relative to."""

    base: Path
    results: Path

    def cell(self, row: pd.Series, rows: pd.DataFrame) -> Link:
        """Compute the cell again from the answers behind it, and compare."""
        ends = ends_text(100 * row.low, 100 * row.high, "{:.2f}".format)
        name = f"{row.arm}:{row.column} = {100 * row['mean']:.2f} {ends}"
        members = _members(row.column, rows)
        try:
            again = self._again(row.arm, row.column, members, rows)
        except UserError as e:
            return Link("cell", name, "broken", str(e))
        worst = max(
            abs(row[k] - again[k])
            for k in ("mean", "low", "high", "diff", "diff_low", "diff_high")
            if np.isfinite(row[k]) or np.isfinite(again[k])
        )
        state: State = "verified" if worst < 1e-6 else "broken"
        return Link("cell", name, state, f"computed again from {row.n} answers of {len(members)} benchmarks x seeds")

    def _again(self, arm: str, column: str, members: list[str], rows: pd.DataFrame) -> pd.Series:
        arms = dict.fromkeys([BASELINE, arm])
        paths = [
            (a, Path(r)) for a in arms for b in members
            for r in str(rows[(rows.arm == a) & (rows.column == b)].records.iloc[0]).split(";")
        ]  # fmt: skip
        found = pd.concat([record_rows(self.base / p, self.results.name, a, int(p.parts[-4])) for a, p in paths])
        benchmarks = parse_benchmarks(members)
        scores = headline(found, benchmarks)
        table = summarise(scores, load_cells(scores), benchmarks)
        return table[(table.arm == arm) & (table.column == column)].iloc[0]

    def record(self, path: Path) -> Link:
        """A record file: its protocol's hash, and the answers and problems that it was made from."""
        name = self._short(path)
        try:
            record = next(r for r in read_records(path) if r.subset == "all")
            stored = json.loads(path.read_text(encoding="utf-8"))[0].get("protocol_hash")
        except (UserError, StopIteration, AttributeError) as e:
            return Link("record", name, "broken", str(e) or "no value over all problems")
        same = stored == record.protocol.hash
        found = f"{100 * record.value:.2f} % of {record.n}, protocol {record.protocol.hash}"
        behind = (self._answers(path), self._problems(record.benchmark, record.protocol))
        return Link(
            "record", name, "verified" if same else "broken",
            found if same else f"its fields hash to {record.protocol.hash}, it says {stored}", behind,
        )  # fmt: skip

    def _answers(self, path: Path) -> Link:
        try:
            rows = record_rows(path, self.results.name, "any", 0)
            rows = rows[(rows.subset == "all") & (rows.metric == "accuracy")].assign(arm="any")
            n = load_cells(rows)["any", rows.benchmark.iloc[0]].shape[1]
        except (UserError, IndexError, KeyError) as e:
            return Link("answers", self._short(path.parent / "samples.jsonl"), "broken", str(e))
        file = path.parent / rows.samples.iloc[0].rpartition("/")[2]
        return Link("answers", self._short(file), "verified", f"{n} answers average to the record's value")

    def _problems(self, benchmark: str, protocol: Protocol) -> Link:
        digest, files = protocol.data_sha256, sorted((self.results / "benchmarks").glob(f"{benchmark}.*"))
        if not files and re.fullmatch(AT_COMMIT, protocol.data_pin):
            return self._hub_problems(protocol.data_pin, digest)
        if not files:
            pin = f"; checked against {protocol.data_pin} when it was measured" if protocol.data_pin != "none" else ""
            return Link("problems", benchmark, "unknown", f"the benchmark's file is not in this results folder{pin}")
        return self._same("problems", files[0], sha256_file(files[0])[: len(digest)], digest)

    def _hub_problems(self, pin: str, digest: str) -> Link:
        """The rows of a data set on the Hub at the commit of a record, where this machine has them or gets them."""
        with tempfile.TemporaryDirectory(prefix="lmmr1-trace-") as folder:
            try:
                path, _ = download_hub(pin, Path(folder))
            except UserError as e:
                return Link("problems", pin, "unknown", f"cannot be had here: {e}")
            found = sha256_file(path)[: len(digest)]
        if found != digest:
            return Link("problems", pin, "broken", f"sha256 is {found}, not {digest}")
        return Link("problems", pin, "verified", f"sha256 {found}")

    def checkpoint(self, arm: str, seed: str) -> Link:
        """The manifest of a run, as `_manifest` checks it."""
        path = self.results / arm / seed / "manifest.json"
        return self._manifest(path)

    def _manifest(self, path: Path) -> Link:
        try:
            manifest = read_manifest(path)
        except UserError as e:
            return Link("checkpoint", self._short(path), "broken", str(e))
        links = [self._weights(manifest), self._commit(manifest), self._versions(manifest)]
        if manifest.parent:
            links[1:1] = [self._settings(manifest), self._data(manifest)]
            links.append(self._parent(manifest.parent))
        return Link("checkpoint", self._short(path), "verified", f"key {manifest.key}", tuple(links))

    def _weights(self, manifest: Manifest) -> Link:
        if manifest.revision:
            return self._hub_weights(manifest, manifest.revision)
        folder = Path(manifest.weights) if Path(manifest.weights).is_absolute() else self.base / manifest.weights
        if not folder.is_dir():
            why = "not on this machine: not kept, or a name on the Hub without a commit"
            return Link("weights", manifest.weights, "unknown", why)
        return _files("weights", self._short(folder), folder, manifest.weights_sha256)

    def _hub_weights(self, manifest: Manifest, commit: str) -> Link:
        name = f"{manifest.weights}@{commit}"
        folder = cached_snapshot(manifest.weights, commit)
        if folder is None:
            return Link("weights", name, "unknown", "this commit is not in the Hub's cache on this machine")
        return _files("weights", name, folder, manifest.weights_sha256)

    def _settings(self, manifest: Manifest) -> Link:
        try:
            cfg = parse_settings(TrainConfig, manifest.config, f"settings of {manifest.key}")
        except UserError as e:
            return Link("settings", manifest.key, "unknown", f"written by another version: {e}")
        key = run_key(cfg, str(manifest.parent), str(manifest.data_sha256))
        found = "settings, parent and data hash to the key"
        if key != manifest.key:
            return Link("settings", manifest.key, "unknown", f"hash to {key} under this version of the code")
        return Link("settings", manifest.key, "verified", f"{found}; seed {cfg.seed}, {cfg.max_steps} steps")

    def _data(self, manifest: Manifest) -> Link:
        origin = f", from {manifest.data_source}" if manifest.data_source else ""
        for path in sorted((self.results / "data").glob("*.jsonl")):
            if data_sha256(path, parse_samples(path)) == manifest.data_sha256:
                card = path.with_name(f"{path.stem}.card.json")
                note = f", card {self._short(card)}" if card.is_file() else ", without a card"
                return Link("data", self._short(path), "verified", f"sha256 {manifest.data_sha256:.16}{origin}{note}")
        return Link("data", f"sha256 {manifest.data_sha256:.16}", "broken", f"no file in data/ has this hash{origin}")

    def _parent(self, key: str) -> Link:
        for path in sorted(self.results.glob("*/*/manifest.json")):
            if json.loads(path.read_text(encoding="utf-8")).get("key") == key:
                return self._manifest(path)
        return Link("checkpoint", f"key {key}", "unknown", "the parent's run is not in this results folder")

    def _commit(self, manifest: Manifest) -> Link:
        commit = manifest.code.removesuffix("-dirty")
        if manifest.code.endswith("-dirty"):
            return Link("commit", manifest.code, "unknown", "the work tree had changes that no commit holds")
        if not re.fullmatch("[0-9a-f]{7,40}", commit):
            return Link("commit", manifest.code, "unknown", "made outside a git checkout")
        there = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
            cwd=Path(__file__).parent,
            capture_output=True,
            check=False,
        )
        if there.returncode:
            return Link("commit", commit, "unknown", "not in this clone's history; fetch it")
        return Link("commit", commit, "verified", "in this clone's history")

    def _versions(self, manifest: Manifest) -> Link:
        other = {k: (v, here) for k, v in manifest.versions.items() if (here := _installed(k)) != v}
        name = ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))
        if other:
            found = ", ".join(f"{k} {here} here" for k, (_, here) in sorted(other.items()))
            return Link("versions", name, "unknown", f"made with others than are installed: {found}")
        return Link("versions", name, "verified", "the installed ones")

    def _same(self, what: str, path: Path, found: str, expected: str) -> Link:
        if found == expected:
            return Link(what, self._short(path), "verified", f"sha256 {found:.16}")
        return Link(what, self._short(path), "broken", f"sha256 is {found:.16}, not {expected:.16}")

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.base)) if path.is_relative_to(self.base) else str(path)


def _files(what: str, name: str, folder: Path, expected: str) -> Link:
    """The files of a checkpoint against its manifest."""
    try:
        same = are_weights(folder, expected)
    except UserError as e:
        return Link(what, name, "broken", str(e))
    if not same:
        return Link(what, name, "broken", f"sha256 is {sha256_weights(folder):.16}, not {expected:.16}")
    return Link(what, name, "verified", f"sha256 {expected:.16}")


def _members(column: str, rows: pd.DataFrame) -> list[str]:
    """The benchmarks that a column averages, itself where it is one."""
    names = [c for c in dict.fromkeys(rows.column) if c not in ("text_avg", "mm_avg")]
    return next([b.name for b in members] for name, _, members in columns(parse_benchmarks(names)) if name == column)


def _installed(package: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
