"""One data set's rows to the fields of a problem. Every cell is text from a file: read, checked, never evaluated.

The columns are those that VLMEvalKit's dataset classes and lm-eval's tasks read of the same files.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from evals.option_order import option_order
from evals.scorers.olympiadbench import tolerances
from lmmr1.chat import named_pictures
from lmmr1.types import UserError

Row = dict[str, Any]
Adapter = Callable[[Row, str], Row | None]
"""(row of the file, where it stands) -> fields of a problem, or None for a row that is not part of the benchmark."""

OPTION_SEED = 0
"""Seed of the option order where a data set has none of its own (GPQA)."""

LETTERS = "ABCDEFGHIJ"

_MATHVERSE_CHOICE = re.compile(r"^\s*\(?([A-H])\s*[:.)]\s*(.*?)\s*$", re.MULTILINE)


def text_cell(row: Row, column: str, where: str, default: str | None = None) -> str:
    """A cell that must be there. Raises UserError naming the column."""
    value = row.get(column, default)
    if not isinstance(value, str):
        raise UserError(f"{where}: `{column}` must be a text (got {value!r:.80})")
    return value


def literal_list(cell: str, column: str, where: str) -> list[str]:
    """A cell that holds a Python list of texts, read as a literal. Raises UserError."""
    try:
        values = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}: `{column}` is not a list of texts (got {cell!r:.80})") from None
    if not isinstance(values, list):
        raise UserError(f"{where}: `{column}` is not a list of texts (got {cell!r:.80})")
    return [str(value) for value in values]


def _or_nan(cell: str) -> Any:
    """An empty cell as pandas, with which VLMEvalKit reads, gives it."""
    return cell if cell.strip() else math.nan


# -------------------------------------------------------------------------------------------------- text, lm-eval


def micro(row: Row, where: str) -> Row:
    """The micro world's text rows have the fields already, and name files in `image` or `images` if they have pictures;
    its tables have VLMEvalKit's columns."""
    if "index" not in row:
        return row | {"images": [("file", name) for name in named_pictures(row, where)]}
    return _common(row) | {"choices": literal_list(row.get("choices") or "[]", "choices", where)}


def math500(row: Row, where: str) -> Row:
    """MATH-500: problem, answer, unique_id; copies without `solution` get the one that says no more than the answer."""
    name, problem, answer = row.get("unique_id"), row.get("problem"), row.get("answer")
    # test/precalculus/807.json: the Hub's copy has a `subject` column, other copies have only this.
    category = name.split("/")[1] if isinstance(name, str) and name.count("/") == 2 else ""
    solution = row.get("solution") or f"\\boxed{{{answer}}}"
    cells = {"problem": problem, "answer": answer, "solution": solution, "unique_id": name}
    return {"id": name, "question": problem, "answer": answer, "category": category, "cells": cells}


def gpqa(row: Row, where: str) -> Row:
    """GPQA: a question, one right and three wrong answers; we choose the order of the options."""
    columns = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    options = [text_cell(row, column, where).strip() for column in columns]
    name, question = text_cell(row, "Record ID", where), text_cell(row, "Question", where)
    order = option_order(name, len(options), OPTION_SEED)
    cells = {"Question": question} | dict(zip(columns, options, strict=True))
    return {
        "id": name,
        "question": question.strip(),
        "answer": LETTERS[order.index(0)],
        "category": row.get("High-level domain") or "",
        "choices": [options[i] for i in order],
        "cells": cells,
    }


# ---------------------------------------------------------------------------------------------- images, VLMEvalKit


def _common(row: Row) -> Row:
    """Columns that every table of VLMEvalKit has; `images` was made by the reader."""
    fields = {"id": row["index"], "question": row["question"], "answer": row.get("answer", "")}
    return fields | {"category": row.get("category") or "", "images": row.get("images", [])}


def mathvision(row: Row, where: str) -> Row:
    """MathVision in VLMEvalKit's table: the question carries hint and choices, the answer of a choice is a letter."""
    fields = _common(row)
    choices = literal_list(row.get("choices") or "[]", "choices", where)
    return fields | {"choices": choices, "cells": {"choices": str(choices)}}


