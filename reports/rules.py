"""The rules behind every verdict, in config/verdicts.yaml: margin, family, correction, what must be comparable."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from lmmr1.config import Settings, parse_settings, read_mapping
from lmmr1.types import UserError

RULES_FILE = Path(__file__).parent.parent / "config/verdicts.yaml"
Comparable = Literal[
    "n",
    "aggregation",
    "prompt",
    "temperature",
    "max_new_tokens",
    "repetition_penalty",
    "judge",
    "max_pixels",
    "harness",
    "levels",
    "data",
]


class Rules(Settings):
    """The comments in `config/verdicts.yaml` explain the keys."""

    margin: float = Field(2.0, gt=0, lt=100)
    margins: dict[str, float] = {}
    correction: Literal["holm", "fdr_bh", "none"] = "holm"
    family: Literal["benchmarks"] = "benchmarks"
    power: float = Field(0.8, gt=0.05, lt=1)
    discordance: float = Field(0.25, gt=0, le=1)
    icc: float = Field(0.5, ge=0, le=1)
    must_match_score: tuple[Comparable, ...] = ()
    must_match_gain: tuple[Comparable, ...] = ()

    def margin_of(self, benchmark: str) -> float:
        """The margin of a benchmark, or of an average (by its column name), as a fraction."""
        return self.margins.get(benchmark, self.margin) / 100

    def text(self) -> str:
        """One line that a table prints under itself."""
        others = "".join(f", {name} {points:g}" for name, points in self.margins.items())
        correction = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg", "none": "no correction"}[self.correction]
        return (
            f"margin {self.margin:g} points{others}; 95 % intervals; {correction} over the benchmark cells of a table"
        )


def require_margin(points: float | None) -> None:
    """Raise UserError for a margin that no difference of percentages can be held against; None: the rules' own."""
    if points is not None and not 0 < points < 100:
        raise UserError(f"--margin {points}: give points above 0 and below 100")


def load_rules(path: Path = RULES_FILE) -> Rules:
    """Read a rules file. Raises UserError naming the file and the key."""
    return parse_settings(Rules, read_mapping(path), str(path))


@cache
def rules() -> Rules:
    """The rules of this package."""
    return load_rules()
