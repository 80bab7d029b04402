r"""Numbers in a base: `1324_5`, `(1324)_{\text{five}}`, `1A_{16}`, `1324 in base 5`. A base is not converted."""

from __future__ import annotations

import re

_NAMES = {
    name: base
    for base, name in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split(),  # noqa: SIM905 - a row of words
        start=2,
    )
} | {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
_BASE = rf"\d{{1,2}}|{'|'.join(sorted(_NAMES, key=len, reverse=True))}"
_DRESS = r"(?:\\(?:text|mathrm|rm|textrm|mbox)\b\s*\{?|\{|\(|\s|~)*"
_UNDRESS = r"[\s})]*"
_DIGITS = r"(?:\\(?:text|mathrm)\s*\{|\()?\s*(-?[0-9A-Fa-f](?:[\s,]?[0-9A-Fa-f]){0,59}(?:\.[0-9A-Fa-f]{1,30})?)\s*[)}]?"
_SUBSCRIPT = re.compile(rf"{_DIGITS}\s*_\s*{_DRESS}(?:base\b[\s~}}]*)?{_DRESS}({_BASE}){_UNDRESS}", re.IGNORECASE)
_WORDS = re.compile(
    rf"{_DIGITS}\s*,?\s*{_DRESS}(?:in\s+)?base{_UNDRESS}[\s~]*{_DRESS}({_BASE}){_UNDRESS}", re.IGNORECASE
)
_ANY = re.compile(r"(?<![A-Za-z_^{}\\\d.])\d[\d.]*\s*\)?\s*_")


def based(text: str) -> tuple[str, int] | None:
    """The digits, in upper case without leading zeros, and the base; None for anything else."""
    match = _SUBSCRIPT.fullmatch(text) or _WORDS.fullmatch(text)
    if match is None or not re.search(r"\d", match[1]):
        return None
    base = _NAMES.get(match[2].lower()) or int(match[2])
    digits = re.sub(r"[\s,]", "", match[1]).upper()
    if base < 2 or any(c not in ".-" and int(c, 16) >= base for c in digits):
        return None
    return _trimmed(digits), base


def settle_bases(gold: str, answer: str) -> str | None:
    """`equal` or `different` where a side names a base: same digits, and the same base or none. None without one."""
    wanted, found = based(gold), based(answer)
    if wanted is None and found is None:
        return None
    plain = _trimmed(re.sub(r"\s", "", (gold if wanted is None else answer).strip("$ ")).upper())
    one, two = wanted or (plain, 0), found or (plain, 0)
    return "equal" if one[0] == two[0] and (one[1] == two[1] or 0 in (one[1], two[1])) else "different"


def has_subscript(text: str) -> bool:
    """True where a number has a subscript: a base that the LaTeX grammar would drop."""
    return _ANY.search(text) is not None


def _trimmed(digits: str) -> str:
    """Without leading zeros, which have no value in any base."""
    sign, rest = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (rest.lstrip("0") or "0")
