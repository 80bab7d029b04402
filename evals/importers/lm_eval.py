"""Samples of lm-eval and of lmms-eval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals.importers.failures import failure
from evals.importers.json_lines import Row, check, first_text, json_lines
from evals.importers.stored import (
    LETTERS,
    StoredAnswer,
    accuracy_of,
    benchmark_name,
    cells_of,
    gold_of,
    judged,
    texts_in,
)
from evals.samples import Doc, SampleRow
from evals.scorers.items import LETTER, cell_text
from lmmr1.types import UserError

IDS = ("unique_id", "id", "Record ID")
QUESTIONS = ("problem", "question", "Question")
CATEGORIES = ("High-level domain", "subject", "category")
"""Columns of a task's documents, in order of preference."""


class _LmEvalRow(Row):
    doc_id: int
    doc: dict[str, Any]
    target: str | int | float | list[str | int | float]
    resps: list[Any]
    metrics: list[str] = []
    filter: str = "none"
    prompt_hash: str = ""


class _LmmsEvalRow(Row):
    doc_id: int | str
    target: str
    filtered_resps: Any
    resps: Any = None
    input: Any = ""
    token_counts: Any = None
    prompt_hash: str = ""


def read_lm_eval(path: Path) -> list[StoredAnswer]:
    """lm-eval's samples: one row for each document and filter; verdicts of a document's filters are put together.

    Raises UserError for a second row of the same document and filter.
    """
    found = re.fullmatch(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d.:-]+))?", path.stem)
    rows = json_lines(path)
    if found is None:
        raise UserError(f"{path}: lm-eval names such a file samples_TASK_DATE.jsonl; give it that name")
    answers: dict[int, StoredAnswer] = {}
    checked = [(where, raw, check(_LmEvalRow, raw, where, "lm-eval")) for where, raw in rows]
    positions = _are_positions([row for _, _, row in checked])
    source = (benchmark_name(found[1]), path.parent.name, found[2] or "")
    seen: set[tuple[int, str]] = set()
    for where, raw, row in checked:
        if (row.doc_id, row.filter) in seen:
            raise UserError(f"{where}: doc_id {row.doc_id} stands twice under filter {row.filter:.40}; leave one")
        seen.add((row.doc_id, row.filter))
        suffix = "" if row.filter == "none" else f"[{row.filter}]"
        stored = judged((f"{metric}{suffix}", raw.get(metric)) for metric in row.metrics)
        if row.doc_id in answers:
            old = answers[row.doc_id]
            stored = {**old.stored, **stored}
            sample = old.row.model_copy(update={"accuracy": accuracy_of(stored)})
            answers[row.doc_id] = replace(old, row=sample, stored=stored)
            continue
        sample = _lm_eval_sample(row, _gold(row, positions, source[0], where), accuracy_of(stored), where)
        answers[row.doc_id] = StoredAnswer(*source, sample, stored, str(path), failure(sample.response))
    return list(answers.values())


