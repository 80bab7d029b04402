"""Football-Online: a picture and the last five moves in, one action id out, turn by turn until the episode is over.

Which pitch it is played on is part of every protocol: `gfootball`, the real simulator, or `field`, the embedded game.
Numbers of the two are different measurements.

A player is anything with the interface of `evals.generation.Engine`. All episodes that are being played are asked in
one batch; one that ends makes room for the next. An answer without a valid action id costs the turn and moves nothing,
as in MageBench. A simulator that dies or hangs ends its own episode: the row keeps what was earned and says what
happened.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter
from tqdm import tqdm

import lmmr1
from evals.agents import football_field
from evals.agents.episodes import PlayConfig
from evals.agents.football_gfootball import Gfootball, GfootballConfig, built_version, python
from evals.agents.football_levels import Scenario, Task, level_text, levels_text
from evals.agents.football_prompt import SECTION, ParsedMove, PromptForm, has_form, messages, parse
from evals.agents.football_rules import DIRECTIONS, FRAMES, SCALE, Frame, Match, Move, Simulator, SimulatorError
from evals.agents.sokoban_view import write_picture
from evals.generation import EvalModel, encodable, overall_sha256, prompt_sha256
from evals.samples import Doc, FootballRow, SampleRow
from lmmr1.config import SamplingConfig
from lmmr1.types import Rollout, Sample, UserError

SCORER_REVISION = 1
"""Bump when a change of levels, turns, parsing or score may alter a number."""

MEMORY = 5
"""Past moves that a player is told."""

_FRAME = TypeAdapter(Frame)
_LEVEL = TypeAdapter(Scenario)
_MOVES = {move.id: move for move in Move}


class FootballEval(PlayConfig):
    """How the levels are played; the defaults are MageBench's, the prompt LMM-R1's."""

    simulator: Literal["field", "gfootball"]
    """The embedded game or Google Research Football."""
    form: PromptForm = "tags"
    repeats: int = Field(10, gt=0)
    image_width: int = Field(1280, ge=64, le=1280)
    """Pixels; the height is 9/16 of it."""
    max_turns: int = Field(400, gt=0)
    """Answers in an episode, at most."""
    limits: GfootballConfig = GfootballConfig()


def check(tasks: Sequence[Task], cfg: FootballEval) -> None:
    """Raise UserError where the simulator is not built, or cannot play one of the levels."""
    if cfg.simulator == "gfootball":
        python()
    else:
        football_field.check(list(tasks))


def simulators(cfg: FootballEval, log: Path, pictures: bool) -> Callable[[], Simulator]:
    """Makes new pitches. `log` gets what the real simulator prints."""
    if cfg.simulator == "field":
        return football_field.Pitch
    return partial(Gfootball, 1280 if pictures else 0, log, cfg.limits)


# ------------------------------------------------------------------------------------------------------------- the loop


@dataclass(slots=True)
class Episode:
    """An episode while it is played."""

    doc_id: int
    task: Task
    repeat: int
    match: Match | None = None
    memory: deque[Move | None] = field(default_factory=lambda: deque(maxlen=MEMORY))
    moves: list[Move | None] = field(default_factory=list)
    parsed: list[ParsedMove] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    tidy: int = 0
    """Answers of the layout that was asked for."""
    tokens: int = 0
    finish: str = "stop"
    prompts: list[str] = field(default_factory=list)
    first_picture: str = ""
    failure: str = ""
    """What was wrong with the simulator, if anything."""

    @property
    def over(self) -> bool:
        """True where nothing more is to be played."""
        return bool(self.failure) or self.match is None or self.match.done


def run(
    model: EvalModel,
    tasks: Sequence[Task],
    cfg: FootballEval,
    batch_size: int,
    folder: Path,
    pictures: bool = True,
    new_simulator: Callable[[], Simulator] | None = None,
) -> list[FootballRow]:
    """Play every level `cfg.repeats` times; one row for each level and repeat, in order.

    Args:
        model: the player.
        tasks: the levels.
        cfg: how they are played.
        batch_size: most episodes at a time; at a temperature above 0 the answers depend on it.
        folder: gets the pictures while they are needed, and `simulator.log`.
        pictures: False for scripted players, who read the state: rendering takes seconds without a GPU.
        new_simulator: instead of the one that `cfg` names.

    Raises:
        UserError: a simulator that is not built, a level that it cannot play.
    """
    if new_simulator is None:
        check(tasks, cfg)
        new_simulator = simulators(cfg, folder / "simulator.log", pictures)
    episodes = [Episode(i, task, repeat) for i, task in enumerate(tasks) for repeat in range(cfg.repeats)]
    seats = [
        _Seat(new_simulator, cfg, folder / "images" if pictures else None)
        for _ in range(min(batch_size, len(episodes)))
    ]
    waiting, turn = deque(episodes), 0
    workers = 1 if cfg.simulator == "field" else os.cpu_count()
    bar = tqdm(total=len(episodes), desc="football", unit="episode", file=sys.__stderr__, disable=None)
    with bar, ThreadPoolExecutor(workers) as pool:
        try:
            while playing := _seated(pool, seats, waiting, bar):
                samples = list(pool.map(_Seat.observe, playing))
                shown = [(seat, sample) for seat, sample in zip(playing, samples, strict=True) if sample is not None]
                if shown:
                    groups = model.engine.generate([s for _, s in shown], cfg.sampling, 1, (cfg.seed, turn))
                    prompts = [prompt_sha256(model.render(s), seat.picture_sha256) for seat, s in shown]
                    answers = [rollout for (rollout,) in groups]
                    list(pool.map(_Seat.answer, [seat for seat, _ in shown], answers, prompts))
                turn += 1
        finally:
            for seat in seats:
                seat.close()
    opening = prompt_sha256(model.render(Sample("", messages(cfg.form, ()), (), "")))
    return [_row(episode, cfg, opening) for episode in episodes]


def _seated(pool: ThreadPoolExecutor, seats: list[_Seat], waiting: deque[Episode], bar: tqdm[Any]) -> list[_Seat]:
    """The seats with an episode to play, after every free one has got the next; empty once all are played."""
    while True:
        bar.update(sum(seat.leave() for seat in seats))
        free = [seat for seat in seats if seat.episode is None][: len(waiting)]
        list(pool.map(_Seat.take, free, [waiting.popleft() for _ in free]))
        playing = [seat for seat in seats if seat.episode is not None]
        if not playing or not any(seat.finished for seat in playing):
            return playing


class _Seat:
    """A place at which one episode after the other is played, on a pitch of its own."""

    def __init__(self, make: Callable[[], Simulator], cfg: FootballEval, images: Path | None) -> None:
        self._make, self._cfg, self._images = make, cfg, images
        self._simulator: Simulator | None = None
        self._picture: Path | None = None
        self._shown: Frame | None = None
        """The frame that the picture shows; None without one."""
        self.episode: Episode | None = None
        self.picture_sha256 = ""

    @property
    def finished(self) -> bool:
        """True where the episode is over or has had all its turns."""
        return self.episode is not None and (self.episode.over or len(self.episode.moves) >= self._cfg.max_turns)

    def take(self, episode: Episode) -> None:
        """Start an episode; a simulator that does not start it is the episode's failure."""
        self.episode = episode
        seed = episode_seed(self._cfg.seed, episode.task.id, episode.repeat)
        self._simulator = self._simulator or self._make()
        try:
            episode.match = Match(self._simulator, episode.task.level, seed)
        except SimulatorError as e:
            self._fail(e)

    def leave(self) -> bool:
        """Give up a finished episode; True where there was one."""
        if not self.finished:
            return False
        self.episode = None
        self._forget_picture()
        return True

    def observe(self) -> Sample | None:
        """What the player is shown; None where the simulator failed."""
        e = self.episode
        assert e is not None and e.match is not None
        try:
            self._show(e)
        except SimulatorError as error:
            self._fail(error)
            return None
        images = (self._picture,) if self._picture else ()
        name = f"{e.task.id}/{e.repeat}/{len(e.moves)}"
        frame = _FRAME.dump_json(e.match.frame).decode()
        return Sample(name, messages(self._cfg.form, tuple(e.memory)), images, frame, e.task.category)

    def answer(self, rollout: Rollout, prompt: str) -> None:
        """Play the turn."""
        e = self.episode
        assert e is not None and e.match is not None
        response = encodable(rollout.text)
        parsed = parse(self._cfg.form, response)
        e.responses.append(response)
        e.prompts.append(prompt)
        e.parsed.append(parsed)
        e.tidy += has_form(self._cfg.form, response, parsed)
        e.tokens += len(rollout.token_ids)
        e.finish = "length" if "length" in (e.finish, rollout.finish) else "stop"
        e.moves.append(parsed.move)
        e.memory.append(parsed.move)
        if parsed.move is not None:
            try:
                e.match.step(parsed.move)
            except SimulatorError as error:
                self._fail(error)

    def close(self) -> None:
        """End the simulator and remove the last picture."""
        self._forget_picture()
        if self._simulator is not None:
            self._simulator.close()

    def _show(self, e: Episode) -> None:
        """Render the present moment into a file of its own: engines may keep features by file name.

        Where the last answer moved nothing, the picture is still right: rendering is the slowest part of a turn.
        """
        frame = e.match.frame  # type: ignore[union-attr]
        if self._images is None or self._shown is frame:
            return
        picture = self._simulator.render(self._cfg.image_width)  # type: ignore[union-attr]
        self._forget_picture()
        self._shown = frame
        self._picture = self._images / f"{e.doc_id:05d}-{e.repeat}-{len(e.moves):03d}.png"
        write_picture(self._picture, picture)
        self.picture_sha256 = hashlib.sha256(self._picture.read_bytes()).hexdigest()
        e.first_picture = e.first_picture or self.picture_sha256

    def _forget_picture(self) -> None:
        if self._picture is not None:
            self._picture.unlink(missing_ok=True)
        self._picture, self._shown, self.picture_sha256 = None, None, ""

    def _fail(self, error: SimulatorError) -> None:
        """The episode ends here; the next one gets a new simulator."""
        self.episode.failure = str(error)  # type: ignore[union-attr]
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None


