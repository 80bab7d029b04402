"""What the harnesses run: problems, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.registry import Benchmark


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a benchmark."""

    id: str
    question: str
    """The question as the harness gets it; MathVision's carries hint and choices."""
    answer: str
    category: str = ""
    image: Path | None = None
    image_sha256: str = ""
    choices: tuple[str, ...] = ()
    """Texts of the options where `answer` is the letter of one of them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark, ready to run."""

    benchmark: Benchmark
    problems: tuple[Problem, ...]
    """The rows that will be run: the first `limit` of the file."""
    data_sha256: str
    """sha256 (16 hex digits) of the file that was read."""
