"""Sokoban in the micro world: small rooms of one box, and the answers of mixed quality that the base has seen.

Levels, pictures, prompt and parsing are those of `evals.agents` and `lmmr1.sokoban`: nothing is asked of the tiny model
in another way than of a large one. A room is 4 x 4 cells without drawn walls around it; a cell is one visual token.

The canonical form of a room (least of its 8 symmetric images) decides by a stable hash whether it belongs to the
benchmark or to training, so no turned or mirrored test room is ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

from evals.agents.sokoban_levels import LevelSpec, Task, canonical, generate, symmetries
from evals.agents.sokoban_prompt import messages
from evals.agents.sokoban_solver import solve
from lmmr1.sokoban import Action, Cell, Level, State, play
from reproduce.micro import world
from reproduce.micro.world import TILES

SPEC = LevelSpec(name="micro", height=4, width=4, boxes=1, max_moves=6, border=0, floor=(0.875, 1.0))
"""What a room is: at most two inner walls, solved in 1 to 6 moves."""

QUESTION = str(messages("brief")[-1]["content"][-1]["text"])
"""What is asked of a room: the evaluation's brief prompt."""

STYLES = ("direct", "glance", "worked")

WORKED_MOVES = (0.65, 0.2, 0.15)
"""Shares of shortest solutions, solutions with a detour and random walks among worked replies."""

LETTERS = "abcdefghijklmnop"
"""Names of the 16 cells, row by row, in worked answers."""


def key(level: Level) -> str:
    """Name of the problem: the same for all 8 images of a room."""
    return _key(canonical(level))


def split(form: str) -> str:
    """'test' or 'train', by the world's hash of the canonical form."""
    return world.split(_key(form))


def _key(form: str) -> str:
    return f"sokoban|{QUESTION}|{form}"


@cache
def draw_rooms(side: str, n: int, seed: int) -> tuple[Task, ...]:
    """`n` rooms of one side of the split, no two of them symmetric to each other."""
    return tuple(generate(SPEC, n, seed, wanted=lambda form: split(form) == side))


@cache
def images(level: Level) -> tuple[Level, ...]:
    """The 8 rotations and reflections of a room; fewer where it is symmetric to itself."""
    texts = ["\n".join(rows) for rows in symmetries(level.text().split("\n"))]
    return tuple(Level.parse(text) for text in dict.fromkeys(texts))


def cells(level: Level) -> tuple[str, ...]:
    """The classes of the room's cells, row by row."""
    return tuple(TILES[char] for row in level.text().split("\n") for char in row)


# -------------------------------------------------------------------------------------------------------------- answers


def completion(style: str, level: Level, moves: Sequence[Action]) -> str:
    """The assistant's reply: `direct` says the moves, `glance` first where things are, `worked` plays ahead too."""
    thoughts = {"direct": "", "glance": places(level), "worked": f"{places(level)};{trace(level, moves)}"}[style]
    return f"<think>{thoughts}</think>{answer(moves)}"


def answer(moves: Sequence[Action]) -> str:
    """The answer block. With a blank after each comma a move has three tokens, as it has in the game played ahead."""
    return f"<answer>{', '.join(moves)}</answer>"


def reply(rng: random.Random, level: Level, style: str) -> str:
    """A reply in one of the styles: worked ones mostly play a shortest solution or one with a detour, the others walk
    at random."""
    kind = rng.choices(("shortest", "detour", "walk"), WORKED_MOVES)[0]
    if kind == "walk" or style != "worked":
        return completion(style, level, walk(rng, level, SPEC.max_moves))
    return completion(style, level, shortest(level) if kind == "shortest" else detour(rng, level))


def letter(level: Level, cell: Cell) -> str:
    """The name of a cell."""
    return LETTERS[cell[0] * level.width + cell[1]]


def places(level: Level) -> str:
    """Where everything is: `playerf,boxj,goall,wallcd`; no word about walls where there are none."""
    walls = [cell for cell in product(range(level.height), range(level.width)) if cell not in level.floor]
    named = {"player": [level.player], "box": level.boxes, "goal": level.targets, "wall": walls}
    return ",".join(name + "".join(letter(level, c) for c in found) for name, found in named.items() if found)


def trace(level: Level, moves: Sequence[Action]) -> str:
    """The game: the cells of player and box at the start, then every move with their cells after it: `fjrightgj`.

    Both cells stand after every move, changed or not, so what a step depends on stands at a fixed distance.
    """
    states = play(level, moves)
    cells = ["".join(letter(level, cell) for cell in (state.player, *state.boxes)) for state in states]
    return cells[0] + "".join(move + after for move, after in zip(moves, cells[1:], strict=True))


def walk(rng: random.Random, level: Level, longest: int) -> tuple[Action, ...]:
    """1 to `longest` random moves, none of them blocked; it ends where it happens to solve the room."""
    state, moves = State.start(level), []
    for _ in range(rng.randint(1, longest)):
        ahead = [(action, state.step(action)[0]) for action in Action]
        action, state = rng.choice([(a, s) for a, s in ahead if s.player != state.player])
        moves.append(action)
        if state.done:
            break
    return tuple(moves)


def detour(rng: random.Random, level: Level) -> tuple[Action, ...]:
    """One or two random moves and then a shortest solution; a shortest solution where the room is then lost."""
    first = walk(rng, level, 2)
    state = play(level, first)[-1]
    if state.solved:
        return first
    solution = solve(replace(level, boxes=state.boxes, player=state.player))
    moves = first + solution.actions if solution else shortest(level)
    return moves if len(moves) <= SPEC.max_moves else shortest(level)


@cache
def shortest(level: Level) -> tuple[Action, ...]:
    """A shortest solution of a solvable room."""
    solution = solve(level)
    if solution is None:
        raise ValueError("a room without a solution")
    return solution.actions
