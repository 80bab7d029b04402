"""Canned answers through this suite's own writers: records as `evals.run` writes them, without a model.

Only the texts of the answers are made up. The problems come through the adapters (those of the micro world from its own
files), the settings from `evals.plan`, the verdicts from the protocol's scorer, rows, records and folders from
`evals.run`. So no test can rely on a field that nothing writes, or on one written otherwise.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evals import plan as planning
from evals.adapters import ADAPTERS
from evals.generation import EvalModel, encodable, prompt_sha256
from evals.inputs import _problem, prepare
from evals.judge import Judge, Question
from evals.judge_server import JudgeServer
from evals.plan import Job, Options
from evals.problems import Prepared, Problem
from evals.registry import Benchmark, find
from evals.run import new_folder, protocol_of, write_evaluation
from evals.samples import SampleRow, line_of, read_samples
from evals.scoring import sample_row, score_responses
from lmmr1.files import SUMS
from lmmr1.rewards import Verdict
from lmmr1.types import Rollout
from reproduce.micro.build import write_benchmark
from tests.benchmark_files import full_rows
from tests.judge_server import judge_by_rule

SERVER = JudgeServer("http://127.0.0.1:9/v1")
"""Never asked: `CannedJudge` answers in its place."""

SYSTEM_PROMPT = "Think between two marks, then answer."
"""Stands for the paper's, whose text is the data set's."""

MICRO_N, MICRO_SEED = 40, 0


@dataclass(frozen=True)
class Said:
    """An answer; `tokens` is its length."""

    text: str
    finish: str = "stop"
    tokens: int = 12


Answer = bool | str | Said
"""Right or wrong, whatever text that takes; or a text."""


# ---------------------------------------------------------------------------------------------- what is measured


def planned(name: str, protocol: str = "rule", n: int | None = None, **options: Any) -> Job:
    """A benchmark as `evals.plan` plans it: of the micro world `n` problems (40), of the others as many as there are.

    options: of `evals.plan.Options`, e.g. role, prompt, max_new_tokens. Equal arguments give the same job.
    """
    return _planned(name, protocol, n, tuple(sorted(options.items())))


@functools.cache
def _planned(name: str, protocol: str, n: int | None, options: tuple[tuple[str, Any], ...]) -> Job:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        system = Path(folder) / "system.txt"
        system.write_text(SYSTEM_PROMPT, encoding="utf-8")
        patch.setattr(planning, "prepare", lambda benchmark, *_: prepared(benchmark, n))
        chosen = Options.of(protocol, judge=SERVER, system_prompt_file=system, **dict(options))
        (job,) = planning.plan([name], Path(folder), chosen)
    assert isinstance(job, Job)
    return job


def restricted(job: Job, keep: Callable[[Problem], bool]) -> Job:
    """The job as it would be of a file with these problems alone."""
    whole = job.measurement.prepared
    part = replace(whole, problems=tuple(filter(keep, whole.problems)), data_sha256="1" * 16)
    return replace(
        job,
        measurement=replace(job.measurement, prepared=part),
        settings=job.settings | {"data_sha256": part.data_sha256},
    )


def prepared(benchmark: Benchmark, n: int | None) -> Prepared:
    """The benchmark's problems; those of the micro world are read from a file that `reproduce.micro` built."""
    return _prepared(benchmark.name, n)


@functools.cache
def _prepared(name: str, n: int | None) -> Prepared:
    benchmark = find(name)
    if benchmark.source == "micro":
        with tempfile.TemporaryDirectory() as folder:
            write_benchmark(name, n or MICRO_N, MICRO_SEED, Path(folder) / benchmark.file_name)
            return prepare(benchmark, None, Path(folder), None, Path(folder))
    pins = [f"{kind} {pin}" for file in benchmark.files for kind in ("sha256", "md5") if (pin := getattr(file, kind))]
    problems = tuple(adapted(benchmark.dataset, full_rows(benchmark.dataset))[:n])
    return Prepared(benchmark, problems, "0" * 16, pins[-1] if pins else "none")


def adapted(dataset: str, rows: list[dict[str, Any]]) -> list[Problem]:
    """Rows in the tool's form as problems, through the data set's adapter; a cell of a table is a text."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    fields = [
        ADAPTERS[dataset]({column: str(row.get(column, "")) for column in columns}, f"row {i}")
        for i, row in enumerate(rows)
    ]
    return [_problem(found, f"row {i}") for i, found in enumerate(fields) if found is not None]


# ------------------------------------------------------------------------------------------------ what is said


def right(problem: Problem) -> str:
    """A response that every scorer takes for right."""
    return _response(problem.answer)


def wrong(problem: Problem) -> str:
    """One that no scorer takes for right: the next option, or another value."""
    if problem.choices:
        letters = "ABCDEFGHIJ"[: len(problem.choices)]
        return _response(letters[(letters.index(problem.answer) + 1) % len(letters)])
    return _response(f"7{problem.answer}")


def _response(answer: str) -> str:
    return f"<think>Let me see.</think><answer>The answer is {answer}, \\boxed{{{answer}}}</answer>"


class CannedJudge(Judge):
    """The judge of the tests without a server: everything but the sending is the product's."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings, SERVER, _Memory())

    def _send(self, question: Question, attempt: int) -> tuple[str, str]:
        return judge_by_rule(question.prompt), self.settings.model


