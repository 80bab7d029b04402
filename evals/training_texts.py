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

from lmmr1.chat import image_file, named_pictures
from lmmr1.lines import from_json, lines_of, without_mark
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
            yield TrainingText(where, text, tuple(image_file(name, path.parent) for name in named_pictures(row, where)))
            continue
        try:
            parts = [part for message in messages if message["role"] == "user" for part in _parts(message["content"])]
            text = "\n".join(part["text"] for part in parts if part["type"] == "text")
            named = [part["image"] for part in parts if part["type"] == "image" and "image" in part]
            images = tuple(image_file(name, path.parent) for name in named or named_pictures(row, where))
        except (TypeError, KeyError, AttributeError) as e:
            raise UserError(f"{where}: `messages` must be chat messages with role and content ({e!r})") from None
        yield TrainingText(where, text, images)


def _parts(content: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a training file") from None
    whole = without_mark(raw, path).lstrip().startswith(b"[")
    try:
        rows = enumerate(_object(without_mark(raw, path)), 1) if whole else lines_of(raw, path)
        for number, read in rows:
            row = read if whole else _object(read)
            if not isinstance(row, dict):
                raise UserError(f"{path}, row {number}: expected an object, got {type(row).__name__}")
            yield f"{path.name}, row {number}", row
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e.msg}); is the file truncated?") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 (byte {e.object[e.start]:#04x}); save the file as UTF-8") from None


def _object(raw: bytes) -> Any:
    return from_json(raw.decode("utf-8"), strict=False)


def _literal(text: str, where: str) -> Any:
    """A stringified list, JSON or a Python literal (never evaluated)."""
    try:
        return from_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}: `message` is neither JSON nor a literal list of chat messages") from None
