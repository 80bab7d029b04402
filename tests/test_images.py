"""Contract: a picture is opened as a person sees it, a plain one as it is stored; what no model can be shown is refused
with the reason. Cases 16 and 17, and others of their kind."""

import io
import random
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from lmmr1.checkpoint import load_processor
from lmmr1.images import MAX_ASPECT, UnreadableImage, check_image, image_faults, image_size, open_image
from lmmr1.types import UserError
from tests import encodings
from tests.encodings import ENCODINGS, WHITE, drawing, png, stored, turned

NOISE = Image.frombytes("RGB", (84, 56), random.Random(0).randbytes(84 * 56 * 3))


def grey_of(raw: bytes) -> list[int]:
    return np.asarray(open_image(raw))[..., 0].ravel().tolist()


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("number", range(5))
def test_an_encoding_shows_the_plain_picture(name, number):
    plain, encode = ENCODINGS[name]
    image = drawing(number, (84, 56))
    raw, wanted = encode(image), plain(image).convert("RGB")
    found = open_image(raw)
    assert (found.mode, found.size) == ("RGB", wanted.size)
    assert found.tobytes() == wanted.tobytes()
    check_image(raw)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "PPM", "GIF"])
def test_a_plain_picture_is_opened_as_it_always_was(kind, tmp_path):
    raw = stored(NOISE, kind)
    (tmp_path / "x").write_bytes(raw)
    with Image.open(io.BytesIO(raw)) as image:
        expected = image.convert("RGB").tobytes()
    assert open_image(raw).tobytes() == open_image(tmp_path / "x").tobytes() == expected


HALF_RED = Image.new("RGBA", (2, 1), (255, 0, 0, 128))


@pytest.mark.parametrize(
    ("raw", "pixel"),
    [
        (stored(HALF_RED), (255, 127, 127)),
        (stored(HALF_RED, "WEBP", lossless=True), (255, 127, 127)),
        (stored(HALF_RED, "TIFF"), (255, 127, 127)),
        (stored(Image.new("LA", (1, 1), (0, 64))), (191, 191, 191)),
        (png((2, 1), 8, 3, [b"\0\1"], PLTE=b"\0\0\0\x11\x22\x33", tRNS=b"\x80\xff"), (127, 127, 127)),
        (stored(Image.new("RGBA", (3, 3), (9, 9, 9, 0))), (WHITE, WHITE, WHITE)),
    ],
)
def test_what_is_half_transparent_is_half_white(raw, pixel):
    assert open_image(raw).getpixel((0, 0)) == pixel


GREYS = {
    "1 bit, black is transparent": (png((8, 1), 1, 0, [b"\x0f"], tRNS=b"\0\0"), [WHITE] * 8),
    "1 bit, white is transparent": (png((8, 1), 1, 0, [b"\x0f"], tRNS=b"\0\1"), [0] * 4 + [WHITE] * 4),
    "1 bit": (png((8, 1), 1, 0, [b"\x0f"]), [0] * 4 + [WHITE] * 4),
    "2 bits": (png((4, 1), 2, 0, [b"\x1b"], tRNS=b"\0\1"), [0, WHITE, 170, WHITE]),
    "4 bits": (png((4, 1), 4, 0, [b"\x05\xa0"], tRNS=b"\0\5"), [0, WHITE, 170, 0]),
    "8 bits": (png((4, 1), 8, 0, [b"\0\5\xa0\xff"], tRNS=b"\0\5"), [0, WHITE, 160, WHITE]),
    "16 bits": (png((3, 1), 16, 0, [b"\0\0\5\5\xa0\xa0"], tRNS=b"\5\5"), [0, WHITE, 160]),
    "16 bits, dark": (png((2, 1), 16, 0, [b"\0\0\5\5"]), [0, 5]),  # no brighter than any viewer shows it
    "16 bits with opacity": (png((2, 1), 16, 4, [b"\x10\x10\0\0\x20\x20\xff\xff"]), [WHITE, 32]),
    "16 bits, colour": (png((2, 1), 16, 2, [b"\1\1\2\2\3\3\x44\4\5\5\6\6"], tRNS=b"\1\1\2\2\3\3"), [WHITE, 68]),
    "palette of 1 bit": (png((8, 1), 1, 3, [b"\x0f"], PLTE=b"\0\0\0\x11\x22\x33", tRNS=b"\0"), [WHITE] * 4 + [17] * 4),
}


