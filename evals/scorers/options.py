"""Multiple choice: which option a response names (GPQA, MMStar)."""

from __future__ import annotations

from collections.abc import Sequence

from evals.scorers.expressions import is_prose, same_expression, without_marks
from evals.scorers.items import MAX_ANSWER, Item, Mark
from evals.scorers.latex import Unvalued
from lmmr1.rewards import extract_answer, options

TOLERANCE = 1e-6
"""Between the value of an answer and that of an option."""


def match(item: Item, response: str) -> Mark:
    """Right where the response names the gold option by its letter or by its text. Never raises on any text."""
    letter, answer = named_option(response, item.choices)
    if not letter:
        return Mark(False, answer, "no option named")
    return Mark(letter == item.gold, answer, "same option" if letter == item.gold else "another option")


def named_option(response: str, choices: Sequence[str]) -> tuple[str, str]:
    """The letter of the option that a whole response names, or an empty text, and the text where it was found.

    By letter or text, as in training; else by a value that one option has.
    """
    letter, place = options.named_option(extract_answer(response), choices)
    return letter or option_letter(place, choices), place


def option_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter of the option that an answer (not a whole response) names; empty where it names none or several.

    By letter or text, as in training; else by a value that one option has, unit for unit: `8` is not `8 kg`, as in
    MathVision's own rule.
    """
    letter = options.option_letter(answer, choices)
    if letter or options.letters_in(answer):
        return letter
    same = [chr(ord("A") + i) for i, text in enumerate(choices) if _same_value(answer, text)]
    return same[0] if len(same) == 1 else ""


def _same_value(answer: str, choice: str) -> bool:
    """Both are expressions, not sentences, of one value. `x = 3` counts as 3."""
    if is_prose(answer[:MAX_ANSWER]) or is_prose(choice):
        return False
    sides = [without_marks(text[:MAX_ANSWER]).rpartition("=")[2] for text in (choice, answer)]
    try:
        return same_expression(*sides, TOLERANCE)
    except Unvalued:
        return False
