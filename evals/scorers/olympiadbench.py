"""OlympiadBench's rule (eval/auto_scoring_judge.py of OpenBMB/OlympiadBench) in our own words, with numeric tolerances.

The answer is what follows the last "final answer is", or the whole response. Of it, all boxes count, joined by commas;
without a box the formulas of the last line; without those the text. It is split at commas outside brackets, a `\\pm` is
two answers, and every gold answer needs one of its own among them. Two answers are equal as intervals or tuples, as
numbers (x, 100 x and x / 100 alike: a percentage may be meant), as expressions, or as equations.

The released scorers that were handed the `error` column as text never applied it; here it is always a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from evals.scorers.expressions import same_answer, split, without_marks
from evals.scorers.items import MAX_ANSWER, Item, Mark
from lmmr1.types import UserError

DEFAULT_TOLERANCE = 1e-8
MAX_CHARS = 200_000
MAX_ANSWERS = 64

_PHRASE = re.compile(r"final answer is:?(.*)", re.IGNORECASE)
_FORMULA = re.compile(r"\$([^$]*)\$")
_CJK = re.compile(r"[一-鿿]+")
_EDGES = "\n$,.:;^_=+`!@#%&*~，。 "


def official(item: Item, response: str) -> Mark:
    """Judge a whole response. Never raises on any text. Raises UserError where the item's `error` is no tolerance."""
    # Tuples are compared without tolerance, whatever the column says.
    allowed = [DEFAULT_TOLERANCE] if "Tuple" in item.answer_type else tolerances(item.error)
    answer = cleaned(stated(response))
    gold = cleaned(stated(item.gold))
    if not answer:
        return Mark(False, answer, "no answer")
    if answer == gold:
        return Mark(True, answer, "same text")
    right = _same_answers(_CJK.sub("", gold), _CJK.sub("", answer), allowed)
    return Mark(right, answer, "same value" if right else "different")


def within_tolerance(item: Item, answer: str) -> bool:
    """An extracted answer is as near to a number as the item's `error` allows. Never raises on any text.

    Only where the data set states a tolerance; a percentage is not taken for a number as in `official`.
    """
    if item.error is None or "Numerical" not in item.answer_type or "Tuple" in item.answer_type:
        return False
    return _same_answers(cleaned(stated(item.gold)), cleaned(answer), tolerances(item.error), percent=False)


def tolerances(error: str | float | None) -> list[float]:
    """The `error` column as numbers: one for all answers, or one for each. Raises UserError.

    >>> tolerances("1e-1"), tolerances("0.5,,2"), tolerances(None), tolerances(3)
    ([0.1], [0.5, 1e-08, 2.0], [1e-08], [3.0])
    """
    if error is None or (isinstance(error, float) and math.isnan(error)):
        return [DEFAULT_TOLERANCE]
    try:
        found = [float(part) if part.strip() else DEFAULT_TOLERANCE for part in str(error).split(",")]
    except ValueError:
        found = [math.nan]
    if any(math.isnan(number) or number < 0 for number in found):
        raise UserError(f"OlympiadBench: `error` must hold numbers, one or separated by commas (got {error!r:.60})")
    return found


def stated(response: str) -> str:
    r"""The answers that a response states: its boxes joined by commas, or the last line's formulas, or all of it."""
    text = response[-MAX_CHARS:]
    phrases = [found[1].strip() for found in _PHRASE.finditer(text)]
    text = phrases[-1] if phrases and phrases[-1] else text
    line = text.strip().rpartition("\n")[2]
    # One real gold answer has an odd `$`: its formulas cannot be told from the text between them.
    found = _boxes(text) or (_FORMULA.findall(line) if line.count("$") % 2 == 0 else [])
    return ",".join(found[:MAX_ANSWERS]) if found else text


def _boxes(text: str) -> list[str]:
    """The insides of all boxes that are closed."""
    inside: list[str] = []
    for part in text.split("\\boxed{")[1:]:
        depth = 1
        for end, char in enumerate(part[:MAX_ANSWER]):
            depth += (char == "{") - (char == "}")
            if depth == 0:
                inside.append(part[:end])
                break
    return inside


def cleaned(answer: str) -> str:
    r"""Without what stands before an `\in`, marks that say nothing about the value, and outer punctuation."""
    return without_marks(answer.rpartition("\\in ")[2]).strip(_EDGES)


def _same_answers(gold: str, answer: str, allowed: Sequence[float], percent: bool = True) -> bool:
    """Every gold answer has one of its own among the given ones, and none is left."""
    if len(answer) > MAX_ANSWER:
        return False
    wanted, given = split(gold), [text for text, _ in _signs(split(answer), [0.0])]
    pairs = _signs(wanted, allowed if len(allowed) == len(wanted) else allowed[:1])
    if len(pairs) != len(given) or len(given) > MAX_ANSWERS:
        return False
    for text, tolerance in pairs:
        index = next((i for i, other in enumerate(given) if same_answer(text, other, tolerance, percent=percent)), None)
        if index is None:
            return False
        del given[index]
    return True


def _signs(parts: Sequence[str], allowed: Sequence[float]) -> list[tuple[str, float]]:
    r"""Each part with its tolerance, `\pm` as two parts."""
    each = allowed if len(allowed) == len(parts) else [allowed[0]] * len(parts)
    return [
        (part.replace("\\pm", sign), tolerance)
        for part, tolerance in zip(parts, each, strict=True)
        for sign in ("+-" if "\\pm" in part else "+")
    ]
