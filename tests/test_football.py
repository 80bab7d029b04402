"""Contract: football is scored as MageBench scores it, no text breaks a turn, and no simulator takes an episode with it."""

import math
import os
import random
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageStat
from scipy.stats import wilcoxon

from evals.agents import football, football_field
from evals.agents.episodes import to_records
from evals.agents.football import FootballEval, answer_text, chance, idle, protocol_settings, runner, scripted
from evals.agents.football_field import Pitch, picture
from evals.agents.football_gfootball import HOME, Gfootball, GfootballConfig, built_version
from evals.agents.football_levels import SITUATIONS, Scenario, level_text, own_levels, read_levels
from evals.agents.football_prompt import SECTION, messages, parse
from evals.agents.football_rules import (
    BUILTIN,
    DIRECTIONS,
    FRAMES,
    TERMS,
    Frame,
    Match,
    Move,
    Scorer,
    SimulatorError,
    pass_room,
    shot_distance,
    shot_room,
    way_is_free,
)
from evals.generation import EvalModel
from evals.records import Protocol
from evals.samples import line_of
from evals.samples import parse as parse_row
from lmmr1.sokoban import MAX_TEXT
from lmmr1.types import Rollout, UserError
from tests.hostile import MEASURED, canaries, generated

FORMS = ("tags", "sections", "brief")
FIELD = FootballEval(simulator="field", repeats=1)
MODEL_FIELDS = {"prompt_hash": "0", "backend": "b", "dtype": "d", "min_pixels": None, "max_pixels": None}
needs_gfootball = pytest.mark.skipif(built_version() is None, reason=f"no gfootball: run `make football` or set {HOME}")


def frame(ball=(0.0, 0.0), owner=(0, 1), right=((0.98, 0.0), (0.5, 0.2)), goals=0, frames_left=300, **fields) -> Frame:
    """A moment with three of ours; the owner's velocity is that of the ball."""
    velocity = fields.pop("velocity", (0.0, 0.0))
    left = [(-0.98, 0.0), (ball[0] - 0.01, ball[1]), (0.1, 0.3)]
    still = {"left_velocity": (velocity,) * 3, "right_velocity": ((0.0, 0.0),) * len(right)}
    given = {"ball": ball, "ball_velocity": velocity, "left": tuple(left), "right": right, **still, **fields}
    return Frame(
        **given, owner_team=owner[0], owner=owner[1], active=1, goals=goals, frames_left=frames_left, over=False
    )


def run(player, tasks, cfg, folder, batch_size=32, **arguments):
    arguments = {"pictures": False, **arguments}
    return football.run(
        player if isinstance(player, EvalModel) else scripted(player), tasks, cfg, batch_size, folder, **arguments
    )


class Answers:
    """An engine that gives the same texts in turn to every episode, and remembers what it was asked."""

    def __init__(self, texts):
        self.texts, self.samples = texts, []

    def generate(self, samples, sampling, num_generations, seed):
        assert num_generations == 1
        self.samples += samples
        assert all(path.read_bytes().startswith(b"\x89PNG") for sample in samples for path in sample.images)
        turns = [int(sample.id.rpartition("/")[2]) for sample in samples]
        return [
            (Rollout(s.id, (1,), (0.0,), self.texts[t % len(self.texts)], "stop"),)
            for s, t in zip(samples, turns, strict=True)
        ]


def player(engine) -> EvalModel:
    return EvalModel(engine, lambda sample: str(sample.messages), "test", "none", None, None)


# ------------------------------------------------------------------------------------------------------------- the score


def paid(*frames_and_actions) -> tuple[Scorer, list[float]]:
    scorer = Scorer()
    return scorer, [scorer.pay(f, action)[0] for f, action in frames_and_actions]


def test_the_first_frame_pays_nothing_and_progress_counts_from_it():
    scorer, rewards = paid((frame((0.1, 0)), 5), (frame((0.2, 0)), 5), (frame((0.15, 0)), 5), (frame((0.25, 0)), 5))
    assert rewards == pytest.approx([0, 20 * 0.8 * 0.1, 0, 20 * 0.8 * 0.05])
    assert scorer.parts["progress"] == pytest.approx(sum(rewards))


