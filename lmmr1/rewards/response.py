"""The shape of a response: think and answer blocks, and the piece of text that is judged. Text in, text out.

What is not standard: an answer is judged by what stands in the last answer block, if there is one, not by the whole
response, and what stands in a think block is never an answer.
"""

from __future__ import annotations

import re
from collections import deque

TAIL_CHARS = 2000
"""Of a response without answer block and box only the end is searched: an answer stands at the end."""

MAX_BOX_CHARS = 4000
"""A longer box is none; the search for its end is bounded."""

MAX_BOXES = 64
"""Boxes that are looked at, from the end."""

_RELEASED = re.compile(r"\A<think>(?:(?!</think>).)*</think><answer>(?:(?!</answer>).)*</answer>\Z", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BLOCKS = re.compile(r"<think>(.*)</think><answer>(.*)</answer>", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MATH = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SAYS = re.compile(r"(?i)\b(?:answer|result|solution|total|option|choice)\b[^.:\n]{0,60}?(?:\bis\b:?|\bare\b:?|:)\s*")
_VERB = re.compile(r"(?i)\b(?:is|was|are|equals|get|gives|be|have|has|therefore|thus|so|hence)\b:?\s+")
HEDGE = re.compile(r"(?i)\b(?:or|either|maybe|perhaps|possibly)\b")
"""Words between answers that are offered side by side."""

_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:[.,/]\d+)*%?")
_END = re.compile(r"[\s.;,]*\Z")
_DENIAL = re.compile(r"(?i)\b(?:not|cannot|neither|never)\b|n't\b")
_MATHS = re.compile(r"[\d$\\]")
_JOINT = re.compile(r"[\s$]*(?:\\text\s*\{\s*)?(,|;|and|or)(?:\s*\})?[\s$]*")
_ANNOUNCED = re.compile(r":\s*\n\s*")
_SENTENCE = re.compile(r"(?<=[^\d\s.][.!?])\s+|(?<=\d[.!?])\s+(?=[A-Z])|\n+")


def has_format(response: str) -> bool:
    """True where the stripped response is one think block directly followed by one answer block (as released)."""
    text = response.strip()
    single = text.count("<think>") == 1 and text.count("<answer>") == 1
    return single and _RELEASED.match(text) is not None


def has_strict_format(response: str) -> bool:
    """The released format, and: each of the four tags exactly once, and words in both blocks."""
    text = response.strip()
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    blocks = _BLOCKS.fullmatch(text)
    return blocks is not None and bool(blocks[1].strip()) and bool(blocks[2].strip())


def extract_answer(response: str) -> str:
    """The inside of the last answer block; without one, what follows the think block; without both, everything.

    A think block that is never closed has no answer: the text is empty then.
    """
    _, opened, tail = response.rpartition("<answer>")
    if opened:
        return tail.partition("</answer>")[0].strip()
    _, closed, tail = response.rpartition("</think>")
    if not closed:
        tail = "" if "<think>" in response else response
    return tail.partition("</answer>")[0].strip()


def final_answer(text: str) -> str:
    r"""The expression that `text` ends with: the last `\boxed{}`, else what its last sentence says, else all of it."""
    boxed = last_boxes(text)
    if boxed is not None:
        return boxed.strip()
    if len(text) > TAIL_CHARS and not any(c.isspace() for c in text[-TAIL_CHARS:]):
        return text  # one endless word: refused by its length
    tail = text[-TAIL_CHARS:].strip()
    if _is_expression(tail) or _MATH.fullmatch(tail):
        return tail
    sentences = [s for s in _SENTENCE.split(_ANNOUNCED.sub(": ", tail)) if s.strip()]
    saying = [s for s in sentences if _SAYS.search(s)] or [s for s in sentences if _MATHS.search(s)] or sentences
    return _said(saying[-1]) if saying else ""


def last_boxes(text: str) -> str | None:
    r"""The inside of the last balanced `\boxed{...}`, or None. Boxes joined by commas, `and`, `or` go together."""
    opened = deque(_BOX.finditer(text), maxlen=MAX_BOXES)
    parts: list[str] = []
    later: int | None = None
    while opened:
        box = opened.pop()
        end = _closing(text, box.end())
        joint = _JOINT.fullmatch(text, end, later) if end and later is not None else None
        if end and (later is None or joint):
            parts += [f" {joint[1]} "] if joint else []
            parts.append(text[box.end() : end - 1])
            later = box.start()
        elif later is not None:
            break
    return "".join(reversed(parts)) if parts else None


def _closing(text: str, start: int) -> int:
    """The position after the brace that closes the one before `start`, or 0."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_BOX_CHARS)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return end + 1
    return 0


def _is_expression(text: str) -> bool:
    """True for a text that is itself an answer: one line with at most three words outside of LaTeX commands."""
    if "\n" in text.strip():
        return False
    plain = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    return len(re.findall(r"[A-Za-z]{2,}", plain)) <= 3 and not any(r.search(plain) for r in (_SAYS, _VERB, _MATH))


def _said(sentence: str) -> str:
    """What a sentence names as the answer: after `answer is`, before `is the answer`, its last formulas, its verb."""
    if _DENIAL.search(sentence):
        return ""
    before, named, _ = sentence.partition(" is the answer")
    said = None
    for said in _SAYS.finditer(sentence):  # noqa: B007 - the last one is wanted
        pass
    rest = before if named else sentence[said.end() :] if said else sentence
    formulas = _last_formulas(rest)
    if formulas and not HEDGE.search(rest):
        return formulas
    if said is None:
        verbs = list(_VERB.finditer(rest))
        rest = rest[verbs[-1].end() :] if verbs else rest
    rest = _END.sub("", rest.strip())
    numbers = _PLAIN_NUMBER.findall(rest)
    in_words = len(numbers) == 1 and len(re.findall(r"[A-Za-z]{2,}", rest)) > 1 and "\\" not in rest
    return numbers[0] if in_words and not HEDGE.search(rest) else rest


def _last_formulas(text: str) -> str:
    """The last formula in dollar marks; with those before it that are joined to it by commas or `and`."""
    found = list(_MATH.finditer(text))
    parts: list[str] = []
    for match, after in zip(reversed(found), [None, *reversed(found)], strict=False):
        joint = _JOINT.fullmatch(text, match.end(), after.start()) if after else None
        if after is not None and joint is None:
            break
        parts += [f" {joint[1]} "] if joint else []
        parts.append(next(part for part in match.groups() if part is not None))
    return "".join(reversed(parts))
