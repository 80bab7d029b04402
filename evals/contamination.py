"""Has the model seen the benchmark? Overlap of training prompts with its problems.

A run: n words in a row (13, as GPT-3's and lm-eval's decontamination use; a shorter problem is one run). Runs that more
than COMMON problems share are the benchmark's own phrases (hints, requests) and are not looked for.

A problem without a picture is shared where one of its runs stands in a training prompt. A problem with a picture is
what its words say of that picture ("count red" of another picture is another problem): it is shared where one training
row has one of its runs and a copy of one of its pictures (evals/pictures.py). There the words may be few, or a phrase
that every problem has, since the picture tells the problem. Words that stand beside other pictures are counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evals.completion import Completion
from evals.pictures import Gallery
from evals.problems import Problem
from evals.training_texts import TrainingText, words
from lmmr1.types import UserError

WORDS = 13
"""Length of a run."""

MIN_WORDS = 6
"""A shorter problem without a picture is not looked for: such a text is found anywhere."""

COMMON = 10
"""A run that more problems of a benchmark share is the benchmark's phrase, not a problem's."""

EXAMPLES = 5
"""So many problems are shown per benchmark."""

Run = tuple[str, ...]
"""Words in a row."""

Copies = Mapping[Path, Mapping[Path, bool]]
"""{training picture: {picture of a problem: True where all pixels are equal}}."""


@dataclass(frozen=True, slots=True)
class Example:
    """A problem that stands in the training data."""

    problem: str
    training: str
    """Where the first run was found."""
    share: float
    """Share of the problem's runs that were found anywhere (with a picture: beside a copy of it)."""
    run: str
    """The first run that was found."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What training prompts and a benchmark have in common. All numbers count problems."""

    benchmark: str
    problems: int
    checked: int
    """Looked for: those with a picture, and those with a run of their own; the others are too short, or phrases."""
    shared: int
    """With a run in a training prompt; those with a picture: and a copy of it in the same row."""
    whole: int
    """Of `shared`, with all runs in training prompts."""
    near: int
    """Of `shared`, with a picture of which there are only near copies."""
    pictured: int
    """With a picture."""
    same_picture: int
    """With a picture that is in the training data pixel for pixel, whatever the words."""
    near_picture: int
    """With a picture of which there are only near copies, whatever the words."""
    words_checked: int
    """With a picture and a run of their own."""
    words_only: int
    """Of these, with a run in a training prompt, but not `shared`: beside another picture, or beside none."""
    examples: tuple[Example, ...]

    @property
    def rate(self) -> float:
        """Share of the checked problems that are shared; 0 where none was checked."""
        return self.shared / self.checked if self.checked else 0.0

    def as_cell(self) -> dict[str, Any]:
        """Plain data."""
        return {"rate": self.rate, **{k: v for k, v in asdict(self).items() if k != "benchmark"}}


@dataclass(slots=True)
class _Sought:
    """One problem, and what was found of it."""

    problem: Problem
    own: list[Run]
    found: dict[Run, str] = field(default_factory=dict)
    """Where each of its runs stands, whatever the picture."""
    beside: dict[Run, str] = field(default_factory=dict)
    """Where each of `pictured` stands beside a copy of its picture."""
    copies: set[bool] = field(default_factory=set)
    """Of its pictures in the training data: True for an equal one, False for a near one."""
    shared_copies: set[bool] = field(default_factory=set)
    """The same of those in rows that have its words too."""

    @property
    def runs(self) -> list[Run]:
        """What is looked for: with a picture, where there is no run of its own, all its words."""
        whole = words(self.problem.question) if self.problem.images and not self.own else []
        return [tuple(whole)] if whole else self.own

    @property
    def hits(self) -> dict[Run, str]:
        """Where the runs stand that make it shared."""
        return self.beside if self.problem.images else self.found


def overlaps(
    benchmarks: Mapping[str, Sequence[Problem]], training: Iterable[TrainingText], n: int = WORDS
) -> list[Overlap]:
    """The overlap of each benchmark with all training texts (read once).

    Raises UserError for n < MIN_WORDS, or where a picture that has to be compared cannot be read.
    """
    if n < MIN_WORDS:
        raise UserError(f"--words {n}: give at least {MIN_WORDS}; shorter runs are found in any text")
    texts = list(training)
    sought = {
        name: [_Sought(problem, own) for problem, own in zip(problems, own_runs(problems, n), strict=True)]
        for name, problems in benchmarks.items()
    }
    together = [one for found in sought.values() for one in found]
    _find_words(together, texts)
    _find_pictures(together, texts)
    return [_overlap(name, found) for name, found in sought.items()]


