"""What the last sentences of a text name as the answer. Text in, text out; response.py is the only caller."""

from __future__ import annotations

import re
from collections.abc import Iterator

HEDGE = re.compile(r"(?i)\b(?:or|either|maybe|perhaps|possibly)\b")
"""Words between answers that are offered side by side."""

MATH = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    r"|(\\begin\{(?:align|gather|equation|eqnarray|multline)\w*\*?\}.+?\\end\{\w+\*?\})",
    re.DOTALL,
)
"""A formula between its marks, or in an environment of its own."""

_MARKS = r"(?:[\s$]|\\[()\[\]])*"
JOINT = re.compile(
    rf"{_MARKS}(?:\\text\s*\{{\s*)?(?:([,;]){_MARKS})?(?:(?:\\text\s*\{{\s*)?(and|or))?(?:\s*\}})?{_MARKS}"
)
"""What may stand between answers that are one list: a comma, `and`, `or`, or a comma and one of these words."""

_LINK = r"(?:\s*(?:\b(?:is|are|equals|was|should\s+be|must\s+be|would\s+be|comes\s+out\s+(?:as|to))\b:?|:|=|\u2192))"
_ANSWER = re.compile(rf"(?i)答案\s*(?:是|为|為)?\s*:?\s*|\banswers?\b[^.:=\n]{{0,60}}?{_LINK}\s*")
_RESULT = re.compile(rf"(?i)\b(?:(?:result|solutions?|total|value)\b[^.:=\n]{{0,60}}?|(?:option|choice)\b){_LINK}\s*")
_IS_THE_ANSWER = re.compile(
    r"(?i)\s+(?:is|must be|should be)\s+(?:the|our|my)\s+(?:final\s+|correct\s+|right\s+)*(?:answer|result|choice)\b"
)
_VERB = re.compile(r"(?i)\b(?:is|was|are|equals|get|gives|be|have|has|therefore|thus|so|hence|yields|obtain)\b:?\s+")
_DENIAL = re.compile(r"(?i)\b(?:not|cannot|neither|never)\b|n't\b")
_CLAUSE = re.compile(
    r"(?i)[,;(]?\s*(?<![\w\\])(?:because|since|as|which|where|when|given|after|instead|rather|not|but|if|for|so)(?!\w)|\s\("
)
_MATHS = re.compile(r"[\d$\\]")
_TELLS = re.compile(r"\d|\A[\s(\[*]*[A-J][\s)\].*]*\Z")
"""A number or an option's letter."""

_PROSE = re.compile(r"[^\"\[\]{}_=<>^\\|]*")
_ASIDE = re.compile(r"(?i)\s*(?:check|checking|verification|verify|note|proof|remark|hint|indeed|here)\b")
_REMARK = re.compile(
    r"(?i)\b(?:correct|right|consistent|reasonable|verified|clear|unique|valid|below|above|follows?|same|expected|final"
    r"|sure|confirmed|given|found|shown|obvious|easy|complete|done)\b"
)
_WORDS = re.compile(r"[A-Za-z]{2,}")
_NUMBER = re.compile(
    r"[$\u20ac\u00a3\u00a5]?[+-]?[$\u20ac\u00a3\u00a5]?\d+(?:[.,/:]\d+)*(?:\s*(?:\\?%|per\s?cent\b|pct\b))?"
)
_END = re.compile(r"[\s.;,]*\Z")
_NEXT_LINE = re.compile(r":\s*\n\s*")
_SENTENCE = re.compile(r"(?<=[^\d\s.][.!?])\s+|(?<=\d[.!?])\s+(?=[A-Z])|(?<=[.!?]\))\s+|\n+")


def names(text: str) -> bool:
    """True where `text` announces something or says what something is."""
    return any(pattern.search(text) for pattern in (_ANSWER, _RESULT, _VERB, MATH))


def announced(text: str) -> str:
    """What `text` calls its answer; else what it calls its result, total or choice. A remark after it is not read."""
    sentences = _sentences(text)
    return next((found for pattern in (_ANSWER, _RESULT) for found in _announced(sentences, pattern)), "")


