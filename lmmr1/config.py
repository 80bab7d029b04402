"""Settings of a training stage, with TRL's names. Torch-free, so that building the workflow stays instant."""

from __future__ import annotations

import contextlib
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lmmr1.lines import text_of_file
from lmmr1.types import UserError

FUSED_BELOW = 1024
"""Hidden width of the text layers below which projections are fused (lmmr1/projections.py says why)."""

TrackerName = Literal["tensorboard", "wandb", "trackio"]
"""TRL's `report_to`, of the trackers that lmmr1/tracking.py knows."""


class Machine:
    """Marks a setting that decides where and how fast numbers come, not which: `Annotated[int, Machine()]`.

    It may change between two attempts of one run: sums are then grouped otherwise, which is rounding, 1e-5 in fp32. A
    setting without the mark decides numbers and identifies the run.
    """


class Settings(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def deciding(self) -> dict[str, Any]:
        """The settings that decide numbers, by name, as JSON has them: all but those marked `Machine`."""
        dump, out = self.model_dump(), {}
        for name, field in type(self).model_fields.items():
            if not any(isinstance(mark, Machine) for mark in field.metadata):
                value = getattr(self, name)
                out[name] = value.deciding() if isinstance(value, Settings) else dump[name]
        return out


class SamplingConfig(Settings):
    """How completions are drawn."""

    temperature: float = Field(1.0, ge=0)
    """0 is greedy (evaluation only)."""
    max_completion_length: int = Field(64, gt=0)
    """Tokens, the end token included."""
    max_prompt_length: int = Field(1024, gt=0)
    """Tokens, visual tokens included; a longer prompt is an error, never cut."""


class DecodingConfig(SamplingConfig):
    """How an evaluation decodes: what training never uses is kept out of the settings that identify a checkpoint."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Logits of tokens seen in prompt or completion are divided by it where positive, else multiplied (as vLLM)."""


class SokobanRewardConfig(Settings):
    """Weights and limits; the defaults are the authors' but for the length terms."""

    environment_weight: float = 1.0
    """Of the best running reward of the episode (0 or more; a level with 4 boxes pays at most 13.9)."""
    format_weight: float = 0.5
    max_actions: int = Field(50, gt=0, le=120)
    """Actions that are played; later ones count for the length terms alone."""
    on_invalid: Literal["zero", "drop"] = "zero"
    """What a piece that is no action does: `zero` pays nothing for the whole answer, `drop` leaves the piece out and
    pays no format and no length terms."""
    length_terms: bool = False
    """Pay `action_length_term` and `thinking_length_term` (up to 1.2 together) for a well-formed answer."""


class RewardConfig(Settings):
    """Weights of the rule-based reward (paper section 3.2: accuracy + 0.5 format) and bounds of its verifier."""

    kind: Literal["rule", "random", "sokoban"] = "rule"
    """`random` pays Bernoulli(0.5) whatever the answer: the control that must not gain; `sokoban` plays the answer."""
    accuracy_weight: float = 1.0
    format_weight: float = 0.5
    format_rule: Literal["released", "strict"] = "released"
    """`strict` also wants each tag once and words in both blocks."""
    length_weight: float = Field(0.0, ge=0)
    soft_punish_cache: int = Field(0, ge=0)
    """Tokens before `max_completion_length` from which on length costs up to `length_weight` (DAPO, 2503.14476)."""
    repetition_weight: float = Field(0.0, ge=0)
    """Price of a completion that is nothing but repeated n-grams."""
    repetition_ngram_size: int = Field(3, gt=0)
    sokoban: SokobanRewardConfig = SokobanRewardConfig()
    compat: Literal["none", "released"] = "none"
    """`released` is the authors' verifier with its faults, for parity runs."""
    verifier_workers: Annotated[int, Machine()] = Field(2, gt=0)
    """Processes that judge answers; rewards do not depend on it."""
    verifier_deadline: float = Field(5.0, gt=0)
    """Seconds that one answer may take."""
    verifier_memory_mb: int = Field(1024, ge=512)
    """Of one worker; an answer that needs more is one on which the verifier failed, so it can decide a reward."""
    max_verifier_failures: float = Field(0.1, ge=0, le=1)
    """Share of a step's completions on which the verifier may fail (time, memory, crash) before training stops."""


class LossConfig(Settings):
    """The clipped surrogate and its regularisers."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "seq_mean", "cispo"] = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """`sequence`: one ratio per completion, the geometric mean of its tokens' (GSPO, 2507.18071)."""
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float | None = Field(None, gt=0)
    """Upper clip range; None means `epsilon`. With `cispo` the largest ratio itself (2506.13585), e.g. 5."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL term towards the checkpoint that the stage started from; 0 loads no reference."""
    kl_estimator: Literal["k1", "k3"] = "k3"
    kl_in_reward: bool = False
    """True puts -beta * k1 into the per-token reward (the authors' scripts), False puts the KL into the loss."""
    mask_truncated_completions: bool = False
    importance_sampling_cap: float = Field(2.0, ge=1)
    """Largest per-token weight where the sampler is another engine; the built-in sampler needs none."""


class CriticConfig(Settings):
    """`advantage: gae`: a copy of the stage's starting model with a value head, trained beside the policy.

    Names are those of TRL's PPOConfig, defaults the authors' (shared facts 2a, 2b).
    """

    learning_rate: float = Field(9e-6, gt=0)
    """Moves by the policy's schedule."""
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(1.0, ge=0, le=1)
    cliprange_value: float = Field(0.2, gt=0)
    """How far a value may move from what it was when the completion was drawn."""


class LoraConfig(Settings):
    """Low-rank adapters on the text layers instead of training all weights (LoRA, 2106.09685), with PEFT's names."""

    r: int = Field(64, gt=0)
    alpha: int = Field(128, gt=0)
    """The product of both matrices is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """0 with our own trainer: its sampler and learner must compute the same."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class VLLMConfig(Settings):
    """How vLLM shares a GPU with the learner; without a GPU nothing of it applies."""

    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take while it samples."""
    sleep_level: Literal[0, 1, 2] = 1
    """What vLLM gives up while the learner works: 0 nothing, 1 the cache (its weights move to the host's memory), 2 its
    weights too (they come from the learner before the next rollout anyway)."""


TRL_HAS: dict[str, tuple[Any, ...]] = {
    "dynamic_sampling_factor": (1,),
    "bf16": (None,),
    "advantage": ("group_norm", "group_mean"),
    "loss.kl_estimator": ("k3",),
    "loss.kl_in_reward": (False,),
}
"""Settings of which TRL's GRPOTrainer has these values only; every other setting has its counterpart there."""


class TrainConfig(Settings):
    """One stage of training. `seed` fixes data order, sampling and everything else."""

    trainer: Literal["lmmr1", "trl"] = "lmmr1"
    """Who trains: our loop, or TRL's GRPOTrainer on the same data, rewards and settings (docs/trl.md)."""
    trl: dict[str, Any] = {}
    """With `trainer: trl`: TRL's own options under TRL's names, e.g. {top_p: 0.9}; checked before
    anything is computed."""
    seed: int = 0
    max_steps: int = Field(60, gt=0)
    """Rollout batches."""
    num_prompts: int = Field(16, gt=0)
    """P, prompts per rollout batch."""
    num_generations: int = Field(8, gt=0)
    """G, completions per prompt."""
    dynamic_sampling_factor: int = Field(1, gt=0)
    """Prompts drawn for every prompt trained on: groups whose rewards differ are preferred (DAPO, 2503.14476)."""
    num_iterations: int = Field(1, gt=0)
    """Passes over a rollout batch."""
    num_minibatches: int = Field(1, gt=0)
    """Optimizer steps per pass; must divide `num_prompts`."""
    engine: Literal["hf", "vllm"] = "hf"
    """What samples: our decode loop on the learner's own weights, or vLLM (optional, docs/vllm.md)."""
    vllm: Annotated[VLLMConfig, Machine()] = VLLMConfig()
    advantage: Literal["group_norm", "group_mean", "rloo", "reinforce_baseline", "gae"] = "group_norm"
    critic: CriticConfig = CriticConfig()
    """Read with `advantage: gae` alone."""
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    lr_scheduler_type: Literal["constant", "cosine"] = "constant"
    lr_per_optimizer_step: bool = False
    """True moves the learning rate with every optimizer step, False with every rollout batch."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    weight_decay: float = 0.0
    max_grad_norm: float = Field(1.0, gt=0)
    freeze_vision: bool = False
    lora: LoraConfig | None = None
    """Train adapters only; then the vision tower is frozen too, and a reference costs no second copy."""
    bf16: bool | None = None
    """Compute in bf16 while the weights that the optimizer moves stay fp32; None: on a GPU."""
    gradient_checkpointing: Annotated[bool, Machine()] = False
    """Compute layers anew in the backward pass instead of keeping what is inside: a third more time, less memory."""
    min_pixels: int | None = Field(None, gt=0)
    max_pixels: int | None = Field(None, gt=0)
    """Bounds of an image's area, to which it is scaled; None: the checkpoint's own processor. Training only."""
    save_steps: Annotated[int, Machine()] = Field(20, gt=0)
    """Steps between resumable checkpoints."""
    tokens_per_micro_batch: Annotated[int, Machine()] = Field(32768, gt=0)
    """Of prompts that the learner computes at once, and of completions that it computes at once (padding included; at
    least one of each): what its memory grows with."""
    tokens_per_rollout: Annotated[int, Machine()] = Field(524288, gt=0)
    """Of prompts and completions that the built-in sampler holds at once, at their greatest length (at least one
    prompt's): what its memory grows with."""
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = LossConfig()

    @field_validator("trl", mode="before")
    @classmethod
    def _typed(cls, options: Any) -> Any:
        return typed(options)

    @property
    def prompts_drawn(self) -> int:
        """Prompts that are sampled for one step."""
        return self.num_prompts * self.dynamic_sampling_factor

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps on one rollout batch."""
        return self.num_iterations * self.num_minibatches

    def model_post_init(self, _: Any) -> None:
        """Refuse combinations that cannot train. Raises ValueError."""
        if self.num_prompts % self.num_minibatches:
            raise ValueError(f"num_minibatches {self.num_minibatches} does not divide num_prompts {self.num_prompts}")
        if self.num_generations < 2 and self.advantage != "gae":
            raise ValueError(
                f"num_generations {self.num_generations}: {self.advantage} compares samples of a group, give at least 2"
            )
        if self.sampling.temperature == 0:
            raise ValueError(
                "sampling.temperature 0: greedy samples of a group are all equal, give a temperature above 0"
            )
        if self.loss.beta and not self.loss.kl_in_reward and self.loss.kl_estimator == "k1":
            raise ValueError(
                "loss.kl_estimator 'k1': in the loss its expected gradient is 0, so it holds nothing back; give 'k3', "
                "or kl_in_reward: true"
            )
        if self.loss.loss_type == "cispo" and (self.loss.epsilon_high or 0) < 1:
            raise ValueError(
                f"loss.epsilon_high {self.loss.epsilon_high}: with cispo the largest ratio; give at least 1, e.g. 5"
            )
        if self.num_generations < 2 and self.dynamic_sampling_factor > 1:
            raise ValueError("dynamic_sampling_factor: a group of one has nothing to choose it by; give 1")
        if self.advantage == "gae" and self.lora:
            raise ValueError("lora: a critic is trained as a whole; leave lora out, or give another advantage than gae")
        if self.trl and self.trainer != "trl":
            raise ValueError(f"trl: {', '.join(self.trl)}: options of TRL's trainer; give trainer: trl, or drop them")
        if self.trainer == "trl":
            self._refuse_what_trl_lacks()

    def _refuse_what_trl_lacks(self) -> None:
        for key, allowed in TRL_HAS.items():
            value = reduce(getattr, key.split("."), self)
            if value not in allowed:
                known = " or ".join(map(repr, allowed))
                raise ValueError(f"{key} {value!r}: TRL's trainer has {known} only; give that, or trainer: lmmr1")


def typed(value: Any) -> Any:
    """Numbers and booleans as such, at any depth: Snakemake hands over those of its command line as strings."""
    if isinstance(value, dict):
        return {k: typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [typed(v) for v in value]
    if not isinstance(value, str):
        return value
    for read in (int, float, {"true": True, "false": False}.__getitem__):
        with contextlib.suppress(ValueError, KeyError):
            return read(value)
    return value


def parse_settings(kind: type[Settings], values: dict[str, Any], where: str) -> Any:
    """`kind(**values)`, with a readable UserError that names `where`, the key, the value and what is allowed."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        first = min(
            e.errors(), key=lambda error: error["type"] != "extra_forbidden"
        )  # a misspelt key explains a missing one
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(_settings_at(kind, first["loc"][:-1]).model_fields)
            raise UserError(f"{where}: unknown key {key!r}; allowed: {allowed}") from None
        raise UserError(f"{where}: {key + ': ' if key else ''}{first['msg']} (got {first['input']!r:.80})") from None


def _settings_at(kind: Any, path: tuple[int | str, ...]) -> Any:
    """The settings class at `path` below `kind`, through optional settings and mappings of settings."""
    for part in path:
        kind = kind.model_fields[part].annotation if part in getattr(kind, "model_fields", {}) else kind
        while not hasattr(kind, "model_fields"):
            kind = next(a for a in get_args(kind)[::-1] if hasattr(a, "model_fields") or get_args(a))
    return kind


def load_train_config(path: Path) -> TrainConfig:
    """Read a YAML file. Raises UserError on a missing file, bad YAML, unknown keys or bad values."""
    return parse_settings(TrainConfig, read_mapping(path), str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UserError, naming the file, where it is missing or something else."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected settings as `key: value` lines, got {type(values).__name__}")
    return values


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises UserError, naming the file, where it is missing or no YAML."""
    try:
        return yaml.safe_load(text_of_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a YAML file") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError, RecursionError) as e:
        # The parser raises all of these: for a date that there is not, a number without digits, brackets without end.
        raise UserError(f"{path}: not a YAML file: {' '.join(str(e).split())}") from None
