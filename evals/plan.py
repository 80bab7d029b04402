"""What will be measured: options of a run, and one checked job for every benchmark. Nothing here loads a model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, get_args

from evals.aggregate import to_records
from evals.generation import EngineName, EvalModel
from evals.inputs import prepare
from evals.judge import Judge
from evals.judge_server import JudgeServer
from evals.problems import Measurement
from evals.protocols import DEFAULT_PROTOCOL, Prompt, ProtocolSettings, Role, choose_prompt, find_protocol
from evals.records import EvalRecord
from evals.records import Protocol as RecordProtocol
from evals.registry import Benchmark, find, registry
from evals.samples import SampleRow
from evals.scoring import SCORER, scorer_version
from lmmr1.types import UserError

HARNESSES = {
    "lm_eval": ("evals.lm_eval_harness", "lm_eval"),
    "vlmevalkit": ("evals.vlmevalkit", "ms-vlmeval"),
    "agents": ("evals.agents.harness", "lmmr1"),
}
"""Harness -> our module (imported when needed: seconds) and the distribution whose version is recorded."""

DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure: everything that the command line says besides model, benchmarks and folders."""

    protocol: ProtocolSettings
    role: Role = "trained"
    """Whose prompt of the protocol applies."""
    training_prompt: str | None = None
    """The system message that the checkpoint was trained with, where that is known."""
    prompt: str | None = None
    """Name of a prompt style instead of the protocol's."""
    system_prompt_file: Path | None = None
    limit: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    engine: EngineName = "hf"
    max_new_tokens: int | None = None
    workers: int | None = 1
    """Processes that answer; None: one for each GPU or core, as far as memory goes."""
    data_root: Path | None = None
    levels: Path | None = None
    """Folder with the levels of agent benchmarks; None: `data_root`."""
    benchmark_dir: Path | None = None
    any_data: bool = False
    judge: JudgeServer | None = None
    judge_cache: Path | None = None
    """File with the judge's replies; without it `judge.sqlite` in the output folder."""

    @classmethod
    def of(cls, protocol: str = DEFAULT_PROTOCOL, judge_model: str | None = None, **others: Any) -> Options:
        """Options by the protocol's name, with another judge model if one is given.

        Raises UserError for an unknown protocol or engine and for numbers below 1.
        """
        if others.get("engine", "hf") not in get_args(EngineName):
            raise UserError(f"--engine {others['engine']!r}: give {' or '.join(get_args(EngineName))}")
        numbers = {
            f"--{name.replace('_', '-')}": others.get(name)
            for name in ("limit", "batch_size", "max_new_tokens", "workers")
        }
        at_least_one(numbers)
        settings = find_protocol(protocol)
        if judge_model and settings.judge:
            changed = settings.judge.model_copy(update={"model": judge_model})
            settings = settings.model_copy(update={"judge": changed})
        return cls(settings, **others)

    def ask(self, benchmark: Benchmark) -> tuple[str, Prompt]:
        """Name and text of the prompt for a benchmark. Raises UserError where it cannot be had (`choose_prompt`)."""
        given = (self.prompt, self.system_prompt_file, self.role, self.training_prompt)
        return choose_prompt(self.protocol, benchmark, *given)


class AnyJob(Protocol):
    """One benchmark to run, with all of its protocol that does not depend on the model."""

    settings: dict[str, Any]

    @property
    def benchmark(self) -> Benchmark:
        """What is measured."""

    @property
    def name(self) -> str:
        """Name of the benchmark, and of the folder that it is written to."""

    @property
    def n(self) -> int:
        """What its records count: problems, or levels."""

    @property
    def batch_size(self) -> int:
        """Most prompts in a batch."""

    def answer(self, model: EvalModel, folder: Path, judge: Judge | None) -> Sequence[Any]:
        """`SampleRow`s of `samples.jsonl`; the harness's own files go into `folder`, which is new."""

    def records(self, rows: Sequence[Any], checkpoint: str, protocol: RecordProtocol) -> list[EvalRecord]:
        """The records of these rows, the headline first."""


@dataclass(frozen=True, slots=True)
class Job:
    """A benchmark of problems with answers, as an `AnyJob`."""

    measurement: Measurement
    run: Callable[[EvalModel, Measurement, int, Path, Judge | None], list[SampleRow]]
    settings: dict[str, Any]

    @property
    def benchmark(self) -> Benchmark:
        """What is measured."""
        return self.measurement.benchmark

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.benchmark.name

    @property
    def n(self) -> int:
        """Problems."""
        return len(self.measurement.prepared.problems)

    @property
    def batch_size(self) -> int:
        """Most prompts in a batch."""
        return int(self.settings["batch_size"])

    def answer(self, model: EvalModel, folder: Path, judge: Judge | None) -> list[SampleRow]:
        """Let the harness run it."""
        return self.run(model, self.measurement, self.batch_size, folder, judge)

    def records(self, rows: Sequence[SampleRow], checkpoint: str, protocol: RecordProtocol) -> list[EvalRecord]:
        """Accuracies over all rows and their subsets."""
        about = {"benchmark": self.benchmark, "checkpoint": checkpoint, "protocol": protocol}
        return to_records(rows, samples="samples.jsonl", **about)


