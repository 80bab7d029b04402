"""Sampling: prompts are computed once per group, completions by a hand-written decode loop on a preallocated cache.

Every row draws from its own pre-drawn uniforms, so a sample does not depend on when its neighbours finish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch.nn import functional as F

from lmmr1.config import DecodingConfig, SamplingConfig
from lmmr1.policy import Policy, Prefix
from lmmr1.suffix import Head, TextWeights, decode_step, rope_tables
from lmmr1.types import Rollout, Sample

COMPACT_EVERY = 8
"""Finished rows leave the batch once they are an eighth of it: copying the cache costs about as much as one step."""


class Engine(Protocol):
    """Anything that samples completions with log-probabilities."""

    @property
    def exact(self) -> bool:
        """True where its log-probabilities are the learner's own; importance weights correct them otherwise."""

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: SamplingConfig,
        num_generations: int,
        seed: tuple[int, ...],
        places: Sequence[int] | None = None,
    ) -> list[tuple[Rollout, ...]]:
        """P samples in, P tuples of G rollouts out, in order, drawn from the policy's present weights.

        `places` says where the samples stand in the whole batch that several processes share (None: 0, 1, ...): what a
        sample draws depends on the seed and its place alone, not on who draws it.
        """


class HFEngine:
    """Samples from the very weights that are trained: nothing to copy."""

    def __init__(self, policy: Policy, share_prefix: bool = False, budget: int | None = None) -> None:
        """Sample from `policy`.

        Args:
            share_prefix: keep the prompts' graph for the learner, which then need not compute them again.
            budget: tokens of prompts and completions, at their greatest length, to hold keys and values of at once;
                what does not fit (at least one prompt does) is drawn piece by piece, and then nothing is shared.
        """
        self.policy, self.share_prefix, self.budget = policy, share_prefix, budget

    @property
    def exact(self) -> bool:
        """Only in fp32: in bf16 a decode step rounds otherwise than the learner's whole rows."""
        return self.policy.model.dtype == torch.float32

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: SamplingConfig,
        num_generations: int,
        seed: tuple[int, ...],
        places: Sequence[int] | None = None,
    ) -> list[tuple[Rollout, ...]]:
        """Sample G completions per prompt; temperature 0 is greedy. The same seed gives the same completions."""
        g, places = num_generations, list(range(len(samples)) if places is None else places)
        generator = torch.Generator().manual_seed(hash(tuple(seed)) % 2**63)
        uniforms = torch.rand(max(places) + 1, g, sampling.max_completion_length, generator=generator)[places]
        size = self._prompts_at_once(sampling, g) or len(samples)
        keep = self.share_prefix and size >= len(samples)
        groups: list[tuple[Rollout, ...]] = []
        for at in range(0, len(samples), size):
            groups += self._draw(samples[at : at + size], sampling, uniforms[at : at + size], keep)
        return groups

    def _prompts_at_once(self, sampling: SamplingConfig, g: int) -> int | None:
        """Prompts whose G rows each stay within the budget at their greatest length; None without a budget."""
        longest = min(sampling.max_prompt_length + sampling.max_completion_length, self.policy.context)
        return self.budget and max(1, self.budget // (g * longest))

    def _draw(
        self, samples: Sequence[Sample], sampling: SamplingConfig, uniforms: torch.Tensor, keep: bool
    ) -> list[tuple[Rollout, ...]]:
        """P samples and (P, G, C) uniforms in, P tuples of G rollouts out; all keys and values are held at once."""
        g, device = uniforms.size(1), self.policy.device
        prefix, head = self.prompts(samples, sampling, keep)
        penalty = sampling.repetition_penalty if isinstance(sampling, DecodingConfig) else 1.0
        with torch.inference_mode():
            ids, lengths, logprobs = _decode(
                self.policy, prefix, g, uniforms.flatten(0, 1).to(device), sampling.temperature, penalty, head
            )
        rows = zip(ids.tolist(), lengths.tolist(), logprobs.tolist(), strict=True)
        rollouts = [self._rollout(samples[i // g].id, row[:n], lp[:n]) for i, (row, n, lp) in enumerate(rows)]
        return [tuple(rollouts[i : i + g]) for i in range(0, len(rollouts), g)]

    def prompts(self, samples: Sequence[Sample], sampling: SamplingConfig, keep: bool) -> tuple[Prefix, Head | None]:
        """The prompts' prefix, with its graph and for the learner too if `keep`, and what all of them begin with if
        that is not in it."""
        return self.policy.prefix(samples, sampling.max_prompt_length, grad=keep, keep=keep), None

    def _rollout(self, sample_id: str, ids: list[int], logprobs: list[float]) -> Rollout:
        text = self.policy.processor.tokenizer.decode(ids, skip_special_tokens=True)
        finish: Literal["stop", "length"] = "stop" if ids[-1] in self.policy.stop_ids else "length"
        return Rollout(sample_id, tuple(ids), tuple(logprobs), text, finish)


def _decode(
    policy: Policy, prefix: Prefix, g: int, uniforms: torch.Tensor, temperature: float, penalty: float = 1.0,
    head: Head | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """(N, C) uniforms in; ids (N, C'), lengths (N,) with the stop token, fp32 log-probabilities (N, C') out, C' <= C.

    A row ends with a stop token, after C tokens, or where prompt and completion fill the model's context.
    """
    w, prompt, device = TextWeights.of(policy.model, grad=False), prefix.mask.size(1), policy.device
    room = policy.context - (head.length if head else 0)
    limits = (room - prefix.mask.sum(1)).clamp(1, uniforms.size(1)).repeat_interleave(g)
    n, capacity = limits.size(0), int(limits.max())
    keys, values = (_expand([kv[i] for kv in prefix.kv], g, capacity) for i in (0, 1))
    bias = None
    if not bool(prefix.mask.all()):
        padded = F.pad(prefix.mask == 0, (0, capacity)).repeat_interleave(g, 0)[:, None, None]
        bias = torch.zeros(padded.shape, device=device).masked_fill(padded, float("-inf"))
    cos, sin = (t.repeat_interleave(g, 0) for t in rope_tables(policy.model, prefix.next_position, capacity))
    ids = torch.full((n, capacity), policy.pad_id, device=device)
    logprobs, lengths = torch.zeros(n, capacity, device=device), limits.clone()
    live, done = torch.arange(n, device=device), torch.zeros(n, dtype=torch.bool, device=device)
    hidden = prefix.last.detach().repeat_interleave(g, 0)
    seen = None if penalty == 1 else _seen(prefix, policy.head.size(0), head).repeat_interleave(g, 0)
    stops = torch.zeros(policy.head.size(0), dtype=torch.bool, device=device)
    stops[list(policy.stop_ids)] = True
    for i in range(capacity):
        logits = F.linear(hidden, policy.head)
        if seen is not None:
            logits = penalise(logits, seen, penalty)
        tokens, logprob = sample_tokens(logits, uniforms[:, i], temperature)
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        ids[live, i], logprobs[live, i] = tokens, logprob
        ended = (stops[tokens] | (limits == i + 1)) & ~done
        lengths[live[ended]] = i + 1
        done = done | ended
        if bool(done.all()):
            break
        if int(done.sum()) * COMPACT_EVERY >= done.numel():
            keep = (~done).nonzero()[:, 0]
            live, tokens, uniforms, limits = (t[keep] for t in (live, tokens, uniforms, limits))
            cos, sin, done, keys, values = cos[keep], sin[keep], done[keep], keys[:, keep], values[:, keep]
            bias, seen = (None if t is None else t[keep] for t in (bias, seen))
        hidden = decode_step(w, tokens, keys, values, prompt + i + 1, bias, cos[:, i, None], sin[:, i, None], head)
    return ids, lengths, logprobs


def _expand(per_layer: list[torch.Tensor], g: int, capacity: int) -> torch.Tensor:
    """Keys (or values) of P prompts, each copied for G rows: (layers, N, KV heads, T + capacity, head dim)."""
    p, kv, length, dim = per_layer[0].shape
    cache = per_layer[0].new_zeros(len(per_layer), p, g, kv, length + capacity, dim)
    for index, layer in enumerate(per_layer):
        cache[index, ..., :length, :] = layer.detach()[:, None]
    return cache.view(len(per_layer), p * g, kv, length + capacity, dim)


def _seen(prefix: Prefix, vocabulary: int, head: Head | None) -> torch.Tensor:
    """(P, V) bool: which tokens stand in each prompt. Padding, on the left, counts as the prompt's last token."""
    ids = torch.where(prefix.mask.bool(), prefix.input_ids, prefix.input_ids[:, -1:])
    seen = torch.zeros(ids.size(0), vocabulary, dtype=torch.bool, device=ids.device)
    if head is not None:
        seen[:, head.ids] = True
    return seen.scatter_(1, ids, True)


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """(n, V) logits with those of `seen` tokens divided by `penalty` where positive, else multiplied (as vLLM)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def sample_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row by inverting the cumulative distribution in fp32.

    Args:
        logits: (n, V).
        uniforms: (n,) in [0, 1).
        temperature: 0 takes the largest logit and reports its log-probability at temperature 1.

    Returns:
        (n,) tokens and (n,) fp32 log-probabilities, in nats.
    """
    if temperature == 0:
        logprobs = torch.log_softmax(logits.float(), -1)
        tokens = logits.argmax(-1, keepdim=True)
        return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    cumulative = logprobs.exp().cumsum(-1)
    tokens = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True).clamp_(
        max=logits.size(1) - 1
    )
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
