"""Our own rule for every benchmark, on the raw response: the verifier that training rewards, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evals.scorers.items import Item, Mark
from evals.scoring import score_responses

CHUNK = 256
"""So many rows are judged between two steps of a progress bar."""


def math_verify(rows: Sequence[tuple[Item, str]]) -> Iterator[Mark]:
    """Judge whole responses, in order. Never raises on any text."""
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        for verdict in score_responses([(response, item.gold, item.choices) for item, response in chunk]):
            yield Mark(verdict.accuracy == 1.0, verdict.answer, verdict.note)
