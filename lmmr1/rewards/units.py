"""Percent signs, currency, units, degree signs: they count only where both sides have them (docs/verifier.md, 4)."""

from __future__ import annotations

import re

_CURRENCIES = {"dollar": "$", "usd": "$", "euro": "€", "eur": "€", "gbp": "£", "yen": "¥", "rupee": "₹", "r": "₹"}
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*percent\s*\}|\\text\{\s*%\s*\}|(?:percent|per cent|pct)\b)\s*$")
_CURRENCY = re.compile(
    r"^\s*([+-]?)\s*(?:US)?(\\\$|\$|€|£|¥|₹|USD|EUR|GBP|Rs\.?)\s*(?=[\d.\\-])"
    r"|(?<=\d)\s*(dollars?|euros?|pounds? sterling|yen|yuan|rupees?|USD|EUR|GBP|\\\$|\$|€|£|¥|₹|cents?)\s*$"
)
_DEGREES = re.compile(r"\s*(?:\^\{\\circ\}|(?<=[\d\s])degrees?)\s*$")
_UNIT = re.compile(
    r"(?:(?<=[\d})])|(?<=\\pi))\s*"
    r"(?:\\(?:text|mathrm|mbox|rm)\s*\{\s*([^{}]*?)\s*\}|(?<=[\d\s})])([A-Za-z][A-Za-z/ ]*?))"
    r"(\s*\^\s*\{?\s*(\d)\s*\}?)?\s*$"
)

_SINGLE = re.compile(r"[+-]?(?:\d[\d.,/]*|\\frac\{\d+\}\{\d+\})(?:\s*(?:\\pi|\\sqrt\{\d+\}))?")
"""A number that a unit of one letter may follow."""

_UNITS: dict[str, str] = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "inch": "in", "inche": "in", "feet": "ft", "foot": "ft", "mile": "mi", "yard": "yd",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "gram": "g", "kilogram": "kg", "liter": "l",
    "litre": "l", "dollar": "$", "cent": "cents", "unit": "", "square": "sq", "pound": "lb", "degree": "°",
    "mph": "mi h", "pt": "point", "yr": "year",
}  # fmt: skip
"""Names without plural s, and the sign that stands for them."""

_PLAIN_UNITS = {
    *_UNITS, *"cm m km mm in ft mi yd s min h g kg mg l ml lb oz sq per cubic".split(),  # noqa: SIM905 - a row of words
    *"hz khz mhz ghz pa kpa mol kwh kj kn ma kv kw mw rad deg ohm amp volt watt joule newton kelvin".split(),  # noqa: SIM905
    *"day week month year people point men kid".split(),  # noqa: SIM905
}  # fmt: skip
r"""Words that are units without `\text{}` around them."""

_CAPITALS = "NJVWKACFT"
"""Units of one capital letter."""

QUANTITIES = (
    r"\\?%|(?:(?:square|cubic|sq)\s+)?(?:"
    + "|".join(
        sorted(
            ({*_PLAIN_UNITS} | {"thousand", "million", "billion", "trillion", "percent", "per cent", "pct"})
            - {"in", "per", "unit", "people", "point", "men", "kid", "square", "cubic", "sq", "second", *"mshgl"},
            key=len,
            reverse=True,
        )
    )
    + r")s?(?:\s*\^\s*\{?[23]\}?)?(?![\w$])|[mshglNJVWK](?=\s*[.,;]?\s*\Z)"
)
"""Regular expression of the units that may stand behind a formula instead of in it."""

_VALUES = re.compile(
    r"th$|third|hal[fv]|quarter|squared|cubed|factorial|hundred|thousand|illion|dozen|choose|times|plus|minus|root|over"
    r"|percent|pct|sqrt|sinh?$|cosh?$|tanh?$|infinity|theta|alpha|beta|gamma|delta|lambda|sigma|omega"
    r"|recur|repeat|lakh|crore|^grand$|^score$|negativ|below|above|under|doubl|tripl|^less$|^more$|^few|wrong|false|correct"
    r"|undefined|invalid|impossib|reject|mod(?:ulo)?$|^not$|^does$|^fails?$|except|^only|^base$|^log$|^max$|^min$|^gcd$|^lcm$"
    r"|^exp$|^and$|^else$|^when$|^where$|^with|^then$|^some|^(?:st|nd|rd)$|otherwise|^short|^remain|^larger|^smaller|^instead"
)
"""Words that change the number before them."""


def same_unit(one: str, two: str) -> bool:
    """False where both sides have a unit and it differs. A bare degree sign goes with degrees of any scale."""
    return not (one and two) or one == two or ("°" in (one, two) and one[0] == two[0])


