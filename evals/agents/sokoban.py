"""Sokoban-Global: one picture and a question in, a whole list of moves out; what it earns, level by level.

A player is anything with the interface of `evals.generation.Engine`: it gets samples (picture and question) and gives
texts. The idle and the perfect player are such engines too, so they go through the same loop as a model.

A model's text is data: it is split at commas, pieces that are no action are dropped and counted, and at most MAX_STEPS
steps are played.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from tqdm import tqdm

import lmmr1
from evals.agents.episodes import PlayConfig
from evals.agents.sokoban_levels import POINTS, Task, levels_text, score
from evals.agents.sokoban_prompt import SECTION, PromptForm, messages, parse
from evals.agents.sokoban_solver import solve
from evals.agents.sokoban_view import PAPER_SIDE, render, strip, write_picture
from evals.generation import EvalModel, encodable, prompt_sha256
from evals.samples import Doc, SokobanRow
from lmmr1.config import SamplingConfig
from lmmr1.rewards.sokoban import split_blocks
from lmmr1.sokoban import MAX_STEPS, Action, Level, ParsedActions, State, play
from lmmr1.types import Rollout, Sample

SCORER_REVISION = 1
"""Bump when a change of levels, rules, parsing or score may alter a number."""


class SokobanEval(PlayConfig):
    """How the levels are played; the defaults are MageBench's, the prompt LMM-R1's."""

    form: PromptForm = "tags"
    image_side: int = Field(PAPER_SIDE, gt=0)
    """Pixels of the picture's longer side."""

    def model_post_init(self, _: Any) -> None:
        """Refuse repeats that cannot differ. Raises ValueError."""
        if self.temperature == 0 and self.repeats > 1:
            raise ValueError(f"repeats {self.repeats} at temperature 0 are equal; give repeats 1 or a temperature")


@dataclass(frozen=True, slots=True)
class Episode:
    """A played answer."""

    parsed: ParsedActions
    states: tuple[State, ...]
    """n + 1 states of the n steps that were played."""

    @property
    def end(self) -> State:
        """The last state."""
        return self.states[-1]

    @property
    def note(self) -> str:
        """`solved`, `unsolved` or `no_action`, then what was dropped and how many actions came after the end."""
        verdict = "no_action" if not self.parsed.actions else "solved" if self.end.solved else "unsolved"
        unplayed = len(self.parsed.actions) - self.end.steps
        parts = (verdict, self.parsed.note, f"{unplayed} not played" if unplayed else "")
        return "; ".join(part for part in parts if part)


def play_answer(level: Level, form: PromptForm, response: str) -> Episode:
    """Play a response on a level. Never raises on any text."""
    parsed = parse(form, response)
    return Episode(parsed, tuple(play(level, parsed.actions)))


def has_form(form: PromptForm, response: str, parsed: ParsedActions) -> bool:
    """True where the answer has the layout that was asked for and consists of actions alone."""
    laid_out = SECTION in response if form == "sections" else split_blocks(response) is not None
    return laid_out and bool(parsed.actions) and not parsed.dropped


# ------------------------------------------------------------------------------------------------------------- the loop


