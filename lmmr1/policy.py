"""The model and its processor: loading, encoding prompts, and the one forward over unique prompts that all share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lmmr1.checkpoint import locate, read_model, read_processor, render, require_finite, require_fit, stop_tokens
from lmmr1.hf import BaseModelOutputWithPooling
from lmmr1.images import open_image
from lmmr1.types import Sample, UserError

CACHED_IMAGES = 1024
"""Images whose features are kept while the vision tower is frozen: about 1 MB each for 256 tokens of a 3B model."""


@dataclass
class Policy:
    """A Qwen2.5-VL-architecture model with its processor.

    `version` counts optimizer steps: a prompt forward is shared by sampler and learner only while it stands still.
    """

    model: Any
    processor: Any
    source: str
    """Checkpoint folder or Hub id."""
    pad_id: int
    """Token that fills rows up."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion, whichever comes first."""
    revision: str | None = None
    """The commit that was loaded, where `source` is a Hub id."""
    version: int = 0
    peft: Any = None
    """peft's wrapper of `model`, where adapters are trained (lora.py)."""
    adapters: bool = True
    """False computes without them: the reference."""
    masters: dict[str, torch.nn.Parameter] = field(default_factory=dict)
    """fp32 weights that the optimizer moves in the place of the model's bf16 ones, by name (precision.py)."""
    untrained: dict[str, torch.Tensor] = field(default_factory=dict)
    """The other weights of a bf16 model as they were loaded, fp32 on the CPU: they are saved as they came."""
    _shared: tuple[tuple[Any, ...], Prefix] | None = None
    _features: OrderedDict[Path, torch.Tensor] = field(default_factory=OrderedDict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """What the optimizer moves, by name: the model's own weights, their shards or their masters."""
        params = self.model.named_parameters()
        return {name: self.masters.get(name, param) for name, param in params if param.requires_grad}

    @property
    def head(self) -> torch.Tensor:
        """(V, H) output embedding."""
        return self.model.lm_head.weight

    @property
    def context(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self.model.config.get_text_config().max_position_embeddings

    def render(self, sample: Sample) -> str:
        """The prompt as text: the chat template with the generation prompt. Raises UserError where it refuses."""
        return render(self.processor, sample.messages, f"{self.source}, sample {sample.id!r}")

    def encode(self, samples: Sequence[Sample], max_prompt_length: int) -> dict[str, torch.Tensor]:
        """Processor output for P prompts, left-padded: input_ids (P, T), attention_mask (P, T), pixel_values, ...

        Raises UserError where a prompt is longer than `max_prompt_length` tokens or its images and marks do not match.
        """
        texts, images = self._texts_and_images(samples)
        batch = self.processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        _require_short(samples, batch["attention_mask"].sum(1).tolist(), max_prompt_length)
        return {k: v.to(self.device) for k, v in batch.items()}

    def encode_rows(self, samples: Sequence[Sample], max_prompt_length: int) -> dict[str, Any]:
        """As `encode`, without padding: input_ids is a list of P tensors (T,); pixel_values and image_grid_thw follow
        where there are images. Raises UserError as `encode`."""
        texts, images = self._texts_and_images(samples)
        batch = self.processor(text=texts, images=images, images_kwargs={"return_tensors": "pt"})
        _require_short(samples, [len(ids) for ids in batch["input_ids"]], max_prompt_length)
        ids = [torch.tensor(ids, device=self.device) for ids in batch["input_ids"]]
        pixels = {k: batch[k].to(self.device) for k in ("pixel_values", "image_grid_thw") if k in batch}
        return {"input_ids": ids, **pixels}

    def _texts_and_images(self, samples: Sequence[Sample]) -> tuple[list[str], list[Image.Image] | None]:
        """Rendered prompts and all their images. Raises UserError where images and marks do not match."""
        texts, images = [self.render(s) for s in samples], []
        token = self.processor.image_token
        for sample, text in zip(samples, texts, strict=True):
            if text.count(token) != len(sample.images):
                raise UserError(
                    f"sample {sample.id!r}: {len(sample.images)} images but {text.count(token)} marks {token} in it"
                )
            images += [open_image(path) for path in sample.images]
        return texts, images or None

    def prefix(self, samples: Sequence[Sample], max_prompt_length: int, grad: bool, keep: bool = False) -> Prefix:
        """Forward over P unique prompts. What was kept is handed out, once, where the same prompts are asked for with
        `grad` at the same version: sampler and learner then compute them together."""
        tag = (tuple(s.id for s in samples), self.version, max_prompt_length)
        shared = self._shared
        if grad and not keep:
            self._shared = None  # whoever goes back through it frees it
        if grad and shared and shared[0] == tag:
            return shared[1]
        with torch.set_grad_enabled(grad), self.computing():
            prefix = Prefix.forward(self.model, self.with_features(samples, self.encode(samples, max_prompt_length)))
        if keep:
            self._shared = (tag, prefix)
        return prefix

    def with_features(self, samples: Sequence[Sample], batch: dict[str, Any]) -> dict[str, Any]:
        """Where the vision tower is frozen, replace pixels by cached features, (tokens, H) per image file."""
        visual = self.model.model.visual
        if "pixel_values" not in batch or any(p.requires_grad for p in visual.parameters()):
            return batch
        paths, grids = [p for s in samples for p in s.images], batch["image_grid_thw"]
        pixels = batch["pixel_values"].split(grids.prod(1).tolist())
        missing = {p: i for i, p in enumerate(paths) if p not in self._features}
        if missing:
            with torch.no_grad():
                chosen = torch.cat([pixels[i] for i in missing.values()]), grids[list(missing.values())]
                new = self.model.model.get_image_features(*chosen, return_dict=True).pooler_output
            self._features.update(zip(missing, new, strict=True))
        images = tuple(self._features[p] for p in paths)
        while len(self._features) > CACHED_IMAGES:
            self._features.popitem(last=False)
        rest = {k: v for k, v in batch.items() if k != "pixel_values"}
        features = BaseModelOutputWithPooling(pooler_output=images)  # type: ignore[arg-type]  # one tensor per image
        return rest | {"mm_encoder_outputs": {"image": features}}

    def reference(self) -> Policy:
        """The same weights without their adapters."""
        return replace(self, adapters=False, _shared=None)

    def computing(self) -> AbstractContextManager[None]:
        """Around every read of the weights: switches the adapters off where this is the reference."""
        return self.peft.disable_adapter() if self.peft is not None and not self.adapters else nullcontext()

    @torch.no_grad()
    def stepped(self) -> None:
        """Tell the policy that what it trains changed."""
        params = dict(self.model.named_parameters()) if self.masters else {}
        for name, master in self.masters.items():
            params[name].copy_(master)
        self.version += 1
        self._shared = None


@dataclass
class Prefix:
    """Keys and values of P prompts for every layer, and the hidden state that predicts the first completion token.

    The learner's backward passes stop at the leaves, until `backward` pushes what they left through prompt and vision.
    """

    kv: list[tuple[torch.Tensor, torch.Tensor]]
    """Per layer keys and values, (P, KV heads, T, head dim)."""
    last: torch.Tensor
    """(P, H)"""
    mask: torch.Tensor
    """(P, T) 1 at real tokens, left-padded."""
    next_position: torch.Tensor
    """(P,) M-RoPE position of the first completion token in all three components: the prompt's largest + 1."""
    kv_leaves: list[tuple[torch.Tensor, torch.Tensor]]
    last_leaf: torch.Tensor
    input_ids: torch.Tensor
    """(P, T) the prompts' tokens."""

    @classmethod
    def forward(cls, model: Any, batch: dict[str, torch.Tensor]) -> Prefix:
        """One forward of the Hugging Face model: vision tower, image merge, 3-D M-RoPE and padding are all its own."""
        mask = batch["attention_mask"]
        if "image_grid_thw" in batch:
            keys = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
            positions, _ = model.model.get_rope_index(**{k: batch[k] for k in keys})
        else:
            positions = (mask.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
        out = model.model(**batch, position_ids=positions, use_cache=True)
        kv = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        last = out.last_hidden_state[:, -1]
        leaves = [(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in kv]
        next_position = positions.masked_fill(mask[None] == 0, 0).amax((0, 2)) + 1
        return cls(kv, last, mask, next_position, leaves, last.detach().requires_grad_(), batch["input_ids"])

    def padding(self, row: int) -> int:
        """Padding tokens before prompt `row`."""
        return int(self.mask.size(1) - self.mask[row].sum())

    def backward(self) -> None:
        """Push the gradients collected at the leaves through the prompts, once for all groups."""
        pairs = [
            (o, leaf.grad)
            for layer, leaves in zip(self.kv, self.kv_leaves, strict=True)
            for o, leaf in zip(layer, leaves, strict=True)
        ]
        pairs = [p for p in [*pairs, (self.last, self.last_leaf.grad)] if p[1] is not None and p[0].requires_grad]
        if pairs:
            torch.autograd.backward([p[0] for p in pairs], [p[1] for p in pairs])


def _require_short(samples: Sequence[Sample], lengths: Sequence[int], max_prompt_length: int) -> None:
    """Raise UserError where the longest prompt has more than `max_prompt_length` tokens."""
    if max(lengths) > max_prompt_length:
        worst = lengths.index(max(lengths))
        raise UserError(
            f"sample {samples[worst].id!r}: prompt of {lengths[worst]} tokens is longer than "
            f"max_prompt_length {max_prompt_length}; raise the limit or shorten the prompt"
        )


def load_policy(
    source: str,
    revision: str | None = None,
    trainable: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    dtype: torch.dtype | None = None,
) -> Policy:
    """Load a checkpoint folder, or a Hub id at a commit (None: its newest). Raises UserError where it is neither, not
    whole, or an architecture that we cannot train.

    Without `dtype`: bf16 on a GPU for inference, fp32 on a CPU and for what is trained.
    """
    folder, revision = locate(source, revision)
    processor = read_processor(folder, min_pixels, max_pixels)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype or (torch.bfloat16 if device == "cuda" and not trainable else torch.float32)
    model = read_model(folder, dtype).to(device)
    require_fit(model, processor, folder)
    require_finite(model.named_parameters(), folder)
    use_linear_patch_embedding(model)
    tokenizer = processor.tokenizer
    model.requires_grad_(trainable)
    stop_ids = stop_tokens(tokenizer, model.generation_config)
    return Policy(model.train(trainable), processor, source, tokenizer.pad_token_id, stop_ids, revision)


def use_linear_patch_embedding(model: Any) -> None:
    """Replace the patch embedding's Conv3d (kernel = stride) by the equal matrix product: 9 times faster on CPU."""
    patch = model.model.visual.patch_embed
    patch.forward = lambda pixels: F.linear(pixels.to(patch.proj.weight.dtype), patch.proj.weight.flatten(1))


class _OneLayer:
    """Stands for a cache inside a checkpointed layer, which runs twice: keeps keys and values, appends nothing."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.kept = keys, values
        return self.kept


def recompute_layers(model: Any) -> None:
    """Gradient checkpointing for prompts and images. Hugging Face's own drops the keys and values that we need."""
    if any(p.requires_grad for p in model.model.visual.parameters()):
        model.model.visual.gradient_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(model.model.language_model.layers):
        layer.forward = partial(_recomputed, layer.forward, index)


def _recomputed(forward: Any, index: int, hidden: torch.Tensor, past_key_values: Any, **others: Any) -> torch.Tensor:
    """A decoder layer's forward that keeps its input, its output and the prompt's keys and values, and nothing else."""

    def inside(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cache = _OneLayer()
        return forward(x, past_key_values=cache, **others), *cache.kept

    out, keys, values = checkpoint(inside, hidden, use_reentrant=False)
    past_key_values.update(keys, values, index)
    return out
