"""Rows of JSON lines as other harnesses write them, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lmmr1.lines import from_json
from lmmr1.types import UserError


class Row(BaseModel):
    """Fields of a row; others are kept as they are."""

    model_config = ConfigDict(extra="allow")


Checked = TypeVar("Checked", bound=Row)


def json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Where each row stands and the row. Raises UserError naming the line."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = from_json(line)
            except (ValueError, RecursionError) as e:
                raise UserError(f"{where}: not JSON ({e}); is the file truncated?") from None
            if not isinstance(row, dict):
                raise UserError(f"{where}: expected an object, got {type(row).__name__}")
            rows.append((where, row))
    return rows


def check(kind: type[Checked], row: dict[str, Any], where: str, writer: str) -> Checked:
    """The row with its fields checked. Raises UserError naming field and writer."""
    try:
        return kind.model_validate(row)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        problem = "is missing" if first["type"] == "missing" else f"is wrong: {first['msg'][:100]}"
        raise UserError(f"{where}: field `{name}` {problem}; expected a row as {writer} writes it") from None


def first_text(value: Any, where: str) -> str:
    """The response in `[[text, ...]]`, `[text, ...]` or `text`, the first where there are several repeats.

    null, which some servers give for nothing, is an empty text. Raises UserError where it is no text.
    Log-likelihoods are nested once more.
    """
    for _ in range(2):
        value = value[0] if isinstance(value, list) and value else value
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: no response text (got {value!r:.60}); tasks scored by log-likelihood have none")
    return value
