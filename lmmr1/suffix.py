"""The text layers after the prompt, computed by hand: one decode step, and a group's completions with gradient.

A completion is pure text, so all three components of its M-RoPE positions are equal and start at the
prompt's largest position + 1: everything after the prompt is plain 1-D rope. Prompt, images and padding
stay with the Hugging Face model. tests/test_core_equality.py compares both, forward and backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lmmr1.config import FUSED_BELOW
from lmmr1.lora import computing_layer, effective_weight
from lmmr1.policy import Prefix
from lmmr1.projections import Apart, Fused, Projection


class LayerWeights(NamedTuple):
    """One decoder layer; query, key, value and gate, up are one projection each."""

    norm1: torch.Tensor
    qkv: Projection
    out: Projection
    norm2: torch.Tensor
    gate_up: Projection
    down: Projection


@dataclass
class TextWeights:
    """All text layers. `fused` keeps the differentiable concatenations whose leaf copies the layers hold."""

    layers: list[LayerWeights]
    fused: list[tuple[torch.Tensor, torch.Tensor]]
    embedding: torch.Tensor
    padding_idx: int | None
    norm: torch.Tensor
    eps: float
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, model: Any, grad: bool) -> TextWeights:
        """The model's weights, fused below FUSED_BELOW; with `grad`, gradients stop at the copies until `backward`."""
        text, fused = model.model.language_model, []

        def fuse(parts: list[torch.Tensor]) -> torch.Tensor:
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            if not grad:
                return whole
            leaf = whole.detach().requires_grad_(whole.requires_grad)
            fused.append((whole, leaf))
            return leaf

        def project(*linears: Any) -> Projection:
            # fp32 adapters put into bf16 weights would be rounded away
            mixed = any(hasattr(linear, "lora_A") and linear.weight.dtype != torch.float32 for linear in linears)
            if mixed or text.embed_tokens.weight.size(1) >= FUSED_BELOW:
                return Apart(tuple(computing_layer(linear) for linear in linears))
            weights = [effective_weight(linear) for linear in linears]
            biases = [linear.bias for linear in linears if linear.bias is not None]
            own = len(weights) == 1 and weights[0] is linears[0].weight
            return Fused(weights[0] if own else fuse(weights), fuse(biases) if biases else None)

        def layer_weights(layer: Any) -> LayerWeights:
            a, m = layer.self_attn, layer.mlp
            qkv, out = project(a.q_proj, a.k_proj, a.v_proj), project(a.o_proj)
            gate_up, down = project(m.gate_proj, m.up_proj), project(m.down_proj)
            norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            return LayerWeights(norms[0], qkv, out, norms[1], gate_up, down)

        with torch.set_grad_enabled(grad):
            layers = [layer_weights(layer) for layer in text.layers]
        first = text.layers[0].self_attn
        return cls(
            layers, fused, text.embed_tokens.weight, text.embed_tokens.padding_idx, text.norm.weight,
            text.norm.variance_epsilon, first.num_heads, first.num_key_value_heads, first.head_dim,
        )  # fmt: skip

    def backward(self) -> None:
        """Push the gradients of the fused copies into the model's own weights."""
        pairs = [(whole, leaf.grad) for whole, leaf in self.fused if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([p[0] for p in pairs], [p[1] for p in pairs])


LONG = 512
"""Completion tokens from which on attention is asked for as causal, without a mask."""


@dataclass(frozen=True, slots=True)
class Head:
    """Keys and values of tokens that all prompts of a batch begin with, one pair for all rows."""

    ids: torch.Tensor
    """(S,)"""
    keys: list[torch.Tensor]
    """Per layer (KV heads, S, head dim)."""
    values: list[torch.Tensor]

    @property
    def length(self) -> int:
        """S."""
        return self.ids.numel()

    def first(self, n: int) -> Head:
        """The first `n` tokens; they do not depend on what follows them."""
        return Head(self.ids[:n], [k[:, :n] for k in self.keys], [v[:, :n] for v in self.values])

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer."""
        return self.keys[index], self.values[index]


def rope_tables(model: Any, first: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine, each (P, length, head dim), for `length` text positions from `first` (P,) on."""
    return signed_tables(model, (first[:, None] + torch.arange(length, device=first.device)).expand(3, -1, -1))


def signed_tables(model: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine, each (P, T, head dim), at M-RoPE positions (3, P, T)."""
    probe = torch.empty(1, device=positions.device, dtype=model.dtype)
    cos, sin = model.model.language_model.rotary_emb(probe, positions)
    half = cos.size(-1) // 2
    return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of the last axis; the sign of rotate_half is in `sin`."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


def decode_step(
    w: TextWeights, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, end: int,
    bias: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor, head: Head | None = None,
) -> torch.Tensor:  # fmt: skip
    """Hidden states after one more token per row.

    Args:
        tokens: (n,) the tokens just sampled.
        keys, values: (layers, n, KV heads, capacity, head dim); slot `end` - 1 is filled, slots before it are read.
        end: number of slots in use, the new one included.
        bias: (n, 1, 1, capacity) -inf at prompt padding, or None.
        cos, sin: (n, 1, head dim) of the new position.
        head: what all rows begin with, if that is not in `keys` and `values`: one product for all rows.

    Returns:
        (n, H) after the final norm.
    """
    n, width, kv = tokens.size(0), w.embedding.size(1), w.kv_heads
    scale, x = w.head_dim**-0.5, w.embedding[tokens]
    for index, layer in enumerate(w.layers):
        qkv = layer.qkv(F.rms_norm(x, (width,), layer.norm1, w.eps)).view(n, w.heads + 2 * kv, w.head_dim)
        rotated = rope(qkv[:, : w.heads + kv], cos, sin)
        keys[index, :, :, end - 1], values[index, :, :, end - 1] = rotated[:, w.heads :], qkv[:, w.heads + kv :]
        queries = (rotated[:, : w.heads] * scale).view(n, kv, w.heads // kv, w.head_dim)
        scores = queries @ keys[index, :, :, :end].transpose(-1, -2)
        if bias is not None:
            scores += bias[..., :end]
        if head is None:
            mixed = torch.softmax(scores, -1) @ values[index, :, :, :end]
        else:
            mixed = _attend_with(head.layer(index), queries, scores, values[index, :, :, :end])
        x = layer.out.add(x, mixed.reshape(n, w.heads * w.head_dim))
        gate, up = layer.gate_up(F.rms_norm(x, (width,), layer.norm2, w.eps)).chunk(2, -1)
        x = layer.down.add(x, F.silu(gate) * up)
    return F.rms_norm(x, (width,), w.norm, w.eps)


def _attend_with(
    head: tuple[torch.Tensor, torch.Tensor], queries: torch.Tensor, scores: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """One softmax over what rows share and what is theirs: (n, KV heads, heads per KV head, head dim).

    `queries` (n, KV heads, heads per KV head, head dim), `scores` (..., T) over the rows' own `values`.
    """
    n, kv, per, dim = queries.shape
    keys, shared_values = head
    together = queries.transpose(0, 1).reshape(kv, n * per, dim)
    shared = (together @ keys.transpose(-1, -2)).view(kv, n, per, -1).transpose(0, 1)
    shared, own = torch.softmax(torch.cat([shared, scores], -1), -1).split([keys.size(1), scores.size(-1)], -1)
    mixed = shared.transpose(0, 1).reshape(kv, n * per, -1) @ shared_values
    return own @ values + mixed.view(kv, n, per, dim).transpose(0, 1)


class _Rows:
    """Which places of a (G, n) grid hold real tokens: linear layers see those only, attention sees the grid."""

    def __init__(self, lengths: torch.Tensor, n: int) -> None:
        real = torch.arange(n, device=lengths.device) < lengths[:, None]
        self.cells = lengths.size(0) * n
        self.index = None if bool(real.all()) else real.flatten().nonzero()[:, 0]

    def pick(self, grid: torch.Tensor) -> torch.Tensor:
        return grid if self.index is None else grid.index_select(0, self.index)

    def spread(self, flat: torch.Tensor) -> torch.Tensor:
        return flat if self.index is None else flat.new_zeros(self.cells, flat.size(1)).index_copy(0, self.index, flat)


def group_hidden(
    w: TextWeights,
    prefix: Prefix,
    row: int,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    recompute: bool = False,
) -> torch.Tensor:
    """Hidden states that predict every completion token of one group, with gradient.

    Args:
        row: the group's prompt in `prefix`; its rows attend to that prompt and to themselves.
        ids: (G, T) completions, right-padded.
        lengths: (G,) completion tokens per row.
        cos, sin: (1, >= T - 1, head dim) of the completion's positions.
        recompute: keep a layer's input alone, and compute its inside again in the backward pass.

    Returns:
        (G, T, H); the first is the prompt's last hidden state. Places beyond a row's length are undefined.
    """
    g, n, width = ids.size(0), ids.size(1) - 1, w.embedding.size(1)
    first = prefix.last_leaf[row].expand(g, 1, width)
    if n == 0:
        return first
    rows, pad = _Rows(lengths - 1, n), prefix.padding(row)
    prompt, visible = prefix.mask.size(1) - pad, None
    if n < LONG:
        ones = torch.ones(n, prompt + n, dtype=torch.bool, device=ids.device)
        visible = ones.tril(prompt).repeat(w.heads // w.kv_heads, 1)
    cos, sin = (rows.pick(t[0, :n].repeat(g, 1))[:, None] for t in (cos, sin))
    x = F.embedding(rows.pick(ids[:, :-1].reshape(-1)), w.embedding, w.padding_idx)
    for layer, prompt_kv in zip(w.layers, prefix.kv_leaves, strict=True):
        prompt_k, prompt_v = (t[row : row + 1, :, pad:].expand(g, -1, -1, -1) for t in prompt_kv)
        arguments = (w, layer, x, prompt_k, prompt_v, visible, cos, sin, rows)
        x = checkpoint(_layer, *arguments, use_reentrant=False) if recompute else _layer(*arguments)
    x = rows.spread(F.rms_norm(x, (width,), w.norm, w.eps)).view(g, n, width)
    return torch.cat([first, x], 1)


def _layer(
    w: TextWeights, layer: LayerWeights, x: torch.Tensor, prompt_k: torch.Tensor, prompt_v: torch.Tensor,
    visible: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor, rows: _Rows,
) -> torch.Tensor:  # fmt: skip
    """One decoder layer on the real tokens of a group, (m, H); prompt_k, prompt_v: (G, KV heads, prompt, head dim)."""
    heads, kv, dim, width = w.heads, w.kv_heads, w.head_dim, x.size(1)
    g = prompt_k.size(0)
    # split and chunk, not slices: their backward is one concatenation instead of a zero-filled copy of the whole
    qkv = layer.qkv(F.rms_norm(x, (width,), layer.norm1, w.eps))
    qk, v = qkv.view(-1, heads + 2 * kv, dim).split([heads + kv, kv], 1)
    grid = rows.spread(torch.cat([rope(qk, cos, sin), v], 1).flatten(1)).view(g, -1, heads + 2 * kv, dim)
    q, k, v = grid.split([heads, kv, kv], 2)
    k, v = torch.cat([prompt_k, k.transpose(1, 2)], 2), torch.cat([prompt_v, v.transpose(1, 2)], 2)
    x = x + layer.out(rows.pick(_attend(q, k, v, visible)))
    gate, up = layer.gate_up(F.rms_norm(x, (width,), layer.norm2, w.eps)).chunk(2, -1)
    return x + layer.down(F.silu(gate) * up)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Attention of completions (G, n, heads, head dim) to prompt and themselves, k and v (G, KV heads, prompt + n,
    head dim): (G * n, heads * head dim).

    With `visible` the query heads of one KV head become rows of it, so keys and values are never repeated, nor their
    product split. Without, the queries get empty rows in the prompt's place: a causal square, which flash kernels know,
    and of which they skip half. No mask is held then, whose size grows with the square of a completion.
    """
    g, n, heads, dim = q.shape
    kv = k.size(1)
    if visible is None:
        square = F.pad(q.transpose(1, 2), (0, 0, k.size(2) - n, 0))
        k, v = (t.repeat_interleave(heads // kv, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(square, k, v, is_causal=True)[:, :, -n:]
        return mixed.transpose(1, 2).reshape(g * n, heads * dim)
    q = q.reshape(g, n, kv, heads // kv, dim).permute(0, 2, 3, 1, 4).reshape(g, kv, -1, dim)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return mixed.view(g, kv, heads // kv, n, dim).permute(0, 3, 1, 2, 4).reshape(g * n, heads * dim)