def episode_seed(seed: int, level: str, repeat: int) -> int:
    """The simulator's seed of an episode; the same for every player."""
    return random.Random(f"{seed}-{level}-{repeat}").randrange(2**31)


def replay(row: SampleRow, seed: int) -> list[Frame]:
    """The frames after every turn of a row that was played on the embedded pitch, the first moment before them.

    seed: that of the evaluation. Raises UserError for a row that was not played there.
    """
    try:
        if not isinstance(row, FootballRow):
            raise ValueError(row.kind)
        level = _LEVEL.validate_json(row.doc.level)
        moves = [_MOVES[name] for name in row.filtered_resps[0].split(",") if name != "none"]
        match = Match(football_field.Pitch(), level, episode_seed(seed, row.doc.id, row.repeat))
    except (KeyError, IndexError, ValueError) as e:
        raise UserError(f"doc_id {row.doc_id}: not played on the embedded pitch ({type(e).__name__})") from None
    frames = [match.frame]
    for move in moves:
        if match.done:
            break
        match.step(move)
        frames.append(match.frame)
    return frames


def _row(e: Episode, cfg: FootballEval, opening: str) -> FootballRow:
    """The record of one episode.

    `prompt_hash` is that of the question before the first turn, without its picture: what is asked later depends on
    what was answered, and two players of one protocol must have the same hash. All prompts are in `prompts_sha256`.
    """
    match, turns = e.match, len(e.moves)
    question = messages(cfg.form, ())[-1]["content"][-1]["text"]
    doc = Doc(
        id=e.task.id,
        question=question,
        category=e.task.category,
        level=level_text(e.task.level),
        image_sha256=e.first_picture,
    )
    goals = match.frame.goals if match else 0
    return FootballRow(
        doc_id=e.doc_id,
        doc=doc,
        target="",
        category=e.task.category,
        prompt_hash=opening,
        resps=tuple((response,) for response in e.responses),
        filtered_resps=(",".join(move.id if move is not None else "none" for move in e.moves),),
        accuracy=float(goals > 0),
        format=e.tidy / turns if turns else 0.0,
        note=_note(e),
        length=e.tokens,
        finish=e.finish,
        repeat=e.repeat,
        score=match.score if match else 0.0,
        parts=dict(match.scorer.parts) if match else {},
        prompts_sha256=overall_sha256(e.prompts),
        turns=turns,
        lost_turns=sum(move is None for move in e.moves),
        frames=match.frames if match else 0,
        dropped=sum(parsed.dropped for parsed in e.parsed),
        failed=bool(e.failure),
    )


