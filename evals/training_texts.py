"""Training prompts as words and pictures, whatever file they come from."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmr1.types import UserError

PROMPT_FIELDS = ("question", "problem", "prompt", "query")
"""Fields of a training row without messages in which its text may stand, first come first served."""

_WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?|[-+*/^=<>]")


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One training prompt."""

    where: str
    """File and row."""
    text: str
    images: tuple[Path, ...] = ()


def words(text: str) -> list[str]:
    """Lower-case words, numbers and operators of a text; LaTeX commands count by their name.

    >>> words("Find $\\\\frac{1}{2} + x^2$, please!")
    ['find', 'frac', '1', '2', '+', 'x', '^', '2', 'please']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def training_texts(path: Path) -> Iterator[TrainingText]:
    """The user's words of every row of a training file: JSON lines, or one JSON list.

    A row has `messages` (or the released data's `message`, a list as text), or its text in `question`, `problem`,
    `prompt` or `query` and its pictures in `images` or `image`; a picture's name is relative to the file's folder.
    Raises UserError naming file and row.
    """
    for where, row in _rows(path):
        messages = row.get("messages", row.get("message"))
        if isinstance(messages, str):
            messages = _literal(messages, where)
        if messages is None:
            text = next((row[key] for key in PROMPT_FIELDS if isinstance(row.get(key), str)), None)
            if text is None:
                raise UserError(f"{where}: no prompt; expected `messages` or one of {', '.join(PROMPT_FIELDS)}")
            yield TrainingText(where, text, tuple(path.parent / name for name in _named(row, where)))
            continue
        try:
            parts = [part for message in messages if message["role"] == "user" for part in _parts(message["content"])]
            text = "\n".join(part["text"] for part in parts if part["type"] == "text")
            images = tuple(path.parent / part["image"] for part in parts if part["type"] == "image")
        except (TypeError, KeyError, AttributeError) as e:
            raise UserError(f"{where}: `messages` must be chat messages with role and content ({e!r})") from None
        yield TrainingText(where, text, images)


def _named(row: dict[str, Any], where: str) -> list[str]:
    """The pictures of a row without messages: `images`, or one `image`, or none."""
    named = row.get("images", row.get("image")) or []
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: `images` must be names of files (got {named!r:.80})")
    return names


def _parts(content: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        raw = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a training file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 (byte {e.start}); save the file as UTF-8") from None
    whole = raw.lstrip().startswith("[")
    try:
        rows = enumerate(json.loads(raw), 1) if whole else _lines(raw)
        for number, row in rows:
            if not isinstance(row, dict):
                raise UserError(f"{path}, row {number}: expected an object, got {type(row).__name__}")
            yield f"{path.name}, row {number}", row
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e.msg}); is the file truncated?") from None


def _lines(raw: str) -> Iterator[tuple[int, Any]]:
    return ((number, json.loads(line)) for number, line in enumerate(raw.split("\n"), 1) if line.strip())


def _literal(text: str, where: str) -> Any:
    """A stringified list, JSON or a Python literal (never evaluated)."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}: `message` is neither JSON nor a literal list of chat messages") from None
