"""Run one stage: the training loop, and the command that the workflow calls.

How this differs from textbook GRPO: (1) one optimizer step per rollout batch by default, so the ratio is 1 and the
old log-probabilities are the sampler's; (2) no reference model at beta 0; (3) the prompt is computed once per
group, for sampler and learner together; (4) groups whose rewards are all equal are skipped;
the normaliser still counts them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmmr1.advantages import per_token
from lmmr1.batch import collate, completions, informative, rewards_of
from lmmr1.config import TrainConfig, load_train_config
from lmmr1.data import prompt_batches, read_samples, training_data
from lmmr1.exits import run_cli
from lmmr1.files import verify, write
from lmmr1.lock import owned
from lmmr1.lora import add_adapters
from lmmr1.loss import policy_loss
from lmmr1.metrics import completion_rows, step_metrics, timings
from lmmr1.policy import Policy, load_policy, recompute_layers
from lmmr1.processes import ALONE, Processes, join, require_prompts
from lmmr1.rewards import score, verifier_pool
from lmmr1.rollout import Engine, HFEngine
from lmmr1.schedule import learning_rate
from lmmr1.store import LOGS, Store, read_parent, run_key, write_manifest
from lmmr1.tracking import NOWHERE, VARIABLE, Reporting, parse_names, require_installed
from lmmr1.types import Batch, Manifest, Sample, ScoredGroup, StepStats, TrainingData, TrainingError, UserError
from lmmr1.update import importance_corrected, reference_penalty, save_batch, update
from lmmr1.vllm_engine import VLLMEngine


def train(
    cfg: TrainConfig, parent: Manifest, prompts: Path, root: Path, report_to: Reporting = NOWHERE
) -> tuple[Manifest, Store]:
    """Run one stage from `parent` on `prompts`, resuming where an earlier attempt stopped. Returns manifest and store.

    Raises UserError for bad input before any compute is spent, TrainingError where numbers stop being finite.
    """
    require_installed(report_to.names)
    processes = ALONE if cfg.trainer == "trl" else join()
    require_prompts(processes, cfg.num_prompts // cfg.num_minibatches)
    samples = read_samples(prompts)
    data = training_data(prompts, samples)
    store = Store(root, run_key(cfg, parent.key, data.sha256), processes)
    with _alone(store, prompts):
        return store.finished() or _run(cfg, parent, samples, data, store, report_to), store


def _alone(store: Store, prompts: Path) -> contextlib.AbstractContextManager[None]:
    """The run's lock; of several processes of one run the first has it for all (TRL's: by rank)."""
    first = store.processes.main and not rank()
    return owned(store.folder, f"training on {prompts}") if first else contextlib.nullcontext()


def rank() -> int:
    """Number of this process among those that `accelerate launch` started; 0 for one alone."""
    return int(os.environ.get("RANK", "0"))


def _run(
    cfg: TrainConfig, parent: Manifest, samples: list[Sample], data: TrainingData, store: Store, report_to: Reporting
) -> Manifest:
    """The stage itself, from the newest resume point to the finished checkpoint."""
    if cfg.trainer == "trl":
        from lmmr1 import trl_trainer

        return trl_trainer.train(cfg, parent, samples, data, store, report_to)
    processes = store.processes
    policy, reference, engine, optimizer = build(cfg, parent, processes)
    start = store.resume(policy, optimizer)
    trackers = (report_to if processes.main else NOWHERE).open(cfg, store.key, start)
    with progress(processes.main) as bar, verifier_pool(cfg.reward) as verifier, trackers:
        task = bar.add_task(f"train {store.key}", total=cfg.max_steps, completed=start)
        for step, samples_P in prompt_batches(samples, cfg.prompts_drawn, cfg.seed, start, cfg.max_steps):
            began = time.perf_counter()
            seed, places = (cfg.seed, step), processes.share(range(len(samples_P)))
            mine = tuple(samples_P[i] for i in places)
            processes.unshard(policy.model)
            rollouts = engine.generate(mine, cfg.sampling, cfg.num_generations, seed, places)
            groups_P = score(mine, rollouts, cfg.reward, cfg.sampling, verifier, seed, processes)
            kept_P = informative(groups_P, cfg.num_prompts)
            batch = to_batch(kept_P, policy, reference, engine.exact, cfg, processes)
            stats = learn(policy, reference, optimizer, batch, cfg, step, store)
            metrics = {"step": step, **step_metrics(groups_P), **stats.metrics}
            seconds = timings(step, time.perf_counter() - began, groups_P)
            store.log("steps.jsonl", metrics)
            store.log("completions.jsonl", *completion_rows(step, kept_P, batch.advantages[:, 0].tolist()))
            store.log("timings.jsonl", seconds)
            trackers.log(step, metrics, seconds)
            if step % cfg.save_steps == 0 and step < cfg.max_steps:
                store.save(step, policy, optimizer)
            bar.advance(task)
    return store.finish(policy, parent, cfg, data)


def build(
    cfg: TrainConfig, parent: Manifest, processes: Processes = ALONE
) -> tuple[Policy, Policy | None, Engine, torch.optim.Optimizer]:
    """Policy, frozen reference (only at beta > 0), sampling engine and optimizer."""
    pixels = (cfg.min_pixels, cfg.max_pixels)
    policy = load_policy(parent.weights, parent.revision, True, *pixels, adapters=bool(cfg.lora))
    if cfg.freeze_vision:
        policy.model.model.visual.requires_grad_(False)
    if cfg.lora:
        if processes.sharded:
            raise UserError("lora: adapters are too small to shard; launch with config/accelerate/ddp.yaml")
        policy.peft = add_adapters(policy.model, cfg.lora)
    if cfg.gradient_checkpointing:
        recompute_layers(policy.model)
    reference = None
    if cfg.loss.beta > 0:
        reference = policy.reference() if cfg.lora else load_policy(parent.weights, parent.revision, False, *pixels)
    processes.shard(policy.model)
    params = [p for p in policy.model.parameters() if p.requires_grad]
    betas = (cfg.adam_beta1, cfg.adam_beta2)
    optimizer = torch.optim.AdamW(params, lr=cfg.learning_rate, betas=betas, weight_decay=cfg.weight_decay, fused=True)
    return policy, reference, build_engine(cfg, policy, processes), optimizer


def build_engine(cfg: TrainConfig, policy: Policy, processes: Processes = ALONE) -> Engine:
    """What samples. Raises UserError where that is vLLM and it is not installed."""
    if cfg.engine == "vllm":
        return VLLMEngine(policy, cfg.sampling, cfg.vllm, launched=processes.size > 1)
    return HFEngine(policy, share_prefix=True, budget=cfg.tokens_per_rollout)


def to_batch(
    groups: list[ScoredGroup],
    policy: Policy,
    reference: Policy | None,
    exact: bool,
    cfg: TrainConfig,
    processes: Processes = ALONE,
) -> Batch:
    """Advantages and tensors of one rollout batch; `kl_in_reward` lets the reference's penalty enter the advantages."""
    rewards, truncated = rewards_of(groups), cfg.loss.mask_truncated_completions
    if not bool(torch.isfinite(rewards).all()):
        raise TrainingError(f"rewards not finite for samples {', '.join(g.sample.id for g in groups)}")
    mask = completions(groups, policy.pad_id)[1]
    penalty = None
    if reference is not None and cfg.loss.kl_in_reward:
        plain = collate(groups, per_token("group_mean", rewards, mask), policy.pad_id)
        penalty = reference_penalty(reference, plain, cfg, processes)
    batch = collate(groups, per_token(cfg.advantage, rewards, mask, penalty), policy.pad_id, truncated)
    return batch if exact else importance_corrected(policy, batch, cfg, processes)