def test_progress_needs_the_ball():
    free, theirs = (-1, -1), (1, 0)
    assert paid((frame((0.1, 0)), 5), (frame((0.3, 0), free), 5))[1] == [0, 0]
    scorer, _ = paid((frame((0.1, 0)), 5), (frame((0.3, 0), theirs), 5))
    assert scorer.parts["progress"] == 0


def test_opponents_count_when_the_ball_passes_them_and_when_it_falls_back():
    _, rewards = paid((frame((0.49, 0)), 5), (frame((0.51, 0)), 5), (frame((0.49, 0)), 5))
    assert rewards == pytest.approx([0, 20 * (0.8 * 0.02 + 1 / 11), -20 / 11])


def test_a_goal_pays_forty():
    scorer, _ = paid((frame(), 5), (frame(goals=1, owner=(-1, -1)), 12))
    assert scorer.parts["goal"] == 40


def test_losing_the_ball_pays_for_the_frames_survived_and_ends_the_episode():
    scorer = Scorer()
    scorer.pay(frame(frames_left=400), 0)
    assert scorer.pay(frame(owner=(1, 0), frames_left=349), 0) == (pytest.approx(20 * 51 / 400), True)


def test_passes_pay_less_each_time():
    there, back = frame((0.1, 0), (0, 2)), frame((0.1, 0), (0, 1))
    scorer = Scorer()
    amounts = [scorer.pay(f, a)[0] for f, a in ((back, 5), (back, 11), (there, 0), (there, 9), (back, 0), (there, 0))]
    assert amounts[2] == pytest.approx(400 * pass_room(there))
    assert amounts[4] == pytest.approx(400 * pass_room(back) * 0.75)
    assert amounts[5] == 0  # no pass was played
    assert scorer.parts["pass"] == pytest.approx(amounts[2] + amounts[4])


def test_a_shot_pays_once_until_the_ball_has_left_the_foot():
    near, far = frame((0.9, 0), right=((-0.5, 0.3),)), frame((-0.5, 0))
    _, rewards = paid((near, 5), (near, 12), (near, 12), (frame((0.95, 0), (-1, -1)), 12), (near, 12))
    assert rewards == pytest.approx([0, 40 / 3, 0, 0, 40 / 3])  # the most that a shot pays is 2/3 of 20
    assert shot_distance(near) == 1
    assert shot_distance(far) == 0
    assert shot_distance(frame((0.4, 0))) == pytest.approx(0.4)


def test_room_is_measured_from_the_ball():
    assert pass_room(frame((0, 0), right=((0.5, 0.0),))) == pytest.approx(0.5 / 11)  # on the way to the goal
    assert pass_room(frame((0, 0), right=((-0.5, 0.0),))) == pytest.approx(0.5)  # behind
    assert pass_room(frame((0.5, 0.1), right=((0.5, 0.1),))) == 0
    assert shot_room(frame((0.8, 0), right=((0.9, 0.0),))) == pytest.approx(
        0.1 * 0.044 / math.hypot(0.2, 0.044), rel=0.02
    )


points = st.tuples(st.floats(-1.1, 1.1), st.floats(-0.5, 0.5))


@given(st.lists(st.tuples(points, st.sampled_from([(-1, -1), (0, 1), (0, 2), (1, 0), (1, 1)]), st.integers(0, BUILTIN), st.integers(0, FRAMES)), min_size=1, max_size=20))  # fmt: skip
def test_the_parts_sum_to_the_rewards(moments):
    scorer = Scorer()
    rewards = [scorer.pay(frame(ball, owner, frames_left=left), action)[0] for ball, owner, action, left in moments]
    assert set(scorer.parts) == set(TERMS)
    assert sum(scorer.parts.values()) == pytest.approx(sum(rewards), abs=1e-6)
    assert all(scorer.parts[term] >= 0 for term in TERMS if term != "passed")


