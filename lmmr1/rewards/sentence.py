"""What the last sentences of a text name as the answer. Text in, text out; response.py is the only caller."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lmmr1.rewards.qualifiers import is_qualified, is_refuted, signed
from lmmr1.rewards.units import QUANTITIES

HEDGE = re.compile(r"(?i)\b(?:or|either|maybe|perhaps|possibly)\b")
"""Words between answers that are offered side by side."""

MATH = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)(?:(?<=[\w)}\]!%'])\$|\$(?!\d))|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    r"|(\\begin\{(?:align|gather|equation|eqnarray|multline)\w*\*?\}.+?\\end\{\w+\*?\})",
    re.DOTALL,
)
"""A formula between its marks, or in an environment of its own."""

_MARKS = r"(?:[\s$&]|\\(?:[()\[\],;:!\\ ]|q?quad(?![A-Za-z])))*"
JOINT = re.compile(
    rf"{_MARKS}(?:\\text\s*\{{\s*)?(?:([,;]){_MARKS})?(?:(?:\\text\s*\{{\s*)?(and|or))?(?:\s*\}})?{_MARKS}(?:[a-z]\s*=\s*)?"
)
"""What may stand between answers that are one list: a comma, `and`, `or`, or a comma and one of these words."""

_TOUCHING = re.compile(
    r"(?:(?<![\w\x01)}\]])[-+\u2212]|\d+\s*[/*^]\s*)?\x00\d+\x01"
    r"(?:\s*(?:[-+*/^=:\u00d7\u00f7\u2013\u00b7]|to|times|plus|minus|divided\s+by)\s*(?:\x00\d+\x01|\d+(?!\w)))*(?:(?<=\x01)[a-z](?![a-z]))?"
    rf"(?:\s*({QUANTITIES}))?"
)
_LINK = (
    r"(?:\s*(?:\b(?:is|are|equals|was|should\s+be|must\s+be|would\s+be|becomes"
    r"|(?:comes|turns)\s+out\s+(?:as|to(?:\s+be)?))\b:?|:|=|\u2192))"
)
_ANSWER = re.compile(rf"(?i)答案\s*(?:是|为|為)?\s*:?\s*|\bans(?:wers?)?\b[^.:=\n]{{0,60}}?{_LINK}\s*")
_RESULT = re.compile(rf"(?i)\b(?:(?:result|solutions?|total|value)\b[^.:=\n]{{0,60}}?|(?:option|choice)\b){_LINK}\s*")
_IS_THE_ANSWER = re.compile(
    r"(?i)\s+(?:is|must be|should be)\s+(?:the|our|my)\s+(?:final\s+|correct\s+|right\s+)*(?:answer|result|choice)\b"
)
_VERB = re.compile(
    r"(?i)\b(?:is|was|are|equals|gets?|gives?|giving|be|becomes|have|has|therefore|thus|then|so|hence|yields?|obtain|finds?|implies"
    r"|it['\u2019]s|that['\u2019]s)\b[:,]?\s+(?:(?:exactly|only|just|precisely|simply|indeed|also)\s+)?"
)
_CONCLUDES = re.compile(
    r"(?i)\b(?:so|thus|hence|therefore|gives?|giving|yields?|implies|gets?|obtain|finds?)\b[:,]?\s+"
)
_DENIAL = re.compile(r"(?i)\b(?:not|cannot|neither|never)\b|n't\b")
_CLAUSE = re.compile(
    r"(?i)[,;(]?\s*(?<![\w\\])(?:because|since|as|which|where|when|given|after|instead|rather|not|but|if|for|so|with|whenever"
    r"|attained|achieved|reached|out)(?!\w)|\s\("
)
_DOUBTED = re.compile(
    r"(?i)[,;(]?\s*(?:(?:or|maybe|perhaps|possibly)\b"
    r"|(?:which|that|but)\s+(?:it\s+|that\s+)?(?:is|was)\s+(?:wrong|incorrect|false|impossible))"
    r"|.*\b(?:else|otherwise|and\s+\S+\s+(?:if|for|when))\b"
)
_CORRECTED = re.compile(r"(?i)\bbut\s+(?=(?:it|this|that|the\s+\w+)\s+is\s+[$\\]*\d)")
_OPERATION = re.compile(r"[-+*/\u00d7\u00f7x\u2013]\s*\(?\$?\.?\d")
_GIVEN = re.compile(r"(?<![A-Za-z\d])[a-z]\s*=")
_MATHS = re.compile(r"[\d$\\]")
_TELLS = re.compile(r"\d|\A[\s(\[*]*[A-J][\s)\].*]*\Z")
"""A number or an option's letter."""

