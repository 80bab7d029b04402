"""Stored answers from files of any harness -> `StoredAnswer`. Files are told apart by their content, not their names.

| written by | files |
|---|---|
| this suite | `samples.jsonl`, beside `record.json` |
| lm-eval | `samples_TASK_DATE.jsonl` in a folder named like the model |
| lmms-eval | `DATE_samples_TASK.jsonl` in a folder named like the model |
| VLMEvalKit | `MODEL_DATASET.xlsx` (`.tsv`, `.csv`, `.json`), and beside it files with a judge's or rule's verdicts |
| MathVision's authors | `MODEL.jsonl`; the problems come from `--data-root` |
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from evals.scorers.items import LETTER, Item, cell_text, item_of
from lmmr1.types import UserError

TABLES = (".xlsx", ".tsv", ".csv", ".json")
"""Suffixes of VLMEvalKit's tables. Pickles are never read: reading one runs what is in it."""

BENCHMARKS = (
    (r"math_?vision.*mini", "mathvision_mini"),
    (r"math_?vision.*", "mathvision"),
    (r"mathverse.*", "mathverse"),
    (r"mathvista.*", "mathvista_mini"),
    (r"mm_?star.*", "mmstar"),
    (r"olympiadbench.*", "olympiadbench"),
    (r"gpqa_diamond.*", "gpqa_diamond"),
    (r"(hendrycks_|minerva_)?math_?500.*", "math500"),
)
"""Pattern of a task's or data set's name in some harness (lower case) -> the benchmark's name here."""

DATASETS = re.compile(
    r"_((?:MathVision|MathVerse|MathVista|MMStar|OlympiadBench|micro)(?:_[A-Za-z]+)*?)(?=$|_(?:exact_matching|judge|score|"
    r"detailed|openai|gpt|chatgpt|qwen|deepseek|extract|local)[\w.-]*$)",
    re.IGNORECASE,
)
"""Where a data set's name stands in the stem of one of VLMEvalKit's files, and what may follow it."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One response that some run gave to one problem."""

    benchmark: str
    arm: str
    """What was evaluated: an arm of this suite, or a model's name."""
    run: str
    """Tells runs of one arm apart, e.g. the seed."""
    item: Item
    response: str
    """Model output, hostile by assumption."""
    stored: Mapping[str, bool] = field(default_factory=dict)
    """Verdicts that came with the file, by name."""
    prompt_hash: str = ""
    finish: str = ""
    """`stop` or `length` (cut off at the token limit); empty where the file does not say."""
    source: str = ""
    """The file."""


def read_answers(paths: Sequence[Path], data_root: Path | None = None) -> list[StoredAnswer]:
    """The answers in files and folders (searched through), in order of path and row.

    Raises UserError for a path that is missing, holds no answers, or has a file of answers that cannot be read.
    """
    answers: list[StoredAnswer] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give files with stored answers, or folders of them")
        found = [answer for group in _groups(path) for answer in _read_group(group, data_root)]
        if not found:
            raise UserError(
                f"{path}: no stored answers found; expected samples.jsonl of this suite, samples_*.jsonl of lm-eval or "
                "lmms-eval, VLMEvalKit's prediction tables, or MathVision's released outputs"
            )
        answers += found
    _refuse_repeats(answers)
    return answers


def benchmark_name(task: str) -> str:
    """The benchmark's name in this suite for a task's or data set's name in any harness; unknown names stay.

    >>> benchmark_name("MathVision_MINI"), benchmark_name("hendrycks_math500"), benchmark_name("micro_chain")
    ('mathvision_mini', 'math500', 'micro_chain')
    """
    return next((name for pattern, name in BENCHMARKS if re.fullmatch(pattern, task.lower())), task.lower())