def _choices(doc: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of a document's options; ARC and its like have them in `{"text": [...], "label": [...]}`."""
    listed = doc.get("choices")
    listed = listed.get("text") if isinstance(listed, dict) else listed
    return tuple(str(choice) for choice in listed) if isinstance(listed, list) else ()


def _are_positions(rows: Sequence[_LmEvalRow]) -> bool:
    """Whether the targets of a file are positions of options, from 0: all can be, and they are not all options' texts.

    lm-eval takes a whole number for one where a task has options, and writes it as a text.
    """
    targets = [(str(row.target), choices) for row in rows if (choices := _choices(row.doc))]
    can_be = all(re.fullmatch(r"\d{1,3}", text) and int(text) < len(choices) for text, choices in targets)
    return can_be and not all(text in choices for text, choices in targets)


def _gold(row: _LmEvalRow, positions: bool, benchmark: str, where: str) -> str:
    """The gold of a row. Raises UserError where it has several that lm-eval accepts."""
    choices = _choices(row.doc)
    golds = [*map(str, row.target)] if isinstance(row.target, list) else texts_in(str(row.target))
    if choices and positions:
        return LETTERS[int(golds[0])] if int(golds[0]) < len(LETTERS) else choices[int(golds[0])]
    if len(golds) != 1 and benchmark != "olympiadbench":
        said = f"`target` has {len(golds)} answers, of which lm-eval accepts each"
        raise UserError(f"{where}: {said}; the scorers here compare with one: leave one")
    return gold_of(", ".join(golds), choices)


def _lm_eval_sample(row: _LmEvalRow, gold: str, accuracy: float | None, where: str) -> SampleRow:
    category = _first(row.doc, CATEGORIES)
    return SampleRow(
        doc_id=row.doc_id,
        doc=Doc(
            id=_first(row.doc, IDS) or str(row.doc_id),
            question=_first(row.doc, QUESTIONS),
            category=category,
            choices=_choices(row.doc),
            cells=cells_of(row.doc),
        ),
        target=gold,
        category=category,
        prompt_hash=row.prompt_hash,
        resps=((first_text(row.resps, where),),),
        accuracy=accuracy,
    )


def _first(doc: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := cell_text(doc.get(name)))), "")


def read_lmms_eval(path: Path) -> list[StoredAnswer]:
    """lmms-eval's samples, which hold no document: options are read from the prompt, every metric is a verdict."""
    found = re.fullmatch(r"(\d{8}_\d{6})_samples_(.+)", path.stem)
    rows = json_lines(path)
    if found is None:
        raise UserError(f"{path}: lmms-eval names such a file DATE_samples_TASK.jsonl; give it that name")
    source = (benchmark_name(found[2]), path.parent.name, found[1])
    answers = []
    for where, raw in rows:
        row = check(_LmmsEvalRow, raw, where, "lmms-eval")
        stored = judged((row.__pydantic_extra__ or {}).items())
        sample = _lmms_eval_sample(row, accuracy_of(stored), where)
        answers.append(StoredAnswer(*source, sample, stored, str(path), failure(sample.response)))
    return answers


def _lmms_eval_sample(row: _LmmsEvalRow, accuracy: float | None, where: str) -> SampleRow:
    prompt = str(row.input[0] if isinstance(row.input, list) and row.input else row.input)
    choices = tuple(options_in(prompt)) if LETTER.fullmatch(row.target.strip()) else ()
    return SampleRow(
        doc_id=row.doc_id,
        doc=Doc(id=str(row.doc_id), question=prompt, choices=choices),
        target=gold_of(row.target, choices),
        prompt_hash=row.prompt_hash,
        resps=((first_text(row.filtered_resps if row.resps is None else row.resps, where),),),
        accuracy=accuracy,
        length=_tokens(row.token_counts),
    )


def _tokens(counts: Any) -> int:
    """Tokens of the first answer in `[{"output_tokens": n}, ...]`; 0 where the file does not say."""
    first = counts[0] if isinstance(counts, list) and counts else None
    found = first.get("output_tokens") if isinstance(first, dict) else None
    return found if type(found) is int and found > 0 else 0


def options_in(prompt: str) -> list[str]:
    """The options that a prompt shows as `A. text`, `(A) text` or `A: text`, each on a line or after a comma.

    >>> options_in("Which?\\nOptions: A: cat, B: dog"), options_in("Which?\\n(A) 1/2\\n(B) 2")
    (['cat', 'dog'], ['1/2', '2'])
    """
    marks = [*re.finditer(r"(?:^|[\n,]|Options:|Choices:)\s*\(?([A-J])[).:]\s*", prompt)]
    letters = [mark[1] for mark in marks]
    start = len(letters) - 1 - letters[::-1].index("A") if "A" in letters else len(letters)
    if not marks or start == len(letters):
        return []
    run = [mark for i, mark in enumerate(marks[start:]) if mark[1] == chr(ord("A") + i)]
    ends = [mark.start() for mark in run[1:]] + [len(prompt)]
    return [prompt[m.end() : end].strip().partition("\n")[0] for m, end in zip(run, ends, strict=True)]
