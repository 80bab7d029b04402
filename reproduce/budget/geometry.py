"""The shape of a Qwen2.5-VL model: parameters and the sizes that time and memory are computed from. Torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmr1.config import FUSED_BELOW
from lmmr1.lines import from_json
from lmmr1.types import UserError


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of the text layers and of the vision tower; every field is a number of units, heads, layers or values."""

    name: str
    """Where the numbers are from: a config.json, or the released 3B model's."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    patch_values: int
    """Values of one patch: channels x frames x height x width."""
    merged: int
    """Patches per visual token of the text layers (the square of the spatial merge size)."""

    @property
    def layer_weights(self) -> int:
        """Weights of the text layers that multiply a token (N_l)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the output embedding (N_h)."""
        return self.vocab * self.hidden

    @property
    def vision_weights(self) -> int:
        """Weights of the vision blocks that multiply a patch (N_vit)."""
        return self.vision_depth * self.vision_hidden * (4 * self.vision_hidden + 3 * self.vision_intermediate)

    @property
    def merger_weights(self) -> int:
        """Weights of the merger that multiply a visual token (N_merge)."""
        wide = self.merged * self.vision_hidden
        return wide * (wide + self.hidden)

    @property
    def text_parameters(self) -> int:
        """All parameters of the text model, norms, biases and embeddings included."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim
        rest = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.layer_weights + rest + self.head_weights * (1 if self.tied else 2)

    @property
    def vision_parameters(self) -> int:
        """All parameters of the vision tower, its patch embedding and its merger."""
        h, wide = self.vision_hidden, self.merged * self.vision_hidden
        block_rest = 4 * h + 2 * self.vision_intermediate + 3 * h
        rest = self.vision_depth * block_rest + h * self.patch_values + h + wide + self.hidden
        return self.vision_weights + self.merger_weights + rest

    @property
    def parameters(self) -> int:
        """Parameters in all."""
        return self.text_parameters + self.vision_parameters

    def kv_bytes(self, value_bytes: int = 2) -> int:
        """Bytes of keys and values that one token keeps; 2 bytes a value is bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * value_bytes

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of `rank` on every linear layer of the text model (Hu et al. 2021)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends

    @property
    def fused_copies(self) -> int:
        """Values in the fused copies of query, key, value, gate and up that a small model has (lmmr1/suffix.py)."""
        if self.hidden >= FUSED_BELOW:
            return 0
        qkv = self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)
        return self.layers * (qkv + 2 * self.hidden * self.intermediate)


QWEN_3B = Geometry(
    name="Qwen2.5-VL-3B", layers=36, hidden=2048, heads=16, kv_heads=2, head_dim=128, intermediate=11008, vocab=151_936,
    tied=True, vision_depth=32, vision_hidden=1280, vision_intermediate=3420, patch_values=1176, merged=4,
)  # fmt: skip
"""The released config.json of Qwen2.5-VL-3B-Instruct: what is assumed where a model is not on this machine."""

MICRO = Geometry(
    name="micro", layers=3, hidden=96, heads=3, kv_heads=3, head_dim=32, intermediate=192, vocab=297, tied=True,
    vision_depth=1, vision_hidden=64, vision_intermediate=128, patch_values=1176, merged=4,
)  # fmt: skip
"""The micro world's model (reproduce/micro/model.py), which does not exist before it is pretrained."""


def geometry_of(model: str | None) -> Geometry:
    """The geometry of a local checkpoint folder; of the 3B model for a Hub id. Raises UserError on a bad config.json.

    A Hub id is never fetched: an estimate needs no network. Ids that do not say 3B are refused rather than guessed.
    """
    if model and (folder := Path(model)).exists():
        return read_geometry(folder / "config.json")
    if model and "3b" not in model.lower():
        raise UserError(
            f"base_model {model}: not a local folder, and its size is not known here; download it and give the folder"
        )
    return QWEN_3B


def read_geometry(path: Path) -> Geometry:
    """A Qwen2.5-VL config.json, in the released flat form or with a `text_config`. Raises UserError naming the file."""
    try:
        config = from_json(path.read_text(encoding="utf-8"))
        return _from_config(config, str(path))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a checkpoint folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not JSON ({e}); download the checkpoint again") from None
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as e:
        raise UserError(f"{path}: not the config of a Qwen2.5-VL model ({type(e).__name__}: {e})") from None


def _from_config(config: dict[str, Any], name: str) -> Geometry:
    text, vision = config.get("text_config") or config, config["vision_config"]
    heads, hidden = text["num_attention_heads"], text["hidden_size"]
    patch, frames = vision.get("patch_size", 14), vision.get("temporal_patch_size", 2)
    channels = vision.get("in_channels", vision.get("in_chans", 3))
    return Geometry(
        name=name, layers=text["num_hidden_layers"], hidden=hidden, heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads, head_dim=text.get("head_dim") or hidden // heads,
        intermediate=text["intermediate_size"], vocab=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        vision_depth=vision["depth"], vision_hidden=vision["hidden_size"],
        vision_intermediate=vision["intermediate_size"], patch_values=channels * frames * patch * patch,
        merged=vision.get("spatial_merge_size", 2) ** 2,
    )  # fmt: skip
