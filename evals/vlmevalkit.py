"""Image benchmarks through VLMEvalKit: its data set classes and inference job, our engine behind its model interface.

VLMEvalKit sends one sample at a time, so the model answers all of a data set in batches first (`prefill`) and the job
looks the answers up. What a prompt says is the data set class's; the protocol decides where images stand and what
instruction is added, and who scores.
"""

from __future__ import annotations

import csv
import dataclasses
import http.client
import json
import os
import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from evals.generation import EvalModel, console_to, generate_all, greedy, prompt_sha256
from evals.judge import Judge
from evals.judging import score_all
from evals.problems import Measurement, Prepared, Problem
from evals.protocols import Prompt, ProtocolSettings
from evals.samples import SampleRow
from evals.scoring import sample_row
from evals.vlmeval_import import (
    BaseModel,
    ImageBaseDataset,
    ImageMCQDataset,
    MathVerse,
    MathVision,
    MathVista,
    OlympiadBench,
    environment,
    infer_data_job,
    mathv,
)
from lmmr1.config import DecodingConfig
from lmmr1.rewards import Verdict
from lmmr1.types import Rollout, Sample, UserError

MODEL_NAME = "model"
"""First part of the prediction file's name; the checkpoint is in the record."""

Message = list[dict[str, str]]

_MARK = re.compile(r"<image ?\d*>")


class Rows(ImageBaseDataset):
    """A data set whose rows are already checked problems and whose answers are scored by the protocol's rule."""

    TYPE = "VQA"
    DATASET_URL: ClassVar[dict[str, str]] = {}
    DATASET_MD5: ClassVar[dict[str, str]] = {}
    DEFAULT_JUDGE: ClassVar[list[str]] = []

    def __init__(
        self,
        name: str,
        problems: Sequence[Problem],
        cells: Callable[[Problem], Mapping[str, Any]] = lambda problem: problem.cells,
        score: Callable[[Sequence[Problem], list[str]], list[Verdict]] | None = None,
    ) -> None:
        """`cells` gives a row's columns, `score` the scores of all responses."""
        self.problems, self.cells, self.score = problems, cells, score
        self.scores: list[Verdict] = []
        super().__init__(name)

    def load_data(self, dataset: str) -> pd.DataFrame:
        """The rows with the columns of VLMEvalKit's TSV. Rows and images are named by row number: VLMEvalKit runs
        `eval` on these two cells, so nothing of the file may get there."""
        rows = [
            {
                "index": str(number),
                "id": problem.id,
                "question": problem.question,
                "choices": str(list(problem.choices)),
                "answer": problem.answer,
                "category": problem.category,
                **self.cells(problem),
                "image_path": str(number),
            }
            for number, problem in enumerate(self.problems)
        ]
        return pd.DataFrame(rows, dtype=object)

    def post_build(self, dataset: str) -> None:
        """Make `build_prompt` ask `dump_image` for the image's files."""
        self.meta_only = False

    def dump_image(self, line: Mapping[str, Any]) -> list[str]:
        """The image files of a row; they were written when the problems were read."""
        return [str(path) for path in self.problems[int(line["image_path"])].images]

    def evaluate(self, eval_file: str, **judge_kwargs: Any) -> pd.DataFrame:
        """Score a prediction file; accuracy in percent, overall and per category, also as `*_acc.csv`.

        `self.scores` has the scores in row order. Raises UserError where the file's rows are not the data set's.
        """
        predictions = read_predictions(Path(eval_file))
        if len(predictions) != len(self.problems):
            counts = f"{len(predictions)} rows, but {self.dataset_name} has {len(self.problems)}"
            raise UserError(f"{eval_file}: {counts}; predict again")
        if self.score is None:
            raise ValueError(f"{self.dataset_name} was built without a scorer")
        self.scores = self.score(self.problems, predictions)
        categories = [problem.category for problem in self.problems]
        hits = pd.DataFrame({"category": categories, "accuracy": [100 * score.accuracy for score in self.scores]})
        table = hits.groupby("category").agg(n=("accuracy", "size"), accuracy=("accuracy", "mean"))
        table.loc["Overall"] = [len(hits), hits["accuracy"].mean()]
        table.to_csv(Path(eval_file).with_name(Path(eval_file).stem + "_acc.csv"))
        return table


class MathVisionRows(Rows, MathVision):
    """VLMEvalKit's MathVision, prompts and all."""


class MathVerseRows(Rows, MathVerse):
    """VLMEvalKit's MathVerse, prompts and all."""


class MathVistaRows(Rows, MathVista):
    """VLMEvalKit's MathVista, prompts and all."""


class MMStarRows(Rows, ImageMCQDataset):
    """VLMEvalKit's MM-Star (a multiple-choice data set like others), prompts and all."""


class OlympiadBenchRows(Rows, OlympiadBench):
    """VLMEvalKit's OlympiadBench, prompts and all."""


