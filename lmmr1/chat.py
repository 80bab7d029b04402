"""One row of a data file to a chat: messages, pictures and gold answer, in whichever of the usual forms they came.

A picture is a file, named by a part of a message, or in a column `image` or `images` (COLUMNS) beside the messages.
What cannot be trained on as it was meant is a BadRow with a reason: no picture and no question is left out in silence.
"""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from lmmr1.lines import from_json
from lmmr1.types import Sample, UserError

MARK = "<image>"
"""Where a text says that a picture belongs."""

COLUMNS = ("images", "image", "image_urls", "image_url", "image_paths", "image_path")
"""Beside the messages; those that hold something must name the same pictures."""

_NAMES = ("image", "image_url", "path", "url")
"""Where a part of a message names its picture."""

_OTHERS = ("video", "videos", "audio", "audios")

_OF = {"text": ("text",), "image": _NAMES, "image_url": _NAMES}
"""Kind of a part -> the keys that say what it is; another kind's must be empty."""

_SPOKEN = re.compile(r"<\|?(?:image|img)[ _-]?(\d{0,9})\|?>", re.IGNORECASE)
"""A picture that a text speaks of, and its number. Such a mark stays a text."""

_TOKEN = re.compile(r"<\|(?:image|video)_pad\|>")
"""The chat template's own: in a text it would count as a picture."""


class BadRow(UserError):
    """A row that cannot be trained on, with one word for the cards that count them."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def read_object(line: bytes, where: str) -> dict[str, Any]:
    """One line as a JSON object; control characters inside its texts are let pass. Raises BadRow."""
    try:
        row = from_json(line.decode("utf-8"), strict=False)
    except UnicodeDecodeError as e:
        raise BadRow("not_utf8", f"{where}: not UTF-8 (byte {e.start})") from None
    except json.JSONDecodeError as e:
        raise BadRow("not_json", f"{where}: not JSON, is the file truncated? ({e.msg} at column {e.colno})") from None
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"{where}: expected an object, got {type(row).__name__}")
    return row


def to_sample(row: dict[str, Any], where: str, folder: Path) -> Sample:
    """An object with messages and `answer` as a sample; pictures are relative to `folder` and not looked at yet.

    Raises BadRow, naming `where`.
    """
    messages = chat_messages(row, where)
    answer = answer_text(row.get("answer"), where)
    if not answer.strip():
        text = f"{where}: `answer` is missing or empty; a sample without a gold answer cannot be rewarded"
        raise BadRow("no_answer", text)
    images = tuple(image_file(item["image"], folder) for m in messages for item in image_items(m))
    name = str(row.get("id", where.rsplit(" ", 1)[1]))
    return Sample(name, messages, images, answer, str(row.get("source", "")))


def answer_text(answer: Any, where: str) -> str:
    """A gold answer as one text; several in a list are all of the answer, as in OlympiadBench. Raises BadRow for an
    object or a list in a list.

    >>> answer_text(["3", 4], "here"), answer_text(None, "here")
    ('3, 4', '')
    """
    parts = answer if isinstance(answer, list) else [] if answer is None else [answer]
    if not all(isinstance(part, str | int) or (isinstance(part, float) and math.isfinite(part)) for part in parts):
        raise BadRow("no_answer", f"{where}: `answer` must be a text, a number or a list of them (got {answer!r:.80})")
    return ", ".join(map(str, parts))


def chat_messages(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """`messages`, or the released data's `message`: a stringified list, JSON or a Python literal (never evaluated).

    Every picture of the row comes out as a part `{"type": "image", "image": NAME}` at its place. Raises BadRow where
    the messages are no chat, or it cannot be told which pictures belong to them, and where.
    """
    messages: Any = row.get("messages", row.get("message"))
    if isinstance(messages, str):
        messages = _literal(messages, where)
    good = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(m, dict)
            and m.get("role") in ("system", "user", "assistant")
            and (isinstance(m.get("content"), str) or _is_parts(m.get("content")))
            for m in messages
        )
    )
    if not good:
        text = f"{where}: `messages` must be a non-empty list of {{role: system|user|assistant, content}}"
        raise BadRow("bad_message", text)
    return _with_pictures([_plain(m, where) for m in messages], named_pictures(row, where), where)


def _literal(messages: str, where: str) -> Any:
    try:
        return from_json(messages, strict=False)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(messages)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise BadRow("bad_message", f"{where}: `message` is neither JSON nor a literal list of chat messages") from None


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def image_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message that are images."""
    content = message["content"]
    return [item for item in content if item.get("type") == "image"] if isinstance(content, list) else []


