"""The same pictures in other encodings: what a person would call the same drawing.

Each encoding comes with the plain picture that it shows. Where an encoding loses something (JPEG, fewer colours), both
are made of what is left.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

WHITE = 255


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(number: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """A white sheet with blocks in few strong colours, another one for every number, upright and mirrored different."""
    rng = np.random.default_rng(number)
    cells = rng.choice([0, 60, 120, 180, WHITE], (size[1] // 7, size[0] // 7, 3)).astype(np.uint8)
    cells[rng.random(cells.shape[:2]) < 0.5] = WHITE
    cells[0, 0], cells[-1, -1] = WHITE, (180, 0, 60)
    return Image.fromarray(cells.repeat(7, 0).repeat(7, 1))


def _opacity(image: Image.Image) -> np.ndarray:
    """(H, W) 0 where the picture is white, else 255."""
    return np.where((np.asarray(image) == WHITE).all(-1), 0, 255).astype(np.uint8)


def see_through(image: Image.Image, hidden: int = 0) -> Image.Image:
    """RGBA: white is transparent, with black (`hidden`) behind it."""
    alpha = _opacity(image)
    pixels = np.where(alpha[..., None] == 0, hidden, np.asarray(image)).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]))


def palette(image: Image.Image) -> tuple[Image.Image, int]:
    """P with white black in the palette, and its index: what is transparent."""
    flat = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    colours = flat.getpalette()
    white = next(i for i in range(len(colours) // 3) if colours[3 * i : 3 * i + 3] == [WHITE] * 3)
    colours[3 * white : 3 * white + 3] = [0, 0, 0]
    flat.putpalette(colours)
    return flat, white


def turned(image: Image.Image, orientation: int, kind: str, **options) -> bytes:
    """Stored lying on its side, with the tag that says how to hold it."""
    exif, back = (
        Image.Exif(),
        {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270},
    )
    exif[0x0112] = orientation
    return stored(image.transpose(back[orientation]), kind, exif=exif, **options)


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def colour(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _animated(image: Image.Image, kind: str, **options) -> bytes:
    other = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return stored(see_through(image), kind, save_all=True, append_images=[other], duration=90, **options)


def _gif(image: Image.Image) -> bytes:
    flat, white = palette(image)
    return stored(
        flat, "GIF", save_all=True, append_images=[Image.new("P", image.size)], transparency=white, disposal=2
    )


def _palette_entry(image: Image.Image) -> bytes:
    flat, white = palette(image)
    return stored(flat, transparency=white)


def _palette_alphas(image: Image.Image) -> bytes:
    flat, white = palette(image)
    colours = flat.getpalette()
    flat.putpalette([*colours, 9, 9, 9])  # used nowhere, and half transparent: else one index would be stored
    alphas = [0 if i == white else 255 for i in range(len(colours) // 3)]
    return stored(flat, transparency=bytes([*alphas, 128]))


def _key_colour(image: Image.Image) -> bytes:
    """RGB with one colour that is called transparent (chunk tRNS): here a green that stands where white is."""
    pixels = np.where(_opacity(image)[..., None] == 0, (1, 254, 1), np.asarray(image)).astype(np.uint8)
    return stored(Image.fromarray(pixels), transparency=(1, 254, 1))


def _grey_alpha(image: Image.Image) -> bytes:
    opaque = np.where(np.asarray(grey(image)) == WHITE, 0, 255).astype(np.uint8)
    dark = np.where(opaque == 0, 0, np.asarray(grey(image))).astype(np.uint8)
    return stored(Image.merge("LA", (Image.fromarray(dark), Image.fromarray(opaque))))


def _cmyk(image: Image.Image) -> bytes:
    return stored(image.convert("CMYK"), "JPEG", quality=95)


def decoded(raw: bytes) -> Image.Image:
    """As Pillow itself decodes it: for encodings in which it is right and that lose something."""
    with Image.open(io.BytesIO(raw)) as image:
        return image.convert("RGB")


def deep(image: Image.Image, kind: str = "PNG") -> bytes:
    """16 bits of grey."""
    return stored(Image.fromarray(np.asarray(grey(image)).astype(np.uint16) * 257), kind)


Encoding = tuple[Callable[[Image.Image], Image.Image], Callable[[Image.Image], bytes]]

ENCODINGS: dict[str, Encoding] = {
    "png, transparent": (colour, lambda i: stored(see_through(i))),
    "png, palette with a transparent entry": (colour, _palette_entry),
    "png, palette with opacities": (colour, _palette_alphas),
    "png, a transparent colour": (colour, _key_colour),
    "png, grey and transparent": (grey, _grey_alpha),
    "png, 16 bits": (grey, deep),
    "tiff, 16 bits": (grey, lambda i: deep(i, "TIFF")),
    "png, turned": (colour, lambda i: turned(i, 6, "PNG")),
    "webp, turned": (colour, lambda i: turned(i, 8, "WEBP", lossless=True)),
    "jpeg, turned": (lambda i: decoded(stored(i.transpose(Image.Transpose.ROTATE_180), "JPEG", quality=95)).transpose(Image.Transpose.ROTATE_180),
                     lambda i: turned(i, 3, "JPEG", quality=95)),
    "gif, animated and transparent": (colour, _gif),
    "webp, animated and transparent": (colour, lambda i: _animated(i, "WEBP", lossless=True, exact=True)),
    "png, animated": (colour, lambda i: _animated(i, "PNG")),
    "jpeg, four inks": (lambda i: decoded(_cmyk(i)), _cmyk),
    "tiff, four inks": (colour, lambda i: stored(i.convert("CMYK"), "TIFF")),
    "tiff, floats": (grey, lambda i: stored(Image.fromarray(np.asarray(grey(i)).astype(np.float32) / 255), "TIFF")),
}  # fmt: skip
"""Name -> (the plain picture that it shows, the file)."""


def pairs(images: list[Image.Image]) -> list[tuple[str, bytes, bytes]]:
    """(encoding, the plain picture as PNG, the same encoded) for every picture in every encoding."""
    return [
        (name, stored(plain(image).convert("RGB")), encode(image))
        for name, (plain, encode) in ENCODINGS.items()
        for image in images
    ]


def png(size: tuple[int, int], depth: int, kind: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """A PNG of any bit depth, which Pillow does not write. `chunks`: PLTE, tRNS."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))]
    parts += [chunk(name.encode(), data) for name, data in chunks.items()]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
