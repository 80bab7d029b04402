"""Sokoban in the micro world: rooms by seed and side, pictures, replies of the base, prompts that agree everywhere."""

import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.agents import football_prompt, sokoban_prompt
from evals.agents.football_rules import Move
from evals.agents.level_sets import OWN_SOKOBAN
from evals.agents.sokoban import SokobanEval, observations
from evals.agents.sokoban_levels import canonical, read_tasks
from evals.agents.sokoban_solver import solve
from evals.agents.sokoban_view import read_picture, render
from evals.registry import find
from lmmr1.config import SokobanRewardConfig
from lmmr1.data import data_sha256, read_samples
from lmmr1.rewards.sokoban import sokoban_reward
from lmmr1.sokoban import Action, Level, State, play, read_levels
from reproduce import sokoban_data
from reproduce.micro import football, packing, pretrain, sokoban, world
from reproduce.micro.model import EOS, FastTokenizer, build_processor
from reproduce.plan import Plan

ROOMS = 40
LIMIT = 56  # tokens of a completion in profile micro
SIDE = sokoban_data.MICRO.image_side


@pytest.fixture(scope="module")
def rooms():
    return [task.level for task in sokoban.draw_rooms("train", ROOMS, 0)]


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def stream(processor):
    cfg = pretrain.PretrainConfig(sokoban_rooms=ROOMS)
    return pretrain.Stream(cfg, 0, FastTokenizer(processor.tokenizer), processor.tokenizer.convert_tokens_to_ids("x"))


# --------------------------------------------------------------------------------------------------------------- rooms


def test_rooms_are_a_function_of_the_seed_and_a_smaller_number_gives_the_first_ones():
    draw = sokoban.draw_rooms.__wrapped__
    assert draw("test", 12, 0) == draw("test", 20, 0)[:12]
    assert not {t.level for t in draw("test", 12, 0)} & {t.level for t in draw("test", 12, 1)}


def test_no_image_of_a_test_room_is_a_training_room(rooms):
    test = [task.level for task in sokoban.draw_rooms("test", ROOMS, 0)]
    train = {level.text() for room in rooms for level in sokoban.images(room)}
    for room in test:
        forms = {canonical(level) for level in sokoban.images(room)}
        assert len(forms) == 1 and sokoban.split(forms.pop()) == "test"
        assert not train & {level.text() for level in sokoban.images(room)}
        assert world.split(sokoban.key(room)) == "test"


def test_rooms_are_what_the_specification_says(rooms):
    for room in rooms:
        assert (room.height, room.width, len(room.boxes)) == (4, 4, 1)
        assert len(room.floor) >= 14
        assert 1 <= len(solve(room).actions) <= sokoban.SPEC.max_moves


def test_blanks_at_the_end_of_a_line_are_floor():
    level = Level.parse("@$. \n    ")
    assert (level.width, len(level.floor)) == (4, 8)
    assert Level.parse(level.text()) == level


# ------------------------------------------------------------------------------------------------------------- pictures


def test_a_room_is_drawn_one_cell_a_token_and_read_back(rooms, processor):
    for room in rooms[:8]:
        picture = render(room.text(), SIDE)
        assert read_picture(picture, room.height, room.width) == room.text()
        cells = [world.render_cell(name, 0) for name in sokoban.cells(room)]
        seen = processor.image_processor(picture, return_tensors="pt")
        assert seen["image_grid_thw"].tolist() == [[1, 2 * room.height, 2 * room.width]]
        torch.testing.assert_close(seen["pixel_values"], packing.patches(torch.from_numpy(np.array(cells))))


def test_tiles_are_distinct():
    tiles = [world.render_cell(name, 0).tobytes() for name in world.TILES.values()]
    assert len(set(tiles)) == len(world.TILES)


# -------------------------------------------------------------------------------------------------------------- replies


@settings(max_examples=40, deadline=None)
@given(st.integers(0, ROOMS - 1), st.sampled_from(sokoban.STYLES), st.randoms(use_true_random=False))
def test_replies_are_read_by_the_parser_and_fit_the_length_limit(rooms, processor, stream, room, style, rng):
    level = rng.choice(sokoban.images(rooms[room]))
    reply = sokoban.reply(rng, level, style)
    parsed = sokoban_prompt.parse("brief", reply)
    assert parsed.actions and not parsed.dropped
    assert len(play(level, parsed.actions)) == len(parsed.actions) + 1
    assert sokoban_reward(reply, level, SokobanRewardConfig()).format == 1
    ids = processor.tokenizer(reply + EOS).input_ids
    assert tuple(ids) == stream.tokenize(reply + EOS)
    assert len(ids) <= LIMIT


