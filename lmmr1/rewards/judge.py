"""One question about one answer, and its verdict. `triage` is cheap; what is left over is algebra, for `pool.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmmr1.rewards import equality, released
from lmmr1.rewards.limits import refusal
from lmmr1.rewards.options import gold_letter, named_option
from lmmr1.rewards.response import extract_answer, final_answer, has_format

Rule = Literal["lmmr1", "released", "gold"]
"""Ours (docs/verifier.md); the authors' verifier, case by case (released.py); can a gold be judged against at all?"""

PAID = ("equal", released.PAID_UNPARSABLE)
"""Notes that earn 1."""

FAILURES = ("timeout", "memory", "crashed", "error")
"""First words of the notes that say that the verifier failed, not the answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """Is `response` right? With `choices`, `gold` is the letter of the right one."""

    gold: str
    response: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response earned and why."""

    accuracy: float
    format: float
    note: str
    """`equal`, `different`, `no_answer`, `unparsed`, `hedged`, `gold_unparsable`, `refused: ...` (limits.py), or a
    failure of the verifier: `timeout`, `memory`, `crashed`, `error: ...`."""
    answer: str
    """The text that was judged: model output, hostile by assumption."""
    seconds: float = 0.0
    """Wall time that this verdict took, without waiting for a worker."""

    @property
    def failed(self) -> bool:
        """True where the verifier failed, so that nothing is known about the answer."""
        return self.note.startswith(FAILURES)


@dataclass(frozen=True, slots=True)
class Triage:
    """A question reduced to what algebra needs: `answer` against `target`. With a `note` it is settled."""

    answer: str
    target: str
    note: str | None


def triage(question: Question, rule: Rule = "lmmr1") -> Triage:
    """Find the judged text, and the verdict's note if no algebra is needed. Bounded time, any thread, never raises."""
    if rule == "released":
        return Triage(question.response, question.gold, None)
    text, target = extract_answer(question.response), question.gold
    option = gold_letter(question.gold)
    if option or question.choices:
        letter, answer = named_option(text, question.choices)
        if letter or not question.choices:
            return Triage(answer, target, _option_note(letter, option, answer))
        index = ord(option or "Z") - ord("A")
        target = question.choices[index] if index < len(question.choices) else question.gold
    answer = final_answer(text)
    if not answer:
        return Triage(answer, target, "no_answer")
    reason = refusal(answer)
    return Triage(answer, target, f"refused: {reason}" if reason else equality.settle(target, answer))


def _option_note(letter: str, option: str, answer: str) -> str:
    """`no_answer` where there is nothing, else whether the letter is the gold's."""
    return "no_answer" if not answer else "equal" if letter == option else "different"


def decide(rule: Rule, target: str, answer: str) -> str:
    """The note, by algebra. May take any time and memory, and raises what sympy raises: for worker processes."""
    if rule == "released":
        return released.accuracy(answer, target)
    if rule == "gold":
        return "equal" if equality.parses(target) else "gold_unparsable"
    return equality.math_equal(target, answer)


def verdict(question: Question, answer: str, note: str, seconds: float) -> Verdict:
    """The verdict that a note means."""
    return Verdict(float(note in PAID), float(has_format(question.response)), note, answer, seconds)
