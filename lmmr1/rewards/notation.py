"""One way of writing lists, equations, inequalities and products of letters. LaTeX in, LaTeX out."""

from __future__ import annotations

import re

_JOINED = re.compile(
    r"\s*,?\s*(?:\\(?:text|mbox)\s*\{\s*,?\s*(?:or|and)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*"
)
_TURNED = re.compile(r"([^<>=,\\]+)(>|\\geq?\b)([^<>=,\\]+)(>|\\geq?\b)([^<>=,\\]+)")
_FLIP = {">": "<", r"\ge": r"\le ", r"\geq": r"\le "}
_ASSIGNED = re.compile(r"\A([^=<>]*\d[^=<>A-Za-z]*)=\s*([A-Za-z])\Z")
_LETTERS = re.compile(r"(?<![\\A-Za-z{])[a-z]{2,3}(?![A-Za-z}])")
OR = re.compile(r"\s*,?\s*(?:\\(?:text|mbox)\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\lor|\\vee)\s*")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|lt|gt)(?:q|qslant)?(?![A-Za-z])")
_EITHER = re.compile(r"\A\s*(?:\\text\s*\{\s*)?(?:either|both)\b\s*\}?\s*")
_DOTS = re.compile(r"(?<=[,;])\s*(?:\\[lcdv]?dots[bcmio]?(?![A-Za-z])|\.\.\.)\s*(?=[,;]|\Z)")
"""An ellipsis in a list, read as a member of its own."""

_BUILDER = re.compile(
    r"\\\{\s*([a-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:|\\colon)\s*(.*(?:[<>]|\\[lg]).*)\\\}"
)
_NAMED_LIST = re.compile(r"\s*([A-Za-z]|\([a-z](?:\s*,\s*[a-z])+\))\s*=\s*([(\[][^=]*[)\]]|\\\{[^=]*\\\})\s*")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_RANGE = re.compile(r"\\in\s*[(\[]|\\notin|\\neq?(?![A-Za-z])")
_UNREAD = [
    re.compile(mark)
    for mark in (
        r"'|\\prime(?![A-Za-z])",
        r"\^\s*\{?\s*(?:T|\\top|\\dagger|\\mathsf\{T\})(?![A-Za-z])",
        r"\\[lc]?dots|\.\.\.",
        r":(?=[^:]*:)",
    )
]
_NAMED = re.compile(r"\s*([a-z])\s*=\s*([^=,]+)")


def canonical(latex: str) -> str:
    """One way of writing lists, turned inequalities and products of letters."""
    latex = _DOTS.sub(r" \\Xi ", _EITHER.sub("", latex))
    if alternatives := _BUILDER.fullmatch(latex):
        latex = alternatives[2]
    if len(OR.split(latex)) > 1 and all(_INEQUALITY.search(part) for part in OR.split(latex)):
        return latex
    latex = _both_signs(_JOINED.sub(", ", latex))
    latex = _TURNED.sub(lambda m: m[5] + _FLIP[m[4]] + m[3] + _FLIP[m[2]] + m[1], latex)
    latex = _ASSIGNED.sub(r"\2 = \1", latex)
    return _LETTERS.sub(lambda m: " ".join(m[0]), latex)


def _both_signs(latex: str) -> str:
    """Each member of a list that has one plus-minus sign as two members."""
    if latex.startswith(r"\{") and latex.endswith(r"\}"):
        return r"\{" + _both_signs(latex[2:-2]) + r"\}"
    parts = top_level(latex)
    if not any(len(_PLUS_MINUS.findall(part)) == 1 for part in parts):
        return latex
    both = []
    for part in parts:
        name, equals, value = part.rpartition("=")
        members = _signs(value) if len(_PLUS_MINUS.findall(part)) == 1 else [value]
        both += [f"{name}{equals}{members[0]}", *members[1:]]
    return ", ".join(both)


def _signs(value: str) -> list[str]:
    """The two values of one with a plus-minus sign; which is first does not matter in a list."""
    return [_PLUS_MINUS.sub(sign, value) for sign in "+-"]


def top_level(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def unnamed(wanted: str, found: str) -> tuple[str, str]:
    """Both without the name of a list, where one has it or both the same: `I = (2, 5)`; `x=2, y=5` as `(x,y)=(2,5)`."""
    one, two = _NAMED_LIST.fullmatch(wanted), _NAMED_LIST.fullmatch(found)
    given = dict(_NAMED.findall(found))
    if bracket(one[2] if one else wanted) == "tuple" and len(given) == len(found.split(",")):
        names = re.findall(r"[a-z]", one[1]) if one else sorted(given)
        if sorted(names) == sorted(given):
            return one[2] if one else wanted, "(" + ", ".join(given[name].strip() for name in names) + ")"
    if two and not one and (order := re.findall(r"[a-z]", two[1])) != sorted(order) and bracket(two[2]) == "tuple":
        values = top_level(two[2].strip()[1:-1])
        return wanted, "(" + ", ".join(v for _, v in sorted(zip(order, values, strict=False))) + ")"
    if one and two and one[1] != two[1]:
        return wanted, found
    return (one[2] if one and "=" not in found.removeprefix(two[0] if two else "") else wanted), (
        two[2] if two else found
    )


def is_other_kind(wanted: str, found: str) -> bool:
    """True for an inequality or a set of numbers that answers for a list, and for sets that answer for points."""
    is_list = bracket(wanted) in ("bare", "set") and not _INEQUALITY.search(wanted)
    if is_list and (_INEQUALITY.search(found) or _RANGE.search(found)):
        return True
    if found.count(r"\{") > 1 >= wanted.count(r"\{") and bracket(wanted) == "set":
        return True
    kinds = [{bracket(part) for part in top_level(text)} for text in (wanted, found)]
    return "tuple" in kinds[0] and "set" in kinds[1] and "(" not in found


def drops_a_mark(wanted: str, found: str) -> bool:
    """True where an answer has a mark that the grammar does not read and the gold has none: `5'`, `5^T`."""
    return any(len(mark.findall(found.rpartition("=")[2])) > len(mark.findall(wanted)) for mark in _UNREAD)


def bracket(text: str) -> str:
    """What encloses a list: `set`, `tuple`, `closed`, `bare`; or an empty text for what is no list."""
    text = text.strip()
    ends = {(r"\{", r"\}"): "set", ("(", ")"): "tuple", ("[", "]"): "closed"}
    name = next((name for (left, right), name in ends.items() if text.startswith(left) and text.endswith(right)), "")
    depth, commas, first_closes = 0, 0, len(text)
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        commas += char == "," and depth == 0
        if depth == 0 and char in ")]}":
            first_closes = min(first_closes, at)
    if commas:
        return "bare"
    return name if name and first_closes == len(text) - 1 and "," in text else ""
