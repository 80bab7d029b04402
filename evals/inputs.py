"""Benchmark files to problems, checked row by row before any model is loaded.

Whatever the file looks like (JSONL, VLMEvalKit's TSV, MATH-500, MathVision), what comes out is the same `Problem`. No
cell is ever evaluated as code: VLMEvalKit itself calls `eval` on cells that start with a bracket.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from evals.problems import Prepared, Problem
from evals.registry import Benchmark
from lmmr1.types import UserError

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Pairs of where a row stands (for messages) and the row."""


def prepare(
    benchmark: Benchmark, data_root: Path | None, benchmark_dir: Path | None, limit: int | None, workspace: Path
) -> Prepared:
    """Read and check the benchmark's file; images that are stored inside it are written into `workspace`.

    Raises UserError, naming file and line or row, for a missing, empty, truncated, non-UTF-8 or malformed file, a
    repeated id, a missing field or an unreadable image (of the first `limit` rows: the others are not run).
    """
    if data_root is not None and benchmark.data_root_file is not None:
        path = data_root / benchmark.data_root_file
        reader = math500_rows if path.suffix == ".json" else mathvision_rows
        return _read(benchmark, path, reader, limit, workspace)
    if benchmark.source == "micro":
        if benchmark_dir is None:
            raise UserError(f"benchmark {benchmark.name!r} is read from a file; say where it lies with --benchmark-dir")
        path = benchmark_dir / benchmark.file_name
        return _read(benchmark, path, jsonl_rows if path.suffix == ".jsonl" else tsv_rows, limit, workspace)
    kind, _, name = benchmark.source.partition(":")
    if kind == "hub":
        return _read(benchmark, download_math500(name, workspace), math500_rows, limit, workspace)
    from evals.vlmevalkit import download

    return _read(benchmark, download(name), tsv_rows, limit, workspace)


def _read(
    benchmark: Benchmark, path: Path, reader: Callable[[Path, bytes], Rows], limit: int | None, workspace: Path
) -> Prepared:
    raw = _read_bytes(path)
    problems: list[Problem] = []
    seen: set[str] = set()
    for where, row in reader(path, raw):
        problem = _problem(row, where)
        if problem.id in seen:
            raise UserError(f"{where}: id {problem.id!r} stands twice; ids must be unique")
        seen.add(problem.id)
        if limit is None or len(problems) < limit:
            problems.append(_with_image(problem, row, where, path.parent, workspace))
    if not problems:
        raise UserError(f"{path}: the file holds no problems; download or build it again")
    return Prepared(benchmark, tuple(problems), hashlib.sha256(raw).hexdigest()[:16])


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
    return Problem(row["id"], row["question"], row["answer"], category, choices=tuple(row.get("choices", ())))


# ------------------------------------------------------------------------------------------------------- rows


def jsonl_rows(path: Path, raw: bytes) -> Rows:
    """Rows {"id", "question", "answer", "category"}, one JSON object per line. Raises UserError naming the line."""
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _json_object(_decode(line, path, number), where)


def tsv_rows(path: Path, raw: bytes) -> Rows:
    """Rows of VLMEvalKit's TSV: index, image (base64), question, answer, category, choices. Raises UserError."""
    text = _decode(raw, path, 1)
    # The default of 131072 characters is less than one photograph in base64.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    missing = [key for key in ("index", "image", "question", "answer") if key not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}, line 1: column {missing[0]!r} is missing; expected index, image, question, answer")
    images: dict[str, str] = {}
    line = reader.line_num + 1
    try:
        for row in reader:
            where = f"{path}, line {line}"
            if None in row or None in row.values():
                raise UserError(f"{where}: expected {len(reader.fieldnames or ())} cells; is the file truncated?")
            # VLMEvalKit lets a short cell name the row whose image is meant.
            image = images.setdefault(row["index"], images.get(row["image"], row["image"]))
            choices = _choices(row.get("choices") or "[]", where)
            yield where, {**row, "id": row["index"], "image_base64": image, "choices": choices}
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{path}, line {line}: not a TSV row ({e}); is the file truncated?") from None


def math500_rows(path: Path, raw: bytes) -> Rows:
    """Rows of MATH-500: a JSON list of {"problem", "answer", "unique_id"}. Raises UserError naming line or row."""
    try:
        rows = json.loads(_decode(raw, path, 1))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg}); is the file truncated?") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}, line 1: expected a JSON list of problems, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, got {type(row).__name__}")
        name = row.get("unique_id")
        # test/precalculus/807.json: the Hub's copy has a `subject` column, other copies have only this.
        category = name.split("/")[1] if isinstance(name, str) and name.count("/") == 2 else ""
        yield where, {"id": name, "question": row.get("problem"), "answer": row.get("answer"), "category": category}