def text_of(message: dict[str, Any]) -> str:
    """The text of a chat message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


# ---------------------------------------------------------------------------------------------------------- pictures


def named_pictures(row: dict[str, Any], where: str) -> list[str]:
    """The files that COLUMNS name, in order; none where there is no such column. Raises BadRow, also where two columns
    name different files."""
    if other := next((key for key in _OTHERS if row.get(key)), None):
        raise BadRow("bad_message", f"{where}: `{other}` is neither text nor picture")
    columns = [row[key] if isinstance(row[key], list) else [row[key]] for key in COLUMNS if row.get(key)]
    if any(not _same(columns[0], column) for column in columns[1:]):
        raise BadRow("image_columns", f"{where}: two columns name different pictures, {columns!r:.200}")
    return [_name(item, where) for item in (columns or [[]])[0]]


def _same(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists name the same pictures: each by the same path, or one's is the end of the other's."""
    return len(some) == len(others) and all(map(_same_name, some, others))


def _same_name(one: Any, other: Any) -> bool:
    shorter, longer = sorted((_path_of(one), _path_of(other)), key=len)
    return shorter == longer[len(longer) - len(shorter) :]


def _path_of(item: Any) -> list[str]:
    """The parts of the path that a text or an object names."""
    named = next((item[key] for key in _NAMES if item.get(key)), "") if isinstance(item, dict) else item
    return [part for part in PurePosixPath(unquote(str(named)).replace("\\", "/")).parts if part not in ("/", "file:")]


def image_file(named: str, folder: Path) -> Path:
    """The file that a row names: relative to `folder`, or whole; as an address `file://...` also as seen from here."""
    address = re.match(r"file://(?:localhost(?=/))?", named)
    if not address:
        return folder / named
    bare = named[address.end() :]
    tried = [base / name for name in (bare, unquote(bare)) for base in (folder, Path())]
    return next((path for path in tried if is_file(path)), folder / bare)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # longer than names may be
        return False


def _name(item: Any, where: str) -> str:
    """A picture's file: a text, or an object with `path` or `url`. Raises BadRow for what is no file."""
    name = _given(item, where) if isinstance(item, dict) else item
    if not isinstance(name, str) or not name.strip():
        raise BadRow("image", f"{where}: an image must be the name of a file (got {item!r:.80})")
    if re.match(r"(https?|ftp|s3|gs|data):", name, re.IGNORECASE):
        raise BadRow("image_url", f"{where}: image {name:.80} is no file; save it and name the file")
    return name


def _plain(message: dict[str, Any], where: str) -> dict[str, Any]:
    """The message with parts of the kinds `text` and `image` alone. Raises BadRow for a part of another kind, and for
    pictures that are named beside the content."""
    if beside := next((key for key in (*COLUMNS, *_OTHERS) if message.get(key)), None):
        raise BadRow("image", f"{where}: a message has `{beside}` beside its content; make it a part of the content")
    if isinstance(message["content"], str):
        return message
    return {**message, "content": [_part(part, where) for part in message["content"]]}


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type", next((key for key in ("text", "image", "image_url") if part.get(key) is not None), None))
    own = _OF.get(kind, ()) if isinstance(kind, str) else ()
    foreign = [key for key in (*COLUMNS, *_OTHERS, "text") if key in part and key not in own]
    if not own or any(part[key] for key in foreign) or (kind == "text" and not isinstance(part.get("text"), str)):
        raise BadRow("bad_message", f"{where}: a part of a message must be a text or an image (got {part!r:.80})")
    if kind == "text":  # the chat template takes a part with a key `image` for a picture, whatever it holds
        bare = {key: value for key, value in part.items() if key not in foreign}
        return bare if "type" in part else {"type": "text", **bare}
    given = _given(part, where)
    if kind == "image" and part.get("image") == given and isinstance(given, str) and _name(given, where):
        return part if "type" in part else {"type": "image", **part}
    return {"type": "image", "image": _name(given, where) if given is not None else None}