def concluded(text: str) -> str:
    """What the last sentence with mathematics comes to."""
    sentences = _sentences(text)
    sentences = [s for s in sentences if not _ASIDE.match(s)] or sentences
    telling = [s for s in sentences if _MATHS.search(s)] or sentences
    return _comes_to(telling[-1]) if telling else ""


def _sentences(text: str) -> list[str]:
    return [s for s in _SENTENCE.split(_NEXT_LINE.sub(": ", text)) if s.strip()]


def _announced(sentences: list[str], announces: re.Pattern[str]) -> Iterator[str]:
    """What is announced, mathematics first, the last first, without remarks such as `The answer is correct`."""
    found = list(_all_announced(sentences, announces))
    yield from (answer for answer in found if _MATHS.search(answer))
    yield from (answer for answer in found if answer and not _REMARK.search(answer))


def _all_announced(sentences: list[str], announces: re.Pattern[str]) -> Iterator[str]:
    for sentence in reversed(sentences):
        before = _IS_THE_ANSWER.split(sentence)
        starts = [match.end() for match in announces.finditer(sentence)]
        if len(before) > 1 and announces is _ANSWER and not _DENIAL.search(sentence):
            yield _comes_to(before[0])
        elif starts and not _DENIAL.search(sentence[: starts[-1]]):
            yield _stated(sentence[starts[-1] :])


def _stated(rest: str) -> str:
    """The answer at the beginning of what follows `the answer is`."""
    denial = _DENIAL.search(rest)
    if denial and not _MATHS.search(rest[: denial.start()]):
        return ""
    rest = rest[: denial.start()] if denial else rest
    formulas = list(MATH.finditer(rest))
    if formulas and not HEDGE.search(rest):
        begins = not _WORDS.search(rest[: formulas[0].start()])
        return _joined(rest, formulas if begins else formulas[::-1], forward=begins)
    if not formulas and "\\" not in rest and (clause := _CLAUSE.search(rest)) and _TELLS.search(rest[: clause.start()]):
        rest = rest[: clause.start()]
    return _bare(rest)


def _comes_to(sentence: str) -> str:
    """What a sentence comes to: its last formula, or what stands behind that and the last verb."""
    if _DENIAL.search(sentence):
        return ""
    formulas = list(MATH.finditer(sentence))
    verbs = list(_VERB.finditer(sentence, formulas[-1].end() if formulas else 0))
    behind = sentence[verbs[-1].end() :] if verbs else ""
    if formulas and not HEDGE.search(sentence) and not (behind and re.search(r"\d", behind)):
        return _joined(sentence, formulas[::-1], forward=False)
    return _bare(behind or (sentence if not formulas else sentence[formulas[-1].end() :] or sentence))


def _bare(rest: str) -> str:
    """Without the sentence's end; of words with one number, the number."""
    rest = _END.sub("", rest.strip())
    numbers = _NUMBER.findall(rest)
    in_words = len(numbers) == 1 and len(_WORDS.findall(_NUMBER.sub("", rest))) > 1 and _PROSE.fullmatch(rest)
    return numbers[0] if in_words and not HEDGE.search(rest) else rest


def _joined(text: str, formulas: list[re.Match[str]], *, forward: bool) -> str:
    """The first of `formulas` with those that are joined to it by commas, `and` or `or`, in the order of the text."""
    parts: list[str] = []
    for one, before in zip(formulas, [None, *formulas], strict=False):
        joint = None
        if before is not None:
            left, right = (before, one) if forward else (one, before)
            joint = JOINT.fullmatch(text, left.end(), right.start())
            if joint is None or not joint.group().strip(" $\n"):
                break
        inside = next(part for part in one.groups() if part is not None)
        parts += [*([f" {separator(joint)} "] if joint else []), inside]
    return "".join(parts if forward else reversed(parts))


def separator(joint: re.Match[str]) -> str:
    """The comma or word of a match of JOINT; a comma where answers stand side by side."""
    return joint[2] or joint[1] or ","