CLASSES: dict[str, type[Rows]] = {
    "micro": Rows,
    "mathvision": MathVisionRows,
    "mathverse": MathVerseRows,
    "mathvista": MathVistaRows,
    "mmstar": MMStarRows,
    "olympiadbench": OlympiadBenchRows,
}
"""`dataset` of the registry -> class."""


def cells_for(protocol: ProtocolSettings, dataset: str, problem: Problem) -> Mapping[str, Any]:
    """A row's columns as the protocol wants them asked; protocol `vlmevalkit` takes them as the tool reads them."""
    cells = dict(problem.cells)
    if protocol.scoring == "harness":
        return cells
    if dataset == "olympiadbench" and cells["unit"] != cells["unit"]:
        # An empty cell is NaN, which is true: the tool would speak of a unit that is not there.
        cells["unit"] = ""
    if protocol.scoring == "paper":
        if dataset == "mathverse":
            cells["question"] = cells.get("query_wo") or cells["question"] or problem.question
        if dataset in ("mathvision", "mathvista"):
            cells["question"] = hint_last(problem.question)
    return cells


def hint_last(question: str) -> str:
    """The question with the line that begins with `Hint:` moved from the beginning to the end, as the paper has it."""
    first, newline, rest = question.partition("\n")
    return f"{rest}\n{first}" if newline and first.startswith("Hint:") else question


class EngineModel(BaseModel):
    """VLMEvalKit's model interface on top of an engine."""

    INTERLEAVE = True
    allowed_types: ClassVar[list[str]] = ["text", "image"]
    is_api = False

    def __init__(
        self, model: EvalModel, limits: DecodingConfig, batch_size: int, sample_of: Callable[[Message, str], Sample]
    ) -> None:
        super().__init__()
        self.model, self.limits, self.batch_size, self.sample_of = model, limits, batch_size, sample_of
        self._answers: dict[str, Rollout] = {}

    def prefill(self, messages: list[Message]) -> None:
        """Answer `messages` in batches; equal messages are answered once."""
        samples = {key_of(message): self.sample_of(message, f"row {row}") for row, message in enumerate(messages)}
        wanted = [key for key in samples if key not in self._answers]
        rollouts = generate_all(self.model, [samples[key] for key in wanted], self.limits, self.batch_size)
        self._answers.update(zip(wanted, rollouts, strict=True))

    def answer(self, message: Message) -> Rollout:
        """The rollout for a message, generated now unless it was prefilled."""
        if key_of(message) not in self._answers:
            self.prefill([message])
        return self._answers[key_of(message)]

    def use_custom_prompt(self, dataset: str) -> bool:
        """The data set builds the prompts."""
        return False

    def preproc_content(self, inputs: Message) -> Message:
        """Messages as they are: VLMEvalKit would take a question that happens to name a file for that file."""
        return inputs

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The answer's text."""
        return self.answer(message).text


def key_of(message: Message) -> str:
    """A message's content as a dictionary key."""
    return json.dumps([[part["type"], part["value"]] for part in message])


def to_sample(message: Message, id: str, prompt: Prompt, images: str) -> Sample:
    """A VLMEvalKit message as a sample: the protocol's instruction added, images where it wants them.

    With `images` = `harness` the order of the message's parts is kept; with `marks` see `at_marks`.
    """
    if images == "marks":
        message = at_marks(message)
    content = [{"type": "image"} if p["type"] == "image" else {"type": "text", "text": p["value"]} for p in message]
    if prompt.ending:
        last = max(i for i, part in enumerate(content) if part["type"] == "text")
        content[last] = {"type": "text", "text": content[last]["text"] + prompt.ending}
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    files = tuple(Path(p["value"]) for p in message if p["type"] == "image")
    return Sample(id, [*system, {"role": "user", "content": content}], files, "")


def at_marks(message: Message) -> Message:
    """Images first, or at the place that marks like <image1> show.

    The paper's evaluation passes one image: with several marks the text between the first and the last is dropped.
    """
    images = [part for part in message if part["type"] == "image"]
    text = "\n".join(part["value"] for part in message if part["type"] == "text")
    pieces = _MARK.split(text)
    if len(pieces) == 1 or not images:
        return [*images, {"type": "text", "value": text}]
    around = [{"type": "text", "value": pieces[0]}, *images, {"type": "text", "value": pieces[-1]}]
    return [part for part in around if part["value"]]


