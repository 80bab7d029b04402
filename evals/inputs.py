"""Benchmark files to problems, checked row by row before any model is loaded.

Whatever the file looks like (JSONL, JSON, CSV, VLMEvalKit's TSV), what comes out is the same `Problem`. No cell is ever
evaluated as code: VLMEvalKit itself calls `eval` on cells that start with a bracket.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evals.adapters import ADAPTERS, literal_list
from evals.images import with_images
from evals.problems import Prepared, Problem, Survey
from evals.registry import Benchmark, DataFile
from lmmr1.files import verify
from lmmr1.hub_commits import resolve, split_revision
from lmmr1.lines import from_json, lines_of, without_mark
from lmmr1.types import UserError

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Pairs of where a row stands (for messages) and the row."""


def prepare(
    benchmark: Benchmark,
    data_root: Path | None,
    benchmark_dir: Path | None,
    limit: int | None,
    workspace: Path,
    any_data: bool = False,
) -> Prepared:
    """Read and check the benchmark's file; images that are stored inside it are written into `workspace`.

    Raises UserError, naming file and line or row, for a missing, empty, truncated, non-UTF-8 or malformed file, a
    repeated id, a missing field or an unreadable image (of the first `limit` rows: the others are not run), and for a
    file that is not the pinned one, unless `any_data` allows it.
    """
    path, pin = _locate(benchmark, data_root, benchmark_dir, workspace)
    verify(path)
    raw = _read_bytes(path)
    reader = READERS[path.suffix] if benchmark.source == "micro" else _reader(benchmark, path)
    problems, count = _read(benchmark, path, reader(path, raw), limit, workspace)
    found = check_pin(benchmark, path, raw, pin, count, any_data)
    return Prepared(benchmark, problems, hashlib.sha256(raw).hexdigest()[:16], found)


def survey(
    benchmark: Benchmark, data_root: Path | None, benchmark_dir: Path | None, any_data: bool = False
) -> Survey | None:
    """What `prepare` will find in a file that lies here, images apart; None for data that are to be downloaded.

    Imports no harness. Raises UserError as `prepare` does for a file that is missing, malformed or not the pinned one.
    """
    if benchmark.source != "micro" and data_root is None:
        return None
    path, pin = _locate(benchmark, data_root, benchmark_dir, Path())
    verify(path)
    raw = _read_bytes(path)
    reader = READERS[path.suffix] if benchmark.source == "micro" else _reader(benchmark, path)
    adapt = ADAPTERS[benchmark.dataset]
    if reader is mathvision_rows:  # its questions take a hint from the tool, which is half a minute to import
        categories = [str(row.get("subject")) for _, row in jsonl_rows(path, raw)]
    else:
        rows = (adapt(row, where) for where, row in reader(path, raw))
        categories = [str(row.get("category") or "") for row in rows if row is not None]
    found = check_pin(benchmark, path, raw, pin, len(categories), any_data)
    return Survey(hashlib.sha256(raw).hexdigest()[:16], found, tuple(categories))


def _locate(
    benchmark: Benchmark, data_root: Path | None, benchmark_dir: Path | None, workspace: Path
) -> tuple[Path, DataFile]:
    """The file to read and its pin: given, or downloaded. Raises UserError where it is nowhere."""
    if benchmark.source == "micro":
        if benchmark_dir is None:
            raise UserError(f"benchmark {benchmark.name!r} is read from a file; say where it lies with --benchmark-dir")
        return benchmark_dir / benchmark.file_name, DataFile(path=benchmark.file_name)
    if data_root is not None:
        there = [file for file in benchmark.files if (data_root / file.path).exists()]
        if not there:
            others = ", or as ".join(file.path for file in benchmark.files[1:])
            also = f" (or as {others})" if others else ""
            raise UserError(
                f"{data_root / benchmark.files[0].path}: no such file{also}; download it, or give another folder"
            )
        return data_root / there[0].path, there[0]
    kind, _, name = benchmark.source.partition(":")
    if kind == "hub":
        path, pin = download_hub(name, workspace)
        return path, DataFile(path=pin)
    from evals.vlmevalkit import download

    return download(name), next(file for file in benchmark.files if file.path == f"{name}.tsv")