def strip_unit(text: str) -> tuple[str, str]:
    """The text without currency, unit and degree sign at its ends, and their name (`$`, `cm2`, `°c`) if any."""
    text, currency = _strip_currency(text)
    text, unit = _strip_measure(text)
    bare = _DEGREES.sub("", text)
    return bare, ("°" if bare != text else "") + (unit or currency)


def _strip_currency(text: str) -> tuple[str, str]:
    match = _CURRENCY.search(text)
    if match is None:
        return text, ""
    sign = (match[2] or match[3]).lower().lstrip("\\").rstrip("s.")
    sign = _CURRENCIES.get(sign, sign)
    return _CURRENCY.sub(lambda m: m[1] or "", text), sign


def _strip_measure(text: str) -> tuple[str, str]:
    match = None if has_percent(text) else _UNIT.search(text)
    if match is None or not (name := (match[1] or match[2] or "").strip()):
        return text, ""
    if not name.strip(".,; "):
        return text[: match.start()], ""
    written = re.split(r"[\s/]+", name.rstrip("."))
    words = [_singular(w.lower()) for w in written]
    if match[1] and (not all(map(_may_be_named, written, words)) or len(words) > 4):
        return text, ""  # `3 \\text{ million}`, `34\\text{ does not work}`
    known = text[: match.start(2)].endswith(r"\circ}") and name in ("C", "F", "K")
    if match[2] and not known and (not _are_units(written, words) or _is_product(text[: match.start(2)], name)):
        return text, ""  # `2x`, `2t` and `3yx^2` are products, not units
    return text[: match.start()], _sign(words) + (match[4] or "")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word


def _sign(words: list[str]) -> str:
    """One name for a unit however it is written: `square centimeters`, `sq cm` and `cm squared` are `cm2`."""
    power = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
    whole = _UNITS.get(" ".join(words), "")
    if whole or len(words) < 2:
        return whole if whole or words[0] in _UNITS else words[0]
    powers = "".join(power.get(word, "") for word in words)
    bare = " ".join(filter(None, (_UNITS.get(word, word) for word in words if word not in power and word != "per")))
    return bare and bare + powers


def _may_be_named(written: str, word: str) -> bool:
    r"""True for what `\text{}` may hold behind a number: `cm`, `students`, `N`; not `x`, `!` or `million`."""
    if len(written) == 1 and written.isalpha():
        return written in _CAPITALS or word in _PLAIN_UNITS
    return any(c.isalpha() for c in written) and _is_counted(written, word)


def _are_units(written: list[str], words: list[str]) -> bool:
    """True for units and for what may be counted: `18 students`, `9 boys`, but not `18 million` or `3 halves`."""
    if len(written) == 1 and written[0] in _CAPITALS:
        return True
    shortest = 3 if len(words) > 1 else 4
    return all(
        w in _PLAIN_UNITS or (len(o) >= shortest and _is_counted(o, w)) for o, w in zip(written, words, strict=True)
    )


def _is_counted(written: str, word: str) -> bool:
    """True for a unit, and for a word that does not change the number before it."""
    return word in _PLAIN_UNITS or not (_VALUES.search(word) or _VALUES.search(written.lower()))


def _is_product(before: str, name: str) -> bool:
    """True where a letter is a variable: without a space before it, or behind more than a single number."""
    if len(name) > 1:
        return False
    return not before[-1:].isspace() or _SINGLE.fullmatch(before.strip()) is None


def has_percent(text: str) -> bool:
    """True where a text ends with a percent sign or word."""
    return _PERCENT.search(text) is not None


def percentages(wanted: str, found: str) -> list[tuple[str, str]]:
    """The pairs of texts that may be equal: a percent sign on one side alone means a hundredth or nothing."""
    wanted, found = _chain_of_one_kind(wanted), _chain_of_one_kind(found)
    bare, other = _PERCENT.sub("", wanted), _PERCENT.sub("", found)
    pairs = [(bare, other)]
    if bare != wanted and other == found:
        pairs.append((rf"\frac{{{bare}}}{{100}}", other))
    if other != found and bare == wanted:
        pairs.append((bare, rf"\frac{{{other}}}{{100}}"))
    return pairs


def _chain_of_one_kind(text: str) -> str:
    r"""`0.56 = 56\%` with its percentages as hundredths: the parts of a chain are compared with each other."""
    parts = text.split("=")
    if len(parts) == 1:
        return text
    bare = [_PERCENT.sub("", part) for part in parts]
    return "=".join(part if part == b else rf"\frac{{{b}}}{{100}}" for part, b in zip(parts, bare, strict=True))
