"""A checkpoint's parts, each tried once on something tiny, since names and shapes that fit may still not compute.

A real problem would meet the same error in the middle of a run, or a score would be made of numbers that are none.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from lmmr1.checkpoint_files import AGAIN, read_object
from lmmr1.exits import shortage
from lmmr1.hf import AutoModelForImageTextToText
from lmmr1.types import UserError

THESE = "take the {} that belongs to these weights"
SEEN = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Settings of the image processor that decide what the model sees of a picture."""


@contextlib.contextmanager
def loading(path: Path, what: str, verb: str = "loaded", fix: str = AGAIN) -> Iterator[None]:
    """Inside, transformers loads or tries `what`, without a word: all that it raises for a bad file becomes one
    UserError."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    said = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # it has no errors of its own: KeyError, TypeError, ZeroDivisionError, ...
        if isinstance(e, torch.OutOfMemoryError) or shortage(e):
            raise
        reason = f"{type(e).__name__}: {' '.join(str(e).replace(str(path), path.name).split())[:160]}"
        raise UserError(f"{path}: {what} cannot be {verb} ({reason}); {fix}") from None
    finally:
        transformers_logging.set_verbosity(said)


def try_processor(processor: Any, prompt: str, folder: Path) -> None:
    """Prepare a black and a white picture, of no handy size, with the `prompt` of a question with one image.

    Raises UserError where that fails, gives no finite numbers, or the same for both.
    """
    whole = folder / "processor_config.json"
    inside = whole.exists() and "image_processor" in read_object(whole)  # else it lies beside, as older releases had it
    file = whole.name if inside else "preprocessor_config.json"
    images, fix = processor.image_processor, THESE.format(file)
    least, most = images.size.get("shortest_edge"), images.size.get("longest_edge")
    if isinstance(least, int) and isinstance(most, int) and not 0 < least <= most:
        raise UserError(f"{folder / file}: size: no area is from shortest_edge {least} to longest_edge {most}; {fix}")
    pictures = [Image.new("RGB", (45, 61), colour) for colour in ("black", "white")]
    with loading(folder / file, "a picture", f"prepared with {_unusual(images) or 'these settings'}", fix):
        pixels = processor(text=[prompt, prompt], images=pictures, images_kwargs={"return_tensors": "pt"}).pixel_values
    if not pixels.isfinite().all():
        raise UserError(f"{folder / file}: pixels become NaN or infinite ({_unusual(images)}); {fix}")
    if torch.equal(*pixels.chunk(2)):
        raise UserError(f"{folder / file}: a black and a white picture become the same ({_unusual(images)}); {fix}")


@torch.no_grad()
def try_model(config: Any, folder: Path) -> None:
    """One forward over an image and a text by a model of these settings, but few layers and tokens, drawn at random.

    Raises UserError where that fails or gives no finite numbers.
    """
    path, fix = folder / "config.json", THESE.format("config.json")
    with loading(path, f"a model{_doubtful(config)}", "computed", fix), torch.random.fork_rng(devices=[]):
        _require_rope(config.get_text_config(), path, fix)
        small = _shrunk(config)
        model = AutoModelForImageTextToText.from_config(small, dtype=torch.float32).eval()
        vision, mark = small.vision_config, small.image_token_id
        merge, side = vision.spatial_merge_size, vision.patch_size
        grid = torch.tensor([[1, 2 * merge, 3 * merge]])
        size = (int(grid.prod()), vision.in_channels * vision.temporal_patch_size * side * side)
        ids = torch.tensor([[0, *6 * [mark], 0]])
        batch = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == mark).int(),
            "image_grid_thw": grid,
        }  # fmt: skip
        positions, _ = model.model.get_rope_index(**batch)
        pixels = torch.linspace(-1, 1, math.prod(size)).reshape(size)
        found = model.model(**batch, pixel_values=pixels, position_ids=positions).last_hidden_state
    if not found.isfinite().all():
        raise UserError(f"{path}: a model{_doubtful(config)} computes NaN or infinity; {fix}")


def _require_rope(text: Any, path: Path, fix: str) -> None:
    """Raise UserError where the axes of a position do not share a head among them: torch would name no setting."""
    section, heads = text.rope_parameters.get("mrope_section"), text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    if section is not None and 2 * sum(section) != width:
        need = f"{heads} heads (num_attention_heads) of width {width} need {width // 2}"
        raise UserError(f"{path}: mrope_section {section} sums to {sum(section)}, and {need}; {fix}")


def _shrunk(config: Any) -> Any:
    """The settings with little of what is there many times."""
    small = copy.deepcopy(config)
    text, vision = small.get_text_config(), small.vision_config
    text.num_hidden_layers, text.layer_types = 1, ["full_attention"]
    vision.depth = min(vision.depth, 2)
    text.intermediate_size = vision.intermediate_size = 8
    text.vocab_size, text.pad_token_id = 8, None
    for number, name in enumerate(("image", "video", "vision_start", "vision_end"), 1):
        setattr(small, f"{name}_token_id", number)
    return small


def _doubtful(config: Any) -> str:
    """Settings that are no sizes: whole numbers that are not positive, others that are negative, NaN or infinite."""
    parts = (config.get_text_config().to_diff_dict(), config.vision_config.to_diff_dict())
    found = [
        f"{name} {value}"
        for part in parts
        for name, value in part.items()
        if (type(value) is int and value < 1 and not name.endswith("_id"))
        or (type(value) is float and not 0 <= value < math.inf)
    ]
    return f" with {', '.join(found)}" if found else " of these settings"


def _unusual(images: Any) -> str:
    """What an image processor does otherwise than its kind."""
    own = {name: getattr(images, name, None) for name in SEEN}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
    return ", ".join(f"{name} {value}" for name, value in plain.items() if value != getattr(type(images), name, None))
