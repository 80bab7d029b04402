"""Sokoban: levels, moves and rewards, as pure functions on frozen records. No torch, no gym.

The rules and rewards are those of gym-sokoban 0.0.6 with its four `push` actions: a push where a box stands in the
way, a move where none does. Two things are decided here: there is no no-op and no pull, so every action is one of four
directions and a blocked one still costs a step; and a box that starts on a target pays nothing at the first step
(gym-sokoban counts every level from zero boxes on target).

Rewards are counted in whole tenths, so that sums are exact; `reward` properties divide by 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lmmr1.lines import text_of_file
from lmmr1.types import UserError

STEP, BOX_ON, BOX_OFF, SOLVED = -1, 10, -10, 100
"""Rewards in tenths: every step, a box pushed onto a target, a box pushed off one, the last box placed."""

MAX_STEPS = 120
"""An episode ends after so many steps."""

MAX_SIDE = 64
"""Largest height and width of a level: a larger text is a mistake, not a level."""

MAX_TEXT = 200_000
"""Characters of a model's text that are looked at; a longer text is refused as a whole (8,192 tokens are far fewer)."""

Cell = tuple[int, int]
"""(row, column), counted from the top left corner."""


class Action(StrEnum):
    """A direction in which the player moves, pushing a box that stands there."""

    UP = "up"
    DOWN = "down"
    LEFT = "left"
    RIGHT = "right"


OFFSETS: dict[Action, Cell] = {Action.UP: (-1, 0), Action.DOWN: (1, 0), Action.LEFT: (0, -1), Action.RIGHT: (0, 1)}

_ACTIONS = {action.value: action for action in Action}


# ------------------------------------------------------------------------------------------------------------- levels


@dataclass(frozen=True, slots=True)
class Level:
    """Where an episode starts. Everything outside `floor` is wall, beyond the edge of the text too."""

    height: int
    width: int
    floor: frozenset[Cell]
    """All cells without a wall: targets, boxes and player stand on them."""
    targets: frozenset[Cell]
    boxes: frozenset[Cell]
    player: Cell

    @classmethod
    def parse(cls, text: str, where: str = "level") -> Level:
        """Read boxoban's characters: `#` wall, `.` target, `$` box, `*` both, `@` player, `+` player on a target.

        A blank is floor, at the end of a line too; short lines end in floor. Raises UserError, naming `where`, for
        another character, a size over MAX_SIDE, not exactly one player, no box, unequal numbers of boxes and targets,
        or a level already solved.
        """
        lines = [line.rstrip("\r") for line in text.strip("\r\n").split("\n")]
        height, width = len(lines), max(map(len, lines))
        if not 0 < width <= MAX_SIDE or height > MAX_SIDE:
            raise UserError(f"{where}: {height} x {width} characters; a level has 1 to {MAX_SIDE} rows and columns")
        cells = {(r, c): char for r, line in enumerate(lines) for c, char in enumerate(line.ljust(width))}
        strange = sorted(set(cells.values()) - set(" #.$*@+"))
        if strange:
            raise UserError(f"{where}: character {strange[0]!a} is none of # . $ * @ + and blank")
        boxes, targets, players = (_cells(cells, kind) for kind in ("$*", ".*+", "@+"))
        if len(players) != 1:
            raise UserError(f"{where}: {len(players)} players; a level has exactly one @ or +")
        if not boxes or len(boxes) != len(targets):
            raise UserError(f"{where}: {len(boxes)} boxes and {len(targets)} targets; give as many, and at least one")
        if boxes == targets:
            raise UserError(f"{where}: every box stands on a target already; there is nothing to play")
        return cls(height, width, frozenset(cells) - _cells(cells, "#"), targets, boxes, next(iter(players)))

    def text(self) -> str:
        """The level in boxoban's characters, `height` lines of `width` characters."""
        return draw(self, self.player, self.boxes)


def _cells(cells: dict[Cell, str], kind: str) -> frozenset[Cell]:
    return frozenset(cell for cell, char in cells.items() if char in kind)


def draw(level: Level, player: Cell, boxes: frozenset[Cell]) -> str:
    """A position of `level` in boxoban's characters."""
    return "\n".join(
        "".join(_char(level, player, boxes, (r, c)) for c in range(level.width)) for r in range(level.height)
    )


def _char(level: Level, player: Cell, boxes: frozenset[Cell], cell: Cell) -> str:
    if cell not in level.floor:
        return "#"
    on_target = cell in level.targets
    if cell == player:
        return "+" if on_target else "@"
    if cell in boxes:
        return "*" if on_target else "$"
    return "." if on_target else " "


