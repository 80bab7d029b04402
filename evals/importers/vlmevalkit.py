"""VLMEvalKit's prediction tables, and the tables beside them that hold verdicts."""

from __future__ import annotations

import ast
import csv
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.importers.failures import failure
from evals.importers.files import RUN
from evals.importers.stored import StoredAnswer, accuracy_of, benchmark_name, cells_of, gold_of, judged, texts_in
from evals.importers.workbook import BROKEN, read_workbook
from evals.samples import Doc, SampleRow
from evals.scorers.items import cell_text
from lmmr1.lines import from_json
from lmmr1.types import UserError

TABLES = (".xlsx", ".tsv", ".csv", ".json")
"""Suffixes of VLMEvalKit's tables. Pickles are never read: reading one runs what is in it."""

DATASETS = re.compile(
    r"_((?:MathVision|MathVerse|MathVista|MMStar|OlympiadBench|micro)(?:_[A-Za-z]+)*?)(?=$|_(?:exact_matching|judge|score|"
    r"detailed|openai|gpt|chatgpt|qwen|deepseek|extract|local)[\w.-]*$)",
    re.IGNORECASE,
)
"""Where a data set's name stands in the stem of one of VLMEvalKit's files, and what may follow it."""

CATEGORY = {
    "mathverse": ("problem_version",),
    "mmstar": ("l2_category", "l2-category"),
    "mathvista_mini": ("task", "category"),
    "olympiadbench": ("source",),
}
"""Benchmark -> the columns that name an item's category, by preference, as in `evals.adapters`; else `category`."""

Table = list[dict[str, str]]


def read_vlmevalkit(files: list[Path]) -> list[StoredAnswer]:
    """VLMEvalKit's tables of one folder: the prediction file, and files derived from it that hold verdicts."""
    tables = [(file, rows) for file in files if (rows := _table(file)) is not None]
    groups: dict[tuple[str, str], list[tuple[Path, Table]]] = {}
    for file, rows in tables:
        groups.setdefault(_model_and_dataset(file), []).append((file, rows))
    return [answer for (model, dataset), group in groups.items() for answer in _one_dataset(model, dataset, group)]


def _table(path: Path) -> Table | None:
    """The rows of a table with VLMEvalKit's columns, every cell as text; None for any other table."""
    import pandas as pd

    try:
        if path.suffix == ".json":
            rows = from_json(path.read_bytes())
            good = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
            frame = pd.DataFrame([{k: _cell(v) for k, v in row.items()} for row in rows] if good else [])
        elif path.suffix == ".xlsx":
            frame = read_workbook(path)
        else:
            frame = pd.DataFrame(_separated(path))
    except UserError:
        raise
    except BROKEN as e:
        if re.search(DATASETS, path.stem):
            raise UserError(f"{path}: cannot be read as a table ({' '.join(str(e).split())[:150]})") from None
        return None
    if "prediction" not in frame.columns:
        return None
    missing = {"index", "question"} - set(frame.columns)
    if "answer" not in frame.columns and "final_answer" not in frame.columns:
        missing.add("answer")
    if missing:
        raise UserError(f"{path}: column `{min(missing)}` is missing; expected a table as VLMEvalKit writes it")
    return frame.fillna("").to_dict("records")  # type: ignore[return-value]


