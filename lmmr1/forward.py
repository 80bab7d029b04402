"""What a policy computes for a batch's completions, piece by piece: memory grows with the pieces, not with the batch.

Prompts are computed some at a time, and their completions then by rows of one prompt, each within
`tokens_per_micro_batch`. Backward passes of the pieces stop at the prompts, which are gone back through once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lmmr1.batch import take
from lmmr1.config import TrainConfig
from lmmr1.loss import token_logprobs
from lmmr1.policy import Policy, Prefix
from lmmr1.processes import ALONE, Processes
from lmmr1.suffix import TextWeights, group_hidden, rope_tables
from lmmr1.types import Batch


@dataclass(frozen=True, slots=True)
class Piece:
    """Some completions of one prompt, with what predicts them."""

    rows: torch.Tensor
    """(R,) their numbers in the batch."""
    lengths: torch.Tensor
    """(R,) tokens."""
    hidden: torch.Tensor
    """(n, H) states that predict the n real tokens, row by row."""
    ids: torch.Tensor
    """(n,)"""
    mask: torch.Tensor
    """(R, T') real tokens."""

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """(N, T) -> (n,) the values at the piece's tokens."""
        return tensor[self.rows, : self.mask.size(1)].to(self.mask.device)[self.mask]

    def onto(self, tensor: torch.Tensor, values: torch.Tensor) -> None:
        """Write (n,) values into (N, T) at the piece's tokens; beside them, in its rows, 0."""
        grid = torch.zeros(self.mask.shape, dtype=tensor.dtype)
        tensor[self.rows, : self.mask.size(1)] = grid.masked_scatter_(self.mask.cpu(), values.to(tensor).cpu())


def pieces(
    policy: Policy, batch: Batch, cfg: TrainConfig, grad: bool, wanted: torch.Tensor | None = None
) -> Iterator[Piece]:
    """The batch's completions; with `grad`, whoever iterates calls `backward` on what it makes of each.

    `wanted` (N,) bool leaves rows out. What the backward passes left at the leaves is pushed through prompts, vision
    tower and fused weights in between, so the iteration must be run to its end.
    """
    wanted = batch.completion_mask.any(1) if wanted is None else wanted
    with policy.computing():
        weights = TextWeights.of(policy.model, grad=grad)
    for first, prompts in prompt_chunks(batch, cfg):
        rows = slice(first * batch.num_generations, (first + len(prompts)) * batch.num_generations)
        if bool(wanted[rows].any()):
            yield from _of_prompts(policy, weights, batch, first, len(prompts), cfg, grad, wanted)
    weights.backward()


def prompts_at_once(cfg: TrainConfig) -> int:
    """Prompts that are within `tokens_per_micro_batch` however long they are."""
    return max(1, cfg.tokens_per_micro_batch // cfg.sampling.max_prompt_length)


def prompt_chunks(batch: Batch, cfg: TrainConfig) -> Iterator[tuple[int, Sequence[int]]]:
    """Prompts that are computed together: the first's number, and all their numbers."""
    count = prompts_at_once(cfg)
    for first in range(0, len(batch.samples), count):
        yield first, range(first, min(first + count, len(batch.samples)))


def _of_prompts(
    policy: Policy, weights: TextWeights, batch: Batch, first: int, count: int, cfg: TrainConfig, grad: bool,
    wanted: torch.Tensor,
) -> Iterator[Piece]:  # fmt: skip
    samples, g = batch.samples[first : first + count], batch.num_generations
    prefix: Prefix = policy.prefix(samples, cfg.sampling.max_prompt_length, grad=grad)
    tables = rope_tables(policy.model, prefix.next_position, batch.completion_ids.size(1))
    recompute, lengths = grad and cfg.gradient_checkpointing, batch.completion_mask.sum(1)
    for index in range(count):
        start = (first + index) * g
        rows = [start + i for i in range(g) if wanted[start + i]]
        for some in packs(rows, lengths.tolist(), cfg.tokens_per_micro_batch):
            chosen, device = torch.tensor(some), policy.device
            width = int(lengths[chosen].max())
            ids = batch.completion_ids[chosen, :width].to(device)
            mask = batch.completion_mask[chosen, :width].to(device)
            cos, sin = (t[index : index + 1] for t in tables)
            with torch.set_grad_enabled(grad):
                hidden = group_hidden(weights, prefix, index, ids, lengths[chosen].to(device), cos, sin, recompute)
                piece = Piece(chosen, lengths[chosen].to(device), hidden[mask], ids[mask], mask)
            yield piece
    prefix.backward()


def packs(rows: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Consecutive rows whose number times the longest of them is within `budget`; a row alone may be over it."""
    pack: list[int] = []
    longest = 0
    for row in rows:
        longest = max(longest, lengths[row])
        if pack and (len(pack) + 1) * longest > budget:
            yield pack
            pack, longest = [], lengths[row]
        pack.append(row)
    if pack:
        yield pack


def logprobs_of(policy: Policy, piece: Piece, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) log-probabilities of a piece's tokens and (n,) entropies."""
    return token_logprobs(piece.hidden, policy.head, piece.ids, temperature)


def values_of(critic: Policy, piece: Piece) -> torch.Tensor:
    """(n,) fp32: what the critic expects before each of a piece's tokens."""
    return piece.hidden.float() @ critic.model.value_head.weight[0].float()


@torch.no_grad()
def batch_logprobs(policy: Policy, batch: Batch, cfg: TrainConfig, processes: Processes = ALONE) -> torch.Tensor:
    """(N, T) the policy's own log-probabilities, 0 at padding: every process computes those of its prompts."""
    return _gathered(policy, batch, cfg, processes, lambda p: logprobs_of(policy, p, cfg.sampling.temperature)[0])


@torch.no_grad()
def batch_values(critic: Policy, batch: Batch, cfg: TrainConfig, processes: Processes = ALONE) -> torch.Tensor:
    """(N, T) the critic's values, 0 at padding."""
    return _gathered(critic, batch, cfg, processes, lambda piece: values_of(critic, piece))


def _gathered(
    policy: Policy, batch: Batch, cfg: TrainConfig, processes: Processes, of: Callable[[Piece], torch.Tensor]
) -> torch.Tensor:
    processes.unshard(policy.model)
    part = take(batch, processes.share(range(len(batch.samples))))
    out = torch.zeros(part.completion_ids.shape)
    for piece in pieces(policy, part, cfg, grad=False):
        piece.onto(out, of(piece))
    # clones: a view is pickled with all that it is a view of
    return torch.cat(processes.gather([group.clone() for group in out.split(batch.num_generations)]))
