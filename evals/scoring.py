"""From a response to a score and its line of the samples. The rule is the one that training rewards, plus options."""

from __future__ import annotations

import atexit
import json
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lmmr1
from evals.problems import Problem
from evals.samples import Doc, SampleRow
from lmmr1.files import write
from lmmr1.rewards import Question, Verdict, VerifierPool
from lmmr1.types import Rollout

SCORER = "lmmr1.rewards"

SCORER_REVISION = 3
"""Bump when a change in the rule may alter a score: records of the old rule are then measured again."""

VERIFIER = VerifierPool()
"""This process's verifier; its workers start with the first answer that needs algebra."""
atexit.register(VERIFIER.close)


def scorer_version() -> str:
    """Versions of everything that decides about right and wrong."""
    return f"{SCORER_REVISION}, numerics {lmmr1.NUMERICS}, math-verify {version('math-verify')}"


def score_response(response: str, gold: str, choices: Sequence[str] = ()) -> Verdict:
    """Judge one response. Never raises on any text, and takes at most the verifier's deadline.

    With `choices`, the letter of the right option counts, and so does a text or a value equal to that option.
    """
    return score_responses([(response, gold, choices)])[0]


def score_responses(rows: Sequence[tuple[str, str, Sequence[str]]]) -> list[Verdict]:
    """Judge many (response, gold, choices) at once, which is what the verifier's workers are for."""
    return VERIFIER.judge([Question(gold, response, tuple(choices)) for response, gold, choices in rows])


# ------------------------------------------------------------------------------------------------------- samples


def sample_row(doc_id: int, problem: Problem, prompt_hash: str, rollout: Rollout, score: Verdict) -> SampleRow:
    """The record of one answer; nothing in it depends on time, folder or machine."""
    # What other scorers need; NaN, an empty cell of VLMEvalKit's table, is no JSON.
    cells = {
        k: None if isinstance(v, float) and math.isnan(v) else v for k, v in problem.cells.items() if k != "question"
    }
    doc = Doc(
        id=problem.id,
        question=problem.question,
        category=problem.category,
        choices=problem.choices,
        image_sha256=problem.image_sha256 if problem.images else "",
        cells=cells,
    )
    return SampleRow(
        doc_id=doc_id,
        doc=doc,
        target=problem.answer,
        category=problem.category,
        subsets=problem.subsets,
        cluster=problem.cluster,
        prompt_hash=prompt_hash,
        resps=((rollout.text,),),
        filtered_resps=(score.answer,),
        accuracy=float(score.accuracy),
        format=float(score.format),
        note=score.note,
        length=len(rollout.token_ids),
        finish=rollout.finish,
    )


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, ASCII, atomic (rename)."""
    write(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