def own_runs(problems: Sequence[Problem], n: int) -> list[list[Run]]:
    """Per problem its runs of n words (one run where it is shorter), without runs that many problems share."""
    found = []
    for problem in problems:
        tokens = words(problem.question)
        found.append(list(dict.fromkeys(_runs(tokens, min(n, len(tokens))))) if len(tokens) >= MIN_WORDS else [])
    count = Counter(run for own in found for run in own)
    return [[run for run in own if count[run] <= COMMON] for own in found]


def _runs(tokens: Sequence[str], length: int) -> Iterator[Run]:
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def _find_words(sought: Sequence[_Sought], texts: Sequence[TrainingText]) -> None:
    """Note for every problem where its own runs stand first."""
    wanted = {run for one in sought for run in one.own}
    lengths = sorted({len(run) for run in wanted})
    where: dict[Run, str] = {}
    for text in texts:
        tokens = words(text.text)
        for run in (run for length in lengths for run in _runs(tokens, length) if run in wanted):
            where.setdefault(run, text.where)
    for one in sought:
        one.found = {run: where[run] for run in one.own if run in where}


def _find_pictures(sought: Sequence[_Sought], texts: Sequence[TrainingText]) -> None:
    """Note for every problem with a picture its copies, and where its words stand beside one."""
    of_picture: dict[Path, list[_Sought]] = defaultdict(list)
    for one in sought:
        for path in one.problem.images:
            of_picture[path].append(one)
    copies = Gallery(of_picture).copies(path for text in texts for path in text.images)
    for text in texts:
        candidates = [
            (one, equal)
            for image in text.images
            for path, equal in copies.get(image, {}).items()
            for one in of_picture[path]
        ]
        tokens = words(text.text) if candidates else []
        for one, equal in candidates:
            one.copies.add(equal)
            if hits := [run for run in one.runs if run in _runs(tokens, len(run))]:
                one.shared_copies.add(equal)
                one.beside = dict.fromkeys(hits, text.where) | one.beside


def _overlap(name: str, sought: Sequence[_Sought]) -> Overlap:
    pictured = [one for one in sought if one.problem.images]
    shared = [one for one in sought if one.hits]
    examples = [_example(one) for one in shared]
    return Overlap(
        benchmark=name,
        problems=len(sought),
        checked=sum(bool(one.runs) for one in sought),
        shared=len(shared),
        whole=sum(len(one.hits) == len(one.runs) for one in shared),
        near=sum(one.shared_copies == {False} for one in shared),
        pictured=len(pictured),
        same_picture=sum(True in one.copies for one in pictured),
        near_picture=sum(one.copies == {False} for one in pictured),
        words_checked=sum(bool(one.own) for one in pictured),
        words_only=sum(bool(one.found) and not one.hits for one in pictured),
        examples=tuple(sorted(examples, key=lambda example: -example.share)[:EXAMPLES]),
    )


def _example(one: _Sought) -> Example:
    first = next(run for run in one.runs if run in one.hits)
    return Example(one.problem.id, one.hits[first], len(one.hits) / len(one.runs), " ".join(first))


def summary(
    found: Sequence[Overlap],
    completed: Sequence[Completion],
    settings: Mapping[str, Any],
    not_checked: Mapping[str, str],
) -> dict[str, Any]:
    """Plain data: settings, per benchmark what a report shows beside its score, and why others have no numbers."""
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for overlap in found:
        cells[overlap.benchmark]["overlap"] = overlap.as_cell()
    for completion in completed:
        cells[completion.benchmark]["completion"] = {
            "exact": completion.exact,
            "rouge_l": completion.rouge_l,
            "problems": completion.problems,
            "fraction": completion.fraction,
            "completed": [row.problem for row in completion.rows if row.exact],
        }
    return {**settings, "benchmarks": dict(cells), "not_checked": dict(not_checked)}
