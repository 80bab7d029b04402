"""Prompts of an evaluation: no gradient, no padding, and what all of them begin with is computed once.

An evaluation asks hundreds of short questions under one long instruction. The keys and values of that beginning are
kept from batch to batch (`Head`); the rest of each prompt stands in one row with the others, and the last layer
computes each prompt's last token alone. tests/test_packed.py compares it with the Hugging Face model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from lmmr1.config import SamplingConfig
from lmmr1.policy import Policy, Prefix
from lmmr1.rollout import HFEngine
from lmmr1.suffix import Head, TextWeights, rope, signed_tables
from lmmr1.types import Sample

WORTHWHILE = 32
"""Tokens by which a common beginning must be longer than the kept one before it is computed and kept instead."""


class PackedEngine(HFEngine):
    """Samples as `HFEngine` does, from prompts that are computed without padding and share their beginning."""

    def __init__(self, policy: Policy) -> None:
        """`policy` must not be trained meanwhile: what is kept of its prompts is never computed again."""
        super().__init__(policy)
        for block in policy.model.model.visual.blocks:
            use_batched_windows(block.attn)
        self._head: Head | None = None
        self._previous: torch.Tensor | None = None

    def prompts(self, samples: Sequence[Sample], sampling: SamplingConfig, keep: bool) -> tuple[Prefix, Head | None]:
        """The prompts without the tokens that they share, and the keys and values of those; no learner needs them."""
        policy = self.policy
        with torch.inference_mode():
            w = TextWeights.of(policy.model, grad=False)
            batch = policy.with_features(samples, policy.encode_rows(samples, sampling.max_prompt_length))
            rows = Rows.of(policy.model, batch)
            head = self._shared(w, rows)
            return forward(policy.model, w, rows, head), head

    def _shared(self, w: TextWeights, rows: Rows) -> Head | None:
        """What all prompts begin with, as far as it is kept; where much more than that is common, that is kept now."""
        common = rows.common(self._previous)
        self._previous = rows.ids[0]
        kept = agreeing(common, self._head.ids) if self._head else 0
        if common.numel() - kept > WORTHWHILE:
            self._head, kept = head_of(self.policy.model, w, common), common.numel()
        return self._head.first(kept) if self._head and kept else None


@dataclass(frozen=True, slots=True)
class Rows:
    """P prompts of unequal length, or what is left of them without a common beginning; all lists have P items."""

    ids: list[torch.Tensor]
    """(T,) tokens."""
    embedded: list[torch.Tensor]
    """(T, H) embeddings, image features in place."""
    positions: list[torch.Tensor]
    """(3, T) M-RoPE positions."""
    images_from: list[int]
    """Tokens before the first image's; T without one."""

    @classmethod
    def of(cls, model: Any, batch: dict[str, Any]) -> Rows:
        """From `Policy.encode_rows`, with features instead of pixels.

        Raises ValueError where it has pixels: the features of a vision tower that is trained are not kept.
        """
        if "pixel_values" in batch:
            raise ValueError("pixels where image features are expected; freeze the vision tower")
        ids: list[torch.Tensor] = batch["input_ids"]
        lengths, flat = [len(t) for t in ids], torch.cat(ids)
        embedded, is_image = model.get_input_embeddings()(flat), flat == model.config.image_token_id
        if "mm_encoder_outputs" in batch:
            embedded[is_image] = torch.cat(batch["mm_encoder_outputs"]["image"].pooler_output).to(embedded.dtype)
        marks = list(is_image.split(lengths))
        first = [int(mark.float().argmax()) if bool(mark.any()) else len(mark) for mark in marks]
        positions = _positions(model, ids, marks, batch.get("image_grid_thw"))
        return cls(ids, list(embedded.split(lengths)), positions, first)

    def common(self, previous: torch.Tensor | None) -> torch.Tensor:
        """Tokens that all prompts, and `previous`, begin with: text only, and never a whole prompt."""
        others = self.ids[1:] + ([] if previous is None else [previous])
        common = self.ids[0][: min([*self.images_from, *(len(ids) - 1 for ids in self.ids)]) if others else 0]
        for other in others:
            common = common[: agreeing(common, other)]
        return common

    def after(self, n: int) -> Rows:
        """The prompts without their first `n` tokens."""
        return Rows(
            [t[n:] for t in self.ids],
            [t[n:] for t in self.embedded],
            [t[:, n:] for t in self.positions],
            [max(at - n, 0) for at in self.images_from],
        )


def _positions(
    model: Any, ids: list[torch.Tensor], marks: list[torch.Tensor], grids: torch.Tensor | None
) -> list[torch.Tensor]:
    """(3, T) M-RoPE positions of each prompt; `marks` (T,) are True at image tokens, `grids` (images, 3) in order."""
    out, used = [], 0
    merged = model.config.vision_config.spatial_merge_size**2
    for tokens, mark in zip(ids, marks, strict=True):
        found, until = int(mark.sum()), used
        if found == 0:
            out.append(torch.arange(len(tokens), device=tokens.device).expand(3, -1))
            continue
        while found > 0 and grids is not None:
            found, until = found - int(grids[until].prod()) // merged, until + 1
        grid = None if grids is None else grids[used:until]
        position, _ = model.model.get_rope_index(tokens[None], mark[None].int(), image_grid_thw=grid)
        out.append(position[:, 0])
        used = until
    return out


