"""The form of the football game in the micro world: its prompts, answered with moves drawn at random.

The base learns here that `move?` is answered with one action, and nothing about which: all 19 are equally likely
whatever is seen, and no picture of a pitch is used. So an arm's zero-shot score is a measurement of play, not of how
many answers have no valid action.
"""

from __future__ import annotations

import random

from evals.agents.football import MEMORY
from evals.agents.football_prompt import messages
from evals.agents.football_rules import Move
from reproduce.micro.world import CLASSES, Item

ROWS, COLS = 4, 8
"""Cells of the picture, about as many as of a pitch that is 224 pixels wide; what they show is drawn at random."""

STYLES = ("direct", "worked")


def sheet(rng: random.Random) -> Item:
    """A picture of random cells."""
    cells = tuple(rng.choice(CLASSES) for _ in range(ROWS * COLS))
    return Item("football", "", "", cells=cells, cols=COLS)


def question(rng: random.Random) -> str:
    """What is asked after random moves: none at the beginning, else up to MEMORY of them."""
    memory = [rng.choice((None, *Move)) for _ in range(rng.randint(0, MEMORY))]
    return str(messages("brief", memory)[-1]["content"][-1]["text"])


def reply(rng: random.Random, style: str) -> str:
    """One of the 19 moves; a worked reply names it before it answers."""
    move = rng.choice(list(Move)).name.lower()
    return f"<think>{move if style == 'worked' else ''}</think><answer>{move}</answer>"