def read_predictions(path: Path) -> list[str]:
    """The predictions of a prediction file (TSV), in row order, every character as it was written.

    pandas, which VLMEvalKit reads with, would turn answers like `NA`, `007` or `1e3` into something else.
    Raises UserError where the file is missing or no such table.
    """
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row["prediction"] for row in csv.DictReader(file, delimiter="\t", strict=True)]
    except FileNotFoundError:
        raise UserError(f"{path}: VLMEvalKit did not write it; see harness.log beside it") from None
    except (csv.Error, KeyError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a prediction file ({e}); delete it and run the evaluation again") from None


def task_version(measurement: Measurement) -> str:
    """Version of our prompts and loading for VLMEvalKit; bump it when they change."""
    return "2"


def build(measurement: Measurement, judge: Judge | None = None) -> Rows:
    """The data set of a measurement. $LMUData must be set to a folder that exists."""
    protocol, dataset = measurement.protocol, measurement.benchmark.dataset
    return CLASSES[dataset](
        measurement.benchmark.name,
        asked_problems(measurement.prepared, protocol),
        partial(cells_for, protocol, dataset),
        lambda problems, responses: score_all(protocol, measurement.benchmark, problems, responses, judge),
    )


def asked_problems(prepared: Prepared, protocol: ProtocolSettings) -> list[Problem]:
    """The problems; a text-only one of OlympiadBench keeps a picture that its row holds only as the tool comes."""
    if protocol.scoring == "harness":
        return list(prepared.problems)
    bare = {"images": (), "image_sha256": ""}
    return [dataclasses.replace(p, **bare) if "text_only" in p.subsets else p for p in prepared.problems]


def run(
    model: EvalModel, measurement: Measurement, batch_size: int, folder: Path, judge: Judge | None
) -> list[SampleRow]:
    """Run one benchmark through `infer_data_job`; rows for `samples.jsonl` in the order of the file.

    `folder` must be new: VLMEvalKit takes up whatever an earlier run left in it. Its prediction file, its accuracy
    table and its console output stay there. Raises RuntimeError where the prediction file is not what the model said.
    """
    name = measurement.benchmark.name
    sample_of = partial(to_sample, prompt=measurement.prompt, images=measurement.protocol.images)
    limits = greedy(measurement.max_new_tokens, measurement.repetition_penalty)
    engine = EngineModel(model, limits, batch_size, sample_of)
    # SPLIT_THINK would cut the answers, SKIP_ERR would score an error message as one.
    unset = dict.fromkeys(("SPLIT_THINK", "SKIP_ERR", "WORLD_SIZE", "RANK"))
    with console_to(folder / "harness.log"), environment(LMUData=str(folder), PRED_FORMAT="tsv", **unset):
        dataset = build(measurement, judge)
        messages = [dataset.build_prompt(row) for row in range(len(dataset))]
        engine.prefill(messages)
        infer_data_job(engine, work_dir=str(folder), model_name=MODEL_NAME, dataset=dataset)
        prediction_file = folder / f"{MODEL_NAME}_{name}.tsv"
        dataset.evaluate(str(prediction_file))
    rollouts = [engine.answer(message) for message in messages]
    if read_predictions(prediction_file) != [rollout.text for rollout in rollouts]:
        raise RuntimeError(f"{prediction_file} does not hold the texts that the model generated")
    rows = []
    for doc_id, (problem, message) in enumerate(zip(dataset.problems, messages, strict=True)):
        prompt_hash = prompt_sha256(model.render(sample_of(message, "")), problem.image_sha256)
        rows.append(sample_row(doc_id, problem, prompt_hash, rollouts[doc_id], dataset.scores[doc_id]))
    return rows


def mathvision_hints() -> tuple[str, str]:
    """MathVision's hints for free answers and for choices, from the examples that the tool shows to its judge."""
    lines = [line for example in mathv.get_gpt4_ICE() for line in example.splitlines() if line.startswith("Hint:")]
    choice = next(line for line in lines if "option letter" in line)
    return next(line for line in lines if line != choice), choice


URLS = {**MathVision.DATASET_URL, **MathVerse.DATASET_URL, **MathVista.DATASET_URL, **OlympiadBench.DATASET_URL}
URLS["MMStar"] = ImageMCQDataset.DATASET_URL["MMStar"]


def downloaded(name: str) -> Path:
    """Where VLMEvalKit's own copy of a data set lies, or will lie: in $LMUData."""
    root = os.environ.get("LMUData")  # noqa: SIM112 (VLMEvalKit's name for it)
    return Path(root or Path.home() / "LMUData") / f"{name}.tsv"


def download(name: str) -> Path:
    """VLMEvalKit's own copy of a data set, downloaded into $LMUData where it is not there yet.

    What lies there is never replaced: whether it is the pinned file is checked when it is read, and said once.
    Raises UserError where it cannot be downloaded.
    """
    url, path = URLS[name], downloaded(name)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        urllib.request.urlretrieve(url, partial_file)
    except (OSError, http.client.HTTPException) as e:
        partial_file.unlink(missing_ok=True)
        fix = "connect to the network, or give the files with --data-root"
        raise UserError(f"{url}: cannot be downloaded ({e}); {fix}") from None
    partial_file.replace(path)
    return path
