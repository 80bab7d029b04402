"""Our evaluation against VLMEvalKit's own loop, in one run: same model, prompts, images and greedy decoding.

    python -m bench.evaluation --model checkpoints/KEY/final --data-root DIR --out bench/results/evaluation.json

VLMEvalKit sends one sample at a time to the model; here that is plain Hugging Face `generate`, once with one thread and
once with a thread for every core. Two ratios come out: `per_core`, both sides with one thread, and `machine`, our
processes on all cores against the better of the tool's two. All sides take turns, `--rounds` times, and the median
counts. The answers of all runs must be the same texts, or the command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.compare import cpu_name
from evals.generation import load_model
from evals.plan import Options, plan
from evals.problems import Measurement
from evals.run import evaluate
from evals.samples import read_samples
from evals.vlmeval_import import BaseModel, environment, infer_data_job
from evals.vlmevalkit import Message, build, key_of, to_sample
from evals.workers import cores
from lmmr1.exits import FAILURE
from lmmr1.images import open_image
from lmmr1.policy import Policy, load_policy

BENCHMARK = "mathvision_mini"


class PlainModel(BaseModel):
    """What VLMEvalKit expects of a model: one message in, one text out, by Hugging Face's `generate`."""

    INTERLEAVE = True
    allowed_types = ["text", "image"]
    is_api = False

    def __init__(self, policy: Policy, measurement: Measurement) -> None:
        super().__init__()
        self.policy, self.limit = policy, measurement.max_new_tokens
        self.sample_of = partial(to_sample, prompt=measurement.prompt, images=measurement.protocol.images)
        self.answers: dict[str, str] = {}

    def use_custom_prompt(self, dataset: str) -> bool:
        """The data set builds the prompts."""
        return False

    def preproc_content(self, inputs: Message) -> Message:
        """Messages as they are."""
        return inputs

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The answer's text."""
        sample = self.sample_of(message, "")
        images = [open_image(path) for path in sample.images]
        inputs = self.policy.processor(text=[self.policy.render(sample)], images=images, return_tensors="pt")
        prompt = inputs["input_ids"].size(1)
        room = self.policy.model.config.text_config.max_position_embeddings - prompt
        with torch.inference_mode():
            ids = self.policy.model.generate(**inputs, do_sample=False, max_new_tokens=min(self.limit, room))
        text = self.policy.processor.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)
        self.answers[key_of(message)] = text
        return text


@dataclass(frozen=True)
class Side:
    """One way to answer all problems."""

    name: str
    tool: bool = False
    batch_size: int = 32
    threads: int = 1
    workers: int = 1


@dataclass(frozen=True)
class Run:
    """What one side took: wall and CPU seconds (of this process alone) after the model was loaded, and its texts."""

    seconds: float
    cpu_seconds: float
    texts: list[str]


def sides() -> list[Side]:
    """What is compared, in the order of a round."""
    n = cores()
    several = [Side(f"batch 32, {n} processes", workers=n), Side(f"VLMEvalKit's loop, {n} threads", True, threads=n)]
    return [Side("batch 32"), Side("VLMEvalKit's loop", True), *several[: 2 * (n > 1)], Side("batch 1", batch_size=1)]


def tool_loop(model: str, options: Options, folder: Path) -> Run:
    """VLMEvalKit's inference job over all samples, one at a time."""
    (job,) = plan([BENCHMARK], folder, options)
    plain = PlainModel(load_policy(model), job.measurement)
    with environment(LMUData=str(folder), PRED_FORMAT="tsv"):
        dataset = build(job.measurement)
        began, cpu = time.perf_counter(), time.process_time()
        infer_data_job(plain, work_dir=str(folder), model_name="plain", dataset=dataset)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        messages = [dataset.build_prompt(row) for row in range(len(dataset))]
    return Run(seconds, cpu_seconds, [plain.answers[key_of(message)] for message in messages])


def our_run(model: str, options: Options, out: Path) -> Run:
    """`lmmr1 eval` after the model is loaded, scoring and records included."""
    evaluate(model, [BENCHMARK], out, options)
    rows = read_samples(out / BENCHMARK / "samples.jsonl")
    timing = json.loads((out / "timing.json").read_text())[BENCHMARK]
    return Run(timing["seconds"], timing["cpu_seconds"], [row.response for row in rows])


def run_side(side: Side, args: argparse.Namespace) -> Run:
    """One side, in a folder of its own."""
    torch.set_num_threads(side.threads)
    options = Options.of(
        data_root=args.data_root, limit=args.limit, batch_size=side.batch_size, max_new_tokens=args.max_new_tokens,
        workers=side.workers,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = (tool_loop if side.tool else our_run)(args.model, options, Path(folder))
    print(f"{side.name}: {len(run.texts) / run.seconds:.2f} samples/s", flush=True)
    return run


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data-root", type=Path, required=True, help="folder with mathvision/")
    parser.add_argument("--limit", type=int, help="only the first N problems")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    load_model(args.model)  # imports and disk cache, for whoever comes first
    runs: dict[str, list[Run]] = {side.name: [] for side in sides()}
    for _ in range(args.rounds):
        for side in sides():
            runs[side.name].append(run_side(side, args))
    report(runs, args)


def differing(texts: list[str], expected: list[str]) -> int:
    """How many texts are others than expected."""
    return sum(a != b for a, b in zip(texts, expected, strict=True))


def report(runs: dict[str, list[Run]], args: argparse.Namespace) -> None:
    """Print and write the figures; exit code 1 where answers differ."""
    expected = runs["batch 32"][0].texts
    n = len(expected)
    differ = {name: max(differing(r.texts, expected) for r in rs) for name, rs in runs.items()}
    seconds = {name: statistics.median(r.seconds for r in rs) for name, rs in runs.items()}
    tool = [s for name, s in seconds.items() if name.startswith("VLM")]
    ours = [s for name, s in seconds.items() if name.startswith("batch 32")]
    result: dict[str, Any] = {
        "cpu": cpu_name(), "cores": cores(), "load": os.getloadavg()[0], "samples": n, "rounds": args.rounds,
        "max_new_tokens": args.max_new_tokens,
        "samples_per_second": {name: round(n / s, 3) for name, s in seconds.items()},
        "cpu_seconds": {name: round(statistics.median(r.cpu_seconds for r in rs), 1) for name, rs in runs.items()},
        "times_faster": {
            "per_core": round(seconds["VLMEvalKit's loop"] / seconds["batch 32"], 2),
            "machine": round(min(tool) / min(ours), 2),
        },
        "texts_that_differ": differ, "mean_characters": sum(map(len, expected)) / n,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if any(differ.values()):
        sys.exit(FAILURE)


if __name__ == "__main__":
    main()
