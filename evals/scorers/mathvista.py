"""MathVista's rule: its normalisation and comparison, on an extracted answer or on one that our own patterns find.

Source: evaluation/ of lupantech/MathVista, which asks a language model for the answer. Options: the option that the
answer names; else the option whose text is nearest to it by edit distance. Integers are cut, floats rounded to the
item's precision, lists compared number by number.
"""

from __future__ import annotations

import re

import Levenshtein

from evals.scorers.items import Item, Mark, finite, last_number
from evals.scorers.latex import Unvalued, value
from evals.scorers.options import named_option
from lmmr1.rewards import judged_text

_NUMBER = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?")
_LETTER = re.compile(r"\(([A-J])\)")
_ALONE = re.compile(r"([A-J])\.?")


def official(item: Item, answer: str) -> Mark:
    """Judge an extracted answer (not a whole response), as text in the form of its type. Never raises on any text."""
    if item.choices:
        letter = _LETTER.search(answer) or _ALONE.fullmatch(answer)
        return _judge_option(item, letter[1] if letter else "", answer)
    if item.answer_type in ("integer", "float"):
        return _judge_number(item, answer, finite(answer), finite(item.gold))
    return Mark(answer == item.gold, answer, "same text" if answer == item.gold else "different")


def rule(item: Item, response: str) -> Mark:
    """Judge a whole response. Never raises on any text."""
    answer = judged_text(response)
    if not answer:
        return Mark(False, answer, "no answer")
    if item.choices:
        letter, found = named_option(response, item.choices)
        return _judge_option(item, letter, found if letter else answer)
    if item.answer_type == "list":
        right = _numbers(answer) == _numbers(item.gold) if _numbers(item.gold) else answer == item.gold
        return Mark(right, answer, "same list" if right else "different")
    if item.answer_type in ("integer", "float"):
        return _judge_number(item, answer, _number(answer), _number(item.gold))
    right = answer.strip().lower() == item.gold.strip().lower()
    return Mark(right, answer, "same text" if right else "different")


def within_precision(item: Item, answer: str) -> bool:
    """A float and an answer that is a number, LaTeX or plain, are the same at the item's precision. Never raises."""
    if item.choices or item.answer_type != "float":
        return False
    return _judge_number(item, answer, _whole(answer), _whole(item.gold)).correct


def _judge_option(item: Item, letter: str, answer: str) -> Mark:
    """By the letter, if there is one and it is an option's, else by the nearest text."""
    index = ord(letter) - ord("A") if letter else -1
    named = 0 <= index < len(item.choices)
    chosen = item.choices[index] if named else nearest(answer, item.choices)
    return Mark(chosen == (item.right_choice or item.gold), answer, "option named" if named else "nearest option")


def nearest(answer: str, choices: tuple[str, ...]) -> str:
    """The first option with the least edit distance to the answer."""
    return min(choices, key=lambda choice: Levenshtein.distance(answer, choice))


def _judge_number(item: Item, answer: str, given: float | None, wanted: float | None) -> Mark:
    if given is None or wanted is None:
        return Mark(False, answer, "no number")
    if item.answer_type == "integer":
        right = int(given) == int(wanted)
    else:
        right = round(given, item.precision) == round(wanted, item.precision)
    return Mark(right, answer, "same value" if right else "different")


def _number(text: str) -> float | None:
    """The value of the whole text, or the last number in it."""
    whole = _whole(text)
    return last_number(text) if whole is None else whole


def _whole(text: str) -> float | None:
    """The value of the whole text; None without one."""
    try:
        whole = complex(value(text))
    except (Unvalued, OverflowError):
        return None
    return whole.real if whole.imag == 0 and abs(whole.real) < 1e300 else None


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text[:1000])]
