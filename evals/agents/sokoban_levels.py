"""Sets of Sokoban levels: our own by seed, boxoban's from text files, and the published numbers of MageBench's.

A level is solved by the exact solver before it is in a set, so its upper reward is known. Two levels are the same
puzzle where one is a rotation or reflection of the other; that is how test levels are kept out of training.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from pydantic import Field

from evals.agents.sokoban_solver import MAX_NODES, SearchLimit, Solution, solve, upper_reward
from lmmr1.config import Settings
from lmmr1.sokoban import OFFSETS, Cell, Level, draw, read_levels
from lmmr1.types import UserError

PUBLISHED = Path(__file__).with_name("magebench_sokoban.csv")
"""Steps and best reward of MageBench's 182 levels (the levels themselves are not ours to ship)."""

POINTS = 5
"""Score points per point of reward: MageBench's scale."""

TRIES_PER_LEVEL = 200
"""Draws after which a specification that gives too few levels is refused."""


class LevelSpec(Settings):
    """What levels to draw: gym-sokoban's names for sizes and numbers of boxes are in SPECS."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    height: int = Field(ge=3, le=32)
    width: int = Field(ge=3, le=32)
    boxes: int = Field(ge=1, le=6)
    min_moves: int = Field(1, ge=1)
    """Of the shortest solution."""
    max_moves: int = Field(50, ge=1, le=100)
    """Of the shortest solution; 50 actions are what the training reward plays."""
    max_nodes: int = Field(20_000, ge=1)
    """Levels that the solver cannot decide within so many positions are drawn again."""
    border: int = Field(1, ge=0, le=1)
    """Cells of drawn wall around the room; without them the edge of the picture is the wall."""
    floor: tuple[float, float] = (0.45, 0.85)
    """Least and largest share of the cells inside the border that are not wall."""


SPECS = {
    spec.name: spec
    for spec in (
        LevelSpec(name="small-v0", height=7, width=7, boxes=2),
        LevelSpec(name="small-v1", height=7, width=7, boxes=3),
        LevelSpec(name="v0", height=10, width=10, boxes=3),
        LevelSpec(name="v1", height=10, width=10, boxes=4),
        LevelSpec(name="large-v0", height=13, width=11, boxes=3),
    )
}
"""The variants that the paper trains on."""

PAPER_MIX = {"small-v0": 5000, "small-v1": 5000, "v0": 500, "v1": 500, "large-v0": 500}
"""The paper's 11,500 training levels by variant."""


@dataclass(frozen=True, slots=True)
class Task:
    """A level to play and the best reward that it can pay."""

    id: str
    level: Level
    upper_reward: float
    moves: int
    """Of a shortest solution."""
    category: str


def score(best_reward: float, upper: float) -> float:
    """MageBench's score of an episode: 100 for the best possible reward, 5 points less for each point missed.

    `best_reward` is the best running reward, 0 or more, so the idle player scores 100 - 5 * upper.
    """
    return 100 + POINTS * (best_reward - upper)


# ----------------------------------------------------------------------------------------------------------- same level


def canonical(level: Level) -> str:
    """One text for all levels that are the same puzzle: cropped to what can matter, least of its 8 symmetric images.

    Only cells that the player could walk to if no box stood in the way are kept.
    """
    region = _region(level)
    top, left = (min(cell[axis] for cell in region) for axis in (0, 1))
    bottom, right = (max(cell[axis] for cell in region) + 1 for axis in (0, 1))
    kept = Level(level.height, level.width, region, level.targets & region, level.boxes & region, level.player)
    rows = [row[left:right] for row in draw(kept, kept.player, kept.boxes).split("\n")[top:bottom]]
    return min("\n".join(image) for image in symmetries(rows))


def symmetries(rows: list[str]) -> list[list[str]]:
    """The 8 rotations and reflections of a grid of characters, itself first."""
    images = []
    for turned in (rows, ["".join(column) for column in zip(*rows, strict=True)]):
        for flipped in (turned, turned[::-1]):
            images += [flipped, [row[::-1] for row in flipped]]
    return images


def _region(level: Level) -> frozenset[Cell]:
    seen, stack = {level.player}, [level.player]
    while stack:
        row, column = stack.pop()
        for dr, dc in OFFSETS.values():
            cell = row + dr, column + dc
            if cell in level.floor and cell not in seen:
                seen.add(cell)
                stack.append(cell)
    return frozenset(seen)


def shared_levels(train: Iterable[Level], test: Iterable[Level]) -> int:
    """How many training levels are test levels, turned or mirrored or not."""
    known = {canonical(level) for level in test}
    return sum(canonical(level) in known for level in train)


# ------------------------------------------------------------------------------------------------------------ generator


def generate(
    spec: LevelSpec,
    count: int,
    seed: int,
    exclude: Collection[str] = frozenset(),
    wanted: Callable[[str], bool] = lambda form: True,
) -> list[Task]:
    """`count` different solvable levels, the same for the same arguments; a smaller count gives the first of them.

    `exclude` holds canonical forms that may not be drawn, `wanted` says of one whether it may. Raises UserError where
    too few levels come in TRIES_PER_LEVEL draws a level.
    """
    seen, tasks = set(exclude), []
    tries = TRIES_PER_LEVEL * count
    for attempt in range(tries):
        if len(tasks) == count:
            break
        level = _draw_level(spec, random.Random(f"{spec.name}-{seed}-{attempt}"))
        form = canonical(level) if level else None
        solution = None if level is None or form in seen or not wanted(form) else _within(spec, level)
        if level is not None and solution is not None:
            seen.add(form)
            tasks.append(_task(f"{spec.name}-{seed}-{len(tasks)}", level, solution, spec.name))
    if len(tasks) < count:
        raise UserError(
            f"level specification {spec.name!r}: {len(tasks)} of {count} levels after {tries} draws; "
            "allow more moves, a larger grid, or ask for fewer levels"
        )
    return tasks


