"""MathVerse without a judge: the benchmark's two steps, extraction and comparison, by patterns.

Multiple choice: the option's letter or text. Free form: the extracted answer is the gold answer as text (the short-cut
that VLMEvalKit takes before it asks its judge), or equal to it as number, interval, expression or equation. What only a
judge can see (0.5 m is 50 cm, a sentence in other words) is wrong here, so scores are a lower bound.
"""

from __future__ import annotations

import re

from evals.scorers.expressions import is_prose, same_answer, without_marks
from evals.scorers.items import MAX_ANSWER, Item, Mark, last_number
from evals.scorers.options import match
from lmmr1.rewards import judged_text

TOLERANCE = 1e-6

_NUMBER = re.compile(r"[-+]?[\d,]{1,30}(?:\.\d{1,30})?")
_CHOICES = re.compile(r"Choices:\s*", re.IGNORECASE)
_CHOICE = re.compile(r"^[(\[]?([A-Z])\s*[).:\]]\s*(.*)$", re.MULTILINE)


def rule(item: Item, response: str) -> Mark:
    """Judge a whole response. Never raises on any text."""
    if item.choices:
        return match(item, response)
    answer = judged_text(response)[:MAX_ANSWER]
    if not answer:
        return Mark(False, answer, "no answer")
    if _bare(answer) == _bare(item.gold):
        return Mark(True, answer, "same text")
    gold, given = (without_marks(text).strip(" .") for text in (item.gold, answer))
    if not is_prose(given):
        right = same_answer(gold, given, TOLERANCE)
        return Mark(right, answer, "same value" if right else "different")
    right = _NUMBER.fullmatch(gold) is not None and last_number(gold) == last_number(given)
    return Mark(right, answer, "same number in a sentence" if right else "different")


def choices_in(question: str) -> tuple[str, ...]:
    r"""The texts of the options in a question as MathVerse writes them, `Choices:` and a line `A:text` for each.

    >>> choices_in("How long?\nChoices:\nA:2\nB:2√{{3}}")
    ('2', '2√{{3}}')
    """
    parts = _CHOICES.split(question, maxsplit=1)
    found = _CHOICE.findall(parts[1]) if len(parts) == 2 else []
    expected = [chr(ord("A") + i) for i in range(len(found))]
    return tuple(text.strip() for _, text in found) if [letter for letter, _ in found] == expected else ()


def _bare(text: str) -> str:
    return "".join(text.replace("$", "").split()).lower().rstrip(".")