def _given(item: dict[str, Any], where: str) -> Any:
    """What an object names as its picture; None where it names none. Raises BadRow where it names two."""
    given = [item[key] for key in _NAMES if item.get(key)]
    if any(not _same_name(given[0], name) for name in given[1:]):
        raise BadRow("image_columns", f"{where}: two pictures under one image, {given!r:.200}")
    return given[0] if given else None


def _with_pictures(messages: list[dict[str, Any]], named: list[str], where: str) -> list[dict[str, Any]]:
    """The messages with the row's pictures at their places, every mark and picture accounted for. Raises BadRow."""
    texts = [text_of(m) for m in messages]
    marks = sum(text.count(MARK) for text in texts)
    parts = [item for m in messages for item in image_items(m)]
    if parts:
        messages = _filled(messages, parts, named, where)
    elif named and marks in (0, len(named)):
        messages = _at_marks(messages, named) if marks else _before_question(messages, named, where)
    count = len(parts or named)
    if found := _TOKEN.search("\n".join(texts)):
        raise BadRow("image_marks", f"{where}: the text holds {found[0]}, which stands for a picture; write {MARK}")
    if marks not in (0, count):
        raise BadRow("image_marks", f"{where}: {count} images but {marks} marks {MARK} in the text")
    numbers = {int(found[1] or 1) for text in texts for found in _SPOKEN.finditer(text)}
    if count < (most := max(numbers, default=0) + (0 in numbers)):
        raise BadRow("image_marks", f"{where}: the text speaks of {most} pictures, and the row names {count}")
    return messages


def _filled(
    messages: list[dict[str, Any]], parts: list[dict[str, Any]], named: list[str], where: str
) -> list[dict[str, Any]]:
    """Parts without a file get the column's files, in order. What both name must be the same. Raises BadRow."""
    own = [part["image"] for part in parts]
    if not named and all(own):
        return messages
    if not named:
        raise BadRow("image", f"{where}: an image without the name of a file")
    if len(named) != len(own) or not all(not a or _same_name(a, b) for a, b in zip(own, named, strict=True)):
        text = f"{where}: the messages have {len(own)} pictures, {[a for a in own if a]!r:.200}, and the column beside "
        raise BadRow("image_columns", text + f"them names {len(named)}, {named!r:.200}")
    files = iter(named)

    def fill(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        file = next(files)
        return part if part["image"] else {"type": "image", "image": file}

    return [m if isinstance(m["content"], str) else {**m, "content": [fill(p) for p in m["content"]]} for m in messages]


def _before_question(messages: list[dict[str, Any]], named: list[str], where: str) -> list[dict[str, Any]]:
    """All pictures before the text of the first message of the user. Raises BadRow where there is none."""
    first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
    if first is None:
        raise BadRow("bad_message", f"{where}: pictures, but no message of the user")
    content = messages[first]["content"]
    texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    pictured = {**messages[first], "content": [*map(_picture, named), *texts]}
    return [*messages[:first], pictured, *messages[first + 1 :]]


def _at_marks(messages: list[dict[str, Any]], named: list[str]) -> list[dict[str, Any]]:
    """As many pictures as marks, each in the place of its mark."""
    files = iter(named)

    def split(text: str) -> list[dict[str, Any]]:
        first, *others = text.split(MARK)
        pieces = [{"type": "text", "text": first}]
        for piece in others:
            pieces += [_picture(next(files)), {"type": "text", "text": piece}]
        return [piece for piece in pieces if piece.get("text") != ""]

    def placed(message: dict[str, Any]) -> dict[str, Any]:
        if MARK not in text_of(message):
            return message
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part["text"] for part in content]
        return {**message, "content": [part for text in texts for part in split(text)]}

    return [placed(message) for message in messages]


def _picture(name: str) -> dict[str, Any]:
    return {"type": "image", "image": name}
