"""The shape of a response: think and answer blocks, and the piece of text that is judged. Text in, text out.

What is not standard: an answer is judged by what stands in the last answer block, if there is one, not by the whole
response, and what stands in a think block is never an answer.
"""

from __future__ import annotations

import re
from collections import deque

from lmmr1.rewards.readable import readable
from lmmr1.rewards.sentence import JOINT, MATH, absorbed, announced, concluded, names, separator

TAIL_CHARS = 2000
"""Of a response without answer block and box only the end is searched: an answer stands at the end."""

MAX_BOX_CHARS = 4000
"""A longer box is none; the search for its end is bounded."""

MAX_BOXES = 64
"""Boxes that are looked at, from the end."""

_RELEASED = re.compile(r"\A<think>(?:(?!</think>).)*</think><answer>(?:(?!</answer>).)*</answer>\Z", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BLOCKS = re.compile(r"<think>(.*)</think><answer>(.*)</answer>", re.DOTALL)
_BOX = re.compile(r"\\(?:f?boxed|fbox)(?:\s*\{|\s+(?=[^\s{]))")
_LABELLED = re.compile(r"\A(?:[Aa]ns\.|(?:[A-Z][a-z]+|[a-z]|A):)\s+(?=[-+$\\(]*\d[^:]*\Z)")
"""A name before a value: `Sum: 34`."""

_SIGN = re.compile(r"(?:\A|[\s=$(])-\s*\Z")
_BEHIND = re.compile(r"\s*[/^]\s*(?:\d+|\{\d+\})|\s*\\?%")
_TOKEN = re.compile(r"[^\s{}$]+")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")


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


def judged_text(response: str) -> str:
    """The text of a whole response that is compared with the gold: the only extractor, for rewards and all scores."""
    return final_answer(extract_answer(response))


def final_answer(text: str) -> str:
    r"""The expression that `text` ends with: the last `\boxed{}`, else what its last sentences say, else all of it."""
    boxed = last_boxes(text)
    if boxed is not None:
        return boxed.strip()
    tail = ending(text)
    return whole(tail) or announced(tail) or concluded(tail)


def ending(text: str) -> str:
    """The end of `text`, as a reader sees it. One endless word comes back whole, to be refused by its length."""
    if len(text) > TAIL_CHARS and not any(c.isspace() for c in text[-TAIL_CHARS:]):
        return text
    return absorbed(readable(text[-TAIL_CHARS:]).replace("\0", " ").replace("\1", " ").strip())


def whole(tail: str) -> str:
    """The text itself where it is one answer and no sentence, else an empty text."""
    if len(tail) > TAIL_CHARS or MATH.fullmatch(tail):
        return tail
    return _LABELLED.sub("", tail) if _is_expression(tail) else ""


def last_boxes(text: str) -> str | None:
    r"""The inside of the last balanced `\boxed{...}`, or None. Boxes joined by nothing or `and` are a list."""
    opened = deque(_BOX.finditer(text), maxlen=MAX_BOXES)
    parts: list[str] = []
    later: int | None = None
    last = 0
    while opened:
        box = opened.pop()
        inside, end = _inside(text, box)
        joint = JOINT.fullmatch(text, end, later) if end and later is not None else None
        if end and (later is None or joint):
            parts += [f" {separator(joint)} "] if joint else []
            parts.append(inside)
            last = last or end
            later = box.start()
        elif later is not None:
            break
    return _touched(text, later, "".join(reversed(parts)), last) if later is not None else None


def _touched(text: str, start: int, inside: str, end: int) -> str:
    """What the boxes hold with a sign before them and a power, divisor or percent sign behind them."""
    sign = "-" if _SIGN.search(text[max(0, start - 8) : start]) else ""
    behind = _BEHIND.match(text, end)
    return f"{sign}{inside}{behind[0] if behind else ''}"


def _inside(text: str, box: re.Match[str]) -> tuple[str, int]:
    """What a box holds, and the position after it; 0 where its brace is never closed. `\\boxed 7` holds 7."""
    if not box[0].endswith("{"):
        token = _TOKEN.match(text, box.end())
        return (token[0].rstrip(".,;"), box.end() + len(token[0].rstrip(".,;"))) if token else ("", 0)
    end = _closing(text, box.end())
    return text[box.end() : end - 1], end


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
    if "\n" in text:
        return False
    plain = _TEXT_COMMAND.sub(" ", text)
    return len(re.findall(r"[A-Za-z]{2,}", plain)) <= 3 and not names(plain)
