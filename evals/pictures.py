"""Is this picture one of those? Equal pixels, or a copy that was stored again in another format, quality or size.

Equal: the same sha256 of size and RGB pixels, so the file's format does not matter. Near: thumbnails of 16 x 16 RGB
values (means over boxes) that correlate by 0.95 or more, differ by 30 of 255 or less everywhere, and have the same
shape within 5 %. A correlation, because thin lines on white differ by little in absolute terms.

Measured (docs/audit_scorers.md): no two different pictures of MathVision, of the micro world or of thin drawings came
near (the closest pair correlates by 0.85); of copies stored as JPEG or WebP, or scaled to between half and twice the
size, all of MathVision's are found, and four of five of the micro world's, whose noise is lost. What a near copy cannot
tell is a label or number of few pixels, so near copies are counted apart from equal ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from lmmr1.images import open_image

SIDE = 16
CORRELATION = 0.95
DIFFERENCE = 30
SHAPE = 0.05
"""Limits of a near copy, see above."""

BATCH = 256
"""Pictures compared at once: bounds the matrix of correlations."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is compared of one picture."""

    pixels: str
    """sha256 of size and RGB pixels."""
    thumbnail: npt.NDArray[np.int16]
    """(SIDE * SIDE * 3,), 0 to 255."""
    shape: float
    """log(width / height)."""

    @property
    def unit(self) -> Floats:
        """The thumbnail without its mean, of length 1; of length 0 where all its values are equal."""
        values = self.thumbnail - self.thumbnail.mean()
        return (values / (np.linalg.norm(values) or 1.0)).astype(np.float32)


def look(path: Path) -> Picture:
    """Read a picture as a model sees it. Raises UserError where it is missing, cut off or no picture."""
    image = open_image(path)
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()
    return Picture(digest, np.asarray(small, dtype=np.int16).reshape(-1), math.log(image.width / image.height))


class Gallery:
    """The pictures of benchmarks, read once, to be found among others."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(dict.fromkeys(paths))
        pictures = [look(path) for path in self.paths]
        self._equal: dict[str, list[Path]] = {}
        for path, picture in zip(self.paths, pictures, strict=True):
            self._equal.setdefault(picture.pixels, []).append(path)
        self._pictures = pictures
        self._units = np.stack([p.unit for p in pictures]) if pictures else np.zeros((0, SIDE * SIDE * 3), np.float32)

    def copies(self, paths: Iterable[Path]) -> dict[Path, Mapping[Path, bool]]:
        """{picture: {picture of the gallery that it is a copy of: True where all pixels are equal}}.

        Pictures that are a copy of none are left out. Raises UserError where one cannot be read.
        """
        found: dict[Path, Mapping[Path, bool]] = {}
        unique = iter(dict.fromkeys(paths) if self.paths else ())
        while batch := list(islice(unique, BATCH)):
            pictures = [look(path) for path in batch]
            alike = np.stack([p.unit for p in pictures]) @ self._units.T >= CORRELATION
            for path, picture, row in zip(batch, pictures, alike, strict=True):
                same = dict.fromkeys(self._equal.get(picture.pixels, ()), True)
                if both := dict.fromkeys(self._near(picture, row), False) | same:
                    found[path] = both
        return found

    def _near(self, picture: Picture, alike: npt.NDArray[np.bool_]) -> Iterator[Path]:
        for i in np.flatnonzero(alike):
            other = self._pictures[i]
            differ = np.abs(picture.thumbnail - other.thumbnail).max()
            if differ <= DIFFERENCE and abs(picture.shape - other.shape) <= SHAPE:
                yield self.paths[i]