def agreeing(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many tokens `a` and `b` have in common at their beginning."""
    n = min(len(a), len(b))
    different = (a[:n] != b[:n]).nonzero()
    return int(different[0]) if len(different) else n


def head_of(model: Any, w: TextWeights, ids: torch.Tensor) -> Head:
    """Keys and values of `ids` (S,): text at the beginning of a prompt, whose positions are 0 to S - 1."""
    positions = torch.arange(len(ids), device=ids.device).expand(3, -1)
    prefix = forward(model, w, Rows([ids], [w.embedding[ids]], [positions], [len(ids)]), None)
    return Head(ids, [k[0] for k, _ in prefix.kv], [v[0] for _, v in prefix.kv])


def forward(model: Any, w: TextWeights, rows: Rows, head: Head | None) -> Prefix:
    """The text layers over all prompts; the prefix holds no token of `head`, which every prompt begins with."""
    rows = rows.after(head.length if head else 0)
    lengths, width = [len(ids) for ids in rows.ids], w.embedding.size(1)
    longest, device = max(lengths), w.embedding.device
    mask = torch.stack([torch.arange(longest, device=device) >= longest - n for n in lengths])
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1
    positions = torch.cat(rows.positions, 1)
    cos, sin = (t[0, :, None] for t in signed_tables(model, positions[:, None]))
    x, kv = torch.cat(rows.embedded), []
    causal = _causal(longest, head.length if head else 0, x)
    for index, layer in enumerate(w.layers):
        qkv = layer.qkv(F.rms_norm(x, (width,), layer.norm1, w.eps))
        qk, v = qkv.view(-1, w.heads + 2 * w.kv_heads, w.head_dim).split([w.heads + w.kv_heads, w.kv_heads], 1)
        q, k = rope(qk, cos, sin).split([w.heads, w.kv_heads], 1)
        kv.append((_grid(k, mask), _grid(v, mask)))
        if index == len(w.layers) - 1:
            x, q = x[ends], q[ends]
        before = head.layer(index) if head else None
        parts = zip(q.split(lengths if len(q) == len(k) else 1), k.split(lengths), v.split(lengths), strict=True)
        x = layer.out.add(x, torch.cat([_attend(*part, before, causal) for part in parts]))
        gate, up = layer.gate_up(F.rms_norm(x, (width,), layer.norm2, w.eps)).chunk(2, -1)
        x = layer.down.add(x, F.silu(gate) * up)
    last = F.rms_norm(x, (width,), w.norm, w.eps)
    next_position = torch.stack([p.max() + 1 for p in rows.positions])
    ids = torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, torch.cat(rows.ids))
    return Prefix(kv, last, mask.long(), next_position, [], last, ids)


def use_batched_windows(attention: Any) -> None:
    """Let a vision layer attend in all windows of one length at once, instead of in one after the other."""

    def attend(
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        n, heads = hidden_states.size(0), attention.num_heads
        q, k, v = attention.qkv(hidden_states).view(n, 3, heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        mixed, sizes = torch.empty_like(v), cu_seqlens.diff()
        for size in sizes[sizes > 0].unique().tolist():
            at = (cu_seqlens[:-1][sizes == size, None] + torch.arange(size, device=sizes.device)).flatten()
            q_, k_, v_ = (t[at].view(-1, size, heads, t.size(2)).transpose(1, 2) for t in (q, k, v))
            mixed[at] = F.scaled_dot_product_attention(q_, k_, v_).transpose(1, 2).flatten(0, 1)
        return attention.proj(mixed.flatten(1))

    attention.forward = attend


def _causal(longest: int, before: int, like: torch.Tensor) -> torch.Tensor:
    """(longest, before + longest) 0 where a token may look, -inf where it may not; shorter prompts use its corner."""
    return like.new_full((longest, before + longest), float("-inf")).triu(before + 1)


def _grid(packed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, KV heads, head dim) to (P, KV heads, T, head dim), zeros where `mask` (P, T) is."""
    grid = packed.new_zeros(*mask.shape, *packed.shape[1:])
    grid[mask] = packed
    return grid.transpose(1, 2)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor] | None,
    causal: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Attention of one prompt's tokens, all or the last: q (n, heads, D), k, v (T, KV heads, D) to (n, heads * D)."""
    n, kv, dim = q.size(0), k.size(1), q.size(2)
    k, v = k.transpose(0, 1), v.transpose(0, 1)
    if before is not None:
        k, v = torch.cat([before[0], k], 1), torch.cat([before[1], v], 1)
    q = q.view(n, kv, -1, dim).permute(1, 2, 0, 3)
    k, v = (t[:, None].expand(-1, q.size(1), -1, -1) for t in (k, v))
    visible = None if n == 1 else causal[:n, : k.size(2)]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).permute(2, 0, 1, 3).reshape(n, -1)
