"""The benchmarks as data: `benchmarks.yaml`, checked. Imports nothing heavy: the workflow reads it at every start."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from lmmr1.config import Settings, parse_settings
from lmmr1.types import UserError

REGISTRY_FILE = Path(__file__).with_name("benchmarks.yaml")


class Benchmark(Settings):
    """One entry of the registry; the comments at the top of `benchmarks.yaml` explain the keys."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    harness: Literal["lm_eval", "vlmevalkit"]
    title: str
    group: Literal["text", "mm_reasoning", "mm_general"]
    metric: Literal["accuracy"]
    max_new_tokens: int = Field(gt=0)
    prompt: Literal["none", "boxed", "hint"]
    source: str = Field(pattern=r"^(micro|hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}|vlmevalkit:\w+)$")
    data_root_file: str | None = None

    @property
    def file_name(self) -> str:
        """Name of a micro benchmark's file: text problems are JSONL, problems with images VLMEvalKit's TSV."""
        return f"{self.name}.jsonl" if self.harness == "lm_eval" else f"{self.name}.tsv"


def load_registry(path: Path = REGISTRY_FILE) -> dict[str, Benchmark]:
    """Read the registry, in file order. Raises UserError on a missing file, bad YAML, unknown keys or bad values."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such benchmark registry") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(e).split())}") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: expected `name:` followed by indented `key: value` lines for every benchmark")
    return {name: _parse(name, entry, path) for name, entry in entries.items()}


def _parse(name: Any, entry: dict[str, Any], path: Path) -> Benchmark:
    return parse_settings(Benchmark, {**entry, "name": name}, f"{path}: benchmark {name!r}")


@cache
def registry() -> dict[str, Benchmark]:
    """The registry of this package."""
    return load_registry()


def find(name: str) -> Benchmark:
    """The benchmark called `name`. Raises UserError that lists the known ones."""
    known = registry()
    if name not in known:
        raise UserError(f"benchmark {name!r} is not known; known: {', '.join(known)}")
    return known[name]
