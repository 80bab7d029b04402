"""What the scripted football players score, and whether the runner beats the idle one.

    python -m evals.agents.football_baselines --simulator gfootball --levels 20 --repeats 10 --pictures docs

The last option writes a picture of two of the levels, 10 frames into a run to the right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import wilcoxon

from evals.agents.episodes import level_mean
from evals.agents.football import FootballEval, chance, check, idle, run, runner, scripted, simulators
from evals.agents.football_levels import Task, own_levels, read_levels
from evals.agents.football_rules import Match, Move
from lmmr1.types import UserError

PLAYERS = (idle, chance, runner)
SHOWN = ("wing", "box")
"""Situations that `--pictures` shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. 0: done; 2: something that the user can mend."""
    args = _arguments(arguments)
    cfg = FootballEval(simulator=args.simulator, repeats=args.repeats, seed=args.seed)
    try:
        tasks = read_levels(args.level_dir) if args.level_dir else own_levels(args.levels)
        check(tasks, cfg)
        with tempfile.TemporaryDirectory(prefix="lmmr1-football-") as folder:
            scores = {player.__name__: _play(player, tasks, cfg, args.batch_size, Path(folder)) for player in PLAYERS}
            if args.pictures:
                _write_pictures(tasks, cfg, Path(folder), args.pictures)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    test = wilcoxon(scores["runner"], scores["idle"], alternative="greater")
    print(f"runner above idle: Wilcoxon signed-rank over {len(tasks)} level means, one-sided, p = {test.pvalue:.2g}")
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.agents.football_baselines", description=__doc__)
    parser.add_argument("--simulator", choices=["field", "gfootball"], required=True)
    parser.add_argument("--levels", type=int, default=20, help="how many of our own levels")
    parser.add_argument("--level-dir", type=Path, help="a folder of Google Research Football levels instead")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4, help="episodes at a time; gfootball: a process for each")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of two levels")
    return parser.parse_args(arguments)


def _play(player: Any, tasks: Sequence[Task], cfg: FootballEval, batch_size: int, folder: Path) -> list[float]:
    """The levels' mean scores; prints a line."""
    rows = run(scripted(player), tasks, cfg, batch_size, folder, pictures=False)
    mean, stderr, n = level_mean(rows, "score")
    error = "" if stderr is None else f" +- {stderr:.2f}"
    goals, failed = sum(row.value("accuracy") for row in rows), sum(row.failed for row in rows)
    parts = ", ".join(f"{term} {fmean(row.parts.get(term, 0.0) for row in rows):.2f}" for term in rows[0].parts)
    print(f"{player.__name__}: {mean:.2f}{error} ({n} levels, {len(rows)} episodes, {goals:.0f} goals, "
          f"{failed} failed; {parts})")  # fmt: skip
    return [level_mean([row for row in rows if row.doc_id == i], "score")[0] for i in range(n)]


def _write_pictures(tasks: Sequence[Task], cfg: FootballEval, log: Path, folder: Path) -> None:
    simulator = simulators(cfg, log / "simulator.log", pictures=True)()
    try:
        for name in SHOWN:
            for task in [task for task in tasks if task.category == name][:1]:
                match = Match(simulator, task.level, cfg.seed)
                while match.frames < 10 and not match.done:
                    match.step(Move.RIGHT)
                picture = simulator.render(cfg.image_width)
                picture.save(folder / f"football_{cfg.simulator}_{name}.jpg", quality=80, optimize=True)
    finally:
        simulator.close()


if __name__ == "__main__":
    sys.exit(main())
