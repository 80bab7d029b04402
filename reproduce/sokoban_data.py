"""Sokoban levels as files: a test set in boxoban's text format, and training prompts with pictures as JSONL.

Both are functions of their arguments. Training leaves out every level of the given test files and its 7 mirror images
and rotations, and the card says how many levels they then share: measured, not assumed.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from evals.agents.level_sets import OWN_SOKOBAN
from evals.agents.sokoban_levels import PAPER_MIX, SPECS, LevelSpec, Task, canonical, generate, levels_text
from evals.agents.sokoban_prompt import PromptForm, messages
from evals.agents.sokoban_view import PAPER_SIDE, render, write_picture
from lmmr1.config import Settings
from lmmr1.files import seal, write
from lmmr1.sokoban import Level, read_levels
from lmmr1.types import UserError
from reproduce.micro.sokoban import SPEC, draw_rooms, split
from reproduce.micro.world import CELL

Side = Literal["all", "train", "test"]


class SokobanData(Settings):
    """What a set of levels is made of."""

    mix: dict[str, int] = Field(min_length=1)
    """Levels by name of their specification."""
    specs: tuple[LevelSpec, ...] = ()
    """Specifications beside those of `evals.agents.sokoban_levels.SPECS`, or instead of one with the same name."""
    form: PromptForm = "tags"
    """What the prompt asks for."""
    image_side: int = Field(PAPER_SIDE, gt=0)
    """Pixels of the picture's longer side."""
    side: Side = "all"
    """Of the micro world's split, which a hash of the canonical form decides."""


MICRO = SokobanData(
    mix={SPEC.name: 100}, specs=(SPEC,), form="brief", image_side=CELL * max(SPEC.height, SPEC.width), side="test"
)
"""The micro world's rooms: 28 pixels a cell, the tiny model's visual token. The test set is drawn with seed 0."""

PAPER = SokobanData(mix=PAPER_MIX)
"""The paper's training levels."""

MICRO_SEED = 0
"""Of the micro benchmark's rooms."""

MEASURED = 100
"""Rooms of the micro benchmark that micro prompts are compared with; their whole side is compared too."""


def micro_levels(count: int, side: Side = "test") -> SokobanData:
    """The micro world's rooms, `count` of them."""
    return MICRO.model_copy(update={"mix": dict.fromkeys(MICRO.mix, count), "side": side})


def write_stage(world: Literal["micro", "paper"], count: int, seed: int, out: Path) -> None:
    """Training prompts of the stage `sokoban`: `count` rooms of the micro world, or the paper's levels, none of them in
    the levels that we test on."""
    if world == "micro":
        write_prompts(micro_levels(count, "train"), seed, out)
    else:
        write_prompts(PAPER, seed, out, [OWN_SOKOBAN])


def draw_tasks(data: SokobanData, seed: int, exclude: Sequence[Path] = ()) -> list[Task]:
    """The levels of all specifications in the order of `mix`, none of them in the files of `exclude`.

    Raises UserError for an unknown specification, a bad file, or one that gives too few levels.
    """
    known = SPECS | {spec.name: spec for spec in data.specs}
    for name, count in data.mix.items():
        if name not in known:
            raise UserError(f"key mix: unknown level specification {name!r}; known: {', '.join(known)}")
        if count < 1:
            raise UserError(f"key mix, {name}: {count} levels; give at least 1")
    seen = {canonical(level) for path in exclude for level in read_levels(path).values()}
    tasks: list[Task] = []
    for name, count in data.mix.items():
        drawn = generate(known[name], count, seed, seen, lambda form: data.side in ("all", split(form)))
        seen |= {canonical(task.level) for task in drawn}
        tasks += drawn
    return tasks


def write_levels(data: SokobanData, seed: int, out: Path) -> None:
    """A test set: levels in boxoban's text format, which `read_tasks` reads, and a card beside it."""
    tasks = draw_tasks(data, seed)
    _replace_json(out.with_suffix(".card.json"), _card(data, seed, tasks))
    write(out, levels_text(tasks), sealed=True)


def write_prompts(data: SokobanData, seed: int, out: Path, exclude: Sequence[Path] = ()) -> None:
    """Training prompts: JSONL in our message format, pictures in `images_STEM/` beside it, and a card.

    The answer of a row is the level's text, which the Sokoban reward plays on. The JSONL comes last: where it is there,
    its pictures are.

    Args:
        data: which levels, which prompt, which pictures.
        seed: of the levels.
        out: the JSONL file.
        exclude: level files that are tested on.
    """
    tasks = draw_tasks(data, seed, exclude)
    test = [level for path in exclude for level in read_levels(path).values()]
    shared = overlap(data, tasks, test)
    if shared:
        raise RuntimeError(f"{shared} training levels are test levels up to symmetry")
    folder = out.parent / f"images_{out.stem}"
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for i, task in enumerate(tasks):
        picture = folder / f"{i:05d}.png"
        write_picture(picture, render(task.level.text(), data.image_side))
        chat = messages(data.form, f"{folder.name}/{picture.name}")
        rows.append(
            {"id": task.id, "messages": chat, "answer": task.level.text(), "source": f"sokoban/{task.category}"}
        )
    card = _card(data, seed, tasks) | {"excluded_levels": len(test), "overlap_with_benchmarks": shared}
    _replace_json(out.with_suffix(".card.json"), card)
    write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    seal(out, [folder / f"{i:05d}.png" for i in range(len(rows))])


def overlap(data: SokobanData, tasks: Sequence[Task], test: Sequence[Level]) -> int:
    """How many levels are test levels up to symmetry: of the given ones, and in the micro world of its whole test side
    and of the rooms that the benchmark draws."""
    forms = [canonical(task.level) for task in tasks]
    rooms = draw_rooms("test", MEASURED, MICRO_SEED) if data.side == "train" else ()
    tested = {canonical(level) for level in (*test, *(room.level for room in rooms))}
    return sum(form in tested or (data.side == "train" and split(form) == "test") for form in forms)


def _card(data: SokobanData, seed: int, tasks: Sequence[Task]) -> dict[str, Any]:
    """What the set is made of."""
    moves = [task.moves for task in tasks]
    return {
        "levels": dict(Counter(task.category for task in tasks)),
        "moves": {"min": min(moves), "mean": round(fmean(moves), 3), "max": max(moves)},
        "upper_reward_mean": round(fmean(task.upper_reward for task in tasks), 4),
        "seed": seed,
        "form": data.form,
        "image_side": data.image_side,
    }


def _replace_json(path: Path, value: dict[str, Any]) -> None:
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