def _note(e: Episode) -> str:
    """How the episode ended, then what was dropped of the answers."""
    if e.failure:
        ending = f"simulator_error: {e.failure}"
    elif not e.over:
        ending = "turns_used_up"
    elif e.match is None:
        ending = "not_played"
    elif e.match.frame.goals:
        ending = "goal"
    elif e.match.frame.owner_team == 1:
        ending = "ball_lost"
    else:
        ending = "out_of_play" if e.match.frames < FRAMES else "frames_used_up"
    dropped = [parsed for parsed in e.parsed if parsed.dropped]
    return f"{ending}; in {len(dropped)} turns: {dropped[0].note}" if dropped else ending


# -------------------------------------------------------------------------------------------------------------- records


def protocol_settings(tasks: Sequence[Task], cfg: FootballEval, batch_size: int) -> dict[str, Any]:
    """The fields of a Protocol that do not depend on the model. The two simulators are two tasks."""
    real = cfg.simulator == "gfootball"
    version = f"gfootball {built_version()}" if real else f"field {football_field.RULES_REVISION}"
    return {
        "harness": "agents",
        "harness_version": f"{lmmr1.__version__}, {version}",
        "task": "football_online" if real else "football_field",
        "task_version": str(SCORER_REVISION),
        "prompt": cfg.form,
        "decoding": {"environment": cfg.simulator, **cfg.model_dump(exclude={"form", "limits", "simulator"})},
        "batch_size": batch_size,
        "judge": None,
        "scorer": f"sum of MageBench's shaped rewards x {SCALE}",
        "scorer_version": f"{SCORER_REVISION}, numerics {lmmr1.NUMERICS}",
        "aggregation": "reward",
        "data_sha256": hashlib.sha256(levels_text(tasks).encode()).hexdigest()[:16],
    }