@pytest.mark.parametrize("name", GREYS)
def test_few_and_many_bits_and_their_transparent_value(name):
    assert grey_of(GREYS[name][0]) == GREYS[name][1]


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP.astype(np.uint16) * 257, "PNG"),
        (RAMP.astype(np.uint16) << 8, "PNG"),
        (RAMP.astype(np.uint16) * 257, "TIFF"),
        (RAMP.astype(np.uint16) * 257, "PPM"),
        (RAMP.astype(">u2") * np.uint16(257), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
        (RAMP.astype(np.int32) * 257, "TIFF"),
        (RAMP.astype(np.int32) * 100_000 - 5_000_000, "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32) / 255, "TIFF"),
        (RAMP.astype(np.float32) * 257, "TIFF"),
        (RAMP.astype(np.float32) * 1000 - 7000, "TIFF"),
    ],
)
def test_more_than_eight_bits_are_scaled_and_not_cut_off(values, kind):
    """Case 16."""
    assert grey_of(stored(Image.fromarray(values), kind)) == RAMP.ravel().tolist()


def test_floats_that_are_no_numbers_and_a_flat_picture():
    odd = np.array([[0, np.nan, 0.5, 1]], dtype=np.float32)
    assert grey_of(stored(Image.fromarray(odd), "TIFF")) == [0, 0, 128, 255]
    assert grey_of(stored(Image.fromarray(np.full((2, 2), -3, np.int32)), "TIFF")) == [0] * 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photograph_is_upright(kind, orientation):
    """Case 17, in every format that says how the camera was held."""
    options = {"lossless": True} if kind == "WEBP" else {}
    image = drawing(3, (84, 56))
    raw = turned(image, orientation, kind, **options)
    assert open_image(raw).size == (84, 56) and open_image(raw).tobytes() == image.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_ways_to_hold_a_camera(orientation):
    """By the standard's own words: which stored row and column are the top and the left side of what is seen."""
    scene = np.arange(6).reshape(2, 3)
    sides = {1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.T, 6: scene.T[::-1],
             7: scene.T[::-1, ::-1], 8: scene.T[:, ::-1]}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = stored(Image.fromarray(sides[orientation].astype(np.uint8)), exif=exif)
    assert np.asarray(open_image(raw))[..., 0].tolist() == scene.tolist()


def test_turned_and_transparent_and_16_bits_at_once():
    exif = Image.Exif()
    exif[0x0112] = 3
    deep = Image.fromarray(np.array([[0, 257 * 9]], dtype=np.uint16))
    assert grey_of(stored(deep, transparency=0, exif=exif)) == [9, WHITE]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\xff" * 40, b"rubbish"]
)
def test_a_damaged_tag_turns_nothing(exif):
    assert open_image(stored(NOISE, "PNG", exif=exif)).tobytes() == NOISE.tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "1", "L", "LA"])
def test_other_colour_spaces_look_the_same(mode):
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(NOISE, srgb, lab, outputMode="LAB")
    else:
        image = NOISE.convert(mode)
    wanted = NOISE.convert(mode).convert("RGB") if mode in ("1", "L", "LA") else NOISE
    found = np.asarray(open_image(stored(image, "TIFF")), dtype=int)
    assert np.abs(found - np.asarray(wanted)).mean() < 2


