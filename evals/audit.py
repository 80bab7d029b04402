"""Stored answers under every scorer that applies: scores, confusion, and which gains exist under which scorer.

Nothing is generated. A gain is the difference to the baseline arm on the same items under the same scorer. It exists
under a scorer where every run of the arm is ahead with an exact McNemar test below ALPHA (so of several runs the
largest p counts: an intersection-union test). The interaction compares a scorer's gain with the gain under our rule: a
sign test over the items on which the two differ. Items that are versions of one problem count as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from evals import scorers
from evals.importers.stored import StoredAnswer
from evals.scorers import Scorer, stock
from evals.scorers.items import Item, Mark
from lmmr1.rewards.judge import FAILURES
from lmmr1.types import UserError

ALPHA = 0.05
"""Level of the tests; not corrected for the number of cells."""

FLAGGED = 0.05
"""A share of cut-off answers above this is noted, and so is such a difference between two arms in answers not found."""

OURS = "math_verify"
"""The scorer that the others are compared with: what training rewards."""

FAMILIES = {
    "gpqa_diamond": "gpqa",
    "mathvista_mini": "mathvista",
    "lm_eval_gpqa_diamond_cot_zeroshot": "gpqa",
    "lm_eval_hendrycks_math500": "math500",
}
"""Benchmark -> the name by which scorers know it, where that differs."""

NOT_ASKED = Mark(False, "", "request failed")
"""The verdict on a tool's message in the place of an answer: no scorer sees it, since it could be right by chance."""

NO_ANSWER = ("no_answer", "no answer", "no option named", "unparsed", NOT_ASKED.note)
"""Notes that say that a scorer's own extraction found nothing to judge."""

LOST = (
    "nothing was generated, or the file lost it (VLMEvalKit's workbooks drop what begins with a URL and has over 2,079 "
    "characters). They count as wrong."
)

BLIND = "finds no answer in any response: its score is shown, but it has no part in the gains."

NEEDS_CHOICES = stock.CHOOSING | {"option_match"}

Verdicts = dict[str, list[Mark | None]]
"""Scorer -> a mark for each answer of a benchmark, in order; None where a stored verdict is missing."""

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Shows progress: (steps, what, how many) -> the steps."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scorer on one arm, all runs together."""

    arm: str
    scorer: str
    n: int
    right: int
    no_answer: int
    """Answers in which the scorer found nothing to judge; they count as wrong."""
    failed: int
    """Answers on which the scorer ran out of time or memory; they count as wrong."""
    only_here: int
    """Right under this scorer, wrong under ours."""
    only_ours: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scorers on the same answers of one arm."""

    arm: str
    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int


@dataclass(frozen=True, slots=True)
class Gain:
    """An arm against the baseline under one scorer."""

    arm: str
    scorer: str
    items: int
    """Items that both answered."""
    gain: float
    """Difference of the scores as a fraction, mean over runs."""
    p: float
    """Exact McNemar test, two-sided; of several runs the largest."""
    direction: int
    """1: every run is ahead and its p below ALPHA; -1: behind; else 0."""
    beyond_ours: float
    """This gain minus the gain under our rule."""
    interaction_p: float
    """Sign test of `beyond_ours`; of several runs the largest p."""


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What the files say of an arm beside right and wrong."""

    arm: str
    runs: tuple[str, ...]
    answers: int
    with_finish: int
    """Answers whose file says why generation stopped."""
    truncated: int
    empty: int
    """Answers that are nothing: nothing was generated, or the file lost it."""
    failed_requests: int
    """Answers in whose place the tool wrote that its request had failed."""


@dataclass(frozen=True, slots=True)
class BenchmarkAudit:
    """All that is said of one benchmark."""

    benchmark: str
    baseline: str
    scorers: tuple[str, ...]
    blind: tuple[str, ...]
    """Scorers that find no answer in any response; they have no part in the gains."""
    arms: tuple[ArmFacts, ...]
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]

    def verdict(self, arm: str, direction: int) -> str:
        """Under which scorers an arm gains (1) or loses (-1): `all`, `some: a, b` or `none`."""
        compared = [gain for gain in self.gains if gain.arm == arm]
        names = [gain.scorer for gain in compared if gain.direction == direction]
        if not names:
            return "none"
        return "all" if len(names) == len(compared) else f"some: {', '.join(names)}"