# ----------------------------------------------------------------------------------------------------- scripted players


Choose = Callable[[Frame, random.Random], Move]
"""A player: what is where, and dice."""


@dataclass(frozen=True, slots=True)
class ScriptedEngine:
    """A player that reads the state instead of the picture."""

    choose: Choose
    form: PromptForm

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """One answer, the same for every generation; dice depend on the seed and on whose turn it is."""
        return [(Rollout(sample.id, (), (), self._text(sample, seed), "stop"),) * num_generations for sample in samples]

    def _text(self, sample: Sample, seed: tuple[int, ...]) -> str:
        move = self.choose(_FRAME.validate_json(sample.answer), random.Random(f"{sample.id} {seed[0]}"))
        return answer_text(self.form, move)


def answer_text(form: PromptForm, move: Move) -> str:
    """A well-formed answer with this move."""
    return f"# analyze\n-\n{SECTION}\n{move.id}" if form == "sections" else f"<think></think><answer>{move.id}</answer>"


def idle(_: Frame, __: random.Random) -> Move:
    """Nothing, frame by frame."""
    return Move.IDLE


def chance(_: Frame, dice: random.Random) -> Move:
    """Any move, each as likely."""
    return dice.choice(list(Move))


def runner(frame: Frame, _: random.Random) -> Move:
    """Runs at the goal with the ball, shoots near it, and runs after a ball that he does not have."""
    x, y = frame.left[frame.active]
    if frame.owner_team == 0 and frame.owner == frame.active:
        near = x > 0.75 and abs(y) < 0.2
        return Move.SHOT if near else _towards(x, y, 1.0, 0.0)
    return _towards(x, y, *frame.ball)


def _towards(x: float, y: float, to_x: float, to_y: float) -> Move:
    """The direction that comes nearest to the way from (x, y) to (to_x, to_y)."""
    return max(DIRECTIONS, key=lambda move: DIRECTIONS[move][0] * (to_x - x) + DIRECTIONS[move][1] * (to_y - y))


def scripted(choose: Choose, form: PromptForm = "tags") -> EvalModel:
    """A scripted player as the loop takes it; play it with `pictures=False`."""
    return EvalModel(
        ScriptedEngine(choose, form),
        lambda sample: f"{form} {sample.id}",  # dice are thrown for every turn, whatever it looks like
        f"scripted/{choose.__name__}",
        "none",
        min_pixels=None,
        max_pixels=None,
    )
