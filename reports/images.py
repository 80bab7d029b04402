"""The images that questions were asked about, found by the hash in the sample files, small enough for the page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evals.inputs import tsv_rows
from evals.registry import registry
from lmmr1.files import verify
from lmmr1.images import open_image
from lmmr1.types import UserError

QUALITY = 55
"""Of the WebP files, in Pillow's scale to 100."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image as the page holds it: always WebP that was encoded here, whatever the file was. Size in pixels."""

    width: int
    height: int
    webp: str
    """base64."""


def downloaded(benchmarks: list[str]) -> list[Path]:
    """VLMEvalKit's own files ($LMUData/NAME.tsv) of registered benchmarks, as far as they are there."""
    root = Path(os.environ.get("LMUData") or Path.home() / "LMUData")  # noqa: SIM112 (VLMEvalKit's name for it)
    sources = [registry()[b].source.partition(":") for b in benchmarks if b in registry()]
    paths = [root / f"{name}.tsv" for kind, _, name in sources if kind == "vlmevalkit"]
    return [path for path in paths if path.is_file()]


def thumbnails(files: list[Path], wanted: set[str], pixels: int) -> dict[str, Thumbnail]:
    """{hash: image} for the hashes (`image_sha256` of samples.jsonl, 16 hex digits) that `files` hold.

    files: benchmark files in VLMEvalKit's TSV form, or folders of image files. pixels: longest side kept. An image that
    Pillow cannot read is left out. Raises UserError on a missing or malformed file.
    """
    found: dict[str, Thumbnail] = {}
    for path in files:
        if not path.exists():
            raise UserError(f"{path}: no such benchmark file or folder of images; leave it out of --images")
        for raw in _folder_images(path) if path.is_dir() else _tsv_images(path):
            digest = hashlib.sha256(raw).hexdigest()[:16]
            if digest in wanted and digest not in found and (image := _thumbnail(raw, pixels)):
                found[digest] = image
        if len(found) == len(wanted):
            break
    return found


def _folder_images(folder: Path) -> Iterator[bytes]:
    suffixes = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
    yield from (p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes and p.is_file())


def _tsv_images(path: Path) -> Iterator[bytes]:
    verify(path)
    for where, row in tsv_rows(path, path.read_bytes()):
        try:
            yield from (base64.b64decode(text, validate=True) for _, text in row["images"])
        except binascii.Error as e:
            raise UserError(f"{where}: `image` is not base64 ({e}); is the file truncated?") from None


def _thumbnail(raw: bytes, pixels: int) -> Thumbnail | None:
    try:
        image = open_image(raw)
    except UserError:
        return None
    image.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=2)
    return Thumbnail(*image.size, base64.b64encode(buffer.getvalue()).decode("ascii"))
