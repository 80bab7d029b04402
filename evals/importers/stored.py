"""StoredAnswer: one response that some run gave to one problem, whoever stored it; and what all importers share."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from evals.samples import SampleRow
from evals.scorers.items import LETTER, Item, cell_text, item_of

BENCHMARKS = (
    (r"math_?vision.*mini", "mathvision_mini"),
    (r"math_?vision.*", "mathvision"),
    (r"mathverse.*", "mathverse"),
    (r"mathvista.*", "mathvista_mini"),
    (r"mm_?star.*", "mmstar"),
    (r"olympiadbench.*", "olympiadbench"),
    (r"gpqa_diamond.*", "gpqa_diamond"),
    (r"(hendrycks_|minerva_)?math_?500.*", "math500"),
)
"""Pattern of a task's or data set's name in some harness (lower case) -> the benchmark's name here."""

CELLS = ("answer_type", "precision", "error")
"""Columns of a data set that a scorer reads."""

EMPTY = ("", "nan", "NaN", "None", "null", "<NA>")
"""An answer that is nothing, as tools write it."""

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class StoredAnswer:
    """One response that some run gave to one problem."""

    benchmark: str
    arm: str
    """What was evaluated: an arm of this suite, or a model's name."""
    run: str
    """Tells runs of one arm apart, e.g. the seed."""
    row: SampleRow
    """What was asked and answered, as far as the file says so."""
    stored: Mapping[str, bool] = field(default_factory=dict)
    """Verdicts that came with the file, by name."""
    source: str = ""
    """The file."""
    failure: str = ""
    """What a tool wrote in the place of an answer after its request had failed (`failures.py`)."""

    @property
    def response(self) -> str:
        """Model output, hostile by assumption."""
        return self.row.response

    @property
    def empty(self) -> bool:
        """Whether nothing was stored; tables hold `nan` or `None` for it, too."""
        return self.response.strip() in EMPTY

    @cached_property
    def item(self) -> Item:
        """The problem as scorers read it."""
        doc = self.row.doc
        return item_of(doc.id, self.row.target, doc.choices, doc.cells)


def benchmark_name(task: str) -> str:
    """The benchmark's name in this suite for a task's or data set's name in any harness; unknown names stay.

    >>> benchmark_name("MathVision_MINI"), benchmark_name("hendrycks_math500"), benchmark_name("micro_chain")
    ('mathvision_mini', 'math500', 'micro_chain')
    """
    return next((name for pattern, name in BENCHMARKS if re.fullmatch(pattern, task.lower())), task.lower())


def gold_of(gold: str, choices: Sequence[str]) -> str:
    """A problem's gold as a row's `target`: of a choice the letter of the right option, else the text as it is.

    gold: a text, or of a choice its letter, or the text of just one option. A letter counts as a letter.

    >>> gold_of("(B)", ("5", "7")), gold_of("7", ("5", "7")), gold_of("(B)", ())
    ('B', 'B', '(B)')
    """
    letter = LETTER.fullmatch(gold.strip()) if choices else None
    if letter:
        return letter[1]
    return LETTERS[list(choices).index(gold)] if list(choices[: len(LETTERS)]).count(gold) == 1 else gold


def texts_in(gold: str) -> list[str]:
    """The texts of a list that was written as Python writes one, which no interval or matrix looks like; else the gold.

    >>> texts_in("['3', '4']"), texts_in("[3, 4]")
    (['3', '4'], ['[3, 4]'])
    """
    try:
        values = ast.literal_eval(gold) if re.fullmatch(r"\[['\"].*['\"]\]", gold.strip(), re.S) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else [gold]


def cells_of(columns: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """Of a data set's columns those that a scorer reads, as text, without empty ones."""
    return {name: text for name in CELLS if (text := cell_text(columns.get(name)))}


def accuracy_of(stored: Mapping[str, bool]) -> float | None:
    """What the verdicts in a file say where they agree; None where it has none, or they differ."""
    said = set(stored.values())
    return float(said.pop()) if len(said) == 1 else None


def truth(value: Any) -> bool | None:
    """A verdict from whatever a harness stores for one: a bool, 0 or 1, the same as text, or a dict around one."""
    if isinstance(value, dict):
        keys = [key for key in ("score", "scores", "correct", "true_false", "hit") if key in value]
        return truth(value[keys[0]]) if keys else None
    if isinstance(value, list):
        return truth(value[0]) if len(value) == 1 else None
    text = str(value).strip().lower()
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(text)


def judged(pairs: Iterable[tuple[str, Any]]) -> dict[str, bool]:
    """The verdicts among named values."""
    found = ((name, truth(value)) for name, value in pairs)
    return {f"stored:{name}": right for name, right in found if right is not None}