def run(model: EvalModel, tasks: Sequence[Task], cfg: SokobanEval, batch_size: int, folder: Path) -> list[SokobanRow]:
    """Show every level to the model, play its answers, and give one row for each level and repeat, in order.

    Args:
        model: the player.
        tasks: the levels.
        cfg: how they are played.
        batch_size: most answers in a batch; at a temperature above 0 the answers depend on it.
        folder: gets the pictures, `images/00000.png` and so on.

    Raises:
        UserError: a picture too small for its level.
    """
    samples = observations(tasks, cfg, folder / "images")
    levels = max(1, batch_size // cfg.repeats)
    rows = []
    with tqdm(total=len(samples), desc="sokoban", unit="level", file=sys.__stderr__, disable=None) as bar:
        for start in range(0, len(samples), levels):
            batch = samples[start : start + levels]
            groups = model.engine.generate(batch, cfg.sampling, cfg.repeats, (cfg.seed, start))
            for offset, (sample, group) in enumerate(zip(batch, groups, strict=True)):
                shown = _shown(model, sample)
                task = tasks[start + offset]
                rows += [_row(start + offset, task, shown, cfg, repeat, r) for repeat, r in enumerate(group)]
            bar.update(len(batch))
    return rows


def observations(tasks: Iterable[Task], cfg: SokobanEval, folder: Path) -> list[Sample]:
    """Picture and question of every level; the answer is the level's text, which scripted players read."""
    samples = []
    for i, task in enumerate(tasks):
        path = folder / f"{i:05d}.png"
        write_picture(path, render(task.level.text(), cfg.image_side))
        samples.append(Sample(task.id, messages(cfg.form), (path,), task.level.text(), task.category))
    return samples


def _shown(model: EvalModel, sample: Sample) -> dict[str, str]:
    """Hashes of what the model saw."""
    image = hashlib.sha256(sample.images[0].read_bytes()).hexdigest()
    return {"image_sha256": image, "prompt_hash": prompt_sha256(model.render(sample), image)}


def _row(doc_id: int, task: Task, shown: dict[str, str], cfg: SokobanEval, repeat: int, rollout: Rollout) -> SokobanRow:
    """The record of one episode."""
    response = encodable(rollout.text)
    episode = play_answer(task.level, cfg.form, response)
    end, parsed = episode.end, episode.parsed
    question = messages(cfg.form)[-1]["content"][-1]["text"]
    doc = Doc(
        id=task.id,
        question=question,
        category=task.category,
        level=task.level.text(),
        image_sha256=shown["image_sha256"],
    )
    return SokobanRow(
        doc_id=doc_id,
        doc=doc,
        target=f"{task.upper_reward:.1f}",
        category=task.category,
        prompt_hash=shown["prompt_hash"],
        resps=((response,),),
        filtered_resps=(",".join(parsed.actions),),
        accuracy=float(end.solved),
        format=float(has_form(cfg.form, response, parsed)),
        note=episode.note,
        length=len(rollout.token_ids),
        finish=rollout.finish,
        repeat=repeat,
        score=score(end.best_reward, task.upper_reward),
        best_reward=end.best_reward,
        upper_reward=task.upper_reward,
        steps=end.steps,
        dropped=parsed.dropped,
    )


# -------------------------------------------------------------------------------------------------------------- records


def protocol_settings(tasks: Sequence[Task], cfg: SokobanEval, batch_size: int) -> dict[str, Any]:
    """The fields of a Protocol that do not depend on the model."""
    return {
        "harness": "agents",
        "harness_version": lmmr1.__version__,
        "task": "sokoban_global",
        "task_version": str(SCORER_REVISION),
        "prompt": cfg.form,
        "decoding": {"environment": "sokoban", **cfg.model_dump(exclude={"form"})},
        "batch_size": batch_size,
        "judge": None,
        "scorer": f"100 + {POINTS} x (best running reward - upper reward)",
        "scorer_version": f"{SCORER_REVISION}, numerics {lmmr1.NUMERICS}",
        "aggregation": "reward",
        "data_sha256": hashlib.sha256(levels_text(tasks).encode()).hexdigest()[:16],
    }


def write_strips(rows: Sequence[SokobanRow], form: PromptForm, folder: Path, count: int) -> list[Path]:
    """Picture strips of the `count` levels that paid most, each in its best repeat; the files written, in order."""
    best: dict[int | str, SokobanRow] = {}
    for row in sorted(rows, key=lambda row: (-row.best_reward, row.doc_id, row.repeat)):
        best.setdefault(row.doc_id, row)
    paths = []
    for row in list(best.values())[:count]:
        episode = play_answer(Level.parse(row.doc.level), form, row.response)
        path = folder / f"{row.doc_id:05d}-{row.repeat}.png"
        write_picture(path, strip(episode.states, episode.parsed.actions))
        paths.append(path)
    return paths


# ----------------------------------------------------------------------------------------------------- scripted players


@dataclass(frozen=True, slots=True)
class ScriptedEngine:
    """A player that reads the level instead of the picture."""

    choose: Callable[[Level], Sequence[Action]]
    form: PromptForm

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """The same answer for every repeat; sampling and seed change nothing."""
        texts = [answer_text(self.form, self.choose(Level.parse(sample.answer))) for sample in samples]
        return [
            (Rollout(sample.id, (), (), text, "stop"),) * num_generations
            for sample, text in zip(samples, texts, strict=True)
        ]


def answer_text(form: PromptForm, actions: Sequence[Action]) -> str:
    """A well-formed answer with these actions."""
    moves = ", ".join(action.value.capitalize() for action in actions)
    return f"### Analyze\n-\n{SECTION}\n{moves}" if form == "sections" else f"<think></think><answer>{moves}</answer>"


def idle(_: Level) -> tuple[Action, ...]:
    """No action."""
    return ()


def perfect(level: Level) -> tuple[Action, ...]:
    """The solver's actions; none where the level has no solution within an episode."""
    solution = solve(level)
    return solution.actions if solution and len(solution.actions) <= MAX_STEPS else ()


def scripted(choose: Callable[[Level], Sequence[Action]], form: PromptForm = "tags") -> EvalModel:
    """A scripted player as the loop takes it."""
    return EvalModel(
        ScriptedEngine(choose, form),
        lambda _: form,
        f"scripted/{choose.__name__}",
        "none",
        min_pixels=None,
        max_pixels=None,
    )