def plan(benchmarks: Sequence[str], workspace: Path, options: Options) -> list[AnyJob]:
    """Read and check the benchmarks' files. Raises UserError; images from inside the files go to `workspace`."""
    found = [find(name) for name in dict.fromkeys(benchmarks)]
    if not found:
        raise UserError(f"no benchmark given; known: {', '.join(registry())}")
    require_judge_named(found, options)
    return [_job(benchmark, workspace, options) for benchmark in found]


def require_judge_named(benchmarks: Sequence[Benchmark], options: Options) -> None:
    """Raise UserError, with all names, where a benchmark needs a judge and no server was named."""
    judged = [b.name for b in benchmarks if options.protocol.judged(b)]
    if judged and options.judge is None:
        raise UserError(
            f"protocol {options.protocol.name!r} asks a judge about {', '.join(judged)}; say where one is served with "
            "--judge-url, name only other --benchmarks, or choose --protocol rule, which needs none"
        )


def at_least_one(values: dict[str, int | None]) -> None:
    """Raise UserError for a number below 1; None is no number."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: give at least 1")


def _job(benchmark: Benchmark, workspace: Path, options: Options) -> AnyJob:
    protocol = options.protocol
    if benchmark.harness == "agents":
        return agent_job(benchmark, options)
    style, prompt = options.ask(benchmark)
    files = (options.data_root, options.benchmark_dir, options.limit, workspace, options.any_data)
    prepared = prepare(benchmark, *files)
    measurement = Measurement(prepared, protocol, prompt, max_new_tokens(benchmark, options))
    harness = importlib.import_module(HARNESSES[benchmark.harness][0])
    settings = {
        **settings_of(benchmark, options, style),
        "task_version": harness.task_version(measurement),
        "instruction": prompt.text,
        "instruction_sha256": prompt.sha256,
        "data_sha256": prepared.data_sha256,
        "data_pin": prepared.data_pin,
        **_scorer_fields(measurement),
    }
    return Job(measurement, harness.run, settings)


def max_new_tokens(benchmark: Benchmark, options: Options) -> int:
    """Most tokens of an answer: what was asked for, else the protocol's limit, else the benchmark's."""
    return options.max_new_tokens or options.protocol.half(benchmark).max_new_tokens or benchmark.max_new_tokens


def settings_of(benchmark: Benchmark, options: Options, style: str) -> dict[str, Any]:
    """The fields of a Protocol that neither model, harness nor data are needed for: known in no time."""
    protocol = options.protocol
    return {
        "harness": benchmark.harness,
        "harness_version": version(HARNESSES[benchmark.harness][1]),
        "task": benchmark.name,
        "protocol": protocol.name,
        "prompt": style,
        "images": protocol.images,
        "decoding": {
            "temperature": 0.0,
            "top_p": 1.0,
            "repetition_penalty": protocol.half(benchmark).repetition_penalty,
            "max_new_tokens": max_new_tokens(benchmark, options),
        },
        "batch_size": options.batch_size,
        "aggregation": protocol.aggregation(benchmark),
        "scorer_version": scorer_version(),
        "judge": protocol.judge_calls(benchmark),
    }


def agent_job(benchmark: Benchmark, options: Options) -> AnyJob:
    """The job of an agent benchmark. Raises UserError for bad levels or settings, and for a missing simulator."""
    from evals.agents.harness import play_job

    return play_job(
        benchmark,
        options.protocol,
        prompt=options.prompt,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        data_root=options.levels or options.data_root,
        benchmark_dir=options.benchmark_dir,
        limit=options.limit,
        any_data=options.any_data,
    )


def _scorer_fields(measurement: Measurement) -> dict[str, Any]:
    """Judge and scorer, for the record."""
    benchmark, protocol = measurement.benchmark, measurement.protocol
    name, judge = SCORER, None
    if measurement.stock and benchmark.stock:
        name = f"lm-eval {benchmark.stock.task}, {benchmark.stock.metric}, {benchmark.stock.filter}"
    elif benchmark.harness == "vlmevalkit":
        from evals import judging

        name, judge = judging.scorer_name(protocol, benchmark, SCORER), judging.judge_record(protocol, benchmark)
    return {"scorer": name, "judge": judge}


def worker_count(text: str) -> int | None:
    """The value of --workers: a number, or None for `auto`. Raises UserError for anything else."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--workers {text}: give a number of at least 1, or auto")
    return int(text)
