"""The benchmarks as data: `benchmarks.yaml`, checked. Imports nothing heavy: the workflow reads it at every start."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lmmr1.config import Settings, parse_settings, read_mapping
from lmmr1.types import UserError

REGISTRY_FILE = Path(__file__).with_name("benchmarks.yaml")

STOCK = "lm_eval:"
"""Prefix that selects a stock task of lm-eval instead of ours, for comparison."""

RECORDED_STOCK = "lm_eval_"
"""The same in records, whose names are those of folders."""

_HUB = r"hub:[\w.-]+/[\w.-]+@([0-9a-f]{40}|main)#[\w-]+:\w+"


class DataFile(Settings):
    """A file under --data-root with the checksum it must have, where one is known."""

    path: str
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


class StockTask(Settings):
    """A task that comes with lm-eval, and which of its numbers is the accuracy."""

    task: str
    metric: str
    filter: str


class Benchmark(Settings):
    """One entry of the registry; the comments at the top of `benchmarks.yaml` explain the keys."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    harness: Literal["lm_eval", "vlmevalkit", "agents"]
    title: str
    group: Literal["text", "mm_reasoning", "mm_general", "agents"]
    metric: Literal["accuracy", "score"]
    max_new_tokens: int = Field(gt=0)
    dataset: Literal[
        "micro", "math500", "gpqa", "olympiadbench", "mathvision", "mathverse", "mmstar", "mathvista", "sokoban",
        "football",
    ] = "micro"  # fmt: skip
    prompt: Literal["none"] | None = None
    source: str = Field(pattern=rf"^(micro|levels|own|{_HUB}|vlmevalkit:\w+)$")
    files: tuple[DataFile, ...] = ()
    n: int | None = Field(None, gt=0)
    groups: dict[str, tuple[str, ...]] = {}
    averages: tuple[Literal["macro", "micro"], ...] = ()
    stock: StockTask | None = None
    play: dict[str, Any] = {}
    """How an agent benchmark is played; read by evals/agents/harness.py."""

    @model_validator(mode="after")
    def _agents_alone_play(self) -> Benchmark:
        """An agent benchmark is played for points in a group of its own, and nothing else is."""
        plays = self.dataset in ("sokoban", "football")
        if {plays, self.harness == "agents", self.group == "agents", self.metric == "score"} != {plays}:
            raise ValueError("datasets sokoban and football, and no other, have harness and group agents, metric score")
        return self

    @property
    def file_name(self) -> str:
        """Name of a micro benchmark's file: text is JSONL, what has images VLMEvalKit's TSV, levels boxoban's text."""
        return self.name + {"lm_eval": ".jsonl", "vlmevalkit": ".tsv", "agents": ".txt"}[self.harness]

    @property
    def kind(self) -> Literal["text", "multimodal"]:
        """Which half of a protocol applies."""
        return "text" if self.group == "text" else "multimodal"


def load_registry(path: Path = REGISTRY_FILE) -> dict[str, Benchmark]:
    """Read the registry, in file order. Raises UserError on a missing file, bad YAML, unknown keys or bad values."""
    entries = read_mapping(path)
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: expected `name:` followed by indented `key: value` lines for every benchmark")
    return {name: _parse(name, entry, path) for name, entry in entries.items()}


def _parse(name: Any, entry: dict[str, Any], path: Path) -> Benchmark:
    return parse_settings(Benchmark, {**entry, "name": name}, f"{path}: benchmark {name!r}")


@cache
def registry() -> dict[str, Benchmark]:
    """The registry of this package."""
    return load_registry()


def find(name: str) -> Benchmark:
    """The benchmark called `name`; `lm_eval:TASK` is the stock task, whose records are called `lm_eval_TASK`.

    Raises UserError that lists the known ones.
    """
    known = registry()
    for prefix in (STOCK, RECORDED_STOCK):
        if name.startswith(prefix):
            return _find_stock(name.removeprefix(prefix))
    if name not in known:
        raise UserError(f"benchmark {name!r} is not known; known: {', '.join([*known, *_stock_names()])}")
    return known[name]


def _stock_names() -> list[str]:
    return [STOCK + b.stock.task for b in registry().values() if b.stock]


def _find_stock(task: str) -> Benchmark:
    for benchmark in registry().values():
        if benchmark.stock and benchmark.stock.task == task:
            changes = {"name": RECORDED_STOCK + task, "title": f"{benchmark.title} ({task})", "prompt": "none"}
            return benchmark.model_copy(update=changes)
    raise UserError(f"lm-eval's task {task!r} is not offered here; known: {', '.join(_stock_names())}")