@pytest.mark.parametrize(
    "wrong", [{"owner": (0, 3)}, {"owner": (1, 2)}, {"owner": (-1, 0)}, {"owner": (0, -1)}, {"right": ()}]
)
def test_a_frame_without_the_player_it_names_is_refused(wrong):
    with pytest.raises(ValueError, match="player"):
        frame(**wrong)


# ------------------------------------------------------------------------------------------------------------- the turns


class Tape:
    """A simulator that plays back frames and writes down actions."""

    def __init__(self, frames):
        self.frames, self.actions = list(frames), []

    def reset(self, level, seed):
        return self.frames[0]

    def step(self, action):
        self.actions.append(int(action))
        return self.frames.pop(0) if len(self.frames) > 1 else self.frames[0]  # the last one stays


def test_running_on_lasts_ten_frames_from_the_third_turn():
    tape = Tape([frame(frames_left=FRAMES)])
    match = Match(tape, None, 0)
    assert [match.step(Move.RIGHT).frames for _ in range(4)] == [1, 1, 10, 10]
    assert match.step(Move.TOP).frames == 1
    assert match.step(Move.IDLE).frames == match.step(Move.IDLE).frames == 1


def test_running_on_stops_where_an_opponent_is_in_the_way():
    blocked = frame(right=((0.04, 0.0),), velocity=(0.01, 0.0))
    assert not way_is_free(blocked)
    assert way_is_free(frame(right=((0.09, 0.0),), velocity=(0.01, 0.0)))
    assert not way_is_free(frame((0.98, 0.1), right=((0.0, 0.4),), velocity=(0.01, 0.0)))
    tape = Tape([frame()] * 3 + [blocked])
    match = Match(tape, None, 0)
    assert [match.step(Move.RIGHT).frames for _ in range(3)] == [1, 1, 2]


def test_a_pass_lasts_until_somebody_has_the_ball():
    mine, free, his = frame(), frame(owner=(-1, -1)), frame(owner=(0, 2))
    tape = Tape([mine, mine, mine, mine, free, free, his])
    match = Match(tape, None, 0)
    match.step(Move.IDLE)
    match.step(Move.BOTTOM)
    turn = match.step(Move.SHORT_PASS)
    kick, way = int(Move.SHORT_PASS), int(Move.BOTTOM)
    assert tape.actions == [0, way, kick, way, kick, way, BUILTIN]
    assert turn.frames == 5
    assert match.frame.owner == 2


def test_a_finished_match_takes_no_turn():
    match = Match(Tape([frame(), frame(owner=(1, 0))]), None, 0)
    match.step(Move.IDLE)
    match.step(Move.IDLE)
    assert match.done
    with pytest.raises(ValueError, match="over"):
        match.step(Move.IDLE)


# --------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("move", list(Move))
def test_every_move_comes_back_from_its_answer(form, move):
    parsed = parse(form, answer_text(form, move))
    assert (parsed.move, parsed.dropped, parsed.note) == (move, 0, "")


@pytest.mark.parametrize(
    ("form", "text", "move", "dropped"),
    [
        ("tags", "<answer>Right</answer>", Move.RIGHT, 0),
        ("tags", "action_left", Move.LEFT, 0),
        ("brief", "up, left, left", Move.TOP, 2),
        ("brief", "go, left", None, 2),
        ("tags", "<answer>action_shot now</answer>", None, 1),
        ("tags", "<answer>5</answer>", None, 1),
        ("tags", "<answer>left</answer><answer></answer>", None, 1),
        ("tags", "", None, 1),
        ("sections", "# analyze\n...\n# action\naction_shot\n", Move.SHOT, 0),
        ("sections", "action_shot", Move.SHOT, 0),
        ("sections", "# action\nAction_Shot", None, 1),
        ("sections", "# action\nshot", None, 1),
        ("sections", "# action\naction_left\naction_left", None, 1),
        ("sections", "# action\n<answer>action_left</answer>", None, 1),
    ],
)
def test_one_action_id_is_the_move_and_the_rest_is_said(form, text, move, dropped):
    parsed = parse(form, text)
    assert (parsed.move, parsed.dropped) == (move, dropped)
    assert bool(parsed.note) == bool(dropped)


