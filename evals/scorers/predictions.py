"""MathVision's released output files: a model's responses joined with the problems, and the counts beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from evals.scorers.items import Item
from lmmr1.lines import from_json, lines_of, without_mark
from lmmr1.types import UserError

MAX_SHOWN = 5
"""So many bad lines are named at once."""

Row = TypeVar("Row", bound=BaseModel)


class ProblemRow(BaseModel):
    """A line of MathVision's test.jsonl; other fields are not read."""

    model_config = ConfigDict(strict=True)
    id: str
    answer: str
    options: list[str]
    subject: str
    level: int


class PredictionRow(BaseModel):
    """A line of a released output file."""

    model_config = ConfigDict(strict=True, protected_namespaces=())
    id: str
    response: str
    model_answer: str | None = None
    """The answer that the benchmark's authors extracted from the response."""
    correct: bool | None = None
    """Their verdict on it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One response and the problem it answers."""

    item: Item
    subject: str
    level: int
    row: PredictionRow

    @property
    def kind(self) -> str:
        """`option` or `free-form`."""
        return "option" if self.item.choices else "free-form"


def load(predictions: Path, data_root: Path) -> tuple[list[Answered], int]:
    """The responses in file order, and the number of problems. Raises UserError naming file and lines."""
    source = data_root / "mathvision" / "test.jsonl"
    problems = {row.id: row for _, row in read_jsonl(source, ProblemRow)}
    answered, seen, wrong = [], set(), []
    for line, row in read_jsonl(predictions, PredictionRow):
        if row.id not in problems:
            wrong.append(f"line {line}: id {row.id[:40]!r} is not in {source}")
        elif row.id in seen:
            wrong.append(f"line {line}: id {row.id[:40]!r} stands twice")
        else:
            problem = problems[row.id]
            item = Item(problem.id, problem.answer, tuple(problem.options))
            answered.append(Answered(item, problem.subject, problem.level, row))
        seen.add(row.id)
    _refuse(predictions, wrong, "every id must be one of the benchmark's and stand once")
    return answered, len(problems)


def read_jsonl(path: Path, kind: type[Row]) -> list[tuple[int, Row]]:
    """Line numbers and rows. Raises UserError, naming the lines, for a missing, empty or malformed file."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a JSON lines file") from None
    rows, wrong = [], []
    for number, line in lines_of(raw, path):
        try:
            rows.append((number, kind.model_validate_json(line)))
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            where = f"`{'.'.join(map(str, first['loc']))}`: " if first["loc"] else ""
            wrong.append(f"line {number}: {where}{first['msg'][:100]}")
    _refuse(path, wrong, f"each line must be an object with {', '.join(_required(kind))}")
    if not rows:
        raise UserError(f"{path}: the file holds no rows; is it truncated?")
    return rows


def _required(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.is_required()]


def _refuse(path: Path, wrong: Sequence[str], fix: str) -> None:
    if wrong:
        more = f" and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        raise UserError(f"{path}, {'; '.join(wrong[:MAX_SHOWN])}{more}; {fix}")


# ------------------------------------------------------------------------------------------------------- counts


Counts = dict[str, tuple[int, int]]
"""Name of a cell -> right answers, all answers."""


def count(pairs: Iterable[tuple[str, bool]]) -> Counts:
    """Cell names with verdicts, counted; cells in the order in which they first come."""
    right, total = Counter(), Counter()
    for cell, correct in pairs:
        right[cell] += correct
        total[cell] += 1
    return {cell: (right[cell], total[cell]) for cell in total}


def result_cells(answered: Sequence[Answered], verdicts: Sequence[bool]) -> Counts:
    """The cells of a released `*_result.json`: all, levels, subjects, and both ways of crossing them."""
    return count(
        (cell, correct)
        for row, correct in zip(answered, verdicts, strict=True)
        for cell in (
            "-all",
            f"-level{row.level}",
            row.subject,
            f"{row.subject}_level{row.level}",
            f"-level{row.level}_{row.subject}",
        )
    )


def released_counts(predictions: Path) -> Counts | None:
    """The counts in the `*_result.json` beside a predictions file; None where there is none. Raises UserError."""
    path = predictions.with_name(f"{predictions.stem}_result.json")
    if not path.is_file():
        return None
    try:
        cells = from_json(without_mark(path.read_bytes(), path))
        found = {cell: re.match(r"(\d+)/(\d+)=", text) for cell, text in cells.items()}
        return {cell: (int(match[1]), int(match[2])) for cell, match in found.items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(f'{path}: expected one object of cells such as "-all": "436/3040=14.34%"') from None