def _within(spec: LevelSpec, level: Level) -> Solution | None:
    """The solution, where the level has one of the wanted length."""
    try:
        solution = solve(level, spec.max_nodes)
    except SearchLimit:
        return None
    return solution if solution and spec.min_moves <= len(solution.actions) <= spec.max_moves else None


def _task(name: str, level: Level, solution: Solution, category: str) -> Task:
    return Task(name, level, upper_reward(level, solution), len(solution.actions), category)


def _draw_level(spec: LevelSpec, rng: random.Random) -> Level | None:
    """A room, boxes on its targets, then pulled away from them; None where no box can be kept off every target."""
    floor = _carve(spec, rng)
    if len(floor) < 2 * spec.boxes + 1:
        return None
    cells = sorted(floor)
    targets = frozenset(rng.sample(cells, spec.boxes))
    player = rng.choice([cell for cell in cells if cell not in targets])
    level = Level(spec.height, spec.width, floor, targets, targets, player)
    for _ in range(rng.randint(2 * spec.boxes, 10 * spec.boxes)):
        pulls = _pulls(level)
        if not pulls:
            break
        box, to, player = rng.choice(pulls)
        level = Level(spec.height, spec.width, floor, targets, level.boxes - {box} | {to}, player)
    player = rng.choice(sorted(_walkable(level)))
    return None if level.boxes & targets else Level(spec.height, spec.width, floor, targets, level.boxes, player)


def _carve(spec: LevelSpec, rng: random.Random) -> frozenset[Cell]:
    """Connected floor inside a border of wall: a random walk that widens here and there."""
    rows, columns = (range(spec.border, side - spec.border) for side in (spec.height, spec.width))
    wanted = round(len(rows) * len(columns) * rng.uniform(*spec.floor))
    cell = rng.choice(rows), rng.choice(columns)
    floor, directions = {cell}, list(OFFSETS.values())
    direction = rng.choice(directions)
    while len(floor) < wanted:
        if rng.random() < 0.35:
            direction = rng.choice(directions)
        side = rng.choice(directions)
        for dr, dc in (direction, side) if rng.random() < 0.5 else (direction,):
            after = cell[0] + dr, cell[1] + dc
            if after[0] in rows and after[1] in columns:
                cell = after
                floor.add(cell)
    return frozenset(floor)


def _walkable(level: Level) -> frozenset[Cell]:
    """Cells that the player reaches without moving a box."""
    return _region(Level(level.height, level.width, level.floor - level.boxes, frozenset(), frozenset(), level.player))


def _pulls(level: Level) -> list[tuple[Cell, Cell, Cell]]:
    """All pulls that the player can walk to: a box, where it goes, where the player then stands. In a fixed order."""
    free, reached, found = level.floor - level.boxes, _walkable(level), []
    for box in sorted(level.boxes):
        for dr, dc in OFFSETS.values():
            to, back = (box[0] + dr, box[1] + dc), (box[0] + 2 * dr, box[1] + 2 * dc)
            if to in reached and back in free:
                found.append((box, to, back))
    return found


# ---------------------------------------------------------------------------------------------------------------- files


def read_tasks(path: Path, limit: int | None = None, max_nodes: int = MAX_NODES) -> list[Task]:
    """The first `limit` levels of a boxoban file with their upper rewards; the category is size and number of boxes.

    Raises UserError, naming file and level, for a bad file, a level without a solution in an episode, or one that the
    solver cannot decide within `max_nodes` positions.
    """
    levels = list(read_levels(path).items())[:limit]
    return [solved_task(name, level, f"{path}, level {name}", max_nodes) for name, level in levels]


def kind_of(level: Level) -> str:
    """Size and number of boxes, `7x7-2`."""
    return f"{level.height}x{level.width}-{len(level.boxes)}"


def solved_task(name: str, level: Level, where: str, max_nodes: int = MAX_NODES) -> Task:
    """A level with its upper reward; the category is `kind_of`. Raises UserError, naming `where`, as `read_tasks`."""
    try:
        solution = solve(level, max_nodes)
        if solution is None:
            raise ValueError("it has no solution")
        return _task(name, level, solution, kind_of(level))
    except SearchLimit as e:
        raise UserError(f"{where}: {e}; remove the level, or allow more positions") from None
    except ValueError as e:
        raise UserError(f"{where}: {e}; remove the level") from None


def levels_text(tasks: Iterable[Task]) -> str:
    """The levels in boxoban's text format, which `read_tasks` reads."""
    return "".join(f"; {task.id}\n{task.level.text()}\n\n" for task in tasks)


@cache
def published_uppers(mini: bool) -> tuple[float, ...]:
    """Best rewards of MageBench's 20-level mini set, which the paper's Table 3 uses, or of all 182 levels."""
    with PUBLISHED.open(encoding="ascii", newline="") as file:
        return tuple(float(row["upper_reward"]) for row in csv.DictReader(file) if row["in_mini"] == "1" or not mini)


@cache
def published_mini() -> dict[str, float]:
    """{level number: best reward} of MageBench's mini set."""
    with PUBLISHED.open(encoding="ascii", newline="") as file:
        return {row["level_id"]: float(row["upper_reward"]) for row in csv.DictReader(file) if row["in_mini"] == "1"}


def idle_score(uppers: Iterable[float]) -> float:
    """Mean score of the player that does nothing."""
    return fmean(score(0.0, upper) for upper in uppers)
