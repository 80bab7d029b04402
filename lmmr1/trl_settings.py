"""Our settings as those of TRL's GRPOTrainer, by name, and TRL's own options, checked before anything is computed.

Every setting of TrainConfig reaches TRL through `mapped`, is kept by our own code around TRL (`OURS`), or is refused:
by `config.TRL_HAS` where TRL has no such thing, here where it cannot be done on this many processes.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmmr1.config import CriticConfig, TrainConfig
from lmmr1.types import UserError

if TYPE_CHECKING:
    from peft import PeftConfig
    from trl import GRPOConfig

OURS = {
    "trainer": "what chose TRL",
    "trl": "passed through",
    "dynamic_sampling_factor": "1 only",
    "freeze_vision": "before the trainer is built",
    "lora": "as PEFT's adapter",
    "min_pixels": "the processor",
    "max_pixels": "the processor",
    "warmup_steps": "schedule.py",
    "lr_scheduler_type": "schedule.py",
    "reward": "rewards/total.py, as one reward function",
    "sampling.max_prompt_length": "trl_trainer.py: Trainer",
    "loss.kl_estimator": "k3 only",
    "loss.kl_in_reward": "False only",
    "lr_per_optimizer_step": "schedule.py",
    "bf16": "None only: trl.bf16 is TRL's own",
    "tokens_per_micro_batch": "our own loop's; TRL has per_device_train_batch_size",
    "tokens_per_rollout": "our own loop's",
    **{f"critic.{name}": "with advantage: gae, which is not TRL's" for name in CriticConfig.model_fields},
}
"""Settings that are no field of GRPOConfig: who keeps them."""

DECIDED = {
    "seed": "seed",
    "gradient_checkpointing": "gradient_checkpointing",
    "data_seed": "seed",
    "full_determinism": "seed",
    "max_steps": "max_steps",
    "num_train_epochs": "max_steps",
    "num_generations": "num_generations",
    "num_iterations": "num_iterations",
    "steps_per_generation": "num_minibatches",
    "generation_batch_size": "num_prompts",
    "gradient_accumulation_steps": "num_prompts and trl.per_device_train_batch_size: what is left is accumulated",
    "shuffle_dataset": "seed",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "lr_scheduler_type": "lr_scheduler_type",
    "lr_scheduler_kwargs": "lr_scheduler_type",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "temperature": "sampling.temperature",
    "max_completion_length": "sampling.max_completion_length",
    "loss_type": "loss.loss_type",
    "epsilon": "loss.epsilon",
    "epsilon_high": "loss.epsilon_high",
    "importance_sampling_level": "loss.importance_sampling_level",
    "beta": "loss.beta",
    "use_bias_correction_kl": "loss.kl_estimator",
    "mask_truncated_completions": "loss.mask_truncated_completions",
    "vllm_importance_sampling_mode": "loss.importance_sampling_cap",
    "vllm_importance_sampling_clip_max": "loss.importance_sampling_cap",
    "vllm_importance_sampling_cap": "loss.importance_sampling_cap",
    "scale_rewards": "advantage",
    "reward_weights": "reward",
    "multi_objective_aggregation": "reward",
    "use_vllm": "engine",
    "vllm_gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "vllm_enable_sleep_mode": "vllm.sleep_level",
    "save_steps": "save_steps",
    "save_strategy": "save_steps",
    "save_total_limit": "save_steps",
    "save_only_model": "save_steps",
    "load_best_model_at_end": "save_steps",
    "resume_from_checkpoint": "the run's folder, which resumes by itself",
    "output_dir": "the run's folder",
    "logging_steps": "the run's logs, one line per rollout batch",
    "logging_strategy": "the run's logs, one line per rollout batch",
    "logging_nan_inf_filter": "the run's logs, which hide nothing",
    "report_to": "--report-to of the command",
    "remove_unused_columns": "the prompts file",
    "eval_strategy": "evals/, which measures finished checkpoints",
    "do_eval": "evals/, which measures finished checkpoints",
    "model_init_kwargs": "the parent checkpoint",
    "push_to_hub": "lmmr1 publish, never a side effect of training",
}
"""Field of GRPOConfig: what of ours decides it, so that nothing is said in two places."""


def arguments(cfg: TrainConfig, output_dir: Path) -> tuple[GRPOConfig, PeftConfig | None]:
    """GRPOConfig of a run, and the adapter that `lora` asks for.

    Raises UserError for an option that TRL does not know, that one of our settings decides, or that cannot work here.
    """
    require_trl()
    from trl import GRPOConfig

    check_names(cfg.trl, {f.name for f in fields(GRPOConfig) if f.init})
    for package, wanted in {"deepspeed": "deepspeed" in cfg.trl, "peft": cfg.lora is not None}.items():
        if wanted and importlib.util.find_spec(package) is None:
            raise UserError(f"trainer: trl: {package} is not installed; pip install {package}")
    options = defaults() | cfg.trl | mapped(cfg, int(os.environ.get("WORLD_SIZE", "1")))
    try:
        return GRPOConfig(output_dir=str(output_dir), **options), adapter(cfg)
    except (ValueError, TypeError, ImportError, OSError) as e:
        raise UserError(f"trl: refused by TRL {version('trl')}: {' '.join(str(e).split())}") from e


def adapter(cfg: TrainConfig) -> PeftConfig | None:
    """`lora` in PEFT's form; a frozen vision tower gets no adapter either."""
    if cfg.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=cfg.lora.r,
        lora_alpha=cfg.lora.alpha,
        lora_dropout=cfg.lora.dropout,
        target_modules=list(cfg.lora.target_modules),
        exclude_modules=r".*\bvisual\b.*" if cfg.freeze_vision else None,
    )


