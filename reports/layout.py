"""What a reader sees an arm, a benchmark and an average as: order, names, groups and colours, in one place."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from evals.registry import find
from lmmr1.types import UserError
from reproduce.plan import load_arms

BASELINE = "baseline"
CONTROL = "random_reward"
"""The arm that must not gain."""
PLAYERS = {
    "idle": "Idle player (scripted)",
    "chance": "Random player (scripted)",
    "expert": "Expert: solver, runner (scripted)",
}
"""Scripted players of `evals.agents.baselines` and their titles: rows of Table 3 that no model stands behind."""
ARM_TITLES = {name: arm.title for name, arm in load_arms().items() if arm.title} | PLAYERS
AGENTS = "agents"
"""The group whose benchmarks are played for points: no column of Table 1, part of no average, all of Table 3."""
GROUP_TITLES = {"text": "Text", "mm_reasoning": "MM reasoning", "mm_general": "MM general", AGENTS: "Agents"}
AVERAGES = {"text_avg": ("Text avg", ("text",)), "mm_avg": ("MM avg", ("mm_reasoning", "mm_general"))}
"""Column name: (title, groups whose benchmarks it averages without weights), as in the paper's Table 1."""
CLAIM, CLAIM_COLUMN = ("two_stage", "mgt_only"), "mm_avg"
"""The contrast behind the paper's central claim and where it is made, for the page's summary."""
CONTRASTS = {
    CLAIM: "Does text-first help? (Two-stage − MGT-only)",
    ("two_stage", "fre"): "What does stage 2 add? (Two-stage − FRE-Text)",
}
"""(arm, the arm it is held against): title. Shown in this order, where both arms are there."""
AGENT_CONTRAST = ("mgt_sokoban", "direct_rl_sokoban")
"""The same for what is played: does text-first help an agent? The paper's third claim, a block of Table 3."""

_COLOURS = {BASELINE: "#767676", "fre": "#0072B2", "mgt_only": "#E69F00", "two_stage": "#009E73", CONTROL: "#CC79A7"}
_SPARE_COLOURS = ("#D55E00", "#56B4E9", "#B5A400", "#8C564B")
_MARKERS = ("o", "s", "^", "D", "X", "v", "P", "<", ">")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A column of Table 1, or of Table 3 for an agent's."""

    name: str
    group: str
    title: str

    @property
    def metric(self) -> str:
        """Of the headline: `score` (points / 100) where an agent plays, else `accuracy`."""
        return "score" if self.group == AGENTS else "accuracy"


def arm_title(arm: str) -> str:
    """The readable name of an arm; an unknown arm keeps its own."""
    return ARM_TITLES.get(arm, arm)


def arm_style(arm: str, arms: list[str]) -> tuple[str, str]:
    """(colour, marker) of an arm: fixed for the known ones (Okabe-Ito palette), by position for others."""
    others = [a for a in arms if a not in _COLOURS]
    if arm in _COLOURS:
        return _COLOURS[arm], _MARKERS[list(_COLOURS).index(arm)]
    at = others.index(arm)
    return _SPARE_COLOURS[at % len(_SPARE_COLOURS)], _MARKERS[(len(_COLOURS) + at) % len(_MARKERS)]


def columns(benchmarks: list[Benchmark]) -> list[tuple[str, str, tuple[Benchmark, ...]]]:
    """Table 1's columns in order: (name, title, benchmarks it averages); an average follows the last of its groups."""
    found = []
    for average, (title, groups) in AVERAGES.items():
        members = tuple(b for group in groups for b in benchmarks if b.group == group)
        found += [(b.name, b.title, (b,)) for b in members]
        if members:
            found.append((average, title, members))
    return found


def parse_benchmarks(texts: list[str]) -> list[Benchmark]:
    """The benchmarks of Table 1 among `texts`: `name:group:title` each, or a bare `name` of evals/benchmarks.yaml.

    Raises UserError on an unknown name or group and on duplicates.
    """
    return [b for b in parse_all(texts) if b.group != AGENTS]


def parse_agents(texts: list[str]) -> list[Benchmark]:
    """The agent benchmarks among `texts`, as `parse_benchmarks` reads them: the columns of Table 3."""
    return [b for b in parse_all(texts) if b.group == AGENTS]


def parse_all(texts: list[str]) -> list[Benchmark]:
    """All of them, in order. Raises UserError as `parse_benchmarks`."""
    found: list[Benchmark] = []
    for text in texts:
        name, _, rest = text.partition(":")
        group, _, title = rest.partition(":")
        benchmark = Benchmark(name, group, title or name) if rest else _registered(name)
        if benchmark.group not in GROUP_TITLES:
            raise UserError(f"--benchmarks {text}: unknown group {benchmark.group!r}; use {', '.join(GROUP_TITLES)}")
        if name in [b.name for b in found]:
            raise UserError(f"--benchmarks {text}: {name!r} is given twice; give it once")
        found.append(benchmark)
    return found


def _registered(name: str) -> Benchmark:
    found = find(name)
    return Benchmark(name, found.group, found.title)


def add_benchmarks_argument(parser: argparse.ArgumentParser) -> None:
    """The `--benchmarks` option that tables, plots and page share."""
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        required=True,
        metavar="NAME[:GROUP:TITLE]",
        help="columns of Table 1 in order; a bare name is looked up in evals/benchmarks.yaml",
    )
