"""What the harnesses run: problems, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.protocols import Prompt, ProtocolSettings
from evals.registry import Benchmark


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a benchmark."""

    id: str
    question: str
    """The question as the harness gets it; MathVision's carries hint and choices."""
    answer: str
    category: str = ""
    images: tuple[Path, ...] = ()
    image_sha256: str = ""
    """16 hex digits over the bytes of all images; empty without one."""
    choices: tuple[str, ...] = ()
    """Texts of the options where `answer` is the letter of one of them."""
    subsets: tuple[str, ...] = ()
    """Further subsets that the row belongs to."""
    cluster: str = ""
    """Rows of one cluster are versions of one problem: their errors are not independent. Empty: one of its own."""
    cells: Mapping[str, Any] = field(default_factory=dict)
    """The columns of the data set that the harness or a scorer reads, as the tool's own reader would give them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark, ready to run."""

    benchmark: Benchmark
    problems: tuple[Problem, ...]
    """The rows that will be run: the first `limit` of the file."""
    data_sha256: str
    """sha256 (16 hex digits) of the file that was read."""
    data_pin: str = "none"
    """The pin that the file was checked against, e.g. `md5 5c68...`; `none` where there is none, `other data` where the
    file differs and that was allowed."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a benchmark's file holds, before its images are looked at."""

    data_sha256: str
    """As in `Prepared`."""
    data_pin: str
    """As in `Prepared`."""
    categories: tuple[str, ...]
    """The category of every problem, in the file's order; empty texts where there are none."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured and how: a benchmark under a protocol."""

    prepared: Prepared
    protocol: ProtocolSettings
    prompt: Prompt
    """The style that is used: the protocol's, or the one that was asked for."""
    max_new_tokens: int

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark."""
        return self.prepared.benchmark

    @property
    def stock(self) -> bool:
        """True where lm-eval's own task runs, not ours."""
        asked = self.benchmark.name == f"lm_eval_{self.benchmark.stock.task}" if self.benchmark.stock else False
        return asked or (self.benchmark.stock is not None and self.protocol.text.tasks == "stock")

    @property
    def repetition_penalty(self) -> float:
        """The protocol's, for this kind of benchmark."""
        return self.protocol.half(self.benchmark).repetition_penalty
