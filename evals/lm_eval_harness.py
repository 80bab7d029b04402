"""Benchmarks through lm-evaluation-harness: our task files or its own, our engine as its model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import yaml
from lm_eval import evaluator, simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable

from evals.adapters import LETTERS
from evals.generation import EvalModel, console_to, generate_all, greedy, prompt_sha256
from evals.judge import Judge
from evals.problems import Measurement, Problem
from evals.samples import SampleRow
from evals.scoring import sample_row, score_response, write_jsonl
from lmmr1.rewards import Verdict, has_format
from lmmr1.types import Rollout, Sample

TASKS = Path(__file__).with_name("tasks")
COLUMNS = ("id", "question", "answer", "category")

Scores = dict[str, Verdict]
"""What lm-eval was told about each problem, by problem id."""


class EngineLM(LM):
    """lm-eval's model interface on top of an engine. Only generation: our tasks ask for nothing else."""

    def __init__(
        self, model: EvalModel, batch_size: int, repetition_penalty: float = 1.0, problems: Sequence[Problem] = ()
    ) -> None:
        """`problems`: by doc_id, whose images are shown before the text; none: all are text."""
        super().__init__()
        self.model, self.batch_size, self.repetition_penalty = model, batch_size, repetition_penalty
        self.problems = problems
        self.rollouts: dict[int, Rollout] = {}
        """By doc_id."""
        self.prompt_hashes: dict[int, str] = {}

    @property
    def tokenizer_name(self) -> str:
        """Only names lm-eval's request cache, which is off."""
        return "engine"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The history as JSON: the engine takes messages, and the processor's template is applied there."""
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers in the order of `requests`, cut at the task's stop texts.

        Raises ValueError for other generation settings than greedy.
        """
        if not requests:
            return []
        settings = requests[0].args[1]
        others = [r.args[1] for r in requests if r.args[1] != settings]
        if others or settings.get("do_sample") or settings.get("temperature"):
            raise ValueError(f"the task must decode greedily, not with {others[:1] or settings}")
        samples = [self._sample(r) for r in requests]
        limits = greedy(settings["max_gen_toks"], self.repetition_penalty)
        rollouts = generate_all(self.model, samples, limits, self.batch_size)
        for request, sample, rollout in zip(requests, samples, rollouts, strict=True):
            self.rollouts[request.doc_id] = rollout
            image_sha256 = self.problems[request.doc_id].image_sha256 if sample.images else ""
            self.prompt_hashes[request.doc_id] = prompt_sha256(self.model.render(sample), image_sha256)
        return [cut(rollout.text, settings["until"]) for rollout in rollouts]

    def _sample(self, request: Instance) -> Sample:
        """What lm-eval asks, with the images that its text-only tasks do not carry."""
        messages = json.loads(request.args[0])
        images = self.problems[request.doc_id].images if self.problems else ()
        if images:
            asked = {"type": "text", "text": messages[-1]["content"]}
            messages[-1] = {"role": "user", "content": [*({"type": "image"} for _ in images), asked]}
        return Sample(str(request.doc_id), messages, images, "")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises TypeError: the engine generates, it does not score given texts."""
        raise TypeError("this model only generates; use a task with output_type generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Raises TypeError, as `loglikelihood` does."""
        raise TypeError("this model only generates; use a task with output_type generate_until")


def cut(text: str, stops: list[str]) -> str:
    """`text` up to the first of the stop texts."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def task_config(measurement: Measurement) -> dict[str, Any]:
    """The task's settings: our file named like the data set, or lm-eval's own file of the stock task."""
    if not measurement.stock:
        text = (TASKS / f"{measurement.benchmark.dataset}.yaml").read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))
    stock = measurement.benchmark.stock
    assert stock is not None
    files = sorted(Path(lm_eval.tasks.__file__).parent.rglob(f"{stock.task}.yaml"))
    return dict(load_yaml(files[0]))


def task_version(measurement: Measurement) -> str:
    """Version that the task's file states, with the name of a stock task."""
    version = str(task_config(measurement)["metadata"]["version"])
    stock = measurement.benchmark.stock
    return f"{stock.task} {version}" if stock and measurement.stock else version


def run(
    model: EvalModel, measurement: Measurement, batch_size: int, folder: Path, judge: Judge | None
) -> list[SampleRow]:
    """Run one benchmark through `simple_evaluate`; rows for `samples.jsonl` in the order of the file.

    Writes lm-eval's results and its console output into `folder`. Raises RuntimeError where lm-eval mixed rows up.
    No text benchmark is judged: `judge` is not used.
    """
    name, scores = measurement.benchmark.name, Scores()
    lm = EngineLM(model, batch_size, measurement.repetition_penalty, measurement.prepared.problems)
    cache = folder / "datasets_cache"
    with console_to(folder / "harness.log"), _without_env_info():
        results = simple_evaluate(
            model=lm,
            tasks=[build(measurement, cache, scores)],
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=True,
            system_instruction=measurement.prompt.system,
            log_samples=True,
            bootstrap_iters=0,
        )
    shutil.rmtree(cache)
    logged = results.pop("samples")[name]
    text = json.dumps(results, indent=1, default=handle_non_serializable)
    (folder / "lm_eval_results.json").write_text(text + "\n", encoding="utf-8")
    problems = measurement.prepared.problems
    if measurement.stock:
        scores = stock_scores(measurement, logged, lm.rollouts)
        problems = as_asked(problems, logged)
    else:
        _require_same(name, logged, problems, scores)
    return [
        sample_row(i, problem, lm.prompt_hashes[i], lm.rollouts[i], scores[problem.id])
        for i, problem in enumerate(problems)
    ]


@contextlib.contextmanager
def _without_env_info() -> Iterator[None]:
    """Without lm-eval's description of the machine: it runs `pip list` for every task, which takes over a second, and
    asks git, which complains outside of a clone. The record names the versions that matter."""
    own = evaluator.add_env_info, evaluator.get_git_commit_hash
    evaluator.add_env_info, evaluator.get_git_commit_hash = (lambda results: None), (lambda: None)
    try:
        yield
    finally:
        evaluator.add_env_info, evaluator.get_git_commit_hash = own


def _require_same(name: str, logged: list[dict[str, Any]], problems: tuple[Problem, ...], scores: Scores) -> None:
    for sample in logged:
        problem = problems[sample["doc_id"]]
        if (sample["accuracy"], sample["doc"]["id"]) != (scores[problem.id].accuracy, problem.id):
            raise RuntimeError(f"lm-eval's sample {sample['doc_id']} of {name} is not the one that was scored")


def as_asked(problems: Sequence[Problem], logged: Sequence[dict[str, Any]]) -> tuple[Problem, ...]:
    """The problems with the options and the gold answer that a stock task showed and scored: GPQA's shuffles options.

    Raises RuntimeError where the task's gold is no letter of its options.
    """
    asked = list(problems)
    for sample in logged:
        number, doc, gold = sample["doc_id"], sample["doc"], str(sample["target"])
        choices = tuple(map(str, doc.get("choices", ())))
        if choices:
            letter, texts = gold.strip("()"), dict(zip(LETTERS, choices, strict=False))
            if letter not in texts:
                raise RuntimeError(f"lm-eval's sample {number} has options {texts}, and gold {gold!r} is none of them")
            gold = letter
        asked[number] = dataclasses.replace(problems[number], choices=choices, answer=gold)
    return tuple(asked)


def stock_scores(measurement: Measurement, logged: list[dict[str, Any]], rollouts: dict[int, Rollout]) -> Scores:
    """The stock task's own verdicts: the metric under the filter that the registry names."""
    stock = measurement.benchmark.stock
    assert stock is not None
    scores = Scores()
    for sample in logged:
        if sample["filter"] != stock.filter:
            continue
        doc_id, answer = sample["doc_id"], sample["filtered_resps"][0]
        tidy = float(has_format(rollouts[doc_id].text))
        note = f"{stock.metric},{stock.filter}"
        scores[measurement.prepared.problems[doc_id].id] = Verdict(float(sample[stock.metric]), tidy, note, str(answer))
    return scores


def build(measurement: Measurement, cache: Path, scores: Scores) -> dict[str, Any]:
    """The task's settings, completed by what differs from run to run. Verdicts of our rule are put into `scores`.

    The rows are written to a file in the new folder `cache`.
    """
    task = task_config(measurement)
    cache.mkdir()
    problems = measurement.prepared.problems
    task["task"] = measurement.benchmark.name
    task["generation_kwargs"]["max_gen_toks"] = measurement.max_new_tokens
    if measurement.stock:
        rows = [dict(problem.cells) for problem in problems]
        # The file has one split, and neither is it the one that the task names nor is there a configuration.
        task |= {"dataset_path": "json", "dataset_name": None, "training_split": None, "validation_split": None}
        task["test_split"] = "test"
        features = {column: datasets.Value("string") for column in rows[0]}
    else:
        rows = [_columns(problem, measurement.prompt.ending) for problem in problems]
        features = {column: datasets.Value("string") for column in (*COLUMNS, "asked")}
        features["choices"] = datasets.List(datasets.Value("string"))
        task["process_results"] = _scorer(scores)
    write_jsonl(cache / "problems.jsonl", rows)
    # Without declared types the JSON reader takes texts like 2020-01-01 for time stamps.
    files = {"test": str(cache / "problems.jsonl")}
    kwargs = {"data_files": files, "features": datasets.Features(features), "cache_dir": str(cache)}
    return task | {"dataset_kwargs": kwargs}


def _columns(problem: Problem, ending: str) -> dict[str, Any]:
    """A row of our tasks. `asked` is the prompt: the question, the lettered options, the instruction."""
    row = {column: getattr(problem, column) for column in COLUMNS}
    options = "".join(f"\n({letter}) {text}" for letter, text in zip(LETTERS, problem.choices, strict=False))
    asked = problem.question + ("\n" + options if options else "") + ending
    return row | {"choices": list(problem.choices), "asked": asked}


def _scorer(scores: Scores) -> Callable[[dict[str, Any], list[str]], dict[str, float]]:
    """lm-eval's `process_results` with our rule. A function, not a method: lm-eval deep-copies the task's settings."""

    def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
        score = scores[doc["id"]] = score_response(results[0], doc["answer"], tuple(doc["choices"]))
        return {"accuracy": score.accuracy, "format": score.format}

    return process_results