def audit(
    answers: Sequence[StoredAnswer], baseline: str | None = None, workers: int = 2, also: Sequence[str] = (),
    track: Track = lambda steps, what, total: steps,
) -> Iterator[tuple[BenchmarkAudit, list[dict[str, Any]]]]:  # fmt: skip
    """Each benchmark's audit with its disagreements (answers on which scorers differ), benchmarks in order of name.

    Args:
        answers: of any benchmarks and arms.
        baseline: the arm that gains refer to; by default `baseline` where there is one, else the first by name.
        workers: processes for scorers that need bounds.
        also: scorers of stock.STOCK to apply beyond the benchmarks that their harness uses them for.
        track: shows progress.

    Raises UserError for an unknown baseline or scorer, and where two arms have different golds for one item.
    """
    unknown = sorted(set(also) - set(stock.STOCK))
    if unknown:
        raise UserError(f"--also: there is no stock scorer {unknown[0]!r}; allowed: {', '.join(stock.STOCK)}")
    arms = {answer.arm for answer in answers}
    if baseline is not None and baseline not in arms:
        raise UserError(f"--baseline: no answers of {baseline!r}; there are answers of {', '.join(sorted(arms))}")
    groups: dict[str, list[StoredAnswer]] = defaultdict(list)
    for answer in answers:
        groups[answer.benchmark].append(answer)
    for benchmark, group in sorted(groups.items()):
        _check_golds(benchmark, group)
    for benchmark, group in sorted(groups.items()):
        verdicts, notes = judge(benchmark, group, workers, also, track)
        result = summarise(benchmark, group, verdicts, baseline, notes)
        yield result, disagreements(group, {name: verdicts[name] for name in verdicts if name not in result.blind})


def _check_golds(benchmark: str, answers: Sequence[StoredAnswer]) -> None:
    first: dict[str, StoredAnswer] = {}
    for answer in answers:
        known = first.setdefault(answer.item.id, answer)
        if _gold_text(known.item) != _gold_text(answer.item):
            raise UserError(
                f"{answer.source}: item {answer.item.id[:40]!r} of {benchmark} has gold {answer.item.gold[:40]!r}, in "
                f"{known.source} it has {known.item.gold[:40]!r}; the files are not of the same problems"
            )


def _gold_text(item: Item) -> str:
    """The right option's words, else the gold answer: each harness may show the options in an order of its own."""
    return " ".join((item.right_choice or item.gold).split())


# ------------------------------------------------------------------------------------------------------- verdicts


def judge(
    benchmark: str, answers: Sequence[StoredAnswer], workers: int, also: Sequence[str], track: Track
) -> tuple[Verdicts, list[str]]:
    """Every applicable scorer's mark for every answer, the stored verdicts among them, and notes on what is missing."""
    family = FAMILIES.get(benchmark, benchmark)
    choices = all(answer.item.choices for answer in answers)
    verdicts: Verdicts = {}
    with stock.stock_scorers(family, workers, also) as (others, notes):
        for scorer in [*scorers.applicable(family), *others]:
            if scorer.name in NEEDS_CHOICES and not choices:
                notes.append(f"{scorer.name} is not applied: not every problem comes with its options.")
                continue
            verdicts[scorer.name] = _marks(scorer, answers, track)
    names = sorted({name for answer in answers for name in answer.stored})
    for name in names:
        verdicts[name] = [_stored(answer.stored.get(name)) for answer in answers]
    return verdicts, notes


def _stored(right: bool | None) -> Mark | None:
    return None if right is None else Mark(right, "", "stored")


def _marks(scorer: Scorer, answers: Sequence[StoredAnswer], track: Track) -> list[Mark | None]:
    """Marks in order; equal answers to equal problems are judged once, and messages of failed requests not at all."""
    keys = [None if answer.failure else (replace(answer.item, id=""), answer.response) for answer in answers]
    distinct = list(dict.fromkeys(key for key in keys if key))
    marks = dict(zip(distinct, track(scorer.judge(distinct), scorer.name, len(distinct)), strict=True))
    return [marks[key] if key else NOT_ASKED for key in keys]


def disagreements(answers: Sequence[StoredAnswer], verdicts: Verdicts) -> list[dict[str, Any]]:
    """The answers on which two scorers differ, as plain rows."""
    rows = []
    for i, answer in enumerate(answers):
        right = {name: mark.correct for name, marks in verdicts.items() if (mark := marks[i]) is not None}
        if len(set(right.values())) > 1:
            where = {"benchmark": answer.benchmark, "arm": answer.arm, "run": answer.run, "id": answer.item.id}
            rows.append({**where, "gold": answer.item.gold, "response": answer.response, "verdicts": right})
    return rows


# -------------------------------------------------------------------------------------------------------- summary