def check_pin(benchmark: Benchmark, path: Path, raw: bytes, pin: DataFile, count: int, any_data: bool) -> str:
    """What the file was checked against, for the record. Raises UserError, with expected and actual, if it differs."""
    name, wanted = next(((kind, v) for kind in ("sha256", "md5") if (v := getattr(pin, kind))), ("", ""))
    actual = hashlib.new(name, raw).hexdigest() if name else ""
    difference = ""
    if actual != wanted:
        difference = f"{name} is {actual}, expected {wanted}"
    elif benchmark.n is not None and count != benchmark.n:
        difference = f"it holds {count} problems, expected {benchmark.n}"
    if not difference:
        return f"{name} {wanted}" if name else pin.path if pin.path.count("@") else "none"
    if any_data:
        return "other data"
    raise UserError(
        f"{path}: {difference}; this is not the pinned data of {benchmark.name}. Get the file again, or measure on "
        "this one with --any-data: the record then says so"
    )


def _read(
    benchmark: Benchmark, path: Path, rows: Rows, limit: int | None, workspace: Path
) -> tuple[tuple[Problem, ...], int]:
    """The first `limit` problems, and how many the file holds."""
    problems: list[Problem] = []
    seen: set[str] = set()
    adapt = ADAPTERS[benchmark.dataset]
    for where, row in rows:
        fields = adapt(row, where)
        if fields is None:
            continue
        problem = _problem(fields, where)
        if problem.id in seen:
            raise UserError(f"{where}: id {problem.id!r} stands twice; ids must be unique")
        seen.add(problem.id)
        if limit is None or len(problems) < limit:
            problems.append(with_images(problem, fields.get("images", []), where, path.parent, workspace))
    if not problems:
        raise UserError(f"{path}: the file holds no problems; download or build it again")
    if benchmark.harness == "vlmevalkit":
        _require_images(path, problems)
    return tuple(problems), len(seen)


def _require_images(path: Path, problems: list[Problem]) -> None:
    without = [p.id for p in problems if not p.images and "text_only" not in p.subsets]
    if without:
        raise UserError(f"{path}: problem {without[0]!r} has no image; is the file truncated?")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such benchmark file; build or download it, or give another folder") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a file") from None


def _problem(row: dict[str, Any], where: str) -> Problem:
    """The fields that all benchmarks share. Raises UserError on a missing or empty one."""
    for key in ("id", "question", "answer"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}: `{key}` must be a text that is not empty (got {value!r:.80})")
    category = row.get("category") or ""
    if not isinstance(category, str):
        raise UserError(f"{where}: `category` must be a text (got {category!r:.80})")
    return Problem(
        row["id"],
        row["question"],
        row["answer"],
        category,
        choices=tuple(row.get("choices", ())),
        subsets=tuple(name for name in row.get("subsets", ()) if name),
        cluster=row.get("cluster", ""),
        cells=row.get("cells", {}),
    )


# ------------------------------------------------------------------------------------------------------- rows


def jsonl_rows(path: Path, raw: bytes) -> Rows:
    """One JSON object per line. Raises UserError naming the line."""
    for number, line in lines_of(raw, path):
        where = f"{path}, line {number}"
        yield where, _json_object(_decode(line, path, number), where)


def json_rows(path: Path, raw: bytes) -> Rows:
    """A JSON list of objects. Raises UserError naming line or row."""
    try:
        rows = from_json(_decode(raw, path, 1))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg}); is the file truncated?") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}, line 1: expected a JSON list of problems, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, got {type(row).__name__}")
        yield where, row


def csv_rows(path: Path, raw: bytes) -> Rows:
    """Rows of a table with commas. Raises UserError naming the line."""
    return _table(path, raw, ",", ("Record ID", "Question", "Correct Answer"))


def tsv_rows(path: Path, raw: bytes) -> Rows:
    """Rows of VLMEvalKit's TSV: index, image (base64), question, answer, ... Raises UserError."""
    images: dict[str, str] = {}
    for where, row in _table(path, raw, "\t", ("index", "image", "question")):
        # VLMEvalKit lets a short cell name the row whose image is meant.
        cell = images.setdefault(row["index"], images.get(row["image"], row["image"]))
        several = literal_list(cell, "image", where) if cell.startswith("[") else [cell]
        yield where, {**row, "images": [("base64", image) for image in several if image.strip()]}


