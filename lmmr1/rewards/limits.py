"""Cheap checks before any mathematics: what no gold answer looks like is refused, with the reason, and is wrong.

They keep most monsters away from sympy; whatever gets through is bounded by the worker process (pool.py).
"""

from __future__ import annotations

import math
import re

MAX_CHARS = 1000
"""Characters of a judged answer. The longest gold of MATH, MATH-500 and OlympiadBench has 204."""

MAX_NESTING = 20
MAX_DIGITS = 60
"""Digits in a row."""

MAX_EXPONENT_DEPTH = 2
r"""Exponents inside exponents: `e^{x^{2}}` has two."""

MAX_POWER_DIGITS = 5
"""Digits of an exponent or of what a factorial or binomial is taken of."""

MAX_COMMANDS = 120
r"""LaTeX commands (`\frac` ...) and operators of one answer."""

_RUN = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_BIG_POWER = re.compile(rf"(?:\^|\*\*)\s*[{{(]?\s*-?\d{{{MAX_POWER_DIGITS + 1}}}")
_POWER_OF_POWER = re.compile(r"(?:\^|\*\*)\s*[{(]?[^{}^]{0,40}?(\d{1,9})\s*(?:\^|\*\*)\s*[{(]?\s*(\d{1,9})")
_BIG_FACTORIAL = re.compile(rf"\d{{{MAX_POWER_DIGITS}}}\s*[)}}]*\s*!|!\s*[)}}]*\s*!")
_CHOOSE = re.compile(r"\\[dt]?binom|\\choose|\\prod|\\sum|\\int|\\lim")
_BIG_NUMBER = re.compile(r"\d{5}|\^")
_BOUND = re.compile(r"\^\{?n\}?|(_\s*(?:\{[^{}]*\}|\w))\s*\^\s*(?:\{\s*\d{1,2}\s*\}|\d(?!\d))")
"""The upper bound of a short sum."""

_COMMAND = re.compile(r"\\[A-Za-z]+|[-+*/^_]")


def refusal(text: str) -> str | None:
    """Why `text` is not worth parsing, or None. Linear in the length of the text."""
    if len(text) > MAX_CHARS:
        return "length"
    depth, exponents = nesting(text)
    reasons = {
        "digits": _RUN.search(text),
        "nesting": depth > MAX_NESTING,
        "power": exponents > MAX_EXPONENT_DEPTH or _BIG_POWER.search(text) or _big_power_of_power(text),
        "size": _BIG_FACTORIAL.search(text) or (_CHOOSE.search(text) and _BIG_NUMBER.search(text) and not _small(text)),
        "commands": len(_COMMAND.findall(text)) > MAX_COMMANDS,
    }
    return next((name for name, found in reasons.items() if found), None)


def _big_power_of_power(text: str) -> bool:
    """True where an exponent is itself a power of numbers with more than MAX_POWER_DIGITS digits: `2^{30^5}`."""
    return any(int(m[2]) * math.log10(max(int(m[1]), 1)) > MAX_POWER_DIGITS for m in _POWER_OF_POWER.finditer(text))


def nesting(text: str) -> tuple[int, int]:
    """Deepest nesting of brackets and deepest nesting of exponents (`2^{3^{4}}` and `2^3^4` have two)."""
    depth = deepest = chain = deepest_chain = 0
    opened: list[int] = []  # the exponent chain in front of each open bracket
    previous = ""
    for char in text.replace("**", "^"):
        if char.isspace():
            continue
        if char in "({[":
            opened.append(chain)
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")}]" and opened:
            depth -= 1
            chain = opened.pop()
        elif char == "^":
            chain += 1
            deepest_chain = max(deepest_chain, chain)
        elif char in "+-*/=,;" and previous != "^":
            chain = opened[-1] if opened else 0
        previous = char
    return deepest, deepest_chain


def _small(text: str) -> bool:
    """True for a sum, product or binomial without exponents and with numbers of at most four digits."""
    return "^" not in _BOUND.sub("", text) and not re.search(r"\d{5}", text)