def summarise(
    benchmark: str, answers: Sequence[StoredAnswer], verdicts: Verdicts, baseline: str | None, notes: Sequence[str]
) -> BenchmarkAudit:
    """Counts, confusion and gains of one benchmark."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        rows[answer.arm].append(i)
    base = baseline if baseline in rows else "baseline" if "baseline" in rows else min(rows)
    arms = [base, *sorted(rows.keys() - {base})]
    facts = [_facts(arm, [answers[i] for i in rows[arm]]) for arm in arms]
    cells = [_cell(arm, name, rows[arm], verdicts) for arm in arms for name in verdicts]
    cells = [cell for cell in cells if cell.n]
    pairs = [_pair(arm, *names, rows[arm], verdicts) for arm in arms for names in combinations(verdicts, 2)]
    blind = _blind(cells)
    seeing = {name: marks for name, marks in verdicts.items() if name not in blind}
    gains = [gain for arm in arms[1:] for gain in _gains(arm, base, rows, answers, seeing)]
    found = [
        *notes,
        *(f"{name} {BLIND}" for name in blind),
        *_unanswered(facts, answers),
        *_equal_runs(arms, rows, answers),
        *_flags(facts, cells, base),
        *_prompt_notes(base, arms[1:], rows, answers),
    ]
    if baseline is not None and baseline not in rows:
        found.append(f"There are no answers of {baseline} here; gains refer to {base}.")
    return BenchmarkAudit(
        benchmark,
        base,
        tuple(verdicts),
        tuple(blind),
        tuple(facts),
        tuple(cells),
        tuple(pairs),
        tuple(gains),
        tuple(found),
    )


def _facts(arm: str, answers: Sequence[StoredAnswer]) -> ArmFacts:
    finishes = [answer.row.finish for answer in answers if answer.row.finish]
    runs = tuple(sorted({answer.run for answer in answers}))
    empty, failed = sum(answer.empty for answer in answers), sum(bool(answer.failure) for answer in answers)
    return ArmFacts(arm, runs, len(answers), len(finishes), finishes.count("length"), empty, failed)


def _cell(arm: str, name: str, rows: Sequence[int], verdicts: Verdicts) -> Cell:
    both = [(mark, verdicts[OURS][i]) for i in rows if (mark := verdicts[name][i]) is not None]
    marks = [mark for mark, _ in both]
    return Cell(
        arm, name, len(marks), sum(mark.correct for mark in marks),
        sum(mark.note in NO_ANSWER for mark in marks), sum(mark.note.startswith(FAILURES) for mark in marks),
        sum(mark.correct and not ours.correct for mark, ours in both if ours),
        sum(ours.correct and not mark.correct for mark, ours in both if ours),
    )  # fmt: skip


def _pair(arm: str, first: str, second: str, rows: Sequence[int], verdicts: Verdicts) -> Pair:
    counts = [0, 0, 0, 0]
    for i in rows:
        a, b = verdicts[first][i], verdicts[second][i]
        if a is not None and b is not None:
            counts[2 * (not a.correct) + (not b.correct)] += 1
    return Pair(arm, first, second, *counts)


def _blind(cells: Sequence[Cell]) -> list[str]:
    """Scorers other than ours that find no answer in any response: their zeros say nothing of the arms."""
    found: dict[str, int] = defaultdict(int)
    for cell in cells:
        found[cell.scorer] += cell.n - cell.no_answer
    return [name for name, n in found.items() if n == 0 and name != OURS]


def _unanswered(facts: Sequence[ArmFacts], answers: Sequence[StoredAnswer]) -> Iterator[str]:
    """Notes on answers that the model did not give: they are told from wrong ones."""
    for fact in facts:
        if fact.failed_requests:
            said = next(answer.failure for answer in answers if answer.arm == fact.arm and answer.failure)
            yield (
                f"{fact.failed_requests} of the {fact.answers} answers of {fact.arm} are the message of a request that "
                f"failed ({said[:60]!r}), not the model's: they count as wrong; ask those again, or leave them out."
            )
        if fact.empty:
            yield f"{fact.empty} of the {fact.answers} answers of {fact.arm} are empty: {LOST}"


def _equal_runs(
    arms: Sequence[str], rows: Mapping[str, Sequence[int]], answers: Sequence[StoredAnswer]
) -> Iterator[str]:
    """Notes on runs that have every answer in common: one may be a copy of the other."""
    for arm in arms:
        runs: dict[str, dict[str, str]] = defaultdict(dict)
        for i in rows[arm]:
            runs[answers[i].run][answers[i].item.id] = answers[i].response
        for first, second in combinations(sorted(runs), 2):
            if len(runs[first]) > 1 and runs[first] == runs[second]:
                yield f"Runs {first or '-'} and {second or '-'} of {arm} have every answer in common: is one a copy?"


def _flags(facts: Sequence[ArmFacts], cells: Sequence[Cell], base: str) -> Iterator[str]:
    """Notes on what makes a comparison doubtful."""
    for fact in facts:
        if fact.with_finish and fact.truncated / fact.with_finish > FLAGGED:
            share = f"{100 * fact.truncated / fact.with_finish:.1f} %"
            yield f"{share} of the answers of {fact.arm} were cut off at the token limit."
    rates = {(cell.arm, cell.scorer): cell.no_answer / cell.n for cell in cells}
    for (arm, name), rate in rates.items():
        if abs(rate - rates.get((base, name), rate)) > FLAGGED:
            shares = f"{100 * rate:.1f} % of {arm} and in {100 * rates[base, name]:.1f} % of {base}"
            yield f"{name} finds no answer in {shares}: a difference under it may be one of format."


def _prompt_notes(
    base: str, arms: Sequence[str], rows: Mapping[str, Sequence[int]], answers: Sequence[StoredAnswer]
) -> Iterator[str]:
    """Notes on arms that were asked other prompts than the baseline."""
    asked = {answers[i].item.id: answers[i].row.prompt_hash for i in rows[base]}
    for arm in arms:
        others = [(answers[i].item.id, answers[i].row.prompt_hash) for i in rows[arm]]
        differ = {id for id, prompt in others if prompt and asked.get(id, prompt) != prompt}
        if any(asked.values()) and differ:
            yield f"{arm} was asked other prompts than {base} on {len(differ)} items."


# ---------------------------------------------------------------------------------------------------------- gains

Run = dict[str, bool]
"""Item id -> right or wrong, of one run under one scorer."""


def _gains(
    arm: str, base: str, rows: Mapping[str, Sequence[int]], answers: Sequence[StoredAnswer], verdicts: Verdicts
) -> list[Gain]:
    """An arm's gain under each scorer that judged it and the baseline."""
    ours = _runs(rows[arm], answers, verdicts[OURS]), _runs(rows[base], answers, verdicts[OURS])
    problems = {answers[i].item.id: answers[i].row.cluster or f"item {answers[i].item.id}" for i in rows[arm]}
    found = []
    for name, marks in verdicts.items():
        theirs = _runs(rows[arm], answers, marks), _runs(rows[base], answers, marks)
        pairs = [(run, _partner(name_, theirs[1])) for name_, run in theirs[0].items()] if theirs[1] else []
        pairs = [(run, other) for run, other in pairs if run.keys() & other.keys()]
        if pairs:
            reference = [(ours[0][name_], _partner(name_, ours[1])) for name_ in theirs[0]]
            found.append(_gain(arm, name, pairs, reference, problems))
    return found


