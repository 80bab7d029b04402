"""JSONL files to samples, checked line by line before any compute is spent; batches that resume without state."""

from __future__ import annotations

import ast
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from lmmr1.files import verify
from lmmr1.types import Sample, TrainingData, UserError


class BadRow(UserError):
    """A row that cannot be trained on, with one word for the cards that count them."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def read_samples(path: Path) -> list[Sample]:
    """Read prompts: one JSON object per line with `id`, `messages` (or `message`, a stringified list), `answer`.

    Image items name a file relative to the folder of `path`. Every image is opened and verified.
    Raises UserError, naming file and line, for a damaged, missing or empty file, bytes that are not UTF-8, a line that
    is not JSON, a missing field, a repeated id or an unreadable image.
    """
    verify(path)
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such data file") from None
    samples, seen = [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sample = parse_row(line, f"{path}, line {number}", path.parent)
        if sample.id in seen:
            raise UserError(f"{path}, line {number}: id {sample.id!r} stands twice; ids must be unique")
        seen.add(sample.id)
        samples.append(sample)
    if not samples:
        raise UserError(f"{path}: the file is empty; expected one JSON object per line")
    return samples


def data_sha256(path: Path, samples: list[Sample]) -> str:
    """Hex sha256 over the bytes of the data file and of every image, in order: what a run was trained on."""
    digest = hashlib.sha256(path.read_bytes())
    for sample in samples:
        for image in sample.images:
            digest.update(hashlib.sha256(image.read_bytes()).digest())
    return digest.hexdigest()


def training_data(path: Path, samples: list[Sample]) -> TrainingData:
    """What a manifest says of the prompts in `path`, which are not empty."""
    systems = Counter(system_message(sample.messages) for sample in samples)
    return TrainingData(data_sha256(path, samples), _hub_source(path), systems.most_common(1)[0][0])


def system_message(messages: list[dict[str, Any]]) -> str | None:
    """The text of the first system message, or None."""
    return next((text_of(message) for message in messages if message["role"] == "system"), None)


def text_of(message: dict[str, Any]) -> str:
    """The text of a chat message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def _hub_source(path: Path) -> str | None:
    """`owner/name@COMMIT#FILE` where the card beside the prompts says that they came from the Hub."""
    try:
        source = json.loads(path.with_suffix(".card.json").read_text(encoding="utf-8"))["source"]
        return f"{source['repo']}@{source['revision']}#{source['file']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None  # generated, or a file of the user's own


def parse_row(line: bytes, where: str, folder: Path) -> Sample:
    """One line of a data file as a sample; image paths are relative to `folder`. Raises BadRow, naming `where`."""
    return to_sample(read_object(line, where), where, folder)


def read_object(line: bytes, where: str) -> dict[str, Any]:
    """One line as a JSON object. Raises BadRow."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise BadRow("not_utf8", f"{where}: not UTF-8 (byte {e.start})") from None
    except (json.JSONDecodeError, RecursionError) as e:
        what = f"{e.msg} at column {e.colno}" if isinstance(e, json.JSONDecodeError) else "nested too deeply"
        raise BadRow("not_json", f"{where}: not JSON, is the file truncated? ({what})") from None
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"{where}: expected an object, got {type(row).__name__}")
    return row


def to_sample(row: dict[str, Any], where: str, folder: Path) -> Sample:
    """An object with `messages` (or `message`) and `answer` as a sample; its images are opened. Raises BadRow."""
    messages = chat_messages(row, where)
    if row.get("answer") is None or not str(row["answer"]).strip():
        text = f"{where}: `answer` is missing or empty; a sample without a gold answer cannot be rewarded"
        raise BadRow("no_answer", text)
    images = tuple(_image(item, where, folder) for m in messages for item in image_items(m))
    name = str(row.get("id", where.rsplit(" ", 1)[1]))
    return Sample(name, messages, images, str(row["answer"]), str(row.get("source", "")))


def chat_messages(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """`messages`, or the released data's `message`: a stringified list, JSON or a Python literal (never evaluated).

    Raises BadRow where they are no chat.
    """
    messages: Any = row.get("messages", row.get("message"))
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except json.JSONDecodeError:
            try:
                messages = ast.literal_eval(messages)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                text = f"{where}: `message` is neither JSON nor a literal list of chat messages"
                raise BadRow("bad_message", text) from None
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
    return list(messages)


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def image_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message that are images."""
    content = message["content"]
    return [item for item in content if item.get("type") == "image"] if isinstance(content, list) else []


def _image(item: dict[str, Any], where: str, folder: Path) -> Path:
    file = folder / str(item.get("image", ""))
    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as e:
        raise BadRow("image", f"{where}: image {file} cannot be read ({e})") from None
    return file


def prompt_batches(
    samples: list[Sample], num_prompts: int, seed: int, start: int, stop: int
) -> Iterator[tuple[int, tuple[Sample, ...]]]:
    """Yield (step, P samples) for steps start+1 .. stop. Stateless: a resumed run sees the batches it would have seen.

    Every epoch is one permutation drawn from (seed, epoch); a batch may span two epochs.
    """
    order: dict[int, list[int]] = {}

    def index(position: int) -> int:
        epoch, offset = divmod(position, len(samples))
        if epoch not in order:
            order[epoch] = random.Random(f"{seed}-{epoch}").sample(range(len(samples)), len(samples))
        return order[epoch][offset]

    for step in range(start + 1, stop + 1):
        first = (step - 1) * num_prompts
        yield step, tuple(samples[index(first + i)] for i in range(num_prompts))