def mathvision_rows(path: Path, raw: bytes) -> Rows:
    """Rows of MathVision as released, in the form that VLMEvalKit's own TSV has. Raises UserError naming the line."""
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _json_object(_decode(line, path, number), where)
        options = row.get("options")
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise UserError(f"{where}: `options` must be a list of texts (got {options!r:.80})")
        if not isinstance(row.get("image"), str):
            raise UserError(f"{where}: `image` must name a file (got {row.get('image')!r:.80})")
        yield (
            where,
            {
                "id": row.get("id"),
                "question": mathvision_question(str(row.get("question") or ""), options),
                "answer": row.get("answer"),
                "category": row.get("subject"),
                "choices": options,
                "image_file": row["image"],
            },
        )


def mathvision_question(question: str, options: list[str]) -> str:
    """The question with hint and lettered choices. Marks like <image1> stay text: VLMEvalKit puts the image first.

    The form is that of VLMEvalKit's MathVision TSV, whose judge prompt (`vlmeval/dataset/utils/mathv.py`) shows it.
    """
    if not question.strip():
        return ""
    if not options:
        return f"Hint: Please answer the question and provide the final answer at the end.\nQuestion: {question}"
    hint = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
    lines = [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]
    return "\n".join([hint, f"Question: {question}", "Choices:", *lines])


def download_math500(name: str, workspace: Path) -> Path:
    """MATH-500 from the Hub (`owner/name@revision`) as the JSON file that `math500_rows` reads. Raises UserError."""
    import datasets

    repository, _, revision = name.partition("@")
    try:
        rows = datasets.load_dataset(repository, revision=revision, split="test").to_list()
    except (OSError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"{repository}: cannot be loaded from the Hugging Face Hub ({reason}); connect to the network, or give the "
            "file with --data-root"
        ) from None
    path = workspace / "math500.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def _decode(raw: bytes, path: Path, first_line: int) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = first_line + raw[: e.start].count(b"\n")
        raise UserError(f"{path}, line {line}: not UTF-8 (byte {raw[e.start]:#04x}); save the file as UTF-8") from None


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise UserError(f"{where}: not JSON ({e.msg} at column {e.colno}); is the file truncated?") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, got {type(row).__name__}")
    return row


def _choices(cell: str, where: str) -> list[str]:
    """The `choices` cell: a Python list of texts, read as a literal."""
    try:
        choices = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}: `choices` is not a list of texts (got {cell!r:.80})") from None
    if not isinstance(choices, list):
        raise UserError(f"{where}: `choices` is not a list of texts (got {cell!r:.80})")
    return [str(choice) for choice in choices]


# ----------------------------------------------------------------------------------------------------- images


def _with_image(problem: Problem, row: dict[str, Any], where: str, folder: Path, workspace: Path) -> Problem:
    """The problem with its image as a checked file: the file it names, or one written from the base64 in its row."""
    if "image_file" in row:
        image = folder / row["image_file"]
        raw = _image_file_bytes(image, where)
        check_image(raw, f"{where}: image {image}")
    elif "image_base64" in row:
        try:
            raw = base64.b64decode(row["image_base64"], validate=True)
        except binascii.Error as e:
            raise UserError(f"{where}: `image` is not base64 ({e}); is the file truncated?") from None
        suffix = check_image(raw, f"{where}: `image`").lower()
        image = write_once(workspace / "images" / f"{hashlib.sha256(raw).hexdigest()[:32]}.{suffix}", raw)
    else:
        return problem
    sha256 = hashlib.sha256(raw).hexdigest()[:16]
    return Problem(problem.id, problem.question, problem.answer, problem.category, image, sha256, problem.choices)


def _image_file_bytes(image: Path, where: str) -> bytes:
    try:
        return image.read_bytes()
    except OSError as e:
        raise UserError(f"{where}: image {image} cannot be read ({e.strerror}); put it there or drop the row") from None


def check_image(raw: bytes, what: str) -> str:
    """Decode the whole image and return its format's name. Raises UserError where it is cut off or no image."""
    try:
        with Image.open(io.BytesIO(raw)) as image:
            # JPEG decodes at an eighth of the size: the whole file is still read, so a cut is still seen.
            image.draft("L", (1, 1))
            image.load()
            return image.format or "png"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise UserError(f"{what} is not a readable image ({e}); replace it or drop the row") from None


def write_once(path: Path, raw: bytes) -> Path:
    """Write `raw` to `path` unless the file is there; safe when two processes do it at once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(raw)
        partial.replace(path)
    return path
