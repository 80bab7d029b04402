"""Images of benchmark rows: files, or base64 inside a table; each is decoded once before any model is loaded."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import re
from pathlib import Path

from evals.problems import Problem
from lmmr1.images import UnreadableImage, check_image
from lmmr1.types import UserError

ImageCell = tuple[str, str]
"""("file", name relative to the data file) or ("base64", text)."""

_DATA_URI = re.compile(r"^\s*data:image/[\w.+-]+;base64,", re.ASCII)


def with_images(problem: Problem, cells: list[ImageCell], where: str, folder: Path, workspace: Path) -> Problem:
    """The problem with its images as checked files: those that it names, or written from the base64 in its row."""
    if not cells:
        return problem
    files = [_image_file(kind, text, where, folder, workspace) for kind, text in cells]
    digests = [hashlib.sha256(raw).hexdigest() for _, raw in files]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return dataclasses.replace(problem, images=tuple(path for path, _ in files), image_sha256=sha256[:16])


def _image_file(kind: str, text: str, where: str, folder: Path, workspace: Path) -> tuple[Path, bytes]:
    """One image's checked file and bytes. Raises UserError."""
    if kind == "file":
        image = folder / text
        raw = _image_file_bytes(image, where)
        _require_image(raw, f"{where}: image {image}")
        return image, raw
    try:
        raw = base64.b64decode("".join(_DATA_URI.sub("", text).split()), validate=True)
    except ValueError as e:  # binascii.Error, or a character beyond ASCII
        raise UserError(f"{where}: `image` is not base64 ({e}); is the file truncated?") from None
    suffix = _require_image(raw, f"{where}: `image`").lower()
    return write_once(workspace / "images" / f"{hashlib.sha256(raw).hexdigest()[:32]}.{suffix}", raw), raw


def _image_file_bytes(image: Path, where: str) -> bytes:
    try:
        return image.read_bytes()
    except (OSError, ValueError) as e:  # a name with a zero byte
        reason = e.strerror if isinstance(e, OSError) else e
        raise UserError(f"{where}: image {image} cannot be read ({reason}); put it there or drop the row") from None


def _require_image(raw: bytes, what: str) -> str:
    """The name of the picture's format. Raises UserError where a model cannot be shown it."""
    try:
        return check_image(raw)
    except UnreadableImage as e:
        raise UserError(f"{what} is not a readable image ({e}); replace it or drop the row") from None


def write_once(path: Path, raw: bytes) -> Path:
    """Write `raw` to `path` unless the file is there; safe when two processes do it at once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(raw)
        partial.replace(path)
    return path