def replay(level, thoughts):
    """Read a worked reply apart from the generator: the moves, each checked against the cells that it names."""
    places, _, trace = thoughts.partition(";")
    named = dict(re.findall(r"(player|box|goal|wall)([a-p]+)", places))
    cell = lambda name: divmod(ord(name) - ord("a"), level.width)
    assert (cell(named["player"]), {cell(named["box"])}, {cell(named["goal"])}) == (
        level.player,
        level.boxes,
        level.targets,
    )
    assert len(named.get("wall", "")) == level.height * level.width - len(level.floor)
    assert trace[:2] == named["player"] + named["box"]
    state, moves = State.start(level), []
    for move, player, box in re.findall(r"(up|down|left|right)([a-p])([a-p])", trace):
        state = state.step(Action(move))[0]
        assert (state.player, state.boxes) == (cell(player), {cell(box)})
        moves.append(Action(move))
    return moves


def test_worked_replies_play_what_they_answer(rooms):
    for i, room in enumerate(rooms):
        for level in sokoban.images(room):
            reply = sokoban.reply(random.Random(i), level, "worked")
            moves = replay(level, re.search("<think>(.*)</think>", reply).group(1))
            assert tuple(moves) == sokoban_prompt.parse("brief", reply).actions


def test_shortest_and_detours_solve_and_guesses_walk_without_bumping(rooms):
    for i, level in enumerate(rooms):
        rng = random.Random(i)
        assert play(level, sokoban.shortest(level))[-1].solved
        assert play(level, sokoban.detour(rng, level))[-1].solved
        states = play(level, sokoban.walk(rng, level, 6))
        assert all(a.player != b.player for a, b in pairwise(states))


def test_guesses_solve_seldom_and_worked_replies_often(rooms):
    def solved(style):
        rng = random.Random(0)
        return np.mean(
            [
                play(level, sokoban_prompt.parse("brief", sokoban.reply(rng, level, style)).actions)[-1].solved
                for level in rooms
                for _ in range(5)
            ]
        )

    assert solved("direct") < 0.25
    assert 0.7 < solved("worked") < 1


def test_the_base_plays_ahead_more_where_there_are_fewer_walls(stream):
    easy = Level.parse("@   \n $  \n  . \n    ")
    hard = Level.parse("@  #\n $  \n  . \n#   ")
    worked = lambda level: np.mean([stream.play_style(level, 2) == "worked" for _ in range(500)])
    assert worked(hard) < 0.25
    assert worked(easy) > 0.4


def test_football_replies_name_one_move_each_equally_likely(processor):
    rng, seen = random.Random(0), []
    for i in range(1900):
        reply = football.reply(rng, football.STYLES[i % 2])
        parsed = football_prompt.parse("brief", reply)
        assert football_prompt.has_form("brief", reply, parsed)
        seen.append(parsed.move)
    counts = [seen.count(move) for move in Move]
    assert min(counts) > 55 and max(counts) < 150


# ----------------------------------------------------------------------------------------- the same prompt everywhere


@pytest.mark.parametrize("game", ["sokoban", "football"])
def test_pretraining_asks_in_the_words_of_the_evaluation(stream, processor, game):
    memory = []
    messages = sokoban_prompt.messages("brief") if game == "sokoban" else football_prompt.messages("brief", memory)
    asked = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    start, _, rest = asked.partition("<|image_pad|>")
    group = stream.room(2) if game == "sokoban" else stream.pitch()
    texts = [processor.tokenizer.decode(list(ids)) for ids, _, _ in group.branches]
    assert processor.tokenizer.decode(group.ids[: -len(group.cells)]) == start
    if game == "sokoban":
        assert all(text.startswith(rest) for text in texts)
    else:
        head, _, tail = rest.partition("move?")
        assert all(text.startswith(head) and f"move?{tail}" in text for text in texts)


def test_games_without_a_picture_train_on_what_is_played(stream, processor):
    for ids, places, _ in stream.games().branches:
        given = processor.tokenizer.decode(list(ids[: places[0]]))
        played = processor.tokenizer.decode([ids[k] for k in places])
        assert re.fullmatch(r"player[a-p],box[a-p],goal[a-p](,wall[a-p]{1,2})?;", given)
        assert re.fullmatch(r"[a-p]{2}((up|down|left|right)[a-p]{2}){1,6}</think><answer>[a-z, ]+</answer>", played)


