"""The data behind every estimate: devices, published utilisation, assumed lengths. Each value says where it is from."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import psutil
from pydantic import Field

from lmmr1.config import Settings, parse_settings, read_mapping, read_yaml
from lmmr1.types import UserError
from reproduce.budget.roofline import Roof
from reproduce.profiles import nearest

HERE = Path(__file__).parent


class Gpu(Settings):
    """A row of gpus.yaml, whose head explains the fields."""

    title: str
    bf16: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    memory: float | None = Field(None, gt=0)
    source: Literal["vendor", "measured"]
    reached: tuple[float, float]
    reached_source: Literal["measured", "design", "scaled"]

    @property
    def roof(self) -> Roof:
        """What large kernels reach, in FLOP/s and bytes/s."""
        return Roof(self.reached[0] * 1e12, self.reached[1] * 1e12)

    @property
    def memory_bytes(self) -> float:
        """Its memory; for the CPU, this machine's."""
        return self.memory * 1e9 if self.memory else float(psutil.virtual_memory().total)


class Utilisation(Settings):
    """A row of published.yaml."""

    who: str
    model: str
    gpu: str
    mfu: tuple[float, float]
    range: bool
    nearest: bool = False
    source: str


class Lengths(Settings):
    """Mean tokens of a sample, and where that is from."""

    prompt: int = Field(gt=0)
    image: int = Field(ge=0)
    completion: int = Field(gt=0)
    origin: str


class Rate(Settings):
    """Seconds from to, and where that is from."""

    seconds: tuple[float, float]
    origin: str


class CpuCosts(Settings):
    """Wall seconds and GB of the micro world's jobs."""

    origin: str
    pretrain: dict[str, float]
    train: dict[str, float]
    evaluate: dict[str, float]
    other: float
    memory: dict[str, float]


class Workload(Settings):
    """workload.yaml."""

    stages: dict[str, Lengths]
    benchmarks: dict[str, Lengths]
    disk: dict[str, int | None]
    eager_decode_step: Rate
    cpu: CpuCosts


@cache
def gpus() -> dict[str, Gpu]:
    """All devices by name."""
    path = HERE / "gpus.yaml"
    return {name: parse_settings(Gpu, row, f"{path}, {name}") for name, row in read_mapping(path).items()}


def find_gpu(name: str) -> Gpu:
    """A device by name. Raises UserError that lists the known ones."""
    known = gpus()
    if name not in known:
        raise UserError(f"--gpu {name}: not known; known: {', '.join(known)}{nearest(name.lower(), known)}")
    return known[name]


@cache
def published() -> tuple[Utilisation, ...]:
    """What other trainers report."""
    path = HERE / "published.yaml"
    rows: list[dict[str, Any]] = read_yaml(path)
    return tuple(parse_settings(Utilisation, row, f"{path}, row {i}") for i, row in enumerate(rows, 1))


def mfu_levels() -> tuple[float, float, float]:
    """MFU of the published runs that are like ours: the largest, that of the nearest run, the smallest."""
    values = [m for row in published() if row.range for m in row.mfu]
    nearest = next(mean(row.mfu) for row in published() if row.nearest)
    return max(values), nearest, min(values)


@cache
def workload() -> Workload:
    """The assumptions."""
    path = HERE / "workload.yaml"
    return parse_settings(Workload, read_mapping(path), str(path))
