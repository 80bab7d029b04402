"""MathVision's own rule, so that its released counts come out again. Nothing is evaluated as code (the original does).

Lower-cased and stripped, the answer equals the gold letter, or the gold answer, or the text of the gold option; or both
have values that are equal after rounding to 2 decimals. (...) and [...] are compared element by element.
Source: evaluation/ of mathllm/MATH-V and its released outputs; quirks kept are listed in docs/scorers.md.
"""

from __future__ import annotations

from evals.scorers.items import Item, Mark
from evals.scorers.latex import RELEASED, Unvalued, value
from evals.scorers.options import named_option
from lmmr1.rewards import judged_text

DECIMALS = 2


def official(item: Item, answer: str) -> Mark:
    """Judge an extracted answer (not a whole response). Never raises on any text."""
    if not answer.strip():
        return Mark(False, answer, "no answer")
    marks = [_equal(answer, gold) for gold in (item.gold, item.right_choice) if gold.strip()]
    return next((mark for mark in marks if mark.correct), marks[-1] if marks else Mark(False, answer, "no gold answer"))


def official_on_response(item: Item, response: str) -> Mark:
    """Judge a whole response: the released rule on an answer that our own patterns find. Never raises on any text."""
    letter = named_option(response, item.choices)[0] if item.choices else ""
    return official(item, letter or judged_text(response))


def _equal(answer: str, gold: str) -> Mark:
    text, wanted = answer.lower(), gold.lower()
    if text.strip() == wanted.strip():
        return Mark(True, answer, "same text")
    ours, theirs = _elements(text), _elements(wanted)
    if ours and theirs:
        return Mark(ours == theirs, answer, "same elements" if ours == theirs else "different")
    try:
        right = rounded(text) == rounded(wanted)
    except Unvalued as e:
        return Mark(False, answer, f"no value: {e}")
    return Mark(right, answer, "same value" if right else "different")


def rounded(text: str) -> int | float:
    """The value of `text`, lower-cased, rounded to 2 decimals. Raises Unvalued."""
    number = value(text, RELEASED)
    if isinstance(number, complex):
        raise Unvalued("not a real number")
    return round(number, DECIMALS)


def _elements(text: str) -> tuple[str | int | float, ...]:
    """Brackets and rounded elements of `(a, b, ...)` or `[a, b, ...]`; empty for anything else.

    `a`, `-a` and infinity stand for themselves, as in the original.
    """
    if text[:1] + text[-1:] not in ("()", "[]") or "," not in text:
        return ()
    parts = text[1:-1].split(",")
    try:
        inside = [part if "infty" in part or part in ("a", "-a") else rounded(part) for part in parts[:100]]
    except Unvalued:
        return ()
    return (text[0], *inside, len(parts))
