r"""Words beside a number that make it another value, or none: `less than 34`, `half of 34`, `34 million`, `34 fails`.

A number may be taken out of a sentence, and a unit off a number, only where none of them stands there.
"""

from __future__ import annotations

import re

_OF = (
    r"(?:roots?|half|halves|thirds?|quarters?|multiples?|reciprocal|inverse|squares?|cubes?|powers?|divisors?|factors?"
    r"|negative|opposite|percent|logarithm|complement|remainder|double|triple|fractions?|tenths?|factorial)\s+of"
)
_BEFORE = re.compile(
    r"(?i)(?:\b(?:(?:less|more|greater|fewer|smaller|larger|bigger|higher|lower|other|rather|instead)\s+(?:than|of)"
    rf"|{_OF}|at\s+(?:least|most)|up\s+to|close\s+to|nearly|almost|between|below|above|under|exceeds?|except(?:\s+for)?|excluding|but"
    r"|not|without|no|nor|neither|minus|negative|plus|twice|double|triple|thrice|half|modulo|mod|divided\s+by|over"
    r"|different\s+from|no\s+longer|times|(?:could|might|may|cannot)\s+be|theorems?|lemmas?|problem|exercise|steps?|cases?|equations?|figures?|questions?|exponents?|base)"
    r"|[-\u2212]|(?<=[\d)])\s*[/*^+])[\s$({\"'\u201c\\]*\Z"
)
_AFTER = re.compile(
    r"(?i)\A[\s$)}]*(?:thousand|[mb]illion|trillion|hundred|dozen|lakh|crore|grand|score|k\b|factorial|squared|cubed|percent|per\s*cent|pct\b"
    r"|times\s+(?:as|more|less|fewer|the|larger|smaller|greater|bigger|higher|\$?\d)|plus|minus|modulo|mod\b|choose|to\s+the|and\s+a\s+(?:half|third|quarter)|and\s+(?:one|two|three)\s+\w+"
    r"|halves|thirds|quarters|recurring|repeating|or\s+(?:more|less|fewer|so)|less|more|below|above|percentage|short|(?:is|are|was)\s+(?:an?\s+|the\s+)?(?:lower|upper|excluded)"
    r"|\\?%|[-+/*^!]\s*[\d$(\\])"
)
_REFUTED = re.compile(
    r"(?i)\b(?:fails?|wrong|incorrect|false|impossible|rejected|reject|invalid|contradict\w*|undefined|doubt|unlikely"
    r"|too\s+(?:small|large|big|few|many|low|high)|does\s?n.?t|is\s?n.?t|no\s+(?:solutions?|answer|way))\b"
)
_MINUS = re.compile(r"(?i)\b(?:negative|minus)\s+(?=[$\\(]*\d)")


def is_qualified(before: str, after: str) -> bool:
    """True where what stands right before or behind a number makes another value of it: not `the maximum is 34 cm`."""
    return _BEFORE.search(before) is not None or _AFTER.match(after) is not None


def is_refuted(clause: str) -> bool:
    """True where a clause says that what it names is wrong."""
    return _REFUTED.search(clause) is not None


def is_qualifier(words: str) -> bool:
    """True where `words`, taken away from a number, would leave another value."""
    return _AFTER.match(f" {words}") is not None or _BEFORE.search(f"{words} ") is not None or is_refuted(words)


def signed(text: str) -> str:
    """`negative 5` and `minus $5$` with their sign."""
    return _MINUS.sub("-", text)