def _groups(path: Path) -> Iterator[list[Path]]:
    """Files that belong together: each JSON lines file alone, VLMEvalKit's tables of one folder together."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    own = {file.parent for file in files if file.name == "samples.jsonl"}
    tables: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix == ".jsonl":
            yield [file]
        elif file.suffix in TABLES and file.parent not in own:  # beside our samples the harness's file is a copy
            tables.setdefault(file.parent, []).append(file)
    yield from tables.values()


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _read_group(files: list[Path], data_root: Path | None) -> list[StoredAnswer]:
    if files[0].suffix != ".jsonl":
        return _vlmevalkit(files)
    (file,) = files
    reader = {"own": _own, "lm_eval": _lm_eval, "lmms_eval": _lmms_eval}.get(kind := _kind(file))
    if reader is not None:
        return reader(file, _json_lines(file))
    return _mathvision(file, data_root) if kind == "mathvision" else []


def _kind(file: Path) -> str:
    """What a JSON lines file holds, by the keys of its first row; empty where that is no answer."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        keys = set(json.loads(first))
    except (ValueError, TypeError):
        keys = {"resps"} if "samples" in file.name else set()  # reading it will say what is wrong
    if keys & {"resps", "filtered_resps"}:
        if keys & {"finish", "note"}:
            return "own"
        return "lmms_eval" if "doc" not in keys and keys & {"input", "doc_hash"} else "lm_eval"
    return "mathvision" if {"id", "response"} <= keys else ""


def _refuse_repeats(answers: Iterable[StoredAnswer]) -> None:
    seen: dict[tuple[str, str, str, str], str] = {}
    for a in answers:
        before = seen.setdefault((a.benchmark, a.arm, a.run, a.item.id), a.source)
        if before != a.source:
            raise UserError(
                f"{a.source}: {a.arm} (run {a.run or '-'}) answers item {a.item.id[:40]!r} of {a.benchmark}, and so "
                f"does {before}; give only one of the two files"
            )


# ------------------------------------------------------------------------------------------------- rows, checked


class _Row(BaseModel):
    """Fields of a row; others are kept as they are."""

    model_config = ConfigDict(extra="allow")


Checked = TypeVar("Checked", bound=_Row)


class _OwnDoc(_Row):
    id: str
    choices: list[str] = []
    cells: dict[str, Any] = {}


class _OwnRow(_Row):
    doc: _OwnDoc
    target: str
    resps: list[list[str]]
    accuracy: float
    prompt_hash: str = ""
    finish: str = ""


class _LmEvalRow(_Row):
    doc_id: int
    doc: dict[str, Any]
    target: str | int | float
    resps: list[Any]
    metrics: list[str] = []
    filter: str = "none"
    prompt_hash: str = ""


class _LmmsEvalRow(_Row):
    doc_id: int | str
    target: str
    filtered_resps: Any
    resps: Any = None
    input: Any = ""
    prompt_hash: str = ""


def _json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Where each row stands and the row. Raises UserError naming the line."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as e:
                raise UserError(f"{where}: not JSON ({e}); is the file truncated?") from None
            if not isinstance(row, dict):
                raise UserError(f"{where}: expected an object, got {type(row).__name__}")
            rows.append((where, row))
    return rows


def _check(kind: type[Checked], row: dict[str, Any], where: str, writer: str) -> Checked:
    try:
        return kind.model_validate(row)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        problem = "is missing" if first["type"] == "missing" else f"is wrong: {first['msg'][:100]}"
        raise UserError(f"{where}: field `{name}` {problem}; expected a row as {writer} writes it") from None


def _truth(value: Any) -> bool | None:
    """A verdict from whatever a harness stores for one: a bool, 0 or 1, the same as text, or a dict around one."""
    if isinstance(value, dict):
        keys = [key for key in ("score", "scores", "correct", "true_false", "hit") if key in value]
        return _truth(value[keys[0]]) if keys else None
    if isinstance(value, list):
        return _truth(value[0]) if len(value) == 1 else None
    text = str(value).strip().lower()
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(text)


def _judged(pairs: Iterable[tuple[str, Any]]) -> dict[str, bool]:
    """The verdicts among named values."""
    found = ((name, _truth(value)) for name, value in pairs)
    return {f"stored:{name}": truth for name, truth in found if truth is not None}


# ---------------------------------------------------------------------------------- this suite, lm-eval, lmms-eval


