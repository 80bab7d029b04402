"""The outputs that MathVision's authors released."""

from __future__ import annotations

from pathlib import Path

from evals.importers.failures import failure
from evals.importers.stored import StoredAnswer, accuracy_of, gold_of, judged
from evals.samples import Doc, SampleRow
from evals.scorers.predictions import Answered, load
from lmmr1.types import UserError


def read_mathvision(path: Path, data_root: Path | None) -> list[StoredAnswer]:
    """The answers of one model, joined with the problems. Raises UserError without `data_root`, where they lie."""
    if data_root is None:
        raise UserError(f"{path}: these answers name problems of MathVision by id; say with --data-root where they lie")
    answered, _ = load(path, data_root)
    verdicts = [judged([("correct", answer.row.correct)]) for answer in answered]
    return [
        StoredAnswer(
            "mathvision", path.stem, "", _sample(answer, accuracy_of(stored)), stored, str(path),
            failure(answer.row.response),
        )
        for answer, stored in zip(answered, verdicts, strict=True)
    ]  # fmt: skip


def _sample(answer: Answered, accuracy: float | None) -> SampleRow:
    item = answer.item
    return SampleRow(
        doc_id=item.id,
        doc=Doc(id=item.id, category=answer.subject, choices=item.choices),
        target=gold_of(item.gold, item.choices),
        category=answer.subject,
        resps=((answer.row.response,),),
        accuracy=accuracy,
    )
