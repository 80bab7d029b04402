"""Text of models made safe to show, and a few completions from training. Model output is hostile: all is cleaned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.files import read_jsonl, run_of

LIMIT = 1500
"""Characters of a training prompt or completion that the page shows."""
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    f"|[{''.join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))}]"
)
"""Controls, surrogates, what is no character, and what turns the writing direction; tab and newline are shown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as the page shows it; all text is clean, not yet HTML."""

    arm: str
    where: str
    """Benchmark, or step of training."""
    right: bool
    prompt: str
    answer: str
    gold: str
    notes: tuple[tuple[str, str], ...]
    """(name, value) pairs: rewards, id, ..."""


def clean(value: object, limit: int = LIMIT) -> str:
    """`value` as text of at most about `limit` characters that any HTML parser and terminal survives.

    Control characters become their pictures, lone surrogates U+FFFD, characters that turn the writing direction their
    code. A cut leaves the end, where the answer is, and says how many characters it took from the middle. Does not
    escape HTML: the template does, and the page's script only ever sets text.

    >>> clean("a\\x00b\\ud800")
    'a␀b\ufffd'
    >>> clean("a" * 9 + "b" * 9, limit=9)
    'aaaaaa … (9 more characters) … bbb'
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        tail = limit // 3
        head, end = text[: limit - tail], text[len(text) - tail :]
        return f"{clean(head, limit)} … ({len(text) - limit:,} more characters) … {clean(end, limit)}"
    return _UNSEEN.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 32:
        return chr(0x2400 + code)
    turns = code == 0x61C or 0x200E <= code < 0x2070
    return f"[U+{code:04X}]" if turns else "\ufffd"


def pick_training(completions: list[Path], each: int = 4) -> list[Answer]:
    """The first `each` completions of the first and of the last step, from the first file of every arm.

    completions: completions.jsonl files. Raises UserError on a missing or malformed one.
    """
    found = []
    arms: set[str] = set()
    for path in completions:
        run = run_of(path)
        if run.arm in arms:
            continue
        arms.add(run.arm)
        by_step: dict[Any, list[dict[str, Any]]] = {}
        for row in read_jsonl(path):
            step = row.get("step")
            if step not in by_step and len(by_step) == 2:
                by_step.pop(list(by_step)[1])  # keep the first step and the newest
            kept = by_step.setdefault(step, [])
            if len(kept) < each:
                kept.append(row)
        found += [_completion(row, run.arm, run.seed) for rows in by_step.values() for row in rows]
    return found


def _completion(row: dict[str, Any], arm: str, seed: int) -> Answer:
    numbers = [(k, row[k]) for k in ("reward", "accuracy", "format", "advantage") if k in row]
    notes = [
        ("seed", seed),
        ("sample", row.get("sample_id")),
        *((k, f"{v:.3g}" if isinstance(v, float) else v) for k, v in numbers),
    ]
    return Answer(
        arm,
        f"step {clean(row.get('step'), 20)}",
        row.get("accuracy") == 1,
        clean(row.get("prompt", "")),
        clean(row.get("completion", "")),
        clean(row.get("answer", ""), 200),
        tuple((k, clean(v, 60)) for k, v in notes),
    )