def _own(path: Path, rows: list[tuple[str, dict[str, Any]]]) -> list[StoredAnswer]:
    """Our samples. The folder of the benchmark names it, or record.json, which is checked to be of these samples."""
    arm, run = _own_arm(path)
    benchmark = _own_benchmark(path)
    answers = []
    for where, raw in rows:
        row = _check(_OwnRow, raw, where, "this suite")
        item = item_of(row.doc.id, row.target, row.doc.choices, row.doc.cells)
        response = _first_text(row.resps, where)
        stored = _judged([("accuracy", row.accuracy)])
        answers.append(
            StoredAnswer(benchmark, arm, run, item, response, stored, row.prompt_hash, row.finish, str(path))
        )
    return answers


def _own_arm(path: Path) -> tuple[str, str]:
    """Arm and run: results/PROFILE/ARM/SEED/eval/BENCHMARK/samples.jsonl, else the folder above the benchmark's."""
    parts = path.resolve().parts
    if len(parts) > 5 and parts[-3] == "eval" and parts[-4].isdecimal():
        return parts[-5], parts[-4]
    return parts[-3] if len(parts) > 2 else "model", ""


def _own_benchmark(path: Path) -> str:
    record = path.with_name("record.json")
    if not record.is_file():
        return benchmark_name(path.parent.name)
    try:
        return str(json.loads(record.read_bytes())[0]["benchmark"])
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{record}: not a record file; delete it and run the evaluation again") from None


def _lm_eval(path: Path, rows: list[tuple[str, dict[str, Any]]]) -> list[StoredAnswer]:
    """lm-eval's samples: one row for each document and filter; verdicts of a document's filters are put together."""
    found = re.fullmatch(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d.:-]+))?", path.stem)
    if found is None:
        raise UserError(f"{path}: lm-eval names such a file samples_TASK_DATE.jsonl; give it that name")
    answers: dict[int, StoredAnswer] = {}
    for where, raw in rows:
        row = _check(_LmEvalRow, raw, where, "lm-eval")
        suffix = "" if row.filter == "none" else f"[{row.filter}]"
        stored = _judged((f"{metric}{suffix}", raw.get(metric)) for metric in row.metrics)
        if row.doc_id in answers:
            old = answers[row.doc_id]
            answers[row.doc_id] = replace(old, stored={**old.stored, **stored})
            continue
        id = next((str(row.doc[key]) for key in ("unique_id", "id", "Record ID") if row.doc.get(key)), str(row.doc_id))
        choices = row.doc.get("choices") if isinstance(row.doc.get("choices"), list) else []
        item = item_of(id, str(row.target), [str(choice) for choice in choices or []], row.doc)
        answers[row.doc_id] = StoredAnswer(
            benchmark_name(found[1]), path.parent.name, found[2] or "", item, _first_text(row.resps, where), stored,
            row.prompt_hash, source=str(path),
        )  # fmt: skip
    return list(answers.values())


def _lmms_eval(path: Path, rows: list[tuple[str, dict[str, Any]]]) -> list[StoredAnswer]:
    """lmms-eval's samples, which hold no document: options are read from the prompt, every metric is a verdict."""
    found = re.fullmatch(r"(\d{8}_\d{6})_samples_(.+)", path.stem)
    if found is None:
        raise UserError(f"{path}: lmms-eval names such a file DATE_samples_TASK.jsonl; give it that name")
    answers = []
    for where, raw in rows:
        row = _check(_LmmsEvalRow, raw, where, "lmms-eval")
        prompt = row.input[0] if isinstance(row.input, list) and row.input else row.input
        choices = options_in(str(prompt)) if LETTER.fullmatch(row.target.strip()) else []
        item = item_of(str(row.doc_id), row.target, choices, {})
        response = _first_text(row.filtered_resps if row.resps is None else row.resps, where)
        stored = _judged((row.__pydantic_extra__ or {}).items())
        answers.append(
            StoredAnswer(
                benchmark_name(found[2]),
                path.parent.name,
                found[1],
                item,
                response,
                stored,
                row.prompt_hash,
                source=str(path),
            )
        )
    return answers