_PROSE = re.compile(r"(?:[^\"\[\]{}_=<>^\\|]|\\\$)*")
_ASIDE = re.compile(r"(?i)\s*(?:check|checking|verification|verify|note|proof|remark|hint|indeed|here)\b")
_REMARK = re.compile(
    r"(?i)\b(?:correct|right|consistent|reasonable|verified|clear|unique|valid|below|above|follows?|same|expected|final"
    r"|sure|confirmed|given|found|shown|obvious|easy|complete|done)\b"
)
_WORDS = re.compile(r"[A-Za-z]{2,}")
_NUMBER = re.compile(
    r"(?:\\?\$|[\u20ac\u00a3\u00a5])?[+-]?[$\u20ac\u00a3\u00a5]?\d+(?:[.,/:]\d+)*(?:\s*(?:\\?%|per\s?cent\b|pct\b))?"
)
_END = re.compile(r"[\s.;,]*\Z")
_NEXT_LINE = re.compile(r":\s*\n\s*")
_SENTENCE = re.compile(r"(?<=[^\d\s.][.!?])\s+|(?<=\d[.!?])\s+(?=[A-Z])|(?<=[.!?]\))\s+|\n+")


def names(text: str) -> bool:
    """True where `text` announces something or says what something is."""
    return any(pattern.search(text) for pattern in (_ANSWER, _RESULT, _VERB, MATH))


def absorbed(text: str) -> str:
    """With signs, operators and units that touch a formula inside of its marks: `-$5$`, `$5$/2`, `$9$ cm`."""
    formulas = [match for match in MATH.finditer(text) if match[2]]
    if not formulas:
        return text
    inside = [match[2] for match in formulas]
    places, at = [], 0
    for i, formula in enumerate(formulas):
        places += [text[at : formula.start()], f"\0{i}\1"]
        at = formula.end()
    joined = _TOUCHING.sub(_as_formula, "".join([*places, text[at:]]))
    return re.sub("\0(\\d+)\1", lambda m: inside[int(m[1])], joined)


def _as_formula(match: re.Match[str]) -> str:
    unit = match[1] or ""
    return f"${match[0].removesuffix(unit).rstrip()}" + (rf"\text{{ {unit}}}" if unit else "") + "$"


def announced(text: str) -> str:
    """What `text` calls its answer; else what it calls its result, total or choice. A remark after it is not read."""
    sentences = _sentences(text)
    last = max((i for i, sentence in enumerate(sentences) if _MATHS.search(sentence)), default=0)
    places = ((_ANSWER, sentences), (_RESULT, sentences[last:]))
    return next((found for pattern, parts in places for found in _announced(parts, pattern)), "")


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
    if denial and not (_MATHS.search(rest[: denial.start()]) or _TELLS.search(rest[: denial.start()].rstrip(" ,;"))):
        return ""
    rest = _clause(signed(rest[: denial.start()] if denial else rest))
    if is_refuted(rest):
        return ""
    formulas = list(MATH.finditer(rest))
    if formulas and not HEDGE.search(rest):
        begins = not _WORDS.search(rest[: formulas[0].start()])
        return _joined(rest, formulas if begins else formulas[::-1], forward=begins)
    return _bare(rest)


