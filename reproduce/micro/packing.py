"""Packed sequences for pretraining: M-RoPE positions, tree packing and logits at the loss tokens only.

A *group* is one shared prefix and several branches; a branch sees the prefix and itself only. Many groups share a row.
Each branch therefore sees exactly what it would see in a sequence of its own: packing changes cost, not meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from reproduce.micro.world import CELL, Item, render_cell

Positions = list[tuple[int, int, int]]
ROW_LENGTHS = range(96, 336, 16)
ATTENTION_DOUBLES = 570
"""Tokens of a row at which attention costs as much as all else: from a profile of this model's steps on one core."""

_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
_PLACES = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1)])  # height and width of a cell's patches


@dataclass
class Group:
    """A prefix (`cells` names a feature row per image token) and its branches.

    A branch has token ids, the places of its loss tokens, and a number that says what kind of answer it is.
    """

    ids: list[int]
    positions: Positions
    cells: list[int]
    next_position: int
    branches: list[tuple[Sequence[int], Sequence[int], int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids) + sum(len(ids) for ids, _, _ in self.branches)


@dataclass
class Packed:
    """A batch: tokens, positions [3, rows, length], mask; for every loss token its row, the place that predicts it, its
    id and the kind of its branch."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    cells: torch.Tensor
    row: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    kind: torch.Tensor


def prefix(start: Sequence[int], item: Item, image_token: int, feature_row: Callable[[str], int]) -> Group:
    """The part of a prompt that every question on one sheet shares: `start`, then the image's tokens."""
    ids, positions, rows = list(start), [(i, i, i) for i in range(len(start))], []
    place = len(ids)
    if item.cells:
        positions += [(place, place + k // item.cols, place + k % item.cols) for k in range(len(item.cells))]
        rows = [feature_row(cell) for cell in item.cells]
        ids += [image_token] * len(item.cells)
        place += max(len(item.cells) // item.cols, item.cols)
    return Group(ids, positions, rows, place)


def first_fit(groups: Sequence[Group], row_length: int) -> list[list[Group]]:
    """Rows of at most `row_length` tokens (a longer group gets a row of its own), longest groups placed first."""
    rows: list[list[Group]] = []
    room: list[int] = []
    for group in sorted(groups, key=len, reverse=True):
        size = len(group)
        k = next((i for i, free in enumerate(room) if free >= size), len(rows))
        if k == len(rows):
            rows.append([])
            room.append(row_length)
        rows[k].append(group)
        room[k] -= size
    return rows


def cheapest_fit(groups: Sequence[Group]) -> list[list[Group]]:
    """The rows of `first_fit` that cost least, among some lengths: every row is padded to the longest one, and
    attention costs a row its length squared."""
    longest = max(map(len, groups))
    return min((first_fit(groups, max(longest, length)) for length in ROW_LENGTHS), key=cost)


def cost(rows: Sequence[Sequence[Group]]) -> float:
    """Work of a batch, in tokens that attend to nothing."""
    length = max(sum(map(len, row)) for row in rows)
    return len(rows) * length * (1 + length / ATTENTION_DOUBLES)


def pack(rows: Sequence[Sequence[Group]], pad_token: int) -> Packed:
    """Lay the rows out as one batch."""
    length = max(sum(len(group) for group in row) for row in rows)
    ids = np.full((len(rows), length), pad_token)
    positions = np.zeros((len(rows), length, 3), dtype=np.int64)
    owner = np.full((len(rows), length), -1)
    branch = np.zeros((len(rows), length), dtype=np.int64)
    cells, loss = [], []
    for r, row in enumerate(rows):
        at = 0
        for g, group in enumerate(row):
            shared = len(group.ids)
            ids[r, at : at + shared], positions[r, at : at + shared] = group.ids, group.positions
            owner[r, at : at + len(group)] = g
            cells += group.cells
            last, at = at + shared - 1, at + shared
            for b, (tokens, places, kind) in enumerate(group.branches):
                end = at + len(tokens)
                ids[r, at:end], branch[r, at:end] = tokens, b + 1
                positions[r, at:end] = np.arange(group.next_position, group.next_position + len(tokens))[:, None]
                loss += [(r, at + k - 1 if k else last, tokens[k], kind) for k in places]
                at = end
    owner_t, branch_t = torch.from_numpy(owner), torch.from_numpy(branch)
    mask = (branch_t[:, None, :] == 0) | (branch_t[:, :, None] == branch_t[:, None, :])
    mask &= owner_t[:, :, None] == owner_t[:, None, :]
    mask &= torch.ones(length, length, dtype=torch.bool).tril()
    row_t, source, target, kind_t = torch.tensor(loss).unbind(1)
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions).permute(2, 0, 1),
        mask=mask[:, None],
        cells=torch.tensor(cells, dtype=torch.long),
        row=row_t,
        source=source,
        target=target,
        kind=kind_t,
    )


def gallery(names: Sequence[str], variants: int, seed: int | str) -> torch.Tensor:
    """Drawings of every class, as bytes: [classes, variants, 28, 28, 3]."""
    drawings = [[render_cell(name, f"{seed}-{v}") for v in range(variants)] for name in names]
    return torch.from_numpy(np.array(drawings))


def patches(cells: torch.Tensor) -> torch.Tensor:
    """The image processor's output for cells [N, 28, 28, 3]: 4 patches a cell, of 3 x 2 (temporal copies) x 14 x 14."""
    half, count = CELL // 2, cells.shape[0]
    x = ((cells.float() / 255 - _MEAN) / _STD).permute(0, 3, 1, 2)
    x = x.reshape(count, 3, 2, half, 2, half).permute(0, 2, 4, 1, 3, 5).reshape(count, 4, 3, 1, half * half)
    return x.expand(-1, -1, -1, 2, -1).reshape(count * 4, -1)


def cell_features(model: Qwen2_5_VLForConditionalGeneration, cells: torch.Tensor) -> torch.Tensor:
    """Visual features [N, hidden] of cells [N, 28, 28, 3] (bytes), each a window of its own.

    The same sums as the tower's `forward`, in its own modules: that one makes a call of attention for every window and
    a convolution of what is a product, together an eighth of a step.
    """
    tower = model.model.visual
    x = F.linear(patches(cells), tower.patch_embed.proj.weight.flatten(1)).unflatten(0, (-1, len(_PLACES)))
    cos, sin = tower.rotary_pos_emb(x, _PLACES)
    for block in tower.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.num_heads, -1)).unbind(-3)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        mixed = F.scaled_dot_product_attention(*(of.transpose(1, 2) for of in (q, k, v)), scale=block.attn.scaling)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x)


def loss_logits(model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor, batch: Packed) -> torch.Tensor:
    """Logits that predict the loss tokens, in their order; `features[batch.cells]` are the image tokens' embeddings."""
    embedded = model.get_input_embeddings()(batch.ids)
    if batch.cells.numel():
        image = (batch.ids == model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(image, features[batch.cells])
    hidden = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[batch.row, batch.source])
