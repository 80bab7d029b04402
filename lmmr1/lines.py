"""Text files as people save them: a byte-order mark is no content, nothing but a line feed ends a line, and JSON that
cannot be read is one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmmr1.types import UserError

MARK = b"\xef\xbb\xbf"
"""UTF-8's byte-order mark, which Windows programs put first."""


def without_mark(raw: bytes, name: Path | str) -> bytes:
    """The bytes of a text file without UTF-8's byte-order mark. Raises UserError where they are UTF-16 or UTF-32."""
    encoding = json.detect_encoding(raw)  # by marks, and by zeros among the first four bytes
    if not encoding.startswith("utf-8"):
        raise UserError(f"{name}: not UTF-8 but {encoding[:6].upper()}; save the file as UTF-8")
    return raw.removeprefix(MARK)


MAX_DIGITS = 4300


def from_json(text: str | bytes, strict: bool = True) -> Any:
    """`json.loads` that raises UnicodeDecodeError and JSONDecodeError alone: Python gives up on integers of over 4,300
    digits and on brackets in brackets with other errors."""
    try:
        return json.loads(text, strict=strict, parse_int=_integer)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except ValueError as e:
        raise json.JSONDecodeError(str(e).partition(";")[0], "", 0) from None


def _integer(digits: str) -> int:
    """Python's own limit, held here too: libraries lift it for the whole process (VLMEvalKit does)."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"Exceeds the limit ({MAX_DIGITS} digits) for integer string conversion")
    return int(digits)


def text_of_file(path: Path) -> str:
    """A UTF-8 file's text, `\\n` at the end of every line. Raises UserError for another encoding, OSError where it
    cannot be read."""
    raw = without_mark(path.read_bytes(), path)
    try:
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 (byte {e.start}); save the file as UTF-8") from None


def lines_of(raw: bytes, name: Path | str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of the lines of a UTF-8 file that are not blank.

    A carriage return ends a line only where the file has no line feed: old Macs' files. U+2028 and the like never do.
    Raises UserError where the file is UTF-16 or UTF-32.
    """
    raw = without_mark(raw, name)
    end = b"\r" if b"\r" in raw and b"\n" not in raw else b"\n"
    for number, line in enumerate(raw.split(end), start=1):
        if line.strip():
            yield number, line.strip()
