"""`lmmr1 verify`: a file of golds and responses, judged line by line."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from lmmr1.lines import from_json, lines_of
from lmmr1.rewards.judge import Question, Rule, Verdict
from lmmr1.rewards.pool import VerifierPool
from lmmr1.types import UserError

CHUNK = 256
"""Lines that are judged together: enough for all workers, few enough that verdicts appear as they come."""

Read = tuple[int, Question | str]
"""Line number, and its question or what is wrong with it."""


def verify_file(path: Path, workers: int, deadline: float, rule: Rule, as_json: bool) -> int:
    """Print a JSON verdict per line of `path` to standard output, a summary to standard error. The number of bad lines.

    Raises UserError where there is no such file, or nothing in it.
    """
    try:
        lines = list(lines_of(path.read_bytes(), path))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a JSONL file") from None
    if not lines:
        raise UserError(f'{path}: no pairs in it; give a line {{"gold": ..., "response": ...}} for each')
    console, began = Console(stderr=True), time.perf_counter()
    verdicts: list[Verdict] = []
    bad = 0
    reads = (read_line(number, line) for number, line in lines)
    chunks = iter(lambda: list(islice(reads, CHUNK)), [])
    with VerifierPool(workers, deadline, rule=rule) as pool:
        total = -(-len(lines) // CHUNK)
        for chunk in track(chunks, "verify", total, console=console, disable=not console.is_terminal):
            for number, outcome in judged(chunk, pool):
                if isinstance(outcome, Verdict):
                    verdicts.append(outcome)
                    print(json.dumps(row(outcome)))
                else:
                    bad += 1
                    print(json.dumps({"line": number, "error": outcome}))
                    console.print(f"{path}, line {number}: {outcome}", markup=False, soft_wrap=True)
            sys.stdout.flush()
    facts = summary(verdicts, bad, time.perf_counter() - began)
    if as_json:
        print(json.dumps({"summary": facts}))
    console.print(", ".join(f"{k} {v}" for k, v in facts.items() if v), markup=False, soft_wrap=True)
    return bad


def read_line(number: int, line: bytes) -> Read:
    """The question of one line, or what is wrong with the line."""
    try:
        values = from_json(line.decode("utf-8"), strict=False)
    except UnicodeDecodeError as e:
        return number, f"not UTF-8 (byte {e.start})"
    except json.JSONDecodeError as e:
        return number, f"not JSON ({e})"
    if not isinstance(values, dict):
        return number, f"expected an object with gold and response, got {type(values).__name__}"
    gold, response, choices = values.get("gold"), values.get("response"), values.get("choices", [])
    if not isinstance(gold, str) or not isinstance(response, str):
        return number, f"`gold` and `response` must be texts (got {gold!r:.40} and {response!r:.40})"
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return number, f"`choices` must be a list of texts (got {choices!r:.40})"
    return number, Question(gold, response, tuple(choices))


def judged(chunk: Sequence[Read], pool: VerifierPool) -> Iterator[tuple[int, Verdict | str]]:
    """The same lines with verdicts for questions, in order."""
    verdicts = iter(pool.judge([question for _, question in chunk if isinstance(question, Question)]))
    for number, read in chunk:
        yield number, next(verdicts) if isinstance(read, Question) else read


def row(verdict: Verdict) -> dict[str, Any]:
    """What one line of the output says."""
    return {
        "accuracy": int(verdict.accuracy),
        "format": int(verdict.format),
        "note": verdict.note,
        "seconds": round(verdict.seconds, 6),
    }


def summary(verdicts: Sequence[Verdict], bad: int, seconds: float) -> dict[str, Any]:
    """Counts, shares and latencies (seconds) of a whole file."""
    notes = Counter(v.note.partition(":")[0] for v in verdicts)
    times = sorted(v.seconds for v in verdicts) or [0.0]
    return {
        "lines": len(verdicts) + bad,
        "bad": bad,
        "right": sum(int(v.accuracy) for v in verdicts),
        "formatted": sum(int(v.format) for v in verdicts),
        **dict(sorted(notes.items())),
        "seconds": round(seconds, 2),
        "p50": round(times[int(0.5 * (len(times) - 1))], 6),
        "p95": round(times[int(0.95 * (len(times) - 1))], 6),
        "max": round(times[-1], 6),
    }
