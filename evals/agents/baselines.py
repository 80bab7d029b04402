"""Scripted players on agent benchmarks: what doing nothing, chance and an expert score, as records like a model's.

    python -m evals.agents.baselines --player idle --benchmarks sokoban_global football_field --out out/idle
    python -m evals.agents.baselines --published

Players: `idle` does nothing; `chance` plays moves at random; `expert` is the exact solver in Sokoban (100 points on any
level that can be solved within an episode) and the scripted runner in football. They read level or state, not the
picture. --published prints the idle player's score on MageBench's published upper rewards.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evals.agents import football, sokoban
from evals.agents.harness import PlayJob
from evals.agents.sokoban_levels import idle_score, published_uppers
from evals.generation import EvalModel
from evals.plan import DEFAULT_BATCH_SIZE, Options, plan
from evals.records import EvalRecord
from evals.run import run_jobs
from lmmr1.sokoban import Action, Level
from lmmr1.types import UserError

PLAYERS = ("idle", "chance", "expert")

CHANCE_MOVES = 20
"""Actions of an answer by chance in Sokoban."""


def by_chance(level: Level) -> tuple[Action, ...]:
    """Random actions, the same for the same level."""
    return tuple(random.Random(level.text()).choices(list(Action), k=CHANCE_MOVES))


SOKOBAN: dict[str, Callable[[Level], Sequence[Action]]] = {
    "idle": sokoban.idle,
    "chance": by_chance,
    "expert": sokoban.perfect,
}
FOOTBALL = {"idle": football.idle, "chance": football.chance, "expert": football.runner}


def player(name: str, job: PlayJob) -> EvalModel:
    """The scripted player for one benchmark, answering in the form that it asks for."""
    if job.benchmark.dataset == "sokoban":
        return sokoban.scripted(SOKOBAN[name], job.cfg.form)
    return football.scripted(FOOTBALL[name], job.cfg.form)


def play(name: str, benchmarks: Sequence[str], out: Path, options: Options) -> list[str]:
    """Play all benchmarks, write their records below `out`, say a line on each. Raises UserError as an evaluation."""
    lines = []
    for job in plan(benchmarks, out, options):
        if not isinstance(job, PlayJob):
            raise UserError(f"--benchmarks {job.name}: not played; scripted players know agent benchmarks alone")
        records = run_jobs(lambda job=job: player(name, job), [job], out, options, f"scripted/{name}")
        lines += [_line(name, r) for r in records if r.subset == "all"]
    return lines


def _line(name: str, r: EvalRecord) -> str:
    error = "" if r.stderr is None else f" +- {100 * r.stderr:.2f}"
    return f"{name} {r.benchmark}: {r.metric} {100 * r.value:.2f}{error} (n={r.n})"


def published_lines() -> list[str]:
    """What the idle player scores on the published upper rewards."""
    sets = {"the mini set": published_uppers(True), "all levels": published_uppers(False)}
    return [f"idle on {name} of MageBench ({len(u)} levels): {idle_score(u):.3f}" for name, u in sets.items()]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError where it names nothing to do."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.agents.baselines", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--player", choices=PLAYERS)
    parser.add_argument("--benchmarks", nargs="+", default=[])
    parser.add_argument("--out", type=Path, help="folder for the records")
    parser.add_argument(
        "--published", action="store_true", help="the idle score on MageBench's published upper rewards"
    )
    parser.add_argument("--data-root", type=Path, help="folder with level files; default: our own levels")
    parser.add_argument("--benchmark-dir", type=Path, help="folder with the micro benchmarks' files")
    parser.add_argument("--limit", type=int, help="only the first N levels")
    parser.add_argument("--prompt", help="tags, sections or brief instead of the benchmark's own form")
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE)
    args = parser.parse_args(arguments)
    if not args.published and not (args.player and args.benchmarks and args.out):
        raise UserError("give --player, --benchmarks and --out, or --published")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what came out. 0: done; 2: something that the user can mend."""
    try:
        args = parse_arguments(arguments)
        if args.published:
            print("\n".join(published_lines()))
        if args.player and args.benchmarks:
            names = ("data_root", "benchmark_dir", "limit", "prompt", "batch_size")
            options = Options.of(**{name: getattr(args, name) for name in names})
            print("\n".join(play(args.player, args.benchmarks, args.out, options)))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