def _separated(path: Path) -> Table:
    """The rows of a TSV or CSV with predictions; none of any other. pandas would give cells under no heading to the
    columns before them. Raises UserError, naming the line, where a row has not as many cells as there are headings."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture in base64 is longer than the default
    text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    reader = csv.reader(text, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    headings = next(reader, None)
    if headings is None:
        raise ValueError("the file is empty")
    if "prediction" not in headings:
        return []
    if len(set(headings)) < len(headings):
        raise UserError(f"{path}, line 1: column `{max(headings, key=headings.count)}` stands twice; leave one")
    rows, line = [], reader.line_num + 1
    try:
        for cells in reader:
            if cells and len(cells) != len(headings):
                raise UserError(f"{path}, line {line}: {len(cells)} cells under {len(headings)} headings; mend the row")
            rows += [dict(zip(headings, cells, strict=True))] if cells else []
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{path}, line {line}: not a table row ({e}); is the file truncated?") from None
    return rows


def _cell(value: Any) -> str:
    """A value of a JSON table as the cell of another: a list is one of texts."""
    return cell_text([*map(str, value)] if isinstance(value, list) else value)


def _model_and_dataset(path: Path) -> tuple[str, str]:
    """From MODEL_DATASET(_what)?: by the names of known data sets, else by a folder that is named like the model."""
    found = DATASETS.search(path.stem)
    if found:
        return path.stem[: found.start()], found[1]
    models = [part for part in path.resolve().parts[:-1] if path.stem.startswith(f"{part}_")]
    if not models:
        raise UserError(
            f"{path}: cannot tell the model from the data set in this name; VLMEvalKit writes "
            f"MODEL_DATASET{path.suffix} into a folder MODEL"
        )
    model = max(models, key=len)
    return model, path.stem[len(model) + 1 :]


def _one_dataset(model: str, dataset: str, group: list[tuple[Path, Table]]) -> list[StoredAnswer]:
    group = sorted(group, key=lambda pair: len(pair[0].stem))
    path, rows = group[0]
    for file, table in group[1:]:
        if file.stem == path.stem:
            _require_same(path, rows, file, table)
    verdicts: dict[str, dict[str, bool]] = {}
    for file, table in group:
        label = file.stem[len(path.stem) :].strip("_")
        for row in table:
            cells = [(f"{key}[{label}]" if label else key, row[key]) for key in ("hit", "score") if row.get(key, "")]
            verdicts.setdefault(row["index"], {}).update(judged(cells))
    run = next((part for part in reversed(path.resolve().parts[:-1]) if RUN.fullmatch(part)), "")
    name = benchmark_name(dataset)
    return [
        StoredAnswer(
            name, model, run, _sample(name, row, verdicts[row["index"]], f"{path}, row {number}"),
            verdicts[row["index"]], str(path), failure(row["prediction"]),
        )
        for number, row in enumerate(rows, start=2)
    ]  # fmt: skip


def _require_same(path: Path, rows: Table, other: Path, table: Table) -> None:
    """Raises UserError where a run's answers in one format are not those in another."""
    said, again = ({row["index"]: " ".join(row["prediction"].split()) for row in each} for each in (rows, table))
    differ = [index for index in {**said, **again} if said.get(index) != again.get(index)]
    if differ:
        raise UserError(
            f"{path}: {other.name} beside it has other answers of the same run, the first of {len(differ)} at index "
            f"{differ[0]:.40}; give only one of the two files"
        )


def _sample(benchmark: str, row: Mapping[str, str], stored: Mapping[str, bool], where: str) -> SampleRow:
    gold, choices = _gold(row, where)
    category = next((row[c] for c in CATEGORY.get(benchmark, ("category",)) if row.get(c, "")), "")
    return SampleRow(
        doc_id=row["index"],
        doc=Doc(
            id=cell_text(row.get("id")) or row["index"],
            question=row["question"],
            category=category,
            choices=tuple(choices),
            cells=cells_of(row),
        ),
        target=gold_of(gold, choices),
        category=category,
        subsets=_subsets(benchmark, row),
        cluster=row.get("problem_index", "") if benchmark == "mathverse" else "",
        resps=((row["prediction"],),),
        accuracy=accuracy_of(stored),
    )


def _subsets(benchmark: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """What the registry's subsets of the same benchmark are made of (`evals.adapters`)."""
    if benchmark == "mmstar":
        return (row["category"],) if row.get("category", "") else ()
    if benchmark == "olympiadbench" and row.get("source", ""):
        return ("text_only" if row["source"].startswith("OE_TO_") else "multimodal",)
    return ()


def _gold(row: Mapping[str, str], where: str) -> tuple[str, list[str]]:
    """Gold and options: columns A, B, ... or `choices`; MathVista's letter is in `answer_option`, OlympiadBench's
    answers are a list; a list in `answer` is one, too."""
    if row.get("final_answer"):
        return ", ".join(_literal_list(row["final_answer"], where, "final_answer")), []
    columns = [row[letter] for letter in "ABCDEFGHIJ" if row.get(letter, "")]
    choices = columns or _literal_list(row.get("choices") or "[]", where, "choices")
    if choices:
        return row.get("answer_option") or row["answer"], choices
    return ", ".join(texts_in(row["answer"])), []


def _literal_list(cell: str, where: str, name: str) -> list[str]:
    """A list of texts written as a Python literal: read as one, never evaluated."""
    try:
        values = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple):
        raise UserError(f"{where}: `{name}` must be a list of texts (got {cell!r:.60})")
    return [str(value) for value in values]
