"""The records that flow one way through training: Sample -> Rollout -> ScoredGroup -> Batch -> StepStats -> Manifest.

Axis letters, here and everywhere: P prompts, G samples per prompt, N = P * G rows, T tokens. Every record is frozen:
a stage makes a new one, nothing is edited in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


class UserError(ValueError):
    """Something that the user can mend: the message names the file, the value and the fix. The CLI exits with 2."""


class TrainingError(RuntimeError):
    """Training cannot go on (non-finite numbers, too many failed rewards). The CLI exits with 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One problem: chat messages, the images they refer to (in order) and the gold answer."""

    id: str
    messages: list[dict[str, Any]]
    """Chat messages; `content` is a string or a list of {"type": "image"} and {"type": "text", "text": ...} items."""
    images: tuple[Path, ...]
    answer: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion."""

    sample_id: str
    token_ids: tuple[int, ...]
    """(T,) completion tokens; the end token is included where the sampler chose it."""
    logprobs: tuple[float, ...]
    """(T,) the sampler's log-probabilities of those tokens, in nats, temperature applied, fp32."""
    text: str
    """The decoded completion without special tokens: model output, hostile by assumption."""
    finish: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Reward:
    """What a completion earned, in parts, and why."""

    total: float
    accuracy: float
    format: float
    note: str = ""
    """Why accuracy is what it is, e.g. `equal`, `different`, `no_answer`, `timeout`; all in lmmr1/rewards/judge.py."""
    length: float = 0.0
    """Overlong punishment, 0 to -1."""
    repetition: float = 0.0
    """Minus the share of repeated n-grams."""
    seconds: float = field(default=0.0, compare=False)
    """Wall time of the verdict."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The G completions of one prompt with their rewards."""

    sample: Sample
    rollouts: tuple[Rollout, ...]
    rewards: tuple[Reward, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One rollout batch as tensors. A mask of 1 counts in the loss."""

    samples: tuple[Sample, ...]
    """(P,)"""
    completion_ids: torch.Tensor
    """(N, T) right-padded with the pad token."""
    completion_mask: torch.Tensor
    """(N, T) bool: real tokens."""
    loss_mask: torch.Tensor
    """(N, T) bool: tokens of the loss, of its normaliser and of every average; all real ones but those of completions
    that were cut off, where `mask_truncated_completions` says so."""
    sampler_logprobs: torch.Tensor
    """(N, T) as the sampler says them, 0 at padding."""
    advantages: torch.Tensor
    """(N, T) per token, 0 outside the loss."""
    num_generations: int
    old_logprobs: torch.Tensor | None = None
    """(N, T) the learner's own when the completions were drawn; None: those that the update computes first, which are
    the same where it takes one optimizer step."""
    ref_logprobs: torch.Tensor | None = None
    """(N, T) of the reference; None where there is none."""
    values: torch.Tensor | None = None
    """(N, T) the critic's when the completions were drawn: what it expects before each token."""
    returns: torch.Tensor | None = None
    """(N, T) what it should have expected."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one rollout batch and its optimizer steps did; `metrics` uses TRL's names."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run was trained on, as its manifest says it."""

    sha256: str
    """Over the data file and its images."""
    source: str | None
    """`owner/name@COMMIT#FILE` where it came from the Hub."""
    system_prompt: str | None
    """The system message that most rows bring; None where most bring none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The identity card of a checkpoint: the small JSON file that is the edge between two rules of the workflow."""

    key: str
    """Content address: hash of config, parent key, data, NUMERICS; for an adopted model the hash of its files."""
    weights: str
    """Folder in Hugging Face format, relative to the working directory, or a Hub id."""
    weights_sha256: str
    """Over all that the model is loaded from: weights, tokenizer, chat template, configuration."""
    parent: str | None
    config: dict[str, Any]
    data_sha256: str | None
    numerics: int
    code: str
    """git commit of the code that made it; ends in `-dirty` where the work tree had changes."""
    versions: dict[str, str]
    device: str
    revision: str | None = None
    """The commit of a model on the Hub; None for a folder."""
    data_source: str | None = None
    """`owner/name@COMMIT#FILE` where the training data came from the Hub."""
    system_prompt: str | None = None
    """The system message that most training rows brought: what this model was taught to answer under."""
