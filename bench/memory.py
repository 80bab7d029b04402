"""What the learner holds at its peak above what it starts with, point by point, held against `lmmr1 estimate`.

    python -m bench.memory --out bench/results/memory.json

Rollouts are made up, of given lengths: what is measured is the pass for log-probabilities (`logprobs`) and a whole
`batch` and `update` (`step`), after a first step that made the optimizer's moments. Every point has a process of its
own. `bytes` counts what torch allocates, and is the same every time; `rss` is what the system gave the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lmmr1.config import TrainConfig
from lmmr1.forward import batch_logprobs
from lmmr1.learner import Learner, build
from lmmr1.types import Manifest, Reward, Rollout, Sample, ScoredGroup
from lmmr1.update import update
from reproduce.budget.geometry import read_geometry
from reproduce.budget.memory import Demand, demand, holding
from reproduce.budget.roofline import Work

# every large block is mapped by itself, and given back when it is freed: what the system says is then what is held
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Point:
    """One measurement: P prompts of `prompt` tokens with G completions of `completion` each."""

    P: int = 8
    G: int = 8
    prompt: int = 128
    completion: int = 64
    budget: int = 256
    """tokens_per_micro_batch."""
    recompute: bool = False
    reference: bool = False
    """A KL penalty in the reward."""
    critic: bool = False
    bf16: bool = False

    @property
    def config(self) -> TrainConfig:
        """The settings."""
        loss = {"beta": 0.1, "kl_in_reward": True, "kl_estimator": "k1"} if self.reference else {}
        return TrainConfig(
            num_prompts=self.P, num_generations=self.G, bf16=self.bf16, tokens_per_micro_batch=self.budget,
            gradient_checkpointing=self.recompute, advantage="gae" if self.critic else "group_norm", loss=loss,
            sampling={"max_prompt_length": self.prompt, "max_completion_length": self.completion},
        )  # fmt: skip

    @property
    def work(self) -> Work:
        """The same for the estimate."""
        return Work(self.P, self.G, self.prompt, self.completion)


BASE = Point()
POINTS = (
    *(replace(BASE, P=p) for p in (4, 8, 16, 32)),
    *(replace(BASE, budget=b) for b in (512, 128)),
    *(replace(BASE, recompute=True, P=p) for p in (4, 32)),
    *(replace(BASE, recompute=True, budget=b) for b in (512, 128)),
    replace(BASE, reference=True),
    replace(BASE, critic=True),
    replace(BASE, critic=True, reference=True, recompute=True),
    replace(BASE, bf16=True),
    replace(BASE, bf16=True, recompute=True),
    replace(BASE, P=2, G=2, completion=600, budget=1200),
)
"""From a budget of two prompts or four completions; the last has completions for which attention holds no mask."""


def build_model(folder: Path, layers: int = 4, hidden: int = 128, vocab: int = 2048) -> None:
    """Save a model whose activations outweigh its weights: heads of 32, half as many for keys and values, MLP of 4."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    from reproduce.micro.model import ModelConfig, build_processor, model_config

    config = model_config(ModelConfig(hidden=hidden, layers=layers, head_dim=32, mlp=4, mrope_section=(4, 6, 6)))
    text = config.text_config
    text.vocab_size, text.num_key_value_heads = vocab, text.num_attention_heads // 2
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    build_processor().save_pretrained(folder)


def groups_of(point: Point, learner: Learner) -> list[ScoredGroup]:
    """Random completions of exactly the point's length, for prompts of exactly the point's length."""
    generator, policy = torch.Generator().manual_seed(0), learner.policy
    ask = lambda letters: Sample("", [{"role": "user", "content": "x" * letters}], (), "")
    around = len(policy.encode([ask(1)], point.prompt)["input_ids"][0]) - 1
    out = []
    for i in range(point.P):
        sample = replace(ask(point.prompt - around), id=str(i))
        ids = torch.randint(32, 256, (point.G, point.completion), generator=generator).tolist()
        rollouts = tuple(Rollout(sample.id, tuple(row), (-8.0,) * len(row), "", "stop") for row in ids)
        out.append(ScoredGroup(sample, rollouts, tuple(Reward(float(g % 2), 0, 0) for g in range(point.G))))
    return out


def learner_of(point: Point, folder: Path) -> Learner:
    """The networks of a stage that starts from the model in `folder`."""
    return build(point.config, Manifest("", str(folder), "", None, {}, None, 0, "", {}, ""))


def phases(point: Point, learner: Learner) -> dict[str, Callable[[], Any]]:
    """What is measured."""
    cfg, groups = point.config, groups_of(point, learner)
    batch = learner.batch(groups, exact=True)

    def step() -> None:
        made = learner.batch(groups, exact=False)
        update(learner.policy, learner.critic, learner.optimizer, made, cfg, 1)

    return {"logprobs": lambda: batch_logprobs(learner.policy, batch, cfg), "step": step}


def counted(run: Callable[[], Any]) -> int:
    """Bytes that torch held for `run` at the most, of those that it allocated in it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    found = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(found, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def resident(run: Callable[[], Any]) -> int:
    """Bytes by which the process's resident memory was larger at its peak in `run` than before."""
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(point: Point, folder: Path, how: Callable[[Callable[[], Any]], int]) -> dict[str, int]:
    """Peaks by phase, after one step that is not measured."""
    learner = learner_of(point, folder)
    todo = phases(point, learner)
    todo["step"]()
    return {name: how(run) for name, run in todo.items()}


def expected(point: Point, folder: Path) -> Demand:
    """What the estimate says of the same."""
    g, train = read_geometry(folder / "config.json"), point.config.model_dump()
    return demand(g, holding(g, train, on_gpu=False), point.work, train)


def of_phases(d: Demand) -> dict[str, float]:
    """The estimate's part above what the learner starts with."""
    return {"logprobs": d.copies + d.logprobs, "step": d.copies + d.gradients + d.prompts + d.update}


def bounded(d: Demand, peaks: dict[str, int]) -> dict[str, float]:
    """The part of measured peaks that the budget bounds: without gradients and copies of weights."""
    return {"logprobs": peaks["logprobs"] - d.copies, "step": peaks["step"] - d.copies - d.gradients}


def in_a_process(point: Point, folder: Path, how: str) -> dict[str, int]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", "--point", json.dumps(asdict(point)), "--model", str(folder)]
    env = os.environ | MALLOC | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--how", how], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """All points, or with --point the one of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=("bytes", "rss"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.point:
        print(json.dumps(measure(Point(**args.point), args.model, {"bytes": counted, "rss": resident}[args.how])))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        build_model(Path(name))
        for point in POINTS:
            said = expected(point, Path(name))
            row = {"point": asdict(point), "estimate": {k: round(v) for k, v in of_phases(said).items()}}
            row |= {how: in_a_process(point, Path(name), how) for how in ("bytes", "rss")}
            row["bounded"] = {k: round(v) for k, v in bounded(said, row["bytes"]).items()}
            rows.append(row)
            changed = {k: v for k, v in asdict(point).items() if v != getattr(BASE, k)}
            print(changed, {k: row[k]["step"] / 1e6 for k in ("bytes", "rss", "estimate")}, flush=True)
    if args.out:
        args.out.write_text(json.dumps({"torch": torch.__version__, "points": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