def words(form: str, text: str) -> str:
    """What must be exactly one word for there to be a move: written anew, for the tests."""
    if form == "sections":
        return text.split(SECTION)[1] if SECTION in text else text
    return re.split("</answer>|,", re.split("<answer>", text)[-1])[0]


ALIASES = {"up": "top", "down": "bottom"}


def objections(form: str, text: str) -> list[str]:
    """In what the parser disagrees with an independent reading of a text; nothing where they agree."""
    parsed, word = parse(form, text), words(form, text).strip()
    plain = word.lower().removeprefix("action_")
    if parsed.move is None:
        found = {"a text without a move drops something": parsed.dropped >= 1}
    elif form == "sections":
        found = {"the word is the move": word == parsed.move.id}
    else:
        found = {"the word, or what it stands for, is the move": ALIASES.get(plain, plain) == parsed.move.name.lower()}
    found |= {
        "the note is plain": parsed.note.isascii() and parsed.note.isprintable(),
        "what is shown of the dropped is short": len(parsed.first_dropped) <= 40,
    }
    return [what for what, holds in found.items() if not holds]


bits = st.sampled_from(
    [
        "<answer>",
        "</answer>",
        "<think>",
        SECTION,
        ",",
        " ",
        "\n",
        "action_",
        "left",
        "LEFT",
        "up",
        "top_right",
        "ﬁ",
        "x",
        "\x00",
    ]
)


@given(st.sampled_from(FORMS), st.one_of(st.text(), st.lists(bits, max_size=12).map("".join)))
def test_no_text_is_a_move_but_a_move(form, text):
    assert not objections(form, text)


def test_hostile_texts_are_no_moves(tmp_path):
    texts = [*MEASURED.values(), *(text for _, text in generated(60)), *canaries(tmp_path / "touched")]
    texts += [
        "left" * 10**6,
        "<answer>" * 10**5 + "left",
        ",left" * 10**6,
        SECTION * 10**5,
        "ｌｅｆｔ",
        "left\u200b",
        "lefſt",
    ]
    for form in FORMS:
        for text in texts:
            if len(text) > MAX_TEXT:
                assert parse(form, text).note == f"dropped 1, first a text of {len(text)} characters"
            assert not objections(form, text[:MAX_TEXT])
            assert parse(form, text).move is None or "left" in text
    assert not (tmp_path / "touched").exists()


def test_prompts_tell_the_last_moves():
    assert "beginning" in messages("tags", [])[-1]["content"][1]["text"]
    text = messages("sections", [Move.LEFT, None, Move.SHOT])[-1]["content"][1]["text"]
    assert text.index("action_left") < text.index("none") < text.index("action_shot")
    assert messages("brief", [Move.LEFT, None]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "left,none,move?"}]}
    ]
    for move in Move:
        assert move.id in messages("tags", [])[0]["content"]


# ---------------------------------------------------------------------------------------------------------------- levels


def test_own_levels_are_the_same_for_the_same_seed_and_playable():
    tasks = own_levels(20)
    assert tasks == own_levels(25)[:20] == own_levels(20)
    assert tasks[0] != own_levels(20, seed=1)[0]
    assert len({level_text(task.level) for task in tasks}) == len({task.id for task in tasks}) == 20
    assert [task.category for task in tasks[:5]] == list(SITUATIONS)
    for task in tasks:
        start = Pitch().reset(task.level, 0)
        assert len(start.left) == len(start.right) == 11
        assert start.owner_team == 0
        assert start.owner == start.active
        assert not start.over


