"""A response as a reader sees it: no markdown, no full-width signs, formulas on one line. Text in, text out."""

from __future__ import annotations

import re

_WIDE = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"\u3000": " ", "\u3002": ". ", "\u3010": "[", "\u3011": "]", "\ufe0f": "", "\u200b": "", "\ufeff": ""}
)
_PICTURE = re.compile(r"[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
"""Emoji and dingbats, check marks among them."""

_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)\w*[ \t]*$")
_RULE = re.compile(r"(?m)^[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*$")
_HEADING = re.compile(r"(?m)^[ \t]*#{1,6}[ \t]+")
_QUOTED = re.compile(r"(?m)^[ \t]*>(?:[ \t]*>)*[ \t]*(?=[*_#`$\\A-Z]|\w+[ \t]+\w)")
_BULLET = re.compile(r"(?m)^[ \t]*(?:[*+\u2022][ \t]+|-[ \t]+(?=[*_`$\\A-Za-z]))")
_ROW = re.compile(r"(?m)^[ \t]*\|[ \t](.*[ \t]\|[ \t].*)[ \t]\|[ \t]*$")
_STRONG = re.compile(
    r"(?<![\w\\*])(\*{1,3}|_{1,3})(?=[^\s*_])([^*\n]*?[^\s*\\])\1(?![\w*])(?<!_(?=\())"
)  # not Python's `__import__(`
_HTML = re.compile(r"</?(?:b|strong|i|em|u|mark|center|p|br|span|div)\s*/?>", re.IGNORECASE)
_SUPERSCRIPT = re.compile(r"<sup>\s*([^<>]{1,20}?)\s*</sup>", re.IGNORECASE)
_STRUCK = re.compile(r"~~(?=\S)[^~\n]+~~")
_QED = re.compile(r"\s*(?:\$?\\(?:blacksquare|square|Box|qed)\$?|[\u220e\u25a0\u25a1]|Q\.?E\.?D\.?)\s*\Z")
_TICKS = re.compile(r"`+")
_FORMULA = re.compile(
    r"\$\$.+?\$\$|(?<![\\$])\$(?!\$)(?:[^$\\\n]|\\.)+(?:(?<=[\w)}\]!%'])\$|\$(?!\d))|\\\(.+?\\\)|\\\[.+?\\\]|\\begin\{(\w+\*?)\}.+?\\end\{\1\}",
    re.DOTALL,
)


_STOP = re.compile(r"\s*[.,;]\s*(\$\$?|\\\)|\\\])\Z")
"""The sentence's own mark inside of a formula."""


def readable(text: str) -> str:
    """`text` without marks that only say how it is shown. Formulas keep theirs and stand on one line each."""
    text = _STRUCK.sub(" ", _PICTURE.sub("", text.translate(_WIDE)))
    for mark in (_FENCE, _RULE, _HEADING, _BULLET, _QUOTED):
        text = mark.sub("", text)
    parts, at = [], 0
    for formula in _FORMULA.finditer(text):
        parts += [_shown(text[at : formula.start()]), _STOP.sub(r" \1", " ".join(formula[0].split()))]
        at = formula.end()
    return _QED.sub("", _unstarred("".join([*parts, _shown(text[at:])])))


def _shown(text: str) -> str:
    """Plain text without HTML, table bars and back-ticks."""
    text = _SUPERSCRIPT.sub(r"^{\1}", _ROW.sub(lambda row: ": ".join(_cells(row[1])), text))
    return _TICKS.sub("", _HTML.sub("", text))


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|") if cell.strip()]


def _unstarred(text: str) -> str:
    """Without paired stars and underscores around words; a star between factors stays."""
    before = None
    while before != text:
        before, text = text, _STRONG.sub(r"\2", text)
    return text