def _first_text(value: Any, where: str) -> str:
    """The response in `[[text, ...]]`, `[text, ...]` or `text`, the first where there are several repeats.

    Raises UserError where it is no text. Log-likelihoods are nested once more.
    """
    for _ in range(2):
        value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, str):
        raise UserError(f"{where}: no response text (got {value!r:.60}); tasks scored by log-likelihood have none")
    return value


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


# ----------------------------------------------------------------------------------------- VLMEvalKit, MathVision


def _vlmevalkit(files: list[Path]) -> list[StoredAnswer]:
    """VLMEvalKit's tables of one folder: the prediction file, and files derived from it that hold verdicts."""
    tables = [(file, rows) for file in files if (rows := _table(file)) is not None]
    groups: dict[tuple[str, str], list[tuple[Path, list[dict[str, str]]]]] = {}
    for file, rows in tables:
        groups.setdefault(_model_and_dataset(file), []).append((file, rows))
    return [answer for (model, dataset), group in groups.items() for answer in _one_dataset(model, dataset, group)]


def _table(path: Path) -> list[dict[str, str]] | None:
    """The rows of a table with VLMEvalKit's columns, every cell as text; None for any other table."""
    import pandas as pd

    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_bytes())
            good = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
            frame = pd.DataFrame([{k: cell_text(v) for k, v in row.items()} for row in rows] if good else [])
        elif path.suffix == ".xlsx":
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError, KeyError) as e:  # pandas' parser errors are ValueErrors
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


def _one_dataset(model: str, dataset: str, group: list[tuple[Path, list[dict[str, str]]]]) -> list[StoredAnswer]:
    group = sorted(group, key=lambda pair: len(pair[0].stem))
    path, rows = group[0]
    verdicts: dict[str, dict[str, bool]] = {}
    for file, table in group:
        label = file.stem[len(path.stem) :].strip("_")
        for row in table:
            cells = [(f"{key}[{label}]" if label else key, row[key]) for key in ("hit", "score") if row.get(key, "")]
            verdicts.setdefault(row["index"], {}).update(_judged(cells))
    run = next((part for part in reversed(path.parent.parts) if re.fullmatch(r"T\d{8}[_-]\w+", part)), "")
    answers = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        gold, choices = _vlmevalkit_gold(row, where)
        item = item_of(cell_text(row.get("id")) or row["index"], gold, choices, row)
        answers.append(
            StoredAnswer(
                benchmark_name(dataset), model, run, item, row["prediction"], verdicts[row["index"]], source=str(path)
            )
        )
    return answers


def _vlmevalkit_gold(row: Mapping[str, str], where: str) -> tuple[str, list[str]]:
    """Gold and options: columns A, B, ... or `choices`; MathVista's letter is in `answer_option`, OlympiadBench's
    answers are a list with one text."""
    if row.get("final_answer"):
        return ", ".join(_literal_list(row["final_answer"], where, "final_answer")), []
    columns = [row[letter] for letter in "ABCDEFGHIJ" if row.get(letter, "")]
    choices = columns or _literal_list(row.get("choices") or "[]", where, "choices")
    return (row.get("answer_option") or row["answer"]) if choices else row["answer"], choices


def _literal_list(cell: str, where: str, name: str) -> list[str]:
    """A list of texts written as a Python literal: read as one, never evaluated."""
    try:
        values = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple):
        raise UserError(f"{where}: `{name}` must be a list of texts (got {cell!r:.60})")
    return [str(value) for value in values]


def _mathvision(path: Path, data_root: Path | None) -> list[StoredAnswer]:
    from evals.scorers.predictions import load

    if data_root is None:
        raise UserError(f"{path}: these answers name problems of MathVision by id; say with --data-root where they lie")
    answered, _ = load(path, data_root)
    return [
        StoredAnswer(
            "mathvision",
            path.stem,
            "",
            a.item,
            a.row.response,
            {} if a.row.correct is None else {"stored:correct": a.row.correct},
            source=str(path),
        )
        for a in answered
    ]
