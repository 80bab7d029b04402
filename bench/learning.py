"""Do the core and TRL's trainer learn alike? Same base, prompts, reward and settings, several seeds, reward curves.

    python -m bench.learning --base checkpoints/KEY/final --prompts results/micro/data/fre.jsonl \\
        --steps 60 --seeds 0 1 2 --out bench/results/learning-2026-11-23.json

Writes the curves and, beside the JSON, a plot. The verdict compares the mean reward of the last quarter of the steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_DISABLED", "true")

import numpy as np
import torch
from rich.console import Console

from lmmr1.config import SamplingConfig, TrainConfig
from lmmr1.data import read_samples
from lmmr1.rewards import accuracy, has_format
from lmmr1.store import adopt
from lmmr1.train import train
from lmmr1.types import Sample

P, G, C = 16, 8, 56


def config(seed: int, steps: int) -> TrainConfig:
    """The settings of both sides."""
    sampling = SamplingConfig(max_completion_length=C, max_prompt_length=256)
    shape = {"max_steps": steps, "save_steps": steps, "num_prompts": P, "num_generations": G}
    return TrainConfig(seed=seed, sampling=sampling, **shape)


def core_curve(base: Path, prompts: Path, seed: int, steps: int) -> list[float]:
    """Mean reward of every step of our loop."""
    _, store = train(config(seed, steps), adopt(str(base), "base"), prompts, Path(tempfile.mkdtemp()))
    return [json.loads(line)["reward"] for line in (store.folder / "steps.jsonl").read_text().splitlines()]


def trl_curve(base: Path, prompts: Path, seed: int, steps: int) -> list[float]:
    """Mean reward of every step of TRL's GRPOTrainer, with our reward as its reward function."""
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    cfg = config(seed, steps)
    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.padding_side = "left"
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(), num_generations=G, per_device_train_batch_size=P * G, max_completion_length=C,
        max_steps=steps, learning_rate=cfg.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=cfg.warmup_steps, adam_beta1=cfg.adam_beta1, adam_beta2=cfg.adam_beta2, weight_decay=0.0,
        max_grad_norm=cfg.max_grad_norm, beta=0.0, loss_type=cfg.loss.loss_type, optim="adamw_torch_fused", seed=seed,
        logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    rows = [{"prompt": text_messages(s), "gold": s.answer} for s in read_samples(prompts)]

    def score(completions: list[Any], gold: list[str], **_: Any) -> list[float]:
        texts = [c[0]["content"] for c in completions]
        return [accuracy(t, g)[0] + 0.5 * has_format(t) for t, g in zip(texts, gold, strict=True)]

    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model, processing_class=processor, reward_funcs=score, args=args, train_dataset=Dataset.from_list(rows)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return [h["reward"] for h in trainer.state.log_history if "reward" in h]


def text_messages(sample: Sample) -> list[dict[str, str]]:
    """Messages with plain text contents, as TRL wants them for a text-only set."""
    join = lambda content: content if isinstance(content, str) else "".join(part["text"] for part in content)
    return [{"role": m["role"], "content": join(m["content"])} for m in sample.messages]


def verdict(curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Mean reward over the last quarter of the steps per seed; they agree where the difference of the two means lies
    within the larger range over seeds."""
    last = {side: [float(np.mean(c[-max(len(c) // 4, 1) :])) for c in runs] for side, runs in curves.items()}
    difference = float(np.mean(last["core"]) - np.mean(last["trl"]))
    spread = max(max(v) - min(v) for v in last.values())
    return {"last_quarter": last, "difference": difference, "spread": spread, "agree": abs(difference) <= spread}


def plot(curves: dict[str, list[list[float]]], out: Path) -> None:
    """Thin lines are seeds, thick ones their mean; both are smoothed over five steps."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    smooth = lambda c: np.convolve(c, np.ones(5) / 5, mode="valid")
    for side, colour, name in (("core", "#0072B2", "lmmr1"), ("trl", "#D55E00", "TRL 1.16")):
        for curve in curves[side]:
            axis.plot(range(5, len(curve) + 1), smooth(curve), color=colour, alpha=0.35, linewidth=1)
        mean = smooth(np.mean(curves[side], axis=0))
        axis.plot(range(5, len(mean) + 5), mean, color=colour, linewidth=2.4, label=name)
    axis.set(xlabel="step (16 prompts x 8 completions)", ylabel="mean reward (accuracy + 0.5 format)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description="Reward curves of both sides.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sides = {"core": core_curve, "trl": trl_curve}
    curves: dict[str, list[list[float]]] = {side: [] for side in sides}
    for seed in args.seeds:
        for side, run in sides.items():
            curves[side].append(run(args.base, args.prompts, seed, args.steps))
    result = {"settings": config(0, args.steps).model_dump(), "seeds": args.seeds, "curves": curves, **verdict(curves)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(curves, args.out.with_suffix(".svg"))
    Console().print({k: result[k] for k in ("last_quarter", "difference", "spread", "agree")})


if __name__ == "__main__":
    main()
