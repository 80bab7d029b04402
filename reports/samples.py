"""A few answers to look at, from files that hold thousands. Model output is hostile: everything here passes `clean`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.files import read_jsonl, run_of

LIMIT = 1500
"""Characters of a prompt or an answer that the page shows."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


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
    code; a cut is said, with the number of characters left out. Does not escape HTML: the template does.

    >>> clean("a\\x00b\\ud800")
    'a␀b\ufffd'
    >>> clean("x" * 12, limit=10)
    'xxxxxxxxxx … (2 more characters)'
    """
    text = value if isinstance(value, str) else str(value)
    shown = "".join(map(_visible, text[:limit]))
    return shown if len(text) <= limit else f"{shown} … ({len(text) - limit:,} more characters)"


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or 32 <= code < 127:
        return char
    if code < 32:
        return chr(0x2400 + code)
    if 0xD800 <= code < 0xE000 or 127 <= code < 0xA0 or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "\ufffd"
    return f"[U+{code:04X}]" if char in _BIDI else char


def pick_answers(scores: pd.DataFrame, each: int = 2) -> list[Answer]:
    """The first `each` right and wrong answers of every arm's first seed to every benchmark.

    scores: rows of `reports.cells.headline`. Raises UserError on a missing or malformed sample file.
    """
    found = []
    for row in scores[scores.seed == scores.groupby("arm").seed.transform("min")].itertuples():
        left = {True: each, False: each}
        for sample in read_jsonl(Path(row.samples)):
            right = sample.get("accuracy") == 1
            if left[right]:
                left[right] -= 1
                found.append(_answer(sample, row.arm, row.benchmark, right, row.seed))
            if not any(left.values()):
                break
    return found


def _answer(sample: dict[str, Any], arm: str, benchmark: str, right: bool, seed: int) -> Answer:
    notes = [
        ("seed", seed),
        ("item", sample.get("doc_id")),
        *((k, sample[k]) for k in ("category", "accuracy", "format", "note", "length", "finish") if k in sample),
    ]
    return Answer(
        arm,
        benchmark,
        right,
        clean(_prompt(sample)),
        clean(_first(sample.get("resps"))),
        clean(sample.get("target", ""), 200),
        tuple((k, clean(v, 60)) for k, v in notes),
    )


def _prompt(sample: dict[str, Any]) -> str:
    """The question: `prompt`, or a text of lm-eval's `doc`, or its first argument; empty where there is none."""
    doc = sample.get("doc")
    options = [
        sample.get("prompt"),
        *(doc.get(k) for k in ("question", "problem", "prompt") if isinstance(doc, dict)),
        sample.get("question"),
        _first(sample.get("arguments")),
    ]
    return next((o for o in options if isinstance(o, str) and o), "")


def _first(value: object) -> str:
    """The first text in nested lists or dicts, as lm-eval stores responses and arguments."""
    while isinstance(value, list | dict) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return value if isinstance(value, str) else ""


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
