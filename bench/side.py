"""One side of one point, in a process of its own: prints one JSON line.

python -m bench.side core|trl MODEL_FOLDER '{"mode": "forced", "G": 16, ...}'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_DISABLED", "true")
warnings.filterwarnings("ignore")

import psutil
import torch

from bench.common import Setting, image, question, reward
from lmmr1.config import SamplingConfig, TrainConfig

ROWS = 64


def peak_mb() -> int:
    """Peak memory of this process so far, in MB. Not `ru_maxrss`: that one starts at the parent's size."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def now_mb() -> int:
    """Memory of this process now, in MB: loading leaves a peak behind that training need not reach."""
    return psutil.Process().memory_info().rss // 2**20


def median(values: list[float]) -> float:
    """Upper median."""
    return sorted(values)[len(values) // 2]


def settings(setting: Setting, **more: Any) -> TrainConfig:
    """The settings of both sides; one step more than is counted."""
    return TrainConfig(
        num_prompts=setting.P, num_generations=setting.G, learning_rate=1e-4, warmup_steps=0,
        max_steps=setting.steps + 1, save_steps=setting.steps + 2, adam_beta2=0.999,
        sampling=SamplingConfig(max_completion_length=setting.C), **more,
    )  # fmt: skip


def graded(samples: Sequence[Any], rollouts: list[Any], **_: Any) -> list[Any]:
    """The benchmark's reward for every rollout."""
    from lmmr1.types import Reward, ScoredGroup

    return [
        ScoredGroup(s, rs, tuple(Reward(reward(r.text, s.answer), 0.0, 0.0) for r in rs))
        for s, rs in zip(samples, rollouts, strict=True)
    ]


def run_core(model: Path, setting: Setting) -> dict[str, Any]:
    """Whole steps of lmmr1: encode, sample, score, advantages, learn; the first step is not counted."""
    from lmmr1.batch import rewards_of
    from lmmr1.learner import build
    from lmmr1.metrics import step_metrics
    from lmmr1.rollout import HFEngine
    from lmmr1.store import Store, adopt
    from lmmr1.types import Sample

    cfg = settings(setting)
    learner = build(cfg, adopt(str(model), "bench"))
    policy = learner.policy
    engine = HFEngine(policy, share_prefix=True)
    if setting.mode == "forced":
        policy.stop_ids = ()
    folder = Path(tempfile.mkdtemp())
    samples, before, steps, phases, lengths = core_samples(setting, folder, Sample), now_mb(), [], {}, []
    store = Store(folder, "run")
    for step in range(setting.steps + 1):
        picked = tuple(samples[(step * setting.P + j) % ROWS] for j in range(setting.P))
        times = [time.perf_counter()]
        policy.prefix(picked, cfg.sampling.max_prompt_length, grad=True, keep=True)
        times.append(time.perf_counter())
        rollouts = engine.generate(picked, cfg.sampling, setting.G, (0, step))
        times.append(time.perf_counter())
        groups = graded(picked, rollouts)
        batch = learner.batch(groups, engine.exact)
        times.append(time.perf_counter())
        stats = learner.learn(batch, step + 1, store)
        store.log("steps.jsonl", {"step": step, **step_metrics(groups), **stats.metrics})
        times.append(time.perf_counter())
        if step:
            steps.append(times[-1] - times[0])
            for name, (a, b) in zip(("prefill", "decode", "score", "learn"), pairwise(times), strict=True):
                phases.setdefault(name, []).append(b - a)
            lengths.append(float(batch.completion_mask.sum(1).float().mean()))
            assert rewards_of(groups).std() > 0
    return describe("core", setting, steps, phases, lengths, before)


def core_samples(setting: Setting, folder: Path, kind: type) -> list[Any]:
    """The prompts as our samples, images saved as PNG."""
    out = []
    for i in range(ROWS):
        content, files = [{"type": "text", "text": question(i)}], ()
        if setting.side:
            file = folder / f"{i}.png"
            image(i, setting.side).save(file)
            content, files = [{"type": "image"}, *content], (file,)
        out.append(kind(str(i), [{"role": "user", "content": content}], files, str(2 * i + 1)))
    return out


def run_trl(model: Path, setting: Setting) -> dict[str, Any]:
    """Whole optimizer steps of TRL's GRPOTrainer (Hugging Face generate, no vLLM); the first step is not counted."""
    from transformers import TrainerCallback

    from lmmr1.trl_settings import arguments
    from lmmr1.trl_trainer import build
    from lmmr1.types import Sample

    options = {"generation_kwargs": {"min_new_tokens": setting.C}} if setting.mode == "forced" else {}
    cfg, folder = settings(setting, trainer="trl", trl=options), Path(tempfile.mkdtemp())
    samples, steps, started, phases = core_samples(setting, folder, Sample), [], [0.0], {}

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            started[0] = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append(time.perf_counter() - started[0])

    before = now_mb()
    trainer = build(cfg, str(model), samples, graded, arguments(cfg, folder)[0])
    trainer.add_callback(Clock())
    vars(trainer.model.model.visual.patch_embed).pop("forward")  # TRL's side runs the model as it is installed
    for owner, name in ((trainer.model, "generate"), (trainer, "compute_loss"), (trainer.accelerator, "backward")):
        setattr(owner, name, timed(getattr(owner, name), phases.setdefault(name, [])))
    trainer.train()
    lengths = [h["completions/mean_length"] for h in trainer.state.log_history if "completions/mean_length" in h]
    return describe("trl", setting, steps[1:], {k: v[1:] for k, v in phases.items()}, lengths[1:], before)


def timed(function: Any, into: list[float]) -> Any:
    """`function`, which also notes its seconds."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = function(*args, **kwargs)
        into.append(time.perf_counter() - start)
        return out

    return wrapper


def describe(
    side: str, setting: Setting, steps: list[float], phases: dict[str, list[float]], lengths: list[float], before: int
) -> dict[str, Any]:
    """The JSON line: seconds per step and phase, mean completion length in tokens, peak memory in MB."""
    return {
        "side": side, "setting": setting.json(), "seconds": [round(s, 4) for s in steps],
        "phases": {k: round(median(v), 4) for k, v in phases.items() if v}, "mean_length": sum(lengths) / len(lengths),
        "rss_mb": peak_mb(), "rss_start_mb": before, "load": os.getloadavg()[0],
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    side_name, folder_name, setting_json = sys.argv[1:4]
    runner = {"core": run_core, "trl": run_trl}[side_name]
    print(json.dumps(runner(Path(folder_name), Setting(**json.loads(setting_json)))))
