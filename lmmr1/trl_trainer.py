"""One stage through TRL's GRPOTrainer: the same prompts in the same order, rewards, schedule, logs and checkpoint.

What is TRL's: sampling (Hugging Face `generate` or vLLM), advantages, loss, optimizer loop, its resumable checkpoints,
and what `trl:` asks of it. What is ours: everything around it. docs/trl.md says where the two still differ.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from PIL import Image
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForImageTextToText, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from lmmr1.checkpoint import load_processor, loading, savable, stop_tokens
from lmmr1.config import TrainConfig
from lmmr1.data import prompt_batches
from lmmr1.hub_commits import snapshot
from lmmr1.images import open_image
from lmmr1.metrics import completion_rows, step_metrics, timings
from lmmr1.policy import use_linear_patch_embedding
from lmmr1.rewards import score, verifier_pool
from lmmr1.schedule import rates
from lmmr1.store import Store
from lmmr1.tracking import NOWHERE, Reporting, Trackers
from lmmr1.trl_settings import arguments
from lmmr1.types import Manifest, Rollout, Sample, ScoredGroup, TrainingData, TrainingError, UserError

Scorer = Callable[..., list[ScoredGroup]]
"""P samples, their P x G rollouts and `seed` in, P scored groups out: rewards.score with its settings filled in."""

LEARNER = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/region_mean": "clip_ratio/region_mean",
    "sampling/sampling_logp_difference/max": "sampling/logp_difference",
}
"""TRL's log: name in steps.jsonl. Rewards and lengths are measured by our own metrics.py, on the same completions."""


def train(
    cfg: TrainConfig, parent: Manifest, samples: list[Sample], data: TrainingData, store: Store, report_to: Reporting
) -> Manifest:
    """Run the stage, resuming from TRL's newest whole checkpoint. Every process of a launch gets the manifest.

    Raises UserError for bad options before any compute is spent, TrainingError where numbers stop being finite.
    """
    # TRL names the model again to whoever loads its reference or its vLLM, without a commit: so it gets the folder
    weights = str(snapshot(parent.weights, parent.revision)) if parent.revision else parent.weights
    args, adapter = arguments(cfg, store.folder / "resume")
    refuse_mixed_rows(samples, args.steps_per_generation)
    point = store.sealed()
    with verifier_pool(cfg.reward) as verifier:
        scorer = partial(score, cfg=cfg.reward, sampling=cfg.sampling, verifier=verifier)
        trainer = build(cfg, weights, samples, scorer, args, adapter)
        start = int(point.name.partition("-")[2]) // cfg.optimizer_steps if point else 0
        with (report_to if trainer.is_world_process_zero() else NOWHERE).open(cfg, store.key, start) as trackers:
            trainer.add_callback(RunLog(trainer, store, trackers))
            trainer.train(resume_from_checkpoint=str(point) if point else None)
    folder = store.folder / "final.partial"
    write_model(trainer, weights, folder)
    if trainer.is_world_process_zero():
        store.add_processor(folder)
        store.publish(folder, parent, cfg, data)
    trainer.accelerator.wait_for_everyone()
    manifest = store.finished()
    assert manifest is not None
    return manifest


def refuse_mixed_rows(samples: Sequence[Sample], parts: int) -> None:
    """Raise UserError where TRL may meet a part of a rollout batch without an image beside parts with images."""
    without = sum(not sample.images for sample in samples)
    if parts > 1 and 0 < without < len(samples):
        raise UserError(
            f"prompts: {without} of {len(samples)} have no image, and TRL cannot split such a rollout batch; give "
            "num_minibatches: 1 without trl.per_device_train_batch_size, prompts of one kind, or trainer: lmmr1"
        )


