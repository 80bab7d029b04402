"""Does a model know a problem by heart? It gets the beginning and continues greedily.

It gets the first 60 % of a problem's words (arXiv 2507.10532 does this to MATH-500). `exact` is the share of problems
whose rest came out word for word, `rouge_l` the mean F-measure of ROUGE-L.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from evals.generation import EvalModel, generate_all, greedy
from evals.problems import Problem
from evals.training_texts import words
from lmmr1.types import Sample, UserError

FRACTION = 0.6
"""Share of a problem's words that the model is given."""

MAX_NEW_TOKENS = 256
"""A longer rest counts as not completed."""

INSTRUCTION = "Continue this text exactly where it stops. Write the continuation only.\n\n{start}"


@dataclass(frozen=True, slots=True)
class Completed:
    """A model's continuation of one problem."""

    problem: str
    expected: str
    got: str
    """Model output, cut to as many words as were expected."""
    exact: bool
    rouge_l: float
    """F-measure, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How much of a benchmark a model completes."""

    benchmark: str
    problems: int
    exact: float
    """Share of problems."""
    rouge_l: float
    """Mean F-measure."""
    fraction: float
    rows: tuple[Completed, ...]


def complete(
    model: EvalModel, benchmark: str, problems: Sequence[Problem], batch_size: int = 32, fraction: float = FRACTION
) -> Completion:
    """Let `model` complete every problem from its first words; images are not shown.

    Raises UserError where no problem has two words or more.
    """
    cuts = [(problem, *cut(problem.question, fraction)) for problem in problems]
    cuts = [(problem, start, rest) for problem, start, rest in cuts if start and words(rest)]
    if not cuts:
        raise UserError(f"benchmark {benchmark}: no problem can be cut in two; there is nothing to complete")
    samples = [_sample(problem.id, start) for problem, start, _ in cuts]
    limit = min(MAX_NEW_TOKENS, max(len(rest.encode()) for _, _, rest in cuts))
    rollouts = generate_all(model, samples, greedy(limit), batch_size)
    rows = [
        judge_completion(problem.id, rest, rollout.text)
        for (problem, _, rest), rollout in zip(cuts, rollouts, strict=True)
    ]
    exact, rouge_l = fmean(row.exact for row in rows), fmean(row.rouge_l for row in rows)
    return Completion(benchmark, len(rows), exact, rouge_l, fraction, tuple(rows))


def _sample(id: str, start: str) -> Sample:
    return Sample(id, [{"role": "user", "content": INSTRUCTION.format(start=start)}], (), "")


def cut(text: str, fraction: float) -> tuple[str, str]:
    """A text's first words (by white space, at least one) and the rest, as they stand.

    >>> cut("How many  divisors does 196 have?", 0.6)
    ('How many  divisors', 'does 196 have?')
    """
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    if len(ends) < 2:
        return text, ""
    keep = ends[max(1, int(fraction * len(ends))) - 1]
    return text[:keep], text[keep:].strip()


def judge_completion(problem: str, expected: str, got: str) -> Completed:
    """Compare a continuation with the true rest, word by word, over as many words as the rest has."""
    wanted, found = words(expected), words(got)[: len(words(expected))]
    score = _rouge().score(" ".join(wanted), " ".join(found))["rougeL"].fmeasure
    return Completed(problem, expected, " ".join(found), wanted == found, float(score))


def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Tokenizer:
        """The texts are words already; the library's own tokenizer would drop operators."""

        def tokenize(self, text: str) -> list[str]:
            return text.split()

    return RougeScorer(["rougeL"], tokenizer=Tokenizer())
