"""LoRA on the text layers. Adapters, their files and merging are peft's; the core computes with base + scaling B A.

Low-Rank Adaptation, arXiv 2106.09685. The reference of a KL term is the same model with its adapters switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lmmr1.config import LoraConfig
from lmmr1.types import UserError

TEXT_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))


def add_adapters(model: Any, cfg: LoraConfig) -> Any:
    """Put adapters into the text layers, freeze everything else, and return peft's wrapper of `model`.

    Raises UserError where peft is not installed, and for adapters that `suffix.py` does not compute.
    """
    try:
        import peft
    except ImportError as e:
        raise UserError(f"lora: peft is not usable here ({e}); pip install 'lmmr1[peft]'") from None
    if cfg.dropout or not set(cfg.target_modules) <= TEXT_MODULES:
        raise UserError(
            f"lora: dropout {cfg.dropout} on {', '.join(cfg.target_modules)}; this trainer has adapters without "
            f"dropout on {', '.join(sorted(TEXT_MODULES))} of the text layers; or set trainer: trl"
        )
    layers = rf".*language_model\.layers\..*\.({'|'.join(cfg.target_modules)})"  # the vision blocks have such names too
    settings = peft.LoraConfig(r=cfg.r, lora_alpha=cfg.alpha, lora_dropout=0.0, bias="none", target_modules=layers)
    return peft.get_peft_model(model, settings)


def effective_weight(linear: Any) -> torch.Tensor:
    """The (out, in) weight that a layer computes with: its own, or base + scaling B A, with gradient to both."""
    if not hasattr(linear, "lora_A") or linear.disable_adapters:
        return linear.weight
    (adapter,) = linear.active_adapters
    return (linear.weight + linear.get_delta_weight(adapter)).to(linear.weight.dtype)  # adapters are fp32 on any base


def computing_layer(linear: Any) -> Any:
    """The layer that computes with `effective_weight`: itself, or what its adapters were put on where they are off."""
    return linear.base_layer if hasattr(linear, "lora_A") and linear.disable_adapters else linear


@torch.no_grad()
def merged_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values that the model would have without adapters: one after another, merged where there are some."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name, param in model.named_parameters():
        if ".lora_" in name:
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        yield name.replace(".base_layer", ""), (param if layer is None else effective_weight(layer)).detach()


def save_adapters(wrapped: Any, folder: Path) -> None:
    """Write the adapters in peft's format; then merge them, for good, into the model that was wrapped.

    In fp32 also where the base is bf16: a change of 1e-6 would be lost in a bf16 weight of 0.02.
    """
    wrapped.save_pretrained(folder)
    wrapped.float().merge_and_unload()