def test_the_stream_keeps_the_rooms_it_used(stream):
    for _ in range(5):
        stream.room(0)
    used = {key for key in stream.keys if key.startswith("sokoban|")}
    assert used and used <= {sokoban.key(task.level) for task in stream.rooms}
    assert {world.split(key) for key in used} == {"train"}


def test_prompts_of_the_stage_are_the_evaluations_and_free_of_test_rooms(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sokoban_data.write_stage("micro", 12, seed, tmp_path / name / "sokoban.jsonl")
    files = [tmp_path / name / "sokoban.jsonl" for name in "abc"]
    samples = read_samples(files[0])
    hashes = [data_sha256(file, read_samples(file)) for file in files]
    assert hashes[0] == hashes[1] != hashes[2]
    card = json.loads(files[0].with_suffix(".card.json").read_text())
    assert (card["overlap_with_benchmarks"], card["excluded_levels"]) == (0, 0)
    play_settings = {k: v for k, v in find("micro_sokoban").play.items() if k != "own"}
    tasks = [sokoban_data.Task(s.id, Level.parse(s.answer), 0.0, 0, "") for s in samples]
    for shown, trained in zip(observations(tasks, SokobanEval(**play_settings), tmp_path / "e"), samples, strict=True):
        assert shown.images[0].read_bytes() == trained.images[0].read_bytes()
        assert [part | {"image": ""} for part in shown.messages[-1]["content"]] == [
            part | {"image": ""} for part in trained.messages[-1]["content"]
        ]


def test_the_benchmark_is_on_the_test_side_and_solvable(tmp_path):
    out = tmp_path / "micro_sokoban.txt"
    sokoban_data.write_levels(sokoban_data.micro_levels(12), 0, out)
    tasks = read_tasks(out)
    assert [t.level for t in tasks] == [t.level for t in sokoban.draw_rooms("test", 12, 0)]
    assert all(t.upper_reward == pytest.approx(11 - 0.1 * len(solve(t.level).actions)) for t in tasks)


def test_an_overlap_is_seen(rooms):
    tasks = [sokoban_data.Task(str(i), room, 0.0, 1, "") for i, room in enumerate(rooms[:3])]
    data = sokoban_data.micro_levels(3, "train")
    assert sokoban_data.overlap(data, tasks, []) == 0
    assert sokoban_data.overlap(data, tasks, [sokoban.images(rooms[1])[-1]]) == 1
    tested = [sokoban_data.Task("t", sokoban.images(t.level)[-1], 0.0, 1, "") for t in sokoban.draw_rooms("test", 2, 9)]
    assert sokoban_data.overlap(data, tested, []) == 2


def test_papers_levels_leave_out_the_ones_that_we_test_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sokoban_data, "PAPER", sokoban_data.SokobanData(mix={"small-v0": 3, "v0": 1}))
    out = tmp_path / "sokoban.jsonl"
    sokoban_data.write_stage("paper", 0, 0, out)
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["excluded_levels"] == len(read_levels(OWN_SOKOBAN))
    assert card["overlap_with_benchmarks"] == 0
    assert sum(sokoban_data.PAPER_MIX.values()) == 11_500


# ------------------------------------------------------------------------------------------------------------- the plan


def test_arms_differ_in_reward_data_and_start_alone():
    plan = Plan.load({"profile": "micro"})
    sokoban_arm, text_arm = (plan.train_config(arm, 1) for arm in ("direct_rl_sokoban", "fre"))
    assert sokoban_arm == plan.train_config("mgt_sokoban", 1)
    assert sokoban_arm["reward"]["kind"] == "sokoban" and sokoban_arm["freeze_vision"]
    assert plan.profile.stages == {"sokoban": {"max_steps": 20}}
    assert sokoban_arm | {"reward": 0} == text_arm | {"reward": 0, "max_steps": 20}
    assert (plan.arms["mgt_sokoban"].parent, plan.arms["direct_rl_sokoban"].parent) == ("fre", "baseline")


def test_training_and_evaluation_leave_room_for_the_longest_reply():
    assert Plan.load({"profile": "micro"}).train_config("mgt_sokoban", 0)["sampling"]["max_completion_length"] == LIMIT
    assert find("micro_sokoban").max_new_tokens >= LIMIT


@pytest.mark.parametrize("profile", ["smoke", "micro", "paper"])
def test_both_arms_are_in_every_profile(profile):
    plan = Plan.load({"profile": profile})
    assert {"mgt_sokoban", "direct_rl_sokoban"} <= set(plan.trained)
    spec = json.loads(plan.prompts_spec("sokoban"))
    assert spec["sokoban"] == ("paper" if profile == "paper" else "micro")