def test_four_inks_in_a_jpeg_are_not_taken_for_their_negative():
    for colour in ("white", "black", "red", "yellow"):
        seen = open_image(stored(Image.new("RGB", (32, 32), colour).convert("CMYK"), "JPEG"))
        assert np.abs(np.asarray(seen, int) - np.asarray(Image.new("RGB", (32, 32), colour), int)).max() < 8


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (3, 3), (1, 50), (40, 3), (200, 1), (1, 200)])
def test_the_smallest_pictures_reach_the_processor(size, tiny_model):
    """Its channels are not taken for its rows: a picture of three rows has as many as channels."""
    image = Image.frombytes("RGB", size, random.Random(1).randbytes(3 * size[0] * size[1]))
    raw = stored(image)
    check_image(raw)
    process = load_processor(str(tiny_model)).image_processor
    found = process(images=[open_image(raw)], return_tensors="pt")["pixel_values"]
    known = process(images=[np.asarray(image)], input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    assert found.equal(known)


# ------------------------------------------------------------------------------------------------------- refused


@pytest.fixture(params=[89_478_485, 10**9], ids=["Pillow's limit", "lifted"])
def pillows_limit(request, monkeypatch):
    """VLMEvalKit lifts it where it is imported."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", request.param)


def bomb(width: int, height: int) -> bytes:
    return png((width, height), 8, 2, [b""])


REFUSED = {
    "empty": (b"", "the file is empty"),
    "web page": (b"<!DOCTYPE html><html><body>404", "not a picture, it begins with b'<!DOCTYPE html><html><"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "not a picture, it begins with b'version https://git-lfs"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "text": (b"not an image", "not a picture"),
    "png, cut": (stored(NOISE)[:5000], "truncated"),
    "png, header only": (stored(NOISE)[:40], ""),
    "png, damaged": (stored(NOISE)[:3000] + b"\0" * 600 + stored(NOISE)[3600:], ""),
    "jpeg, cut": (stored(NOISE, "JPEG")[:1500], "truncated"),
    "jpeg, last bytes": (stored(NOISE, "JPEG")[:-60], "truncated"),
    "jpeg, progressive, cut": (stored(NOISE, "JPEG", progressive=True)[:2500], "truncated"),
    "webp, cut": (stored(NOISE, "WEBP")[:900], ""),
    "gif, cut": (stored(NOISE, "GIF")[:1500], ""),
    "tiff, cut": (stored(NOISE, "TIFF")[:900], ""),
    "strip": (stored(Image.new("RGB", (1204, 4))), "1204 x 4 pixels: this model family takes no picture with one side more"),
    "column": (stored(Image.new("RGB", (1, 201))), "1 x 201 pixels: this model family takes"),
    "strip, turned": (turned(Image.new("RGB", (1204, 4)), 6, "PNG"), "4 x 1204 pixels: this model family takes"),
    "bomb": (bomb(60_000, 60_000), "more than 178956970 pixels"),
    "large bomb": (bomb(13_400, 13_400), "more than 178956970 pixels"),
}  # fmt: skip


@pytest.mark.usefixtures("pillows_limit")
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_model_can_be_shown_is_refused_with_the_reason(name, tmp_path):
    """Cases 18 and 19. The same reason for a file and for its bytes, and not a word of objects in memory."""
    raw, words = REFUSED[name]
    path = tmp_path / "x.jpg"
    path.write_bytes(raw)
    with pytest.raises(UnreadableImage) as error:
        check_image(raw)
    assert words in str(error.value) and "\n" not in str(error.value) and " at 0x" not in str(error.value)
    assert str(image_faults([path, path])[path]) == str(error.value)
    assert error.value.reason == ("image_shape" if "model family" in words else "image")


@pytest.mark.parametrize("name", ["gone.png", "", "a\0b.png", "x" * 400])
def test_a_name_without_a_picture(name, tmp_path):
    path = tmp_path / name
    assert list(image_faults([path])) == [path]
    with pytest.raises(UserError, match=r"^image .* cannot be read \(.+\); replace the file or drop its row$"):
        open_image(path)


def test_the_limit_of_shapes_is_the_model_familys():
    for long in (MAX_ASPECT, MAX_ASPECT + 1):
        allowed = long <= MAX_ASPECT
        for size in ((7, 7 * long), (7 * long, 7)):
            assert (not _refused(lambda size=size: smart_resize(*size))) == allowed
            assert (not _refused(lambda size=size: check_image(stored(Image.new("L", size))))) == allowed


def _refused(call) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def test_sizes_are_read_without_decoding(tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(stored(NOISE)[:200])
    assert image_size(cut) == image_size(cut.read_bytes()) == (84, 56)
    with pytest.raises(UnreadableImage):
        image_size(b"x")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_is_never_another_error():
    """Whatever decoders raise becomes a reason, or the damage leaves a picture."""
    rng, files = random.Random(0), [encode(drawing(1)) for _, encode in ENCODINGS.values()]
    for raw in files:
        for _ in range(40):
            broken = bytearray(raw)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            for use in (check_image, open_image, image_size):
                try:
                    use(bytes(broken[: rng.randint(1, len(broken))] if rng.random() < 0.3 else broken))
                except UserError as e:
                    assert "\n" not in str(e)


def test_encodings_are_more_than_pillow_gets_right():
    """The test above would pass on plain copies: most encodings differ under Pillow's own conversion."""
    wrong = [
        name
        for name, (plain, encode) in ENCODINGS.items()
        if encodings.decoded(encode(drawing(1))).tobytes() != plain(drawing(1)).convert("RGB").tobytes()
    ]
    assert len(wrong) >= 11


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_file_that_is_no_picture_is_closed(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImage):
            check_image(tmp_path / "x.png")
    assert not found
