"""Data files to samples, checked row by row before any compute is spent; batches that resume without state."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmmr1.chat import BadRow, read_object, text_of, to_sample
from lmmr1.files import verify
from lmmr1.images import image_faults
from lmmr1.lines import lines_of, without_mark
from lmmr1.types import Sample, TrainingData, UserError


def read_samples(path: Path) -> list[Sample]:
    """Read prompts: one JSON object per line, or one JSON list of them, with `id`, `messages` and `answer` (chat.py).

    Image items name a file relative to the folder of `path`. Every image is decoded.
    Raises UserError, naming file and line, for a damaged, missing or empty file, bytes that are not UTF-8, a line that
    is not JSON, a missing field, a repeated id, or an image that is missing, cut off, none at all or of a shape that
    the model family cannot take.
    """
    placed = _parsed(path)
    faults = image_faults(image for _, sample in placed for image in sample.images)
    for where, image in ((where, image) for where, sample in placed for image in sample.images):
        if image in faults:
            raise BadRow(faults[image].reason, f"{where}: image {image} cannot be read ({faults[image]})")
    return [sample for _, sample in placed]


def parse_samples(path: Path) -> list[Sample]:
    """The same prompts where they were read before: images are not looked at."""
    return [sample for _, sample in _parsed(path)]


def _parsed(path: Path) -> list[tuple[str, Sample]]:
    """Where each row stands, for messages, and its sample. Raises UserError."""
    verify(path)
    placed, seen = [], set()
    for where, line in rows_of(path):
        sample = to_sample(read_object(line, where), where, path.parent)
        if sample.id in seen:
            raise UserError(f"{where}: id {sample.id!r} stands twice; ids must be unique")
        seen.add(sample.id)
        placed.append((where, sample))
    if not placed:
        raise UserError(f"{path}: the file is empty; expected one JSON object per line")
    return placed


def rows_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """(where it stands, bytes) of the rows of a JSON lines file; those of a file that is one JSON list as well.

    Raises UserError where there is no such file, or it is UTF-16.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such data file") from None
    listed = _listed(without_mark(raw, path))
    if listed is None:
        yield from ((f"{path}, line {number}", line) for number, line in lines_of(raw, path))
    else:
        yield from ((f"{path}, row {number}", json.dumps(row).encode()) for number, row in enumerate(listed, start=1))


def _listed(raw: bytes) -> list[Any] | None:
    """The rows of a file that is one JSON list of objects; None for any other."""
    if not raw.lstrip().startswith(b"["):
        return None
    try:
        rows = json.loads(raw, strict=False)
    except (ValueError, RecursionError):  # a line tells better what is wrong
        return None
    return rows if any(isinstance(row, dict) for row in rows) else None


def data_sha256(path: Path, samples: list[Sample]) -> str:
    """Hex sha256 over the bytes of the data file and of every image, in order: what a run was trained on.

    Raises UserError where an image is gone.
    """
    digest = hashlib.sha256(path.read_bytes())
    for image in (image for sample in samples for image in sample.images):
        try:
            digest.update(hashlib.sha256(image.read_bytes()).digest())
        except OSError as e:
            raise UserError(f"{path}: image {image} cannot be read ({e.strerror})") from None
    return digest.hexdigest()


def training_data(path: Path, samples: list[Sample]) -> TrainingData:
    """What a manifest says of the prompts in `path`, which are not empty."""
    systems = Counter(system_message(sample.messages) for sample in samples)
    return TrainingData(data_sha256(path, samples), _hub_source(path), systems.most_common(1)[0][0])


def system_message(messages: list[dict[str, Any]]) -> str | None:
    """The text of the first system message, or None."""
    return next((text_of(message) for message in messages if message["role"] == "system"), None)


def _hub_source(path: Path) -> str | None:
    """`owner/name@COMMIT#FILE` where the card beside the prompts says that they came from the Hub."""
    try:
        source = json.loads(path.with_suffix(".card.json").read_text(encoding="utf-8"))["source"]
        return f"{source['repo']}@{source['revision']}#{source['file']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None  # generated, or a file of the user's own


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
