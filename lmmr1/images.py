"""Pictures as a person sees them: upright, on white, 8 bits a channel. Whatever reads a picture reads it here.

Pillow's own `convert("RGB")` makes what is transparent black, cuts 16 bits off at 255 and leaves a photograph lying on
its side. A plain RGB picture comes out of here as it went in, byte for byte.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from lmmr1.types import UserError

MAX_ASPECT = 200
"""Qwen2.5-VL's image processor refuses a picture with one side more than so many times the other."""

MANY = 500
"""Pictures from which the check takes seconds."""

MOST_PIXELS = 178_956_970
"""Larger ones, of half a gigabyte, are refused before they are decoded. Pillow's own limit, which VLMEvalKit lifts."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of that tag -> what brings the picture upright; 1 is upright."""

SAMPLES = {"L;2": lambda v: v * 85, "L;4": lambda v: v * 17, "RGB;16B": lambda v: tuple(c >> 8 for c in v)}
"""How a PNG stores its samples -> its transparent colour in 8 bits: Pillow scales the samples and not the colour."""


class UnreadableImage(UserError):
    """A picture that cannot be shown to a model; the text says why, to be put after the picture's name, and `reason` is
    a word for the cards that count."""

    def __init__(self, text: str, reason: str = "image") -> None:
        super().__init__(text)
        self.reason = reason


def open_image(source: Path | bytes) -> Image.Image:
    """The first frame of a picture in RGB, upright, what is transparent on white.

    Raises UserError, with the path, where it cannot be decoded.
    """
    try:
        return _read(source, _seen)
    except UnreadableImage as e:
        name = source if isinstance(source, Path) else f"of {len(source)} bytes"
        raise UserError(f"image {name} cannot be read ({e}); replace the file or drop its row") from None


def check_image(source: Path | bytes) -> str:
    """Decode a whole picture without keeping it; the name of its format. Raises UnreadableImage where it is none, is
    cut off, or has a shape that the model family cannot take."""
    return _read(source, _decoded)


def image_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels, as stored: the picture is not decoded. Raises UnreadableImage."""
    return _read(source, lambda image: image.size)


def image_faults(paths: Iterable[Path]) -> dict[Path, UnreadableImage]:
    """{picture: why it is of no use} of those that are. A bar shows the progress on a terminal where they are many.

    In threads: Pillow's decoders let others run.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)))) as pool:
        console = Console(stderr=True)
        shown = console.is_terminal and len(unique) >= MANY
        found = track(pool.map(_fault, unique), "images", len(unique), console=console, disable=not shown)
        return {path: fault for path, fault in zip(unique, found, strict=True) if fault}


def _fault(path: Path) -> UnreadableImage | None:
    try:
        check_image(path)
    except UnreadableImage as e:
        return e
    return None


def _read(source: Path | bytes, use: Any) -> Any:
    """`use` of the opened picture. Raises UnreadableImage, whatever it was: decoders raise all kinds of errors."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return use(image)
    except UnreadableImage:
        raise
    except Exception as e:
        raise UnreadableImage(_reason(source, e)) from None


def _reason(source: Path | bytes, error: Exception) -> str:
    """What is wrong, without the addresses of objects that Pillow's texts have."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS} pixels"
    if not isinstance(error, UnidentifiedImageError):
        return " ".join(str(error).split())[:200] or type(error).__name__
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        head = file.read(24)
    return f"not a picture, it begins with {head!r}" if head else "the file is empty"


def _decoded(image: Image.Image) -> str:
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(
            f"{width} x {height} pixels: this model family takes no picture with one side more than {MAX_ASPECT} times "
            "the other",
            "image_shape",
        )
    # JPEG decodes at an eighth of the size: the whole file is still read, so a cut is still seen.
    image.draft("L", (1, 1))
    image.load()
    return image.format or "png"


def _seen(image: Image.Image) -> Image.Image:
    """The picture as RGB."""
    tiles = getattr(image, "tile", None)  # of a file that is not decoded yet
    stored = tiles[0].args if tiles else None
    image.load()
    if stored in SAMPLES and "transparency" in image.info:
        image.info["transparency"] = SAMPLES[str(stored)](image.info["transparency"])
    turn = _turn(image)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    image = _on_white(image) if image.has_transparency_data else image.convert("RGB")
    return image.transpose(turn) if turn is not None else image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings the picture upright; a damaged tag turns nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of damaged EXIF data; the picture is whole
        return None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # colours already multiplied by their opacity
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits, of 32-bit integers or of floats in 8 bits; the colour that a PNG calls transparent
    becomes so. Unsigned 16 bits keep their upper half; the others are taken for 0 to 1 (floats), 0 to 255 or 0 to 65535
    where all values lie there, and else stretched from the smallest to the largest."""
    import numpy as np

    values: Any = np.asarray(image)
    clear = values == image.info["transparency"] if "transparency" in image.info else None
    if image.mode.startswith("I;16") or image.format == "PPM":  # a PGM of 16 bits comes as 32-bit integers
        grey = values >> 8
    else:
        values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        tops = [top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top and (top > 1 or image.mode == "F")]
        low, high = (0.0, tops[0]) if tops else (low, high)
        grey = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        grey = grey.round() if high != 65535 else values // 256
    shown = Image.fromarray(grey.astype(np.uint8))
    if clear is None:
        return shown
    return Image.merge("LA", (shown, Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))))
