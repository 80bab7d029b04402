"""Answers that name an option of a multiple-choice problem, by its letter or its text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lmmr1.rewards.response import ending, last_boxes, whole
from lmmr1.rewards.sentence import announced, concluded

MAX_CHARS = 2000
"""So much of an answer is looked at."""

_DRESSING = re.compile(
    r"\\(?:boxed|text|textbf|textrm|textit|mathrm|mathbf|mathit|bf|rm|left|right|q?quad)(?![a-zA-Z])"
    r"|\\[,;:! ]|[${}*`\\~]"
)
_GOLD = re.compile(r"[(\[]?\s*([A-J])\s*[)\]]?\.?")
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?[.,:;]*")
_LED = re.compile(r"(?:[(\[]\s*([A-Z])\s*[)\]]|([A-Z])\s*[).:]).*", re.DOTALL)
_BRACKETED = re.compile(r"[(\[]\s*([A-Z])\s*[)\]]")
_CORRECT = re.compile(
    r"(?:[(\[]([A-Z])[)\]]|\b([A-Z]))\s+is\s+(?:(?:the|our|my)\s+)?(?:only\s+)?(?i:correct|right|best|true|(?:final\s+)?answer)\b"
)
_LISTED = re.compile(r"(?m)^\s*[(\[]?[A-J]\s*[)\].:]\s*\S")
_SAID = re.compile(
    r"\b(?:(?i:answer|option|choice)(?i:\s+is|:)?:?|(?i:is|be|choose|pick|select))\s+[(\[]?([A-Z])(?![\w'’])"
    r"|\b(?i:option|choice)\s+[(\[]?([a-j])(?![\w'’])|选(?:择)?\s*[:：]?\s*([A-J])(?![\w'’])"
)
_AND_ANOTHER = re.compile(r"\s*[)\].]?\s*(?:[,;/&|]|\band\b|\bor\b|\s)+\s*[(\[]?([A-J])(?![\w'’.])")
_QUOTED = re.compile(r"(?<!\w)[\"'“”‘’]([A-Ja-j])[\"'“”‘’](?!\w)")


def gold_letter(gold: str) -> str:
    """The letter of a gold that is nothing but an option's capital letter, else an empty text."""
    match = _GOLD.fullmatch(undressed(gold))
    return match[1] if match else ""


def named_option(text: str, choices: Sequence[str] = ()) -> tuple[str, str]:
    """The letter of the option that a text names (a response without its thought), and where; empty where none is.

    In this order: the last box; the whole text; what is announced; `B is correct`; a letter alone on the last or
    the first line; what the last sentence comes to.
    """
    found = "", ""
    for place in _places(text):
        found = found if found[1] else ("", place)
        if letter := option_letter(place, choices):
            return letter, place
    return found


def _places(text: str) -> Iterator[str]:
    boxed = last_boxes(text)
    if boxed is not None:
        yield boxed.strip()
    tail, beginning = ending(text), ending(text[:MAX_CHARS])
    yield from filter(None, (whole(tail), announced(tail)))
    yield from (found[1] or found[2] for found in [*_CORRECT.finditer(tail)][-1:])
    lines = (tail.rpartition("\n")[2], beginning.partition("\n")[0])
    yield from (line for line in lines if _ALONE.fullmatch(undressed(line)))
    if len(_LISTED.findall(tail)) < 2:  # the options themselves, said once more
        yield concluded(tail)


def option_letter(answer: str, choices: Sequence[str] = ()) -> str:
    """The letter of the option that an answer (not a whole response) names; empty where it names none or several.

    In this order: `B`, `(B)`; the text of one option; `b`; `B. text`, `(B) text`; one letter in brackets; `option B`.
    Without `choices` every letter from A to J is an option.
    """
    letters = [chr(ord("A") + i) for i in range(len(choices) or 10)]
    alone = _ALONE.fullmatch(undressed(answer))
    if alone and alone[1] in letters:
        return alone[1]
    text = _bare(answer)
    named = [letter for letter, choice in zip(letters, choices, strict=False) if text and _bare(choice) == text]
    found = set(named) if len(named) == 1 else letters_in(answer)
    return found.pop() if len(found) == 1 and found <= set(letters) else ""


def letters_in(answer: str) -> set[str]:
    """The letters that an answer marks as options: `B`; `B. text`; `(B) text`; all in brackets; the last `option B`."""
    plain = undressed(answer)
    if alone := _ALONE.fullmatch(plain):
        return {alone[1].upper()}
    bracketed = set(_BRACKETED.findall(plain))
    led = _LED.fullmatch(plain)
    if led and len(bracketed) < 2:
        return {led[1] or led[2]}
    if bracketed:
        return bracketed
    said = list(_SAID.finditer(plain))[-1:]
    letters = {next(filter(None, match.groups())).upper() for match in said}
    return letters | {more[1] for match in said if (more := _AND_ANOTHER.match(plain, match.end()))}


def undressed(answer: str) -> str:
    """Without LaTeX dressing, spaces once each."""
    return " ".join(_QUOTED.sub(r"\1", _DRESSING.sub(" ", answer[:MAX_CHARS])).split())


def _bare(text: str) -> str:
    """For comparison with an option's text: lower case, without spaces and dressing."""
    return "".join(_DRESSING.sub("", text[:MAX_CHARS]).split()).lower().rstrip(".")
