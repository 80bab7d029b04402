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

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from evals.importers.files import OWN, files_once, identity
from evals.importers.lm_eval import read_lm_eval, read_lmms_eval
from evals.importers.mathvision import read_mathvision
from evals.importers.own import read_own
from evals.importers.stored import StoredAnswer
from evals.importers.vlmevalkit import TABLES, read_vlmevalkit
from lmmr1.lines import from_json
from lmmr1.types import UserError


def read_answers(paths: Sequence[Path], data_root: Path | None = None) -> list[StoredAnswer]:
    """The answers in files and folders (searched through, links followed), each file once, in order of path and row.

    Raises UserError for a path that is missing, holds no answers, or has a file of answers that cannot be read.
    """
    answers: list[StoredAnswer] = []
    seen: set[object] = set()
    for path in paths:
        files = files_once(path, (".jsonl", *TABLES))
        new = [file for file in files if not identity(file) & seen]
        seen.update(*map(identity, new))
        found = [answer for group in _groups(new) for answer in _read_group(group, data_root)]
        if not found and len(new) == len(files):
            raise UserError(
                f"{path}: no stored answers found; expected samples.jsonl of this suite, samples_*.jsonl of lm-eval or "
                "lmms-eval, VLMEvalKit's prediction tables, or MathVision's released outputs"
            )
        answers += found
    _refuse_repeats(answers)
    return answers


def _groups(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that belong together: each JSON lines file alone, VLMEvalKit's tables of one folder together."""
    own = {file.parent for file in files if file.name == OWN}
    tables: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix == ".jsonl":
            yield [file]
        elif file.suffix in TABLES and file.parent not in own:  # beside our samples the harness's file is a copy
            tables.setdefault(file.parent, []).append(file)
    yield from tables.values()


def _read_group(files: list[Path], data_root: Path | None) -> list[StoredAnswer]:
    if files[0].suffix != ".jsonl":
        return read_vlmevalkit(files)
    (file,) = files
    kind = _kind(file)
    if kind == "mathvision":
        return read_mathvision(file, data_root)
    reader = {"own": read_own, "lm_eval": read_lm_eval, "lmms_eval": read_lmms_eval}.get(kind)
    return reader(file) if reader else []


def _kind(file: Path) -> str:
    """What a JSON lines file holds, by the keys of its first row; empty where that is no answer."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        keys = set(from_json(first))
    except (ValueError, TypeError, RecursionError):
        keys = {"resps"} if "samples" in file.name else set()  # reading it will say what is wrong
    if file.name == OWN and keys & {"resps", "filtered_resps", "doc", "target"}:
        return "own"
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
