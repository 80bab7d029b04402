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

from lmmr1.batch import informative
from lmmr1.config import TrainConfig, load_train_config
from lmmr1.data import parse_samples, prompt_batches, read_samples, training_data
from lmmr1.exits import run_cli
from lmmr1.files import verify, write
from lmmr1.forward import prompts_at_once
from lmmr1.learner import build
from lmmr1.lock import owned
from lmmr1.metrics import completion_rows, step_metrics, timings
from lmmr1.policy import Policy
from lmmr1.precision import settled
from lmmr1.processes import ALONE, Processes, join, require_prompts
from lmmr1.rewards import score, verifier_pool
from lmmr1.rollout import Engine, HFEngine
from lmmr1.store import LOGS, Store, read_parent, run_key, write_manifest
from lmmr1.tracking import NOWHERE, VARIABLE, Reporting, parse_names, require_installed
from lmmr1.types import Manifest, Sample, TrainingData
from lmmr1.vllm_engine import VLLMEngine


def train(
    cfg: TrainConfig, parent: Manifest, prompts: Path, root: Path, report_to: Reporting = NOWHERE
) -> tuple[Manifest, Store]:
    """Run one stage from `parent` on `prompts`, resuming where an earlier attempt stopped. Returns manifest and store.

    Raises UserError for bad input before any compute is spent, TrainingError where numbers stop being finite.
    """
    require_installed(report_to.names)
    cfg = settled(cfg)
    processes = ALONE if cfg.trainer == "trl" else join()
    require_prompts(processes, cfg.num_prompts // cfg.num_minibatches)
    samples, data = processes.of_main(lambda: _checked(prompts))
    store = Store(root, run_key(cfg, parent.key, data.sha256), processes)
    with _alone(store, prompts):
        return store.finished() or _run(cfg, parent, samples, data, store, report_to), store


def _checked(prompts: Path) -> tuple[list[Sample], TrainingData]:
    """The prompts, every image decoded and every byte hashed: of several processes the first does it for all, but TRL's
    each read and hash them, and the first alone decodes."""
    samples = parse_samples(prompts) if rank() else read_samples(prompts)
    return samples, training_data(prompts, samples)


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
    store.processes.of_main(lambda: None if rank() and cfg.trainer == "trl" else store.begin(parent))
    if cfg.trainer == "trl":
        from lmmr1 import trl_trainer

        return trl_trainer.train(cfg, parent, samples, data, store, report_to)
    processes = store.processes
    learner = build(cfg, parent, processes)
    engine = build_engine(cfg, learner.policy, processes)
    start = store.resume(learner.trained, learner.optimizer)
    learner.loaded()
    trackers = (report_to if processes.main else NOWHERE).open(cfg, store.key, start)
    with progress(processes.main) as bar, verifier_pool(cfg.reward) as verifier, trackers:
        task = bar.add_task(f"train {store.key}", total=cfg.max_steps, completed=start)
        for step, samples_P in prompt_batches(samples, cfg.prompts_drawn, cfg.seed, start, cfg.max_steps):
            began = time.perf_counter()
            seed, places = (cfg.seed, step), processes.share(range(len(samples_P)))
            mine = tuple(samples_P[i] for i in places)
            processes.unshard(learner.policy.model)
            rollouts = engine.generate(mine, cfg.sampling, cfg.num_generations, seed, places)
            groups_P = score(mine, rollouts, cfg.reward, cfg.sampling, verifier, seed, processes)
            kept_P = informative(groups_P, cfg.num_prompts)
            batch = learner.batch(kept_P, engine.exact)
            stats = learner.learn(batch, step, store)
            metrics = {"step": step, **step_metrics(groups_P), **stats.metrics}
            seconds = timings(step, time.perf_counter() - began, groups_P)
            store.log("steps.jsonl", metrics)
            store.log("completions.jsonl", *completion_rows(step, kept_P, batch.advantages[:, 0].tolist()))
            store.log("timings.jsonl", seconds)
            trackers.log(step, metrics, seconds)
            if step % cfg.save_steps == 0 or step == cfg.max_steps:  # whatever happens to the result, it is not lost
                store.save(step, learner.trained, learner.optimizer)
            bar.advance(task)
    return store.finish(learner.finished(), parent, cfg, data)


def build_engine(cfg: TrainConfig, policy: Policy, processes: Processes = ALONE) -> Engine:
    """What samples. Raises UserError where that is vLLM and it is not installed."""
    if cfg.engine == "vllm":
        return VLLMEngine(policy, cfg.sampling, cfg.vllm, launched=processes.size > 1)
    # sampler and learner share the batch's prompts, where the learner too takes all of them at once
    at_once = cfg.prompts_drawn <= prompts_at_once(cfg) and cfg.num_minibatches == cfg.dynamic_sampling_factor == 1
    return HFEngine(policy, share_prefix=at_once, budget=cfg.tokens_per_rollout)


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
    parser.add_argument("--dry-run", action="store_true", help="check config, parent, prompts, images; train nothing")
    args = parser.parse_args(argv)
    report_to = Reporting(parse_names(args.report_to, "--report-to"), args.out)
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    verify(args.config)
    cfg, parent = load_train_config(args.config), read_parent(args.parent)
    if args.dry_run:
        samples, _ = _checked(args.prompts)
        print(f"would train {cfg.max_steps} steps on {len(samples)} prompts of {args.prompts} and write {args.out}")
        return
    manifest, store = train(cfg, parent, args.prompts, args.checkpoints, report_to)
    if rank():
        return  # under `accelerate launch` the first process writes what the workflow waits for
    for name in LOGS:
        write(args.out / name, (store.folder / name).read_bytes(), sealed=True)
    write_manifest(args.out / "manifest.json", manifest)


if __name__ == "__main__":
    run_cli(main)