def require_trl() -> None:
    """Raise UserError where the TRL that this module was written for is not installed."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        raise UserError("trainer: trl needs TRL; pip install 'lmmr1[trl]'") from None
    if not found.startswith("1.16."):
        raise UserError(f"trainer: trl was written for TRL 1.16, found {found}; pip install 'lmmr1[trl]'")


def check_names(options: dict[str, Any], known: set[str]) -> None:
    """Raise UserError for the first option that is unknown to TRL or decided by a setting of ours."""
    for name in options:
        if name == "use_peft" or name.startswith("lora_"):
            raise UserError(f"trl.{name}: decided by lora; set that instead, e.g. lora: {{r: 16}}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; see the fields of trl.GRPOConfig"
            raise UserError(f"trl.{name}: TRL's GRPOConfig has no such option{hint}")
        if name in DECIDED:
            raise UserError(f"trl.{name}: decided by {DECIDED[name]}; set that instead")


def defaults() -> dict[str, Any]:
    """Options that `trl:` may change: fp32, on a GPU too."""
    import torch

    return {
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "optim": "adamw_torch_fused",
        "disable_tqdm": not sys.stderr.isatty(),
    }


def mapped(cfg: TrainConfig, world: int) -> dict[str, Any]:
    """GRPOConfig's fields that our settings decide, for `world` processes.

    Raises UserError where prompts and rows cannot be shared out in whole groups, or `bnpo` would average locally.
    """
    if cfg.num_prompts % world:
        raise UserError(f"num_prompts {cfg.num_prompts}: cannot be shared by {world} processes in whole groups")
    device_rows, accumulation = batches(cfg, world)
    loss, per_rollout = cfg.loss, cfg.optimizer_steps
    return {
        "seed": cfg.seed,
        "gradient_checkpointing": cfg.gradient_checkpointing,
        "max_steps": cfg.max_steps * per_rollout,
        "num_generations": cfg.num_generations,
        "num_iterations": cfg.num_iterations,
        "per_device_train_batch_size": device_rows,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation * cfg.num_minibatches,
        "shuffle_dataset": False,  # the rows already stand in our order
        "learning_rate": cfg.learning_rate,
        "adam_beta1": cfg.adam_beta1,
        "adam_beta2": cfg.adam_beta2,
        "weight_decay": cfg.weight_decay,
        "max_grad_norm": cfg.max_grad_norm,
        "temperature": cfg.sampling.temperature,
        "max_completion_length": cfg.sampling.max_completion_length,
        "loss_type": "grpo" if loss.loss_type == "seq_mean" else loss.loss_type,  # two names of one average
        "epsilon": loss.epsilon,
        "epsilon_high": loss.epsilon_high,
        "importance_sampling_level": loss.importance_sampling_level,
        "beta": loss.beta,
        "use_bias_correction_kl": False,  # the plain k3 estimate
        "mask_truncated_completions": loss.mask_truncated_completions,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": loss.importance_sampling_cap,
        "scale_rewards": "group" if cfg.advantage == "group_norm" else "none",
        "use_vllm": cfg.engine == "vllm",
        "vllm_gpu_memory_utilization": cfg.vllm.gpu_memory_utilization,
        "vllm_enable_sleep_mode": cfg.vllm.sleep_level > 0,
        "save_steps": cfg.save_steps * per_rollout,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": [],  # our own trackers get the rows of steps.jsonl
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }


def batches(cfg: TrainConfig, world: int) -> tuple[int, int]:
    """Rows (completions) that a device takes at once, and how many times it does for one optimizer step."""
    rows = cfg.num_prompts * cfg.num_generations // cfg.num_minibatches
    device_rows = int(cfg.trl.get("per_device_train_batch_size", max(rows // world, 1)))
    if device_rows < 1 or rows % (device_rows * world):
        raise UserError(
            f"trl.per_device_train_batch_size {device_rows} on {world} processes does not divide the {rows} completions"
            f" of one optimizer step (num_prompts x num_generations / num_minibatches)"
        )
    accumulation = rows // (device_rows * world)
    if cfg.loss.loss_type == "bnpo" and accumulation * world > 1:
        raise UserError(
            "loss.loss_type 'bnpo': TRL averages over the tokens of one device's batch, which is not the step's here; "
            "give 'dapo', or one process and no per_device_train_batch_size"
        )
    return device_rows, accumulation