def _comes_to(sentence: str) -> str:
    """What a sentence comes to: its arithmetic, else its conclusion without reasons; empty if it denies."""
    if _DENIAL.search(sentence):
        return ""
    if found := _CORRECTED.search(sentence):
        sentence = sentence[found.end() :]
    if MATH.search(sentence) or not _is_sum(sentence) or not (value := _last_value(sentence)):
        ends = [m.end() for m in _CONCLUDES.finditer(sentence) if _TELLS.search(sentence[m.end() :])]
        start = ends[-1] if ends else 0
        sentence = sentence[:start] + _clause(signed(sentence[start:]))
        value = ""
    return "" if is_refuted(sentence) else value or _conclusion(sentence)


def _conclusion(clause: str) -> str:
    """The formula behind the last verb, else the last formula; of plain words what stands behind `=` or the verb."""
    formulas = list(MATH.finditer(clause))
    verbs = list(_VERB.finditer(clause, formulas[-1].end() if formulas else 0))
    behind = clause[verbs[-1].end() :] if verbs else ""
    if formulas and not HEDGE.search(clause) and not (behind and re.search(r"\d", behind)):
        said = {verb.end() for verb in _VERB.finditer(clause)}
        named = [i for i, formula in enumerate(formulas) if formula.start() in said]
        if named and (len(named) == 1 or named[-1] == len(formulas) - 1):
            return _joined(clause, formulas[named[-1] :], forward=True)
        return _joined(clause, formulas[::-1], forward=False)
    if not formulas and (value := _last_value(clause)):
        return value
    if behind and not _TELLS.search(behind.strip(" .")) and _TELLS.search(clause):
        behind = ""
    return _bare(behind or (clause if not formulas else clause[formulas[-1].end() :] or clause))


def _is_sum(sentence: str) -> bool:
    """True where arithmetic stands before the last sign of equality. One pass: a sentence may be hostile."""
    before = sentence.rpartition("=")[0].rpartition("=")[2]
    first = re.search(r"\d", before)
    return first is not None and _OPERATION.search(before, first.end()) is not None


def _last_value(sentence: str) -> str:
    """What plain arithmetic comes to: `18` of `she makes 9 * 2 = $18 a day`; empty where several names have values."""
    _, equals, rest = sentence.rpartition("=")
    value = _NUMBER.match(rest.lstrip())
    if not equals or not value or HEDGE.search(sentence) or len(_GIVEN.findall(sentence)) > 1:
        return ""
    behind = rest.lstrip()[value.end() :]
    return "" if is_qualified("", behind) or re.match(r"\s*[\d(]|\w", behind) else value[0]


def _clause(text: str) -> str:
    """Without the reasons, conditions and remarks behind a value; with them where they put it in doubt."""
    for clause in _CLAUSE.finditer(text):
        head = text[: clause.start()]
        if _TELLS.search(head.strip(" .:")) and head.count("$") % 2 == 0:
            return text if _DOUBTED.match(text, clause.start()) or _DOUBTED.match(text, clause.end()) else head
    return text


def _bare(rest: str) -> str:
    """Without the sentence's end; of words with one number, the number, where no word makes another value of it."""
    rest = _END.sub("", rest.strip())
    numbers = list(_NUMBER.finditer(rest))
    in_words = len(numbers) == 1 and len(_WORDS.findall(_NUMBER.sub("", rest))) > 1 and _PROSE.fullmatch(rest)
    if not in_words or HEDGE.search(rest):
        return rest
    number = numbers[0]
    return rest if is_qualified(rest[: number.start()], rest[number.end() :]) else number[0]


def _joined(text: str, formulas: list[re.Match[str]], *, forward: bool) -> str:
    """The first of `formulas` with those that are joined to it by commas, `and` or `or`, in the order of the text."""
    parts: list[str] = []
    if is_qualified(text[: formulas[0].start()], text[formulas[0].end() :]):
        return text
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