def build(
    cfg: TrainConfig, weights: str, samples: Sequence[Sample], scorer: Scorer, args: GRPOConfig, adapter: Any = None
) -> Trainer:
    """The trainer, ready to run; its logs go nowhere until a RunLog is added."""
    model, processor = load(weights, args.use_cpu), load_processor(weights, None, cfg.min_pixels, cfg.max_pixels)
    if cfg.freeze_vision:
        model.model.visual.requires_grad_(False)
    longest = cfg.sampling.max_prompt_length + cfg.sampling.max_completion_length
    context = model.config.get_text_config().max_position_embeddings
    if longest > context:
        raise UserError(f"sampling: prompts and completions of up to {longest} tokens, but {weights} has {context}")
    processor.tokenizer.padding_side = "left"
    stop_ids = stop_tokens(processor.tokenizer, model.generation_config)
    if args.use_vllm:  # TRL tells its own `generate` all of them, and leaves vLLM to what it finds in its files
        args.generation_kwargs = {"stop_token_ids": list(stop_ids), **(args.generation_kwargs or {})}
    trainer = Trainer(
        cfg,
        Rewards(cfg, scorer, stop_ids),
        model=model,
        args=args,
        train_dataset=dataset(cfg, samples),
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def load(weights: str, on_cpu: bool) -> PreTrainedModel:
    """The model in fp32; where it goes (devices, shards) is TRL's and accelerate's business.

    Raises UserError where it cannot be loaded.
    """
    with loading(
        Path(weights), "the model"
    ):  # examined when the run began; here DeepSpeed or FSDP may shard it meanwhile
        model = AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32, use_safetensors=True)
    model.generation_config = savable(model.generation_config)
    if on_cpu:  # elsewhere weights may be sharded, and only the module's own forward gathers them
        use_linear_patch_embedding(model)
    return model


