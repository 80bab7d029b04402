r"""Does an answer equal the gold? docs/verifier.md says what counts as equal; math-verify does the mathematics.

Nothing here evaluates text as code: math-verify's LaTeX grammar is the only parser. Sympy may still take any time and
memory, so `math_equal` runs in a worker process only (pool.py); `settle` is cheap and runs anywhere.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lmmr1.rewards import values
from lmmr1.rewards.bases import based, has_subscript, settle_bases
from lmmr1.rewards.latex import to_latex
from lmmr1.rewards.notation import OR, bracket, canonical, drops_a_mark, is_other_kind, unnamed
from lmmr1.rewards.options import gold_letter
from lmmr1.rewards.sentence import HEDGE
from lmmr1.rewards.units import has_percent, percentages, same_unit, strip_unit
from lmmr1.rewards.values import Unparsable

_NUMBER = re.compile(
    r"([+-]?)\s*(?:(\d{1,30})|(\d{0,20}\.\d{1,20})|(\d{1,20})\s*/\s*(\d{1,20})|\\frac\{(\d{1,20})\}\{(\d{1,20})\})"
)
_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_WORD = r"[A-Za-z][A-Za-z.'-]*"
_TEXT = re.compile(rf"(?:\\(?:text|mathrm|mbox|textbf)\s*\{{)?\s*({_WORD}(?:[\s,]+{_WORD})*)\s*\}}?")
_SEVERAL = re.compile(r"(?i)[,;]|\\pm|\\(?:text\{\s*)?(?:or|and)|\b(?:or|and)\b")
_WORDS = re.compile(rf"\\(?:text|mathrm|mbox|textbf)\s*\{{\s*{_WORD}\s*\}}")
_STRAY = re.compile(r"\\frac\{[^{}]*\}\{[^{}]*\}\s*\d|(?<![_\d])\d+\s+\d")
_UNLIKE = {
    ("set", "tuple"),
    ("set", "closed"),
    ("tuple", "set"),
    ("closed", "set"),
    ("tuple", "bare"),
    ("bare", "tuple"),
}
_NAME = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TIME = re.compile(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?")
_MARKUP = re.compile(r"[\\^_$={}<>|]|\d")


def settle(gold: str, answer: str) -> str | None:
    """The verdict where no algebra is needed: `equal`, `different`, `hedged`, `gold_unparsable`; else None.

    Bounded: regular expressions and exact fractions on texts that passed `limits.refusal`.
    """
    wanted, found = to_latex(gold), to_latex(answer)
    if not re.search(r"\w|\\|[^\x00-\x7f]", wanted.replace("\ufffd", "").strip("\\{}()[]$ ")) or wanted.count(
        "{"
    ) != wanted.count("}"):
        return "gold_unparsable"
    if wanted == found:
        return "equal"
    if HEDGE.search(found) and not _SEVERAL.search(wanted):
        return "hedged"
    if _NAME.search(wanted) and _plain(wanted) == _plain(found):
        return "equal"
    words = text_of(wanted) or (_plain(wanted) if _WORDS.fullmatch(gold.strip(" $")) else None)
    if words is not None:
        return "equal" if words == _plain(found) else "different"
    return _settle_numbers(wanted, found)


def _settle_numbers(wanted: str, found: str) -> str | None:
    """`equal` or `different` where the gold is a number and the answer a number or words; else None."""
    if (verdict := settle_bases(wanted, found)) is not None:
        return verdict
    if (verdict := _settle_ratios(wanted, found)) is not None:
        return verdict
    (wanted, one), (found, two) = strip_unit(wanted), strip_unit(found)
    a, b = number(wanted), number(found)
    if a is None or (one and two):
        return None
    if b is None:
        return "different" if text_of(found) is not None and len(found) > 2 else None
    return "equal" if a == b or values.rounds_to(b, wanted) else "different"


def _settle_ratios(wanted: str, found: str) -> str | None:
    """The verdict on times of day, by their texts, and on ratios of three numbers or more; None for anything else."""
    one, two = ([value for part in text.split(":") if (value := number(part)) is not None] for text in (wanted, found))
    if len(one) <= wanted.count(":") or len(two) <= found.count(":") or min(len(one), len(two)) < 2:
        return None
    reduced = math.gcd(*(part.numerator for part in one)) == 1
    if _TIME.fullmatch(wanted) and (_TIME.fullmatch(found) or not reduced):
        return "different"  # the texts differ, and minutes are no ratio
    if len(one) == len(two) == 2:
        return None
    same = len(one) == len(two) and all(a * two[0] == b * one[0] for a, b in zip(one, two, strict=True))
    return "equal" if same else "different"


def number(text: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, `a/b` or `\frac{a}{b}`, or None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, integer, decimal, over, under, top, bottom = match.groups()
    below = int(under or bottom or 1)
    if below == 0:
        return None
    value = Fraction(Decimal(integer or decimal)) if integer or decimal else Fraction(int(over or top), below)
    return -value if sign == "-" else value


def text_of(gold: str) -> str | None:
    """The gold as lower-case words where it is words and no formula, else None."""
    match = _TEXT.fullmatch(gold)
    if match is None:
        return None
    words = match[1]
    formula = len(words) <= 2 and "\\" not in gold
    return None if formula else _plain(words)


def _plain(text: str) -> str:
    """Lower-case words without markup, punctuation and article."""
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\b|[{}$*\"'\u201c\u201d]", " ", text).lower()
    return re.sub(r"^(?:the|a|an) ", "", " ".join(re.sub(r"[.,;:!]", " ", text).split()))


def math_equal(gold: str, answer: str) -> str:
    """The verdict by algebra: `equal`, `different`, `unparsed`, `gold_unparsable`. May take any time and memory."""
    wanted, found = to_latex(gold), to_latex(answer)
    (bare, one), (other, two) = strip_unit(wanted), strip_unit(found)
    if not same_unit(one or _percent(wanted), two or _percent(found)):
        return "different"
    if not (one or two) or (one and two):
        return _by_value(bare, other)
    # `2 m` may be a product: with its unit an answer is read as it stands, too.
    notes = [_by_value(bare, other), _by_value(wanted, found)]
    return next((note for note in ("equal", "different") if note in notes), notes[0])


def _percent(text: str) -> str:
    return "%" if has_percent(text) else ""


def _by_value(wanted: str, found: str) -> str:
    """The verdict on two texts without units."""
    wanted, found = unnamed(canonical(wanted), canonical(found))
    if (bracket(wanted), bracket(found)) in _UNLIKE or is_other_kind(wanted, found) or drops_a_mark(wanted, found):
        return "different"
    pairs = percentages(wanted, found)
    try:
        golds = [values.of_chain(expression(w)) for w, _ in pairs]
    except Unparsable:
        return "gold_unparsable"
    try:
        answers = [expression(f) for _, f in pairs]
    except Unparsable:
        return "unparsed"
    if any(map(values.is_false, answers)) or any(map(values.is_unsolved, answers, golds)):
        return "different"
    if _DECIMAL.fullmatch(pairs[0][1]) and getattr(golds[0], "is_irrational", False):
        return "different"  # however many digits an approximation has
    rounded = [d for d in _DECIMAL.findall(wanted) if values.rounds_to(Fraction(d), d)]
    equal = any(values.equal(g, values.snapped(a, rounded)) for g, a in zip(golds, answers, strict=True))
    return "equal" if equal else "different"


@lru_cache(maxsize=4096)
def expression(latex: str) -> Any:
    """What math-verify's LaTeX grammar makes of `latex`: a sympy object without floats. Raises Unparsable.

    Numbers side by side are refused: the grammar would add or multiply them. It would drop their subscripts.
    """
    if _STRAY.search(latex) or has_subscript(latex):
        raise Unparsable(latex)
    parts = OR.split(latex)
    return values.union(parts) if len(parts) > 1 else values.read(latex)


def parses(gold: str) -> bool:
    """True where a gold can be judged against: an option, words, a number, or LaTeX that the grammar accepts."""
    wanted = to_latex(gold)
    if gold_letter(gold):
        return True
    if settle(gold, gold) != "equal":
        return False
    if (
        based(wanted)
        or text_of(wanted) is not None
        or number(strip_unit(wanted)[0]) is not None
        or not _MARKUP.search(wanted)
    ):
        return True
    return math_equal(gold, gold) == "equal"