def mathverse(row: Row, where: str) -> Row:
    """MathVerse: each problem in five versions; a vision-only version may have no text of its own."""
    fields = _common(row)
    asked = row.get("question_for_eval") or fields["question"]
    is_choice = row.get("question_type") == "multi-choice"
    found = [text for _, text in _MATHVERSE_CHOICE.findall(asked.partition("Choices:")[2])]
    columns = ("query_wo", "query_cot", "question_for_eval", "question_type", "problem_version", "metadata")
    return fields | {
        "question": fields["question"] or asked,
        "choices": (found or list("ABCD")) if is_choice else [],
        "category": text_cell(row, "problem_version", where),
        "cluster": row.get("problem_index") or "",
        "cells": {c: row[c] for c in columns if c in row}
        | {"question": fields["question"], "question_for_eval": asked},
    }


def mmstar(row: Row, where: str) -> Row:
    """MM-Star: options in columns A to D, 18 sub-categories in `l2_category`, 6 categories in `category`."""
    sub = row.get("l2_category") or row.get("l2-category")
    if not sub:
        raise UserError(f"{where}: column `l2_category` (one of MM-Star's 18 sub-categories) is missing or empty")
    options = {letter: row[letter] for letter in LETTERS if row.get(letter, "").strip()}
    return _common(row) | {
        "category": sub,
        "subsets": [row.get("category") or ""],
        "choices": list(options.values()),
        "cells": {letter: options.get(letter, math.nan) for letter in LETTERS if letter in row}
        | {"hint": _or_nan(row.get("hint", ""))},
    }


def mathvista(row: Row, where: str) -> Row:
    """MathVista: the answer of a choice is its text, and its letter stands in `answer_option`."""
    fields = _common(row)
    is_choice = text_cell(row, "question_type", where) == "multi_choice"
    choices = literal_list(row.get("choices") or "[]", "choices", where) if is_choice else []
    letter = text_cell(row, "answer_option", where, "").strip() if is_choice else ""
    if is_choice and (len(letter) != 1 or letter not in LETTERS[: len(choices)]):
        raise UserError(
            f"{where}: `answer_option` must be the letter of one of {len(choices)} choices (got {letter!r:.80})"
        )
    columns = ("question_type", "answer_type", "answer_option", "task", "skills", "precision")
    return fields | {
        "answer": letter or fields["answer"],
        "choices": choices,
        "category": row.get("task") or fields["category"],
        "cells": {c: row[c] for c in columns if c in row} | {"choices": str(choices), "answer": fields["answer"]},
    }


def olympiadbench(row: Row, where: str) -> Row | None:
    """OlympiadBench: open-ended English problems only; those without an image are part of it."""
    source = text_cell(row, "source", where)
    if not source.startswith("OE_") or "_en_" not in source:
        return None
    answers = literal_list(text_cell(row, "final_answer", where), "final_answer", where)
    try:
        tolerances(row.get("error"))
    except UserError as e:
        raise UserError(f"{where}: {e}") from None
    columns = ("context", "answer_type", "unit", "error")
    cells = {c: _or_nan(row.get(c, "")) for c in columns}
    cells |= {"source": source, "final_answer": row["final_answer"], "question": row["question"]}
    cells["is_multiple_answer"] = row.get("is_multiple_answer", "").strip().lower() == "true"
    return _common(row) | {
        "answer": answers[0] if answers else "",
        "category": source,
        "subsets": ["text_only" if source.startswith("OE_TO_") else "multimodal"],
        "cells": cells,
    }


ADAPTERS: Mapping[str, Adapter] = {
    "micro": micro,
    "math500": math500,
    "gpqa": gpqa,
    "mathvision": mathvision,
    "mathverse": mathverse,
    "mmstar": mmstar,
    "mathvista": mathvista,
    "olympiadbench": olympiadbench,
}
"""`dataset` of the registry -> adapter."""
