"""Reading and writing the small files of a report: atomic, deterministic, with errors that name the file."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmr1.exits import exit_code
from lmmr1.files import verify, write
from lmmr1.lines import from_json
from lmmr1.types import UserError


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """What the folder `results/{profile}/{arm}/{seed}` says about the files in it."""

    profile: str
    arm: str
    seed: int


def run_of(path: Path) -> Run:
    """The run that a file of `results/{profile}/{arm}/{seed}/` (or of its `eval/{benchmark}/`) belongs to.

    Raises UserError where the path has another form.
    """
    folder = path.parent.parent.parent if path.parent.parent.name == "eval" else path.parent
    if len(folder.parts) < 3 or not folder.name.isdecimal():
        raise UserError(f"{path}: not in a run folder; expected results/PROFILE/ARM/SEED/{path.name}")
    return Run(folder.parts[-3], folder.parts[-2], int(folder.name))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises UserError where it is missing, damaged (lmmr1/files.py) or not UTF-8."""
    verify(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the rule that makes it first") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text ({e.reason}); delete it and make it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object. Raises UserError on a missing or malformed file."""
    try:
        value = from_json(read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e}); delete it and make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}; delete it and make it again")
    return value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one per line, read as they are asked for. Raises UserError naming file and line."""
    verify(path)
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                row = from_json(line)
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}")
                yield row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the rule that makes it first") from None
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {number}: not JSON ({e.msg}); delete the file and make it again") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text ({e.reason}); delete it and make it again") from None


def write_bytes(path: Path, content: bytes, sealed: bool = False) -> None:
    """See `lmmr1.files.write`. What another command of the report reads is sealed."""
    write(path, content, sealed)


def write_text(path: Path, text: str, sealed: bool = False) -> None:
    """`write_bytes` for text, as UTF-8."""
    write(path, text, sealed)


def run_cli(job: Callable[[list[str]], None]) -> int:
    """Run a command with the process' arguments; exit code 0, or as `lmmr1.exits` says."""
    gc.freeze()  # what imports made stays; statsmodels collects garbage, else 0.3 s, at every correction
    return exit_code(lambda: job(sys.argv[1:]))