def _table(path: Path, raw: bytes, delimiter: str, required: tuple[str, ...]) -> Rows:
    text = _decode(raw, path, 1)
    # The default of 131072 characters is less than one photograph in base64.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        missing = [key for key in required if key not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}, line 1: column {missing[0]!r} is missing; expected {', '.join(required)}")
        line = reader.line_num + 1
        for row in reader:
            where = f"{path}, line {line}"
            if None in row or None in row.values():
                raise UserError(f"{where}: expected {len(reader.fieldnames or ())} cells; is the file truncated?")
            yield where, row
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{path}, line {line}: not a table row ({e}); is the file truncated?") from None


def mathvision_rows(path: Path, raw: bytes) -> Rows:
    """Rows of MathVision as released, in the form that VLMEvalKit's own TSV has. Raises UserError naming the line."""
    for where, row in jsonl_rows(path, raw):
        options = row.get("options")
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise UserError(f"{where}: `options` must be a list of texts (got {options!r:.80})")
        if not isinstance(row.get("image"), str):
            raise UserError(f"{where}: `image` must name a file (got {row.get('image')!r:.80})")
        yield (
            where,
            {
                "index": row.get("id"),
                "question": mathvision_question(str(row.get("question") or ""), options),
                "answer": row.get("answer"),
                "category": row.get("subject"),
                "choices": str(options),
                "images": [("file", row["image"])],
            },
        )


def mathvision_question(question: str, options: list[str]) -> str:
    """The question with hint and lettered choices. Marks like <image1> stay text: VLMEvalKit puts the image first.

    The form is that of VLMEvalKit's MathVision TSV; the hints are read from the tool, which shows them to its judge.
    """
    if not question.strip():
        return ""
    from evals.vlmevalkit import mathvision_hints

    free, choice = mathvision_hints()
    if not options:
        return f"{free}\nQuestion: {question}"
    lines = [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]
    return "\n".join([choice, f"Question: {question}", "Choices:", *lines])


READERS: dict[str, Callable[[Path, bytes], Rows]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
}


def _reader(benchmark: Benchmark, path: Path) -> Callable[[Path, bytes], Rows]:
    is_released = benchmark.dataset == "mathvision" and path.suffix == ".jsonl"
    return mathvision_rows if is_released else READERS[path.suffix]


def download_hub(source: str, workspace: Path) -> tuple[Path, str]:
    """A data set from the Hub (`owner/name@revision#config:split`) as a JSONL file of its rows, and the same name with
    the commit that they are of. Raises UserError."""
    import datasets

    name, _, part = source.partition("#")
    repository, revision = split_revision(name)
    config, _, split = part.partition(":")
    commit = resolve(repository, revision, "dataset")
    try:
        builder = datasets.load_dataset_builder(repository, config, revision=commit)
        if builder.hash != commit:  # where the Hub is not reached, `datasets` takes whatever it loaded last
            raise ValueError(f"the cache holds commit {builder.hash}, not {commit}")
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split).to_list()
    except (OSError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"{repository}: cannot be loaded from the Hugging Face Hub ({reason}); connect to the network (and log in, "
            "where the data set asks for it), or give the file with --data-root"
        ) from None
    path = workspace / f"{repository.replace('/', '_')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path, f"{repository}@{commit}#{part}"


def _decode(raw: bytes, path: Path, first_line: int) -> str:
    try:
        return without_mark(raw, path).decode("utf-8")
    except UnicodeDecodeError as e:
        line = first_line + raw[: e.start].count(b"\n")
        raise UserError(f"{path}, line {line}: not UTF-8 (byte {raw[e.start]:#04x}); save the file as UTF-8") from None


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = from_json(line)
    except json.JSONDecodeError as e:
        raise UserError(f"{where}: not JSON ({e.msg} at column {e.colno}); is the file truncated?") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, got {type(row).__name__}")
    return row