def learn(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    cfg: TrainConfig,
    step: int,
    store: Store,
) -> StepStats:
    """The optimizer steps of one rollout batch at this step's learning rate; a broken batch is saved for replay."""
    rate = learning_rate(cfg, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    try:
        metrics = update(policy, reference, optimizer, batch, cfg, policy_loss, store.processes)
        return StepStats(step, {**metrics, "learning_rate": rate})
    except TrainingError as e:
        file = store.folder / f"failed-step-{step}.pt"
        if store.processes.main:
            save_batch(file, batch, e)
        raise TrainingError(f"step {step}: {e}; the batch is saved in {file}") from e


def progress(main: bool = True) -> Progress:
    """A progress bar that says nothing where standard error is not a terminal, or another process has it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not (main and console.is_terminal))


def main(argv: list[str] | None = None) -> None:
    """`python -m lmmr1.train`: one run, as the workflow's rule calls it. Declared outputs are written last."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the stage's settings")
    parser.add_argument("--parent", type=Path, required=True, help="manifest.json of the checkpoint to continue from")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL with the training prompts")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="content-addressed store")
    parser.add_argument("--out", type=Path, required=True, help="folder for manifest.json and the logs")
    parser.add_argument("--report-to", default=os.environ.get(VARIABLE), help="tensorboard, wandb, trackio: a,b")
    args = parser.parse_args(argv)
    report_to = Reporting(parse_names(args.report_to, "--report-to"), args.out)
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    verify(args.config)
    cfg, parent = load_train_config(args.config), read_parent(args.parent)
    manifest, store = train(cfg, parent, args.prompts, args.checkpoints, report_to)
    if rank():
        return  # under `accelerate launch` the first process writes what the workflow waits for
    for name in LOGS:
        write(args.out / name, (store.folder / name).read_bytes(), sealed=True)
    write_manifest(args.out / "manifest.json", manifest)


if __name__ == "__main__":
    run_cli(main)