def test_level_files_are_listed_and_not_run(tmp_path):
    (tmp_path / "R1_P_2.py").write_text("raise SystemExit\ndef build_scenario(builder): ...")
    (tmp_path / "__init__.py").write_text("")
    assert [(task.id, task.category) for task in read_levels(tmp_path)] == [("R1_P_2", "R1_P")]
    with pytest.raises(UserError, match="runs on gfootball alone"):
        football.check(read_levels(tmp_path), FIELD)
    (tmp_path / "other.py").write_text("x = 1")
    with pytest.raises(UserError, match="build_scenario"):
        read_levels(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no level file"):
        read_levels(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        read_levels(tmp_path / "none")


# ------------------------------------------------------------------------------------------------------ the embedded game


@given(st.integers(0, 19), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_embedded_game_keeps_its_promises(level, seed, dice):
    actions = [dice.randint(0, BUILTIN) for _ in range(FRAMES)]
    played = []
    for _ in range(2):
        pitch, frames = Pitch(), []
        frames.append(pitch.reset(own_levels(20)[level].level, seed))
        while not frames[-1].over:
            frames.append(pitch.step(actions[len(frames) - 1]))
        played.append(frames)
    assert played[0] == played[1]
    frames = played[0]
    assert [f.frames_left for f in frames] == list(range(FRAMES, FRAMES - len(frames), -1))
    for before, after in pairwise(frames):
        assert all(math.dist(a, b) <= 0.0121 for a, b in zip(before.left, after.left, strict=True))
        assert after.goals <= 1
        assert not after.goals or after.over
        assert after.owner_team != 1 or after.over
        assert all(abs(x) <= 1 and abs(y) <= 0.42 for x, y in [before.ball])
    with pytest.raises(ValueError, match="over"):
        pitch.step(0)


def test_the_picture_shows_where_the_ball_is():
    tasks = own_levels(5)
    for width in (168, 1280):
        image = picture(Pitch().reset(tasks[1].level, 0), width)
        assert image.size == (width, width * 9 // 16)
        x, y = tasks[1].level.ball
        assert image.getpixel((round(width / 2 + x * width / 2.2), round(width * 9 / 32 + y * width / 2.2))) == (
            255,
            255,
            255,
        )
    assert len({Pitch().reset(task.level, 0).ball for task in tasks}) == 5


def test_goals_can_be_scored_and_saved():
    level = Scenario((0.9, 0.0), ((-0.9, 0.0, "GK"), (0.89, 0.0, "CF")), ((0.0, 0.4, "GK"),))
    goals = 0
    for seed in range(20):
        match = Match(Pitch(), level, seed)
        while not match.done:
            match.step(Move.SHOT)
        goals += match.frame.goals
    assert 0 < goals <= 20


def test_the_runner_beats_the_idle_player(tmp_path):
    tasks = own_levels(20)
    scores = {p.__name__: [row.score for row in run(p, tasks, FIELD, tmp_path)] for p in (idle, chance, runner)}
    assert wilcoxon(scores["runner"], scores["idle"], alternative="greater").pvalue < 0.001
    assert len(set(scores["chance"])) > 15


# -------------------------------------------------------------------------------------------------------------- the loop


def test_rows_are_whole_and_in_order(tmp_path):
    tasks, cfg = own_levels(5), FootballEval(simulator="field", repeats=2)
    rows = run(chance, tasks, cfg, tmp_path, batch_size=3)
    assert [(row.doc_id, row.repeat) for row in rows] == [(i, r) for i in range(5) for r in range(2)]
    assert rows == run(chance, tasks, cfg, tmp_path, batch_size=3)
    assert [row.score for row in rows] == [row.score for row in run(chance, tasks, cfg, tmp_path, batch_size=64)]
    for row in rows:
        assert row.score == pytest.approx(sum(row.parts.values()))
        assert len(row.resps) == row.turns <= row.frames <= FRAMES
        assert (row.format, row.lost_turns, row.dropped, row.failed) == (1.0, 0, 0, False)
    assert len({row.score for row in rows if row.doc_id == 0}) == 2
    assert [parse_row(line_of(row), "x") for row in rows] == rows


def test_records_tell_the_two_simulators_apart(tmp_path):
    tasks = own_levels(10)
    rows = run(runner, tasks, FIELD, tmp_path)
    settings = protocol_settings(tasks, FIELD, 8)
    protocol = Protocol(**settings, **MODEL_FIELDS)
    made = to_records(rows, benchmark="football_field", metric="score", checkpoint="k", protocol=protocol, samples="s")
    assert [(r.subset, r.n) for r in made] == [("all", 10), *((name, 2) for name in sorted(SITUATIONS))]
    assert made[0].value == pytest.approx(sum(row.score for row in rows) / 1000)
    real = protocol_settings(tasks, FootballEval(simulator="gfootball", repeats=1), 8)
    assert (settings["task"], real["task"]) == ("football_field", "football_online")
    assert Protocol(**real, **MODEL_FIELDS).hash != protocol.hash
    assert protocol_settings(tasks[1:], FIELD, 8)["data_sha256"] != settings["data_sha256"]


def test_answers_without_a_move_cost_the_turn_and_move_nothing(tmp_path):
    cfg = FootballEval(simulator="field", repeats=1, max_turns=6)
    engine = Answers(["what?", answer_text("tags", Move.RIGHT), "left, left"])
    rows = run(player(engine), own_levels(2), cfg, tmp_path, pictures=True)
    for row in rows:
        assert (row.turns, row.lost_turns, row.dropped) == (6, 2, 4)
        assert row.filtered_resps == (",".join(["none", "action_right", "action_left"] * 2),)
        assert row.note == "turns_used_up; in 4 turns: dropped 1, first 'what?'"
        assert (row.format, row.length) == (pytest.approx(1 / 3), 6)
        assert len(row.doc.image_sha256) == 64
    assert len({path for sample in engine.samples for path in sample.images}) == 2 * 4  # none again where none moved
    assert not list((tmp_path / "images").iterdir())
    assert (
        "none (no valid action id), action_right, action_left" in engine.samples[-1].messages[-1]["content"][1]["text"]
    )


def test_a_real_model_plays_through_the_loop(tiny_model, tmp_path):
    """Random weights: what is checked is that pictures, prompts, sampling and turns fit together."""
    from evals.generation import load_model

    cfg = FootballEval(
        simulator="field", form="brief", repeats=2, temperature=1.0, max_new_tokens=6, image_width=168, max_turns=3
    )
    rows = run(load_model(str(tiny_model)), own_levels(2), cfg, tmp_path, batch_size=3, pictures=True)
    assert [row.turns for row in rows] == [3] * 4
    assert all(3 <= row.length <= 18 for row in rows)
    assert rows == run(load_model(str(tiny_model)), own_levels(2), cfg, tmp_path, batch_size=3, pictures=True)


# ------------------------------------------------------------------------------------------------- a simulator that fails

FAKE = '''
import json, os, sys, time
mode, after = sys.argv[1], int(sys.argv[2])
frame = {"ball": [0, 0], "ball_velocity": [0, 0], "left": [[0, 0]], "left_velocity": [[0, 0]], "right": [[1, 0]],
         "right_velocity": [[0, 0]], "owner_team": 0, "owner": 0, "active": 0, "goals": 0, "frames_left": 400, "over": False}
print("the last words", file=sys.stderr, flush=True)
for count, line in enumerate(sys.stdin):
    request = json.loads(line)
    frame["ball"] = [0.01 * count, 0]
    if count >= after:
        if mode == "hang": time.sleep(3600)
        if mode == "die": os._exit(7)
        if mode == "kill": os.kill(os.getpid(), 9)
        if mode == "flood":
            while True: os.write(1, b"x" * 65536)
        if mode == "slow":
            while True: os.write(1, b"x"); time.sleep(0.05)
        answer = {"junk": "[[[", "deep": "[" * 10**6, "nonsense": "{}", "error": '{"error": "out of\\\\u001b grass"}',
                  "nan": '{"frame": NaN}', "frame": json.dumps({"frame": {**frame, "owner": 5}})}[mode]
    elif request["call"] == "render":
        answer = '{"png": 4}\\nGIF8'
    else:
        answer = json.dumps({"frame": frame})
    end = "" if request["call"] == "render" else "\\n"
    sys.stdout.write(answer + end)
    sys.stdout.flush()
'''  # fmt: skip

FAILURES = {
    "hang": "did not answer in time", "slow": "did not answer in time", "die": "died with exit code 7",
    "kill": "killed by SIGKILL", "flood": "sends without end", "junk": "no JSON line", "deep": "no JSON line",
    "nonsense": "malformed frame", "nan": "malformed frame", "frame": "malformed frame", "error": "reports",
}  # fmt: skip


@pytest.fixture
def fake(tmp_path):
    """fake(mode, after): a simulator that behaves for `after` calls, and the processes it started."""
    script, started = tmp_path / "fake.py", []
    script.write_text(FAKE)
    limits = GfootballConfig(start_seconds=20, call_seconds=1)

    def make(mode: str, after: int, command: list[str] | None = None) -> Gfootball:
        command = command or [sys.executable, str(script), mode, str(after)]
        simulator = Gfootball(0, tmp_path / "log" / "simulator.log", limits, command)
        started.append(simulator)
        return simulator

    yield make
    for simulator in started:
        simulator.close()


@pytest.mark.parametrize("mode", FAILURES)
def test_a_simulator_that_fails_is_killed_and_named(fake, mode):
    simulator = fake(mode, 2)
    level = own_levels(1)[0].level
    simulator.reset(level, 0)
    pid = simulator._process.pid
    simulator.step(0)
    with pytest.raises(SimulatorError, match=FAILURES[mode]) as failure:
        simulator.step(0)
    assert "the last words" in str(failure.value)
    assert str(failure.value).isprintable()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(SimulatorError, match="not running"):
        simulator.step(0)


def test_a_broken_picture_is_a_failure(fake):
    simulator = fake("die", 9)
    simulator.reset(own_levels(1)[0].level, 0)
    with pytest.raises(SimulatorError, match="broken picture"):
        simulator.render(64)


def test_a_failing_simulator_ends_its_episode_and_loses_no_record(fake, tmp_path):
    modes = iter(["hang", "die", "start", "die"])
    calls = iter([4, 3, 0, 5])

    def new():
        mode = next(modes)
        return fake(mode, next(calls), ["/nonexistent/python"] if mode == "start" else None)

    rows = run(runner, own_levels(4), FIELD, tmp_path, batch_size=1, new_simulator=new)
    assert [row.failed for row in rows] == [True] * 4
    assert [row.frames for row in rows] == [3, 2, 0, 4]
    assert [row.score for row in rows] == pytest.approx([0.8 * 0.01 * 20 * n for n in (2, 1, 0, 3)])
    for row, words in zip(
        rows, ("did not answer in time", "exit code 7", "does not start", "exit code 7"), strict=True
    ):
        assert row.note.startswith("simulator_error: the simulator ")
        assert words in row.note


def test_a_failure_leaves_the_other_episodes_alone(fake, tmp_path):
    made = []

    def new():
        made.append(fake("die", 3) if len(made) == 1 else Pitch())
        return made[-1]

    tasks = own_levels(3)
    rows = run(runner, tasks, FIELD, tmp_path, batch_size=3, new_simulator=new)
    alone = run(runner, tasks, FIELD, tmp_path)
    assert [row.failed for row in rows] == [False, True, False]
    assert [rows[i].score for i in (0, 2)] == [alone[i].score for i in (0, 2)]


def test_without_the_simulator_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME, str(tmp_path / "none"))
    with pytest.raises(UserError, match="make football"):
        run(idle, own_levels(1), FootballEval(simulator="gfootball", repeats=1), tmp_path)


# ------------------------------------------------------------------------------------------------------ the real simulator

LEVEL_FILE = """
from . import *

def build_scenario(builder):
    builder.config().game_duration = 400
    builder.config().deterministic = False
    builder.config().end_episode_on_score = True
    builder.config().end_episode_on_out_of_play = True
    builder.config().end_episode_on_possession_change = True
    builder.SetBallPosition(0.7, 0.0)
    builder.SetTeam(Team.e_Left)
    builder.AddPlayer(-1.0, 0.0, e_PlayerRole_GK)
    builder.AddPlayer(0.69, 0.0, e_PlayerRole_CB)
    builder.SetTeam(Team.e_Right)
    builder.AddPlayer(-1.0, 0.0, e_PlayerRole_GK)
"""


@needs_gfootball
def test_gfootball_repeats_an_episode_whatever_was_played_before(tmp_path):
    first, *others = own_levels(3)
    pitch = Gfootball(0, tmp_path / "log")
    try:
        played = []
        for task, seed in ((first, 1), (others[0], 2), (first, 1), (others[1], 3), (first, 4)):
            dice, frames = random.Random(0), [pitch.reset(task.level, seed)]
            while not frames[-1].over and len(frames) < 60:
                frames.append(pitch.step(dice.choice([*DIRECTIONS, BUILTIN])))
            played.append(frames)
        assert played[0] == played[2] != played[4]
        assert played[0][0].ball == pytest.approx(first.level.ball, abs=1e-3)
        for (x, y, _), at in zip(first.level.right, played[0][0].right, strict=True):
            assert at == pytest.approx((x, y), abs=0.02)
        with pytest.raises(SimulatorError, match="action 20 is none of"):
            pitch.step(20)
    finally:
        pitch.close()


@needs_gfootball
@pytest.mark.slow
def test_pictures_change_nothing_in_gfootball(tmp_path):
    """Half a minute without a GPU: the second episode's pictures once ended the process."""
    shown, plain = Gfootball(1280, tmp_path / "log"), Gfootball(0, tmp_path / "log")
    try:
        for task in own_levels(2):
            one, other = Match(shown, task.level, 3), Match(plain, task.level, 3)
            for _ in range(4):
                image = shown.render(1280)
                assert image.size == (1280, 720)
                red, green, blue = (ImageStat.Stat(image).mean[i] for i in range(3))
                assert green > max(red, blue)  # grass
                assert one.step(Move.RIGHT) == other.step(Move.RIGHT)
                assert one.frame == other.frame
    finally:
        shown.close()
        plain.close()


@needs_gfootball
def test_the_runner_scores_more_than_idle_in_gfootball(tmp_path):
    tasks, cfg = own_levels(8), FootballEval(simulator="gfootball", repeats=1)
    scores = [[row.score for row in run(p, tasks, cfg, tmp_path, batch_size=2)] for p in (runner, idle)]
    assert wilcoxon(*scores, alternative="greater").pvalue < 0.05


@needs_gfootball
def test_gfootball_plays_level_files_and_survives_being_killed(tmp_path):
    (tmp_path / "levels").mkdir()
    (tmp_path / "levels" / "open_goal_1.py").write_text(LEVEL_FILE)
    (task,) = read_levels(tmp_path / "levels")
    cfg = FootballEval(simulator="gfootball", repeats=2)
    assert sum(row.accuracy for row in run(runner, [task], cfg, tmp_path)) >= 1  # nobody is in the way
    pitch = Gfootball(0, tmp_path / "log")
    pitch.reset(task.level, 0)
    os.kill(pitch._process.pid, 9)
    with pytest.raises(SimulatorError, match="SIGKILL|does not take requests"):
        pitch.step(0)
    assert pitch.reset(task.level, 0).ball[0] == pytest.approx(0.7, abs=0.01)
    pitch.close()


def test_the_server_names_the_moves_as_we_do():
    """The server runs under another Python and imports nothing of ours, so its one constant stands twice."""
    text = Path(football_field.__file__).with_name("football_server.py").read_text()
    assert f"BUILTIN = {BUILTIN}\n" in text
    assert [move.value for move in Move] == list(range(BUILTIN))