class _Memory(dict):
    """Replies for as long as the judge lives."""

    def put(self, key: str, reply: str, model: str) -> None:
        self[key] = reply

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.pop(key, None)


_VERDICTS: dict[Any, Verdict] = {}
_KINDS = ("answer", "answer_type", "error", "final_answer", "is_multiple_answer", "precision", "question_type")


def verdicts(job: Job, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """The verdicts of the job's scorer; each distinct answer to a gold of one kind is judged once."""
    how = (job.settings["scorer"], job.settings["scorer_version"], job.benchmark.dataset)
    keys = [
        (how, p.answer, p.choices, text, *(str(p.cells.get(k)) for k in _KINDS))
        for p, text in zip(problems, texts, strict=True)
    ]
    new = {key: i for i, key in enumerate(keys) if key not in _VERDICTS}
    pairs = [(problems[i], texts[i]) for i in new.values()]
    if pairs:
        _VERDICTS.update(zip(new, _judge(job, *zip(*pairs, strict=True)), strict=True))
    return [_VERDICTS[key] for key in keys]


def _judge(job: Job, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    if job.benchmark.harness == "lm_eval":
        return score_responses([(t, p.answer, p.choices) for p, t in zip(problems, texts, strict=True)])
    from evals.judging import score_all

    protocol = job.measurement.protocol
    judge = CannedJudge(protocol.judge) if protocol.judged(job.benchmark) else None
    return score_all(protocol, job.benchmark, problems, list(texts), judge)


# --------------------------------------------------------------------------------------------- what is written


def rows_of(job: Job, answers: Iterable[Answer]) -> list[SampleRow]:
    """The samples, one answer for each problem of the job, scored."""
    problems, given = job.measurement.prepared.problems, list(answers)
    said = [_said(p, a) for p, a in zip(problems, given, strict=True)]
    found = verdicts(job, problems, [s.text for s in said])
    for problem, answer, verdict in zip(problems, given, found, strict=True):
        if not isinstance(answer, str | Said) and verdict.accuracy != bool(answer):
            raise AssertionError(f"{job.name}, {problem.id}: the scorer says {verdict}, not {answer}")
    return [
        sample_row(i, problem, prompt_sha256(asked(job, problem), problem.image_sha256), _rollout(problem, s), verdict)
        for i, (problem, s, verdict) in enumerate(zip(problems, said, found, strict=True))
    ]


def asked(job: Job, problem: Problem) -> str:
    """What stands for the rendered prompt."""
    return f"{job.measurement.prompt.text}\n{problem.question}"


def _said(problem: Problem, answer: Answer) -> Said:
    if isinstance(answer, Said):
        return Said(encodable(answer.text), answer.finish, answer.tokens)
    if isinstance(answer, str):
        return Said(encodable(answer))
    return Said(right(problem) if answer else wrong(problem))


def _rollout(problem: Problem, said: Said) -> Rollout:
    return Rollout(problem.id, (1,) * said.tokens, (0.0,) * said.tokens, said.text, said.finish)  # type: ignore[arg-type]


def model_of(job: Job) -> EvalModel:
    """What a record says of the model; it answers nothing."""
    pixels = (job.measurement.protocol.min_pixels, job.measurement.protocol.max_pixels)
    return EvalModel(None, lambda sample: "", "canned", "none", *pixels)  # type: ignore[arg-type]


def write_answers(out: Path, job: Job, answers: Iterable[Answer], checkpoint: str = "key") -> Path:
    """`out`/BENCHMARK as `evals.run` leaves it, sealed; returns that folder. What was there is replaced."""
    return write_rows(out, job, rows_of(job, answers), checkpoint)


def write_rows(out: Path, job: Job, rows: Sequence[SampleRow], checkpoint: str = "key") -> Path:
    """`write_answers` of finished rows."""
    out.mkdir(parents=True, exist_ok=True)
    with new_folder(out, job.name) as folder:
        write_evaluation(folder, rows, job.records(rows, checkpoint, protocol_of(job, rows, model_of(job))))
    return out / job.name


# --------------------------------------------------------------------------------------------- damage, on purpose


def unseal(folder: Path) -> Path:
    """Take the checksums away, as if the folder were from elsewhere, so that what is in it is looked at itself."""
    (folder / SUMS).unlink(missing_ok=True)
    return folder / "samples.jsonl"


def change_rows(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Every line of the samples after `change` (a row as plain values, changed in place), without a seal."""
    path = unseal(folder)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def reorder(folder: Path, order: Sequence[int] | None = None) -> None:
    """The lines of the samples in another order (without `order` backwards), without a seal."""
    path = folder / "samples.jsonl"
    rows = list(read_samples(path))
    chosen = rows[::-1] if order is None else [rows[i] for i in order]
    unseal(folder).write_text("".join(line_of(row) + "\n" for row in chosen), encoding="utf-8")