def read_levels(path: Path) -> dict[str, Level]:
    """Levels of a boxoban file by id: a line `; id`, then the rows, then a blank line.

    Raises UserError, naming file and id, for a missing file, an id that stands twice, a bad level or no level.
    """
    try:
        text = text_of_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such level file") from None
    levels: dict[str, Level] = {}
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if not block.strip():
            continue
        head, _, rows = block.strip("\n").partition("\n")
        name = head.removeprefix(";").strip()
        if not head.startswith(";") or not name:
            raise UserError(f"{path}: {head!a:.60}: expected a line `; id` above every level")
        if name in levels:
            raise UserError(f"{path}: level {name!a} stands twice; ids must be unique")
        levels[name] = Level.parse(rows, f"{path}, level {name}")
    if not levels:
        raise UserError(f"{path}: no level in it; expected `; id` lines, each with the rows of a level below")
    return levels


# ------------------------------------------------------------------------------------------------------------ playing


@dataclass(frozen=True, slots=True)
class State:
    """A moment of an episode."""

    level: Level
    player: Cell
    boxes: frozenset[Cell]
    steps: int = 0
    tenths: int = 0
    """Sum of all rewards so far, in tenths."""
    best_tenths: int = 0
    """Largest such sum of this episode, the empty sum included: never below 0."""
    solved: bool = False

    @classmethod
    def start(cls, level: Level) -> State:
        """The first moment."""
        return cls(level, level.player, level.boxes)

    @property
    def done(self) -> bool:
        """True where the level is solved or the steps are used up."""
        return self.solved or self.steps >= MAX_STEPS

    @property
    def best_reward(self) -> float:
        """Best running reward, in points."""
        return self.best_tenths / 10

    def step(self, action: Action) -> tuple[State, float]:
        """The next state and the reward of this step, in points. Raises ValueError where the episode is over."""
        if self.done:
            raise ValueError("the episode is over; start another")
        player, boxes, tenths = self._moved(action)
        solved = boxes == self.level.targets
        tenths += STEP + (SOLVED if solved else 0)
        total = self.tenths + tenths
        best = max(self.best_tenths, total)
        return State(self.level, player, boxes, self.steps + 1, total, best, solved), tenths / 10

    def _moved(self, action: Action) -> tuple[Cell, frozenset[Cell], int]:
        """Player and boxes after `action`, and what a pushed box pays, in tenths."""
        floor, targets = self.level.floor, self.level.targets
        dr, dc = OFFSETS[action]
        ahead = self.player[0] + dr, self.player[1] + dc
        if ahead not in floor:
            return self.player, self.boxes, 0
        if ahead not in self.boxes:
            return ahead, self.boxes, 0
        beyond = ahead[0] + dr, ahead[1] + dc
        if beyond not in floor or beyond in self.boxes:
            return self.player, self.boxes, 0
        paid = (BOX_ON if beyond in targets else 0) + (BOX_OFF if ahead in targets else 0)
        return ahead, self.boxes - {ahead} | {beyond}, paid

    def text(self) -> str:
        """The position in boxoban's characters."""
        return draw(self.level, self.player, self.boxes)


def play(level: Level, actions: Iterable[Action]) -> list[State]:
    """All states from the start on, n + 1 for n steps; actions after the end of the episode are not taken."""
    states = [State.start(level)]
    for action in actions:
        if states[-1].done:
            break
        states.append(states[-1].step(action)[0])
    return states


# ------------------------------------------------------------------------------------------------------------ parsing


@dataclass(frozen=True, slots=True)
class ParsedActions:
    """What a text of comma-separated actions means, and what of it means nothing."""

    actions: tuple[Action, ...]
    dropped: int = 0
    """Pieces between commas that are no action; an empty one counts."""
    first_dropped: str = ""
    """The first of them, at most 40 characters, ASCII with escapes: model output, hostile by assumption."""

    @property
    def note(self) -> str:
        """What was dropped, in words; empty where nothing was."""
        return f"dropped {self.dropped}, first {self.first_dropped}" if self.dropped else ""


def parse_actions(text: str, exact_case: bool = False) -> ParsedActions:
    """Split at commas; a piece counts where it is left, right, up or down and nothing else but blanks around it.

    `exact_case` accepts `Left`, `Right`, `Up`, `Down` alone, as MageBench does. Time is linear in the text, and a text
    of more than MAX_TEXT characters is dropped as one piece.
    """
    if len(text) > MAX_TEXT:
        return ParsedActions((), 1, f"a text of {len(text)} characters")
    pieces = [piece.strip() for piece in text.split(",")]
    found = [_action(piece, exact_case) for piece in pieces]
    bad = [piece for piece, action in zip(pieces, found, strict=True) if action is None]
    return ParsedActions(tuple(a for a in found if a is not None), len(bad), ascii(bad[0][:40])[:40] if bad else "")


def _action(piece: str, exact_case: bool) -> Action | None:
    if len(piece) > len("right") or not piece.isascii():
        return None
    action = _ACTIONS.get(piece.lower())
    return None if action is None or (exact_case and piece != piece.capitalize()) else action