def _runs(rows: Sequence[int], answers: Sequence[StoredAnswer], marks: Sequence[Mark | None]) -> dict[str, Run]:
    runs: dict[str, Run] = defaultdict(dict)
    for i in rows:
        if (mark := marks[i]) is not None:
            runs[answers[i].run][answers[i].item.id] = mark.correct
    return dict(sorted(runs.items()))


def _partner(name: str, runs: Mapping[str, Run]) -> Run:
    """The baseline's run of that name, else its first."""
    return runs.get(name) or next(iter(runs.values()))


def _gain(
    arm: str, name: str, pairs: Sequence[tuple[Run, Run]], ours: Sequence[tuple[Run, Run]], problems: Mapping[str, str]
) -> Gain:
    changes = [_changes(run, other) for run, other in pairs]
    beyond = [
        {id: change - reference[id] for id, change in own.items() if id in reference}
        for own, reference in zip(changes, (_changes(*pair) for pair in ours), strict=True)
    ]
    gains, ps = [fmean(own.values()) for own in changes], [_sign_test(own, problems) for own in changes]
    real = all(p < ALPHA for p in ps)
    direction = 1 if real and min(gains) > 0 else -1 if real and max(gains) < 0 else 0
    differences = [own for own in beyond if own]
    return Gain(
        arm, name, len(changes[0]), fmean(gains), max(ps), direction,
        fmean(fmean(own.values()) for own in differences) if differences else 0.0,
        max((_sign_test(own, problems) for own in differences), default=1.0),
    )  # fmt: skip


def _changes(run: Run, other: Run) -> dict[str, int]:
    """Per item that both answered: 1 where only `run` is right, -1 where only `other` is, else 0."""
    return {id: int(right) - int(other[id]) for id, right in run.items() if id in other}


def _sign_test(changes: Mapping[str, int], problems: Mapping[str, str]) -> float:
    """Two-sided exact p of as many problems that rise as that fall.

    changes: by item; problems: the problem that an item belongs to: the versions of one are summed, since they are not
    independent. Where every item is its own problem and verdicts are single, this is McNemar's exact test.
    """
    from scipy.stats import binomtest

    sums: dict[str, int] = defaultdict(int)
    for id, change in changes.items():
        sums[problems.get(id, id)] += change
    signs = [change > 0 for change in sums.values() if change]
    return float(binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0