def dataset(cfg: TrainConfig, samples: Sequence[Sample]) -> Dataset:
    """max_steps * P rows in the order in which our loop draws them; images are opened when a row is read."""
    batches = prompt_batches(list(samples), cfg.num_prompts, cfg.seed, 0, cfg.max_steps)
    order = [sample for _, samples_P in batches for sample in samples_P]

    def read(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [order[i] for i in rows["row"]]
        images = {path: open_image(path) for sample in chosen for path in sample.images}
        return {"prompt": [with_images(sample, images) for sample in chosen], "sample": chosen}

    rows = Dataset.from_dict({"row": list(range(len(order)))})
    rows.set_transform(read)
    return rows


def with_images(sample: Sample, images: dict[Path, Image.Image]) -> list[dict[str, Any]]:
    """The sample's messages with opened images in place of file names."""
    paths = iter(sample.images)

    def fill(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [{"type": "image", "image": images[next(paths)]} if i["type"] == "image" else i for i in content]

    return [{**message, "content": fill(message["content"])} for message in sample.messages]


class Rewards:
    """Our reward as TRL's reward function; `groups` holds what it scored last, of all processes."""

    def __init__(self, cfg: TrainConfig, scorer: Scorer, stop_ids: Sequence[int]) -> None:
        self.cfg, self.scorer, self.stop_ids = cfg, scorer, stop_ids
        self.groups: list[ScoredGroup] = []

    def __call__(
        self,
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        sample: list[Sample],
        trainer_state: Any,
        **_: Any,
    ) -> list[float]:
        """Total rewards of this process's completions, which are whole groups in order."""
        g = self.cfg.num_generations
        step = trainer_state.global_step // self.cfg.optimizer_steps + 1
        rollouts = [
            Rollout(s.id, tuple(ids), (), c[0]["content"], "stop" if ids[-1] in self.stop_ids else "length")
            for s, ids, c in zip(sample, completion_ids, completions, strict=True)
        ]
        rollouts_PG = [tuple(rollouts[i : i + g]) for i in range(0, len(rollouts), g)]
        process = int(os.environ.get("RANK", "0"))
        seed = (self.cfg.seed, step, process) if process else (self.cfg.seed, step)
        groups = self.scorer(tuple(sample[::g]), rollouts_PG, seed=seed)
        if bad := [g.sample.id for g in groups if not all(math.isfinite(r.total) for r in g.rewards)]:
            raise TrainingError(f"step {step}: rewards not finite for samples {', '.join(bad)}")  # TRL takes them for 0
        self.groups = gather_object(groups)
        return [r.total for group in groups for r in group.rewards]


class Trainer(GRPOTrainer):
    """TRL's trainer with our learning rates, weight decay and prompt limit."""

    def __init__(self, cfg: TrainConfig, rewards: Rewards, **kwargs: Any) -> None:
        self.cfg, self.rewards = cfg, rewards
        super().__init__(reward_funcs=rewards, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Our schedule's rates; TRL's own schedules begin at 0 and end at 0."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.rate_share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def rate_share(self, done: int) -> float:
        """Share of `learning_rate` after `done` optimizer steps."""
        step, part = divmod(done, self.cfg.optimizer_steps)
        return rates(self.cfg, step + 1)[part] / self.cfg.learning_rate

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All of them, as in our loop; transformers spares biases and norms."""
        return [name for name, _ in model.named_parameters()]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Through `from_pretrained`, which knows the names in the file. transformers' Trainer does not: for Qwen2.5-VL
        it warns that none fits, and goes on with the weights that the run began with."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or is_peft_model(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = AutoModelForImageTextToText.from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, ...]:
        tokens, images, fields = super()._tokenize_prompts(prompts)
        longest, limit = max(map(len, tokens)), self.cfg.sampling.max_prompt_length
        if longest > limit:
            raise UserError(
                f"prompt of {longest} tokens is longer than max_prompt_length {limit}; raise the limit or shorten it"
            )
        images = images and [row or [] for row in images]  # a row without images is a list too, or the processor fails
        return tokens, images, fields

    def advantages(self) -> list[float]:
        """(N,) of the last rollout batch, in the order of `rewards.groups`."""
        return list(self._logs["advantages"])


class RunLog(TrainerCallback):
    """Writes what our own loop writes, one line per rollout batch, and seals TRL's checkpoints."""

    def __init__(self, trainer: Trainer, store: Store, trackers: Trackers) -> None:
        self.trainer, self.store, self.trackers, self.cfg = trainer, store, trackers, trainer.cfg
        self.began, self.learner = 0.0, defaultdict[str, list[float]](list)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A rollout batch begins where the optimizer steps on the one before are done."""
        if state.global_step % self.cfg.optimizer_steps == 0:
            self.began = time.perf_counter()
            self.learner.clear()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Collect the metrics of one optimizer step; after a rollout batch's last one, write.

        Raises TrainingError where loss or gradients are not finite; no checkpoint is written after that.
        """
        if "loss" not in logs:
            return  # the summary at the end
        for name, ours in LEARNER.items():
            if logs.get(name) is not None:
                self.learner[ours].append(float(logs[name]))
        step, rest = divmod(state.global_step, self.cfg.optimizer_steps)
        bad = [name for name, values in self.learner.items() if not math.isfinite(values[-1])]
        if bad:
            ids = ", ".join(g.sample.id for g in self.trainer.rewards.groups)
            raise TrainingError(f"step {step + bool(rest)}: {', '.join(bad)} not finite for samples {ids}")
        if not rest and state.is_world_process_zero:
            self.write(step)

    def write(self, step: int) -> None:
        """One line per log, and the completions."""
        groups, store = self.trainer.rewards.groups, self.store
        learner = {"kl": 0.0} | {name: sum(values) / len(values) for name, values in self.learner.items()}
        metrics = {"step": step, **step_metrics(groups), **learner}
        seconds = timings(step, time.perf_counter() - self.began, groups)
        store.log("steps.jsonl", metrics)
        store.log("completions.jsonl", *completion_rows(step, groups, self.trainer.advantages()))
        store.log("timings.jsonl", seconds)
        self.trackers.log(step, metrics, seconds)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """TRL has written its checkpoint; when every process has, it becomes a resume point."""
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            point = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.store.seal(state.global_step // self.cfg.optimizer_steps, point)


def write_model(trainer: Trainer, weights: str, folder: Path) -> None:
    """The trained model in Hugging Face format, an adapter merged into it."""
    vars(trainer.model.config).pop("use_cache", None)  # transformers' Trainer put it there for its own time
    if trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(folder))  # by all processes: the weights may be sharded
    if not trainer.is_world_process_zero():
        return
    if (folder / "adapter_config.json").exists():
        merge_adapter(weights, folder)
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, and it names this machine


def merge_adapter(weights: str, folder: Path) -> None:
    """Replace the adapter in `folder` by the whole model: `weights` with the adapter merged into them, on the CPU."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load(weights, on_cpu=False), str(folder)).merge_and_unload()
    shutil.rmtree(folder)
    merged.save_pretrained(folder)
