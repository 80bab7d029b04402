"""What a scorer reads and what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ANSWER = 2000
"""No gold answer is near so many characters; an answer is looked at up to there."""

_NUMBER = re.compile(r"(?<![\w.])[+−-]?(?:\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d{1,30})(?:\.\d{1,30})?")
LETTER = re.compile(r"\(?([A-J])\)?")


@dataclass(frozen=True, slots=True)
class Item:
    """The problem's side of a judgement: trusted benchmark data, in the benchmark's own terms."""

    id: str
    gold: str
    """The answer; where there are choices, the letter of the right one or (MathVista) its text."""
    choices: tuple[str, ...] = ()
    """Texts of the options A, B, ...; empty for a free-form problem."""
    answer_type: str = ""
    """MathVista: integer, float, list or text. OlympiadBench: Numerical, Expression, Equation, Interval, Tuple, or
    several of them joined by commas."""
    precision: int = 0
    """MathVista: decimals that a float is rounded to."""
    error: str | float | None = None
    """OlympiadBench: allowed absolute error as in its column: `1e-1`, or one per answer as in `1e-1,,2`."""

    @property
    def right_choice(self) -> str:
        """The text of the right option, or an empty text where the gold answer is no option's letter."""
        index = ord(self.gold) - ord("A") if len(self.gold) == 1 else -1
        return self.choices[index] if 0 <= index < len(self.choices) else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict with what was judged and why."""

    correct: bool
    answer: str
    """The text that was judged: model output, hostile by assumption."""
    note: str
    """Why: `same text`, `same value`, `different`, `no answer`, ..."""


def item_of(id: str, gold: str, choices: Sequence[str], cells: Mapping[str, Any]) -> Item:
    """An item; `(B)` and `B` are the same gold where there are choices. `cells` are further columns of the data set.

    A float without a `precision` has that of its gold answer.
    """
    letter, kind = LETTER.fullmatch(gold.strip()), cell_text(cells.get("answer_type"))
    precision, error = finite(cells.get("precision")), cell_text(cells.get("error"))
    if precision is None:
        precision = len(gold.strip().partition(".")[2]) if kind == "float" else 0
    return Item(
        id=id,
        gold=letter[1] if letter and choices else gold,
        choices=tuple(choices),
        answer_type=kind,
        precision=int(precision),
        error=error or None,
    )


def finite(value: Any) -> float | None:
    """A cell or a text as a finite number; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def last_number(text: str) -> float | None:
    """The last decimal number in a text; commas between thousands are no separators. None without one."""
    found = [number[0] for number in _NUMBER.finditer(text[-MAX_ANSWER:])]
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def cell_text(value: Any) -> str:
    """A cell as text; an empty cell, however it is written, is an empty text."""
    return "" if value is None or str(value) == "nan" else str(value)
