"""Contract: Sokoban is played by the rules, solved exactly, shown faithfully, and scored as MageBench scores it."""

import csv
import json
import os
import random
import string
from collections import deque
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.agents import sokoban
from evals.agents.episodes import level_mean, to_records
from evals.agents.sokoban import SokobanEval, answer_text, idle, perfect, play_answer, scripted
from evals.agents.sokoban_levels import (
    PUBLISHED,
    SPECS,
    LevelSpec,
    canonical,
    generate,
    idle_score,
    levels_text,
    published_uppers,
    read_tasks,
    score,
    shared_levels,
    symmetries,
)
from evals.agents.sokoban_prompt import SECTION, messages, parse
from evals.agents.sokoban_solver import PushGrid, SearchLimit, Solution, solve, upper_reward
from evals.agents.sokoban_view import MIN_CELL, TILES, read_picture, render, strip, write_picture
from evals.records import Protocol
from evals.samples import line_of
from evals.samples import parse as parse_row
from lmmr1.sokoban import MAX_STEPS, MAX_TEXT, Action, Level, State, play, read_levels
from lmmr1.types import Rollout, UserError

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))
BOXOBAN = DATA / "boxoban" / "unfiltered_test_000.txt"
needs_boxoban = pytest.mark.skipif(not BOXOBAN.is_file(), reason="no LMMR1_DATA/boxoban: real levels are not shipped")

TINY = LevelSpec(name="tiny", height=5, width=6, boxes=1, max_moves=12)
ACTIONS = list(Action)


@pytest.fixture(scope="module")
def drawn() -> list[Level]:
    """Levels of three kinds, the small ones often solved by chance."""
    specs = (TINY, SPECS["small-v0"], SPECS["v0"])
    return [task.level for spec in specs for task in generate(spec, 20, seed=1)]


# --------------------------------------------------------------------------- a second engine, on characters, for the tests


class Naive:
    """Sokoban on a grid of characters, with a wall around it; counts boxes on targets by looking."""

    def __init__(self, text: str) -> None:
        width = max(map(len, text.split("\n")))
        rows = ["#" * width, *(row.ljust(width) for row in text.split("\n")), "#" * width]
        self.grid = [list(f"#{row}#") for row in rows]
        self.steps, self.over = 0, False

    def text(self) -> str:
        return "\n".join("".join(row[1:-1]) for row in self.grid[1:-1])

    def count(self, char: str) -> int:
        return sum(row.count(char) for row in self.grid)

    def step(self, move: str) -> float:
        before = self.count("*")
        r, c = next((r, c) for r, row in enumerate(self.grid) for c, char in enumerate(row) if char in "@+")
        dr = {"up": -1, "down": 1}.get(move, 0)
        dc = {"left": -1, "right": 1}.get(move, 0)
        one, two = (
            self.grid[r + dr][c + dc],
            self.grid[r + 2 * dr][c + 2 * dc] if self.grid[r + dr][c + dc] in "$*" else "#",
        )
        if one in "$*" and two in " .":
            self.grid[r + 2 * dr][c + 2 * dc] = "*" if two == "." else "$"
            one = self.grid[r + dr][c + dc] = "." if one == "*" else " "
        if one in " .":
            self.grid[r + dr][c + dc] = "+" if one == "." else "@"
            self.grid[r][c] = "." if self.grid[r][c] == "+" else " "
        self.steps += 1
        solved = self.count("$") == 0
        self.over = solved or self.steps == 120
        after = self.count("*")
        return -0.1 + (after > before) - (after < before) + 10 * solved


def replay_in_both(level: Level, actions) -> tuple[State, float]:
    """Play in both engines, comparing every step; the last state and the naive engine's best running reward."""
    state, other, total, best = State.start(level), Naive(level.text()), 0.0, 0.0
    for action in actions:
        assert state.done == other.over
        if state.done:
            break
        state, reward = state.step(action)
        naive_reward = other.step(action.value)
        assert reward == pytest.approx(naive_reward, abs=1e-9)
        total += naive_reward
        best = max(best, total)
    assert state.text() == other.text()
    assert state.best_reward == pytest.approx(best, abs=1e-6)
    return state, best


def test_engine_agrees_with_the_naive_one_over_10000_random_action_lists(drawn):
    rng = random.Random(0)
    ends = [
        replay_in_both(rng.choice(drawn), rng.choices(ACTIONS, k=rng.choice((5, 20, 20, 40, 125))))[0]
        for _ in range(10_000)
    ]
    assert sum(end.solved for end in ends) > 100  # otherwise the last reward was hardly compared
    assert sum(end.steps == MAX_STEPS for end in ends) > 100


HAND_SOLVED = [
    ("######\n#@   #\n# $$ #\n# .. #\n######", "right down up right down", 11.5),
    ("#######\n#  .  #\n#  $  #\n#  @  #\n#  $  #\n#  .  #\n#######", "up down down", 11.7),
    ("######\n#@ $.#\n#    #\n######", "right right", 10.8),
    ("#######\n#     #\n#.@$  #\n#     #\n#######", "up right right down left left", 10.4),  # around the box first
]


@pytest.mark.parametrize(("text", "moves", "reward"), HAND_SOLVED)
def test_levels_solved_by_hand_replay_to_their_rewards_and_score_100(text, moves, reward):
    level, actions = Level.parse(text), [Action(move) for move in moves.split()]
    end, best = replay_in_both(level, actions)
    assert end.solved and end.steps == len(actions)
    assert best == pytest.approx(reward, abs=1e-9) == end.best_reward
    assert len(solve(level).actions) == len(actions)
    for form in ("tags", "sections", "brief"):
        played = play_answer(level, form, answer_text(form, actions))
        assert score(played.end.best_reward, upper_reward(level, solve(level))) == 100


@pytest.mark.skipif(not BOXOBAN.is_file(), reason="no LMMR1_DATA/boxoban")
def test_fifty_boxoban_levels_replay_to_the_right_reward():
    solved = 0
    for level in read_levels(BOXOBAN).values():
        try:
            solution = solve(level, max_nodes=800)  # the easier half, to stay quick
        except SearchLimit:
            continue
        end, best = replay_in_both(level, solution.actions)
        assert end.solved
        assert end.steps == len(solution.actions)
        assert best == pytest.approx(10 + 4 - 0.1 * len(solution.actions), abs=1e-6)
        assert upper_reward(level, solution) == pytest.approx(best, abs=1e-6)
        solved += 1
        if solved == 50:
            return
    raise AssertionError(f"only {solved} levels were solved")


def test_engine_agrees_with_gym_sokoban_where_it_is_installed(drawn):
    """Not a dependency: it needs gym, which is unmaintained and breaks on NumPy 2 (see docs/sokoban.md)."""
    gym_env = pytest.importorskip("gym_sokoban.envs.sokoban_env", reason="gym-sokoban is not installed")
    import numpy as np

    codes = {Action.UP: 1, Action.DOWN: 2, Action.LEFT: 3, Action.RIGHT: 4}
    rng = random.Random(0)
    for level in drawn:
        env = gym_env.SokobanEnv.__new__(gym_env.SokobanEnv)
        fixed = np.zeros((level.height, level.width), int)
        for cell in level.floor:
            fixed[cell] = 2 if cell in level.targets else 1
        state = fixed.copy()
        for cell in level.boxes:
            state[cell] = 3 if cell in level.targets else 4
        state[level.player] = 5
        env.__dict__.update(
            room_fixed=fixed, room_state=state, player_position=np.array(level.player), num_boxes=len(level.boxes),
            boxes_on_target=0, num_env_steps=0, max_steps=120, reward_last=0, penalty_for_step=-0.1,
            penalty_box_off_target=-1, reward_box_on_target=1, reward_finished=10, render=lambda mode: None,
        )  # fmt: skip
        ours = State.start(level)
        for action in [*rng.choices(ACTIONS, k=20), *([] if (s := solve(level)) is None else s.actions)]:
            if ours.done:
                break
            _, theirs, done, _ = env.step(codes[action])
            ours, reward = ours.step(action)
            assert (reward, ours.done) == (pytest.approx(theirs), done)


# --------------------------------------------------------------------------------------------------------------- solver


def shortest(level: Level) -> int | None:
    """Moves of a shortest solution, by breadth-first search move by move."""
    queue, seen = deque([(level.player, level.boxes, 0)]), {(level.player, level.boxes)}
    while queue:
        player, boxes, moves = queue.popleft()
        if boxes == level.targets:
            return moves
        for action in Action:
            after = State(level, player, boxes).step(action)[0]
            if (after.player, after.boxes) not in seen:
                seen.add((after.player, after.boxes))
                queue.append((after.player, after.boxes, moves + 1))
    return None


@st.composite
def small_levels(draw) -> Level:
    """Any level of up to 5 x 5 cells with up to 3 boxes, walls or none at its edge, solvable or not."""
    height, width = draw(st.integers(1, 5)), draw(st.integers(3, 5))
    boxes = draw(st.integers(1, min(3, (height * width - 1) // 2)))
    cells = draw(st.lists(st.sampled_from("   #"), min_size=height * width, max_size=height * width))
    places = draw(st.permutations(range(height * width)))[: 2 * boxes + 1]
    for char, place in zip("@" + "$" * boxes + "." * boxes, places, strict=True):
        cells[place] = char
    return Level.parse("\n".join("".join(cells[r * width : (r + 1) * width]) for r in range(height)))


@given(small_levels())
def test_solutions_are_shortest_and_solve(level):
    solution, moves = solve(level), shortest(level)
    assert (solution is None) == (moves is None)
    if solution:
        end = play(level, solution.actions)[-1]
        assert end.solved
        assert (len(solution.actions), end.steps) == (moves, moves)
        assert end.best_reward == upper_reward(level, solution)


@given(small_levels())
def test_the_bound_never_exceeds_the_pushes_that_are_left(level):
    """Otherwise a longer solution could be taken for a shortest one. Checked along a solution, at every position."""
    solution, grid = solve(level), PushGrid(level)
    if solution is None:
        return
    states = play(level, solution.actions)
    left = sum(before.boxes != after.boxes for before, after in pairwise(states))
    for before, after in pairwise(states):
        assert grid.bound(grid.mask(before.boxes)) <= left
        left -= before.boxes != after.boxes
    assert grid.bound(grid.mask(states[-1].boxes)) == left == 0


def test_the_bound_is_the_pushes_of_a_lone_box():
    level = Level.parse("#######\n#     #\n#  $  #\n#@    #\n#    .#\n#######")
    grid = PushGrid(level)
    assert grid.bound(grid.mask(level.boxes)) == 4  # two down, two right
    assert grid.bound(grid.mask(frozenset({(1, 1)}))) >= 10**6  # a corner


def best_of_all_plays(level: Level, steps: int) -> float:
    """Best running reward over every action list of that length, by dynamic programming over positions."""
    best, layer = 0, {(level.player, level.boxes): 0}
    for _ in range(steps):
        ahead = {}
        for (player, boxes), tenths in layer.items():
            if boxes == level.targets:
                continue
            for action in Action:
                after = State(level, player, boxes, 0, tenths).step(action)[0]
                at = (after.player, after.boxes)
                ahead[at] = max(ahead.get(at, -(10**9)), after.tenths)
        layer = ahead
        best = max([best, *layer.values()])
    return best / 10


def test_upper_reward_is_the_best_of_all_plays():
    for task in generate(TINY, 5, seed=3) + generate(LevelSpec(name="two", height=5, width=5, boxes=2), 3, seed=3):
        assert task.upper_reward == best_of_all_plays(task.level, 60)


def test_solver_says_when_it_gives_up_and_when_there_is_nothing():
    level = generate(SPECS["v0"], 1, seed=0)[0].level
    with pytest.raises(SearchLimit):
        solve(level, max_nodes=1)
    assert solve(Level.parse("#####\n#$@.#\n#####")) is None  # against the wall: no target can be reached
    assert solve(Level.parse("######\n#$#@.#\n######")) is None  # walled off
    # two boxes that could each reach a target, but only the same one
    assert solve(Level.parse("########\n#@ $ $.#\n#.######\n########")) is None


def test_upper_reward_refuses_what_an_episode_cannot_hold():
    """With one box a solution of 110 moves pays 11 - 11 = 0, as much as doing nothing."""
    level = Level.parse("#####\n#@$.#\n#####")

    def upper(moves: int) -> float:
        return upper_reward(level, Solution((Action.UP,) * moves, nodes=0))

    assert (upper(1), upper(110)) == (10.9, 0.0)
    with pytest.raises(ValueError, match="leaving one box may pay more"):
        upper(111)
    with pytest.raises(ValueError, match="121 moves, an episode 120 steps"):
        upper(121)


# ---------------------------------------------------------------------------------------------------------------- score


def test_idle_scores_are_the_published_ones():
    """Table 3 prints 41.18 for the idle baseline on the mini set."""
    assert (len(published_uppers(True)), len(published_uppers(False))) == (20, 182)
    assert idle_score(published_uppers(True)) == pytest.approx(41.175, abs=0.005)
    assert idle_score(published_uppers(False)) == pytest.approx(45.60, abs=0.005)


def test_published_upper_rewards_are_solutions_by_our_rule():
    """10 and 1 a box, less 0.1 a move: the rule by which our own levels get theirs."""
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["upper_reward"]) == pytest.approx(10 + int(row["boxes"]) - 0.1 * int(row["steps"]))


def test_score_is_linear_in_the_best_reward():
    assert score(11.7, 11.7) == 100
    assert score(0.0, 11.7) == pytest.approx(41.5)
    assert score(0.9, 11.7) == pytest.approx(46.0)


# --------------------------------------------------------------------------------------------------------------- levels


def test_canonical_form_is_the_same_for_all_eight_images_and_for_what_cannot_matter(drawn):
    for level in drawn:
        images = {"\n".join(rows) for rows in symmetries(level.text().split("\n"))}
        assert {canonical(Level.parse(image)) for image in images} == {canonical(level)}
        padded = "\n".join(["#" * (level.width + 3), *(f"##{row} " for row in level.text().split("\n"))])
        assert canonical(Level.parse(padded)) == canonical(level)
    assert len({canonical(level) for level in drawn}) == len(drawn)
    assert len({"".join(rows) for rows in symmetries(["ab", "cd"])}) == 8


def test_generated_levels_are_different_solvable_and_the_same_for_the_same_seed():
    tasks = generate(SPECS["small-v0"], 40, seed=5)
    assert tasks == generate(SPECS["small-v0"], 40, seed=5)
    assert tasks[:10] == generate(SPECS["small-v0"], 10, seed=5)
    assert {t.level for t in tasks}.isdisjoint({t.level for t in generate(SPECS["small-v0"], 40, seed=6)})
    assert len({canonical(task.level) for task in tasks}) == 40
    for task in tasks:
        assert (task.level.height, task.level.width, len(task.level.boxes)) == (7, 7, 2)
        assert not task.level.boxes & task.level.targets
        assert 1 <= task.moves <= 50
        assert play(task.level, solve(task.level).actions)[-1].best_reward == task.upper_reward


def test_excluded_levels_are_not_drawn_in_any_orientation():
    test = [task.level for task in generate(TINY, 60, seed=0)]
    free = [task.level for task in generate(TINY, 60, seed=7)]
    kept = [task.level for task in generate(TINY, 60, seed=7, exclude={canonical(level) for level in test})]
    turned = [Level.parse("\n".join(symmetries(level.text().split("\n"))[5])) for level in test]
    assert shared_levels(free, turned) > 0
    assert shared_levels(kept, turned) == 0


def test_a_specification_without_enough_levels_is_refused():
    with pytest.raises(UserError, match="'corridor': 0 of 5 levels"):
        generate(LevelSpec(name="corridor", height=3, width=3, boxes=1), 5, seed=0)
    with pytest.raises(UserError, match="allow more moves"):
        generate(LevelSpec(name="far", height=4, width=4, boxes=1, min_moves=40), 1, seed=0)


def test_level_files_round_trip_and_bad_ones_are_refused_by_name(tmp_path):
    tasks = generate(TINY, 4, seed=0)
    path = tmp_path / "levels.txt"
    path.write_text(levels_text(tasks))
    again = read_tasks(path)
    assert [(t.id, t.level, t.upper_reward, t.moves) for t in again] == [
        (t.id, t.level, t.upper_reward, t.moves) for t in tasks
    ]
    assert again[0].category == "5x6-1"
    assert len(read_tasks(path, limit=2)) == 2
    for text, message in {
        "": "no level in it",
        "#####\n#@$.#\n": "expected a line",
        "; a\n#@$.#\n\n; a\n#@$.#\n": "'a' stands twice",
        "; a\n#@$x#\n": "level a: character 'x'",
        "; a\n#$@.#\n": "level a: it has no solution",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_tasks(path)
    with pytest.raises(UserError, match="no such level file"):
        read_tasks(tmp_path / "missing.txt")
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_tasks(path)
    path.write_text(levels_text(generate(SPECS["v0"], 1, seed=0)))
    with pytest.raises(UserError, match="no answer within 1 positions"):
        read_tasks(path, max_nodes=1)


@needs_boxoban
def test_boxoban_file_is_read_whole():
    levels = read_levels(BOXOBAN)
    assert len(levels) == 1000
    assert {(level.height, level.width, len(level.boxes)) for level in levels.values()} == {(10, 10, 4)}
    blocks = BOXOBAN.read_text().split("\n\n")
    assert levels["7"].text() == blocks[7].partition("\n")[2]


# ------------------------------------------------------------------------------------------------------------- pictures


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 300), st.randoms(use_true_random=False))
def test_a_picture_reads_back_to_its_position(height, width, extra, rng):
    position = "\n".join("".join(rng.choices(TILES, k=width)) for _ in range(height))
    longest = MIN_CELL * max(height, width) + extra
    picture = render(position, longest)
    assert max(picture.size) == longest
    assert read_picture(picture, height, width) == position


def test_a_picture_survives_a_file_and_has_the_papers_size(tmp_path, drawn):
    from PIL import Image

    for i, level in enumerate(drawn[::10]):
        write_picture(tmp_path / "x.png", render(level.text()))
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.mode == "RGB"
            assert max(picture.size) == 640
            assert read_picture(picture, level.height, level.width) == level.text(), i
        assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    with pytest.raises(UserError, match="a cell needs 8"):
        render(drawn[0].text(), 20)


def test_a_strip_shows_first_and_last_position_and_no_more_frames_than_allowed():
    task = generate(SPECS["small-v0"], 1, seed=0)[0]
    actions = solve(task.level).actions
    states = play(task.level, actions)
    whole = strip(states, actions, cell=20, frames=100, columns=100)
    assert whole.size == (len(states) * (140 + 6) + 6, 140 + 14 + 6 + 6)
    last = whole.crop((6 + (len(states) - 1) * 146, 20, 6 + (len(states) - 1) * 146 + 140, 160))
    assert read_picture(last, 7, 7) == states[-1].text()
    few = strip(states, actions, cell=20, frames=3, columns=2)
    assert few.size == (2 * 146 + 6, 2 * 160 + 6)
    assert read_picture(few.crop((6, 20, 146, 160)), 7, 7) == task.level.text()
    assert strip(states[:1], ()).size == (146 + 6, 160 + 6)


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("form", ["tags", "sections", "brief"])
def test_answers_round_trip_in_every_form(form):
    rng = random.Random(0)
    for n in (0, 1, 7, 130):
        actions = tuple(rng.choices(ACTIONS, k=n))
        parsed = parse(form, answer_text(form, actions))
        assert parsed.actions == actions
        assert parsed.dropped == (n == 0)  # an empty list is one empty piece


@pytest.mark.parametrize(
    ("form", "response", "actions", "dropped"),
    [
        ("tags", "<think>Left, Up</think><answer>Right,DOWN</answer>", "right down", 0),
        ("tags", "<answer>Left</answer> no: <answer>Up</answer>", "up", 0),
        ("tags", "<think>..</think><answer>Up, Down", "up down", 0),  # cut off
        ("tags", "Left, Up", "left up", 0),
        ("tags", "go Left, Up, then stop", "up", 2),
        ("sections", "### Analyze\nLeft, Up\n### Actions\nRight, Down", "right down", 0),
        ("sections", "### Actions\nRight, down, DOWN", "right", 2),  # exact case
        ("sections", "### Actions\nUp, Left\n### Actions\nDown", "up left", 0),
        ("sections", "Up, Left", "up left", 0),
        # MageBench's parser on LMM-R1's layout: tags stick to the first and the last action
        ("sections", "<think>x</think><answer>Up, Left, Down</answer>", "left", 2),
        ("brief", "<answer>up</answer>", "up", 0),
        ("tags", "", "", 1),
    ],
)
def test_what_each_form_reads(form, response, actions, dropped):
    parsed = parse(form, response)
    assert [a.value for a in parsed.actions] == actions.split()
    assert parsed.dropped == dropped


HOSTILE = [
    "", "\x00", "\ud800", "<answer>" * 10_000, "<answer>" + "Up," * 30_000, "Up," * 1_000_000, "x" * 5_000_000, "," * 100_000,
    "<answer>" + "<think>" * 9_000 + "Up" + "</answer>", "\u202eUp\u202c,\u200bUp", "Ｕｐ,ＵＰ", "__import__('os')",
    "<answer><b>Up</b></answer>", "### Actions" * 1000, "{}" * 1000, "%s%n", "Up\n\n\nUp", "Up;Up", "['Up']", '{"a":"Up"}',
]  # fmt: skip


@pytest.mark.parametrize("form", ["tags", "sections", "brief"])
@pytest.mark.parametrize("response", HOSTILE, ids=lambda text: ascii(text[:16]))
def test_no_text_breaks_an_episode_or_moves_unseen(form, response):
    level = Level.parse("#####\n#   #\n# $ #\n#@ .#\n#####")
    episode = play_answer(level, form, response)
    assert episode.end.steps <= MAX_STEPS
    assert episode.end.steps <= response.count("Up")
    pieces = 1 if len(response) > MAX_TEXT else response.count(",") + 1
    assert len(episode.parsed.actions) + episode.parsed.dropped <= pieces
    assert episode.note.isascii()
    assert len(episode.note) < 120


@given(
    st.text(alphabet=string.printable + "é\u3000\u202e", max_size=80), st.sampled_from(["tags", "sections", "brief"])
)
def test_every_move_stands_in_the_text(text, form):
    parsed = parse(form, text)
    words = [piece.strip().lower() for piece in text.replace("<answer>", ",").replace(SECTION, ",").split(",")]
    for action in Action:
        assert parsed.actions.count(action) <= words.count(action.value)


def test_prompts_have_one_image_and_say_what_is_parsed():
    for form, marks in {"tags": ["<think>", "</answer>"], "sections": [SECTION], "brief": []}.items():
        chat = messages(form, "a.png")
        items = chat[-1]["content"]
        assert items[0] == {"type": "image", "image": "a.png"}
        assert all(mark in items[1]["text"] for mark in marks)
        assert (chat[0]["role"] == "system") == (form != "brief")


# ------------------------------------------------------------------------------------------------------------- the loop


@pytest.fixture(scope="module")
def tasks():
    return generate(TINY, 5, seed=0) + generate(SPECS["small-v0"], 3, seed=0)


@pytest.mark.parametrize("form", ["tags", "sections", "brief"])
def test_perfect_player_scores_100_and_idle_player_the_closed_form(tasks, tmp_path, form):
    cfg = SokobanEval(form=form, repeats=2)
    perfect_rows = sokoban.run(scripted(perfect, form), tasks, cfg, 4, tmp_path)
    assert level_mean(perfect_rows, "score") == (100, 0, 8)
    assert {row.note for row in perfect_rows} == {"solved"}
    assert {(row.accuracy, row.format) for row in perfect_rows} == {(1.0, 1.0)}
    idle_rows = sokoban.run(scripted(idle, form), tasks, cfg, 4, tmp_path)
    assert level_mean(idle_rows, "score")[0] == pytest.approx(idle_score(task.upper_reward for task in tasks))
    assert {row.note for row in idle_rows} == {"no_action; dropped 1, first ''"}


@needs_boxoban
def test_perfect_player_scores_100_on_boxoban(tmp_path):
    rows = sokoban.run(scripted(perfect), read_tasks(BOXOBAN, limit=4), SokobanEval(repeats=1), 8, tmp_path)
    assert [row.score for row in rows] == [100.0] * 4


class Answers:
    """An engine that says what it is told, one text per repeat, and remembers how it was asked."""

    def __init__(self, texts):
        self.texts, self.calls = texts, []

    def generate(self, samples, sampling, num_generations, seed):
        self.calls.append((len(samples), num_generations, seed, sampling.temperature))
        return [tuple(Rollout(s.id, (1, 2), (0.0, 0.0), t, "stop") for t in self.texts) for s in samples]


def player(engine):
    return sokoban.EvalModel(engine, lambda sample: json.dumps(sample.messages), "test", "none", None, None)


def test_rows_say_what_was_shown_said_played_and_earned(tasks, tmp_path):
    solution = answer_text("tags", perfect(tasks[0].level))
    engine = Answers([solution, "<think>\ud800</think><answer>jump, fly</answer>", "x" * 10**6])
    rows = sokoban.run(player(engine), tasks[:3], SokobanEval(seed=9), 7, tmp_path)
    assert engine.calls == [(2, 3, (9, 0), 0.1), (1, 3, (9, 2), 0.1)]
    assert [(row.doc_id, row.repeat) for row in rows] == [(i, k) for i in range(3) for k in range(3)]
    first, dropped, huge = rows[:3]
    assert (first.score, first.accuracy, first.steps) == (100, 1.0, tasks[0].moves)
    assert first.target == f"{tasks[0].upper_reward:.1f}"
    assert (dropped.score, dropped.dropped) == (pytest.approx(score(0, tasks[0].upper_reward)), 2)
    assert dropped.note == "no_action; dropped 2, first 'jump'"
    assert huge.note == "no_action; dropped 1, first a text of 1000000 characters"
    assert len({row.prompt_hash for row in rows}) == 3  # by level: the pictures differ
    for row in rows:
        assert parse_row(line_of(row).encode("ascii"), "x") == row
        assert Level.parse(row.doc.level) == tasks[row.doc_id].level
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_records_count_levels_not_repeats(tasks, tmp_path):
    rows = sokoban.run(scripted(idle), tasks, SokobanEval(), 8, tmp_path)
    settings = sokoban.protocol_settings(tasks, SokobanEval(), 8)
    model = {"prompt_hash": "0", "backend": "b", "dtype": "d", "min_pixels": None, "max_pixels": None}
    records = to_records(
        rows, benchmark="sokoban", metric="score", checkpoint="k", protocol=Protocol(**settings, **model), samples="s"
    )
    assert [(r.subset, r.n) for r in records] == [("all", 8), ("small-v0", 3), ("tiny", 5)]
    scores = [score(0, task.upper_reward) / 100 for task in tasks]
    mean = sum(scores) / 8
    variance = sum((s - mean) ** 2 for s in scores) / 7
    assert records[0].value == pytest.approx(mean)
    assert records[0].stderr == pytest.approx((variance / 8) ** 0.5)
    solved = to_records(
        rows,
        benchmark="sokoban",
        metric="accuracy",
        checkpoint="k",
        protocol=Protocol(**settings, **model),
        samples="s",
    )
    assert solved[0].value == 0
    assert sokoban.protocol_settings(tasks[1:], SokobanEval(), 8)["data_sha256"] != settings["data_sha256"]


def test_strips_are_written_for_the_levels_that_paid_most(tasks, tmp_path):
    right = answer_text("tags", perfect(tasks[2].level))
    rows = sokoban.run(player(Answers(["nothing", right])), tasks, SokobanEval(repeats=2), 16, tmp_path)
    best = max(rows, key=lambda row: row.best_reward)
    assert best.repeat == 1
    paths = sokoban.write_strips(rows, "tags", tmp_path / "strips", 3)
    assert paths[0].name == f"{best.doc_id:05d}-1.png"
    assert len(paths) == len({path.name.partition("-")[0] for path in paths}) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_real_model_plays_through_the_loop(tiny_model, tmp_path):
    """Random weights: what is checked is that pictures, prompts, sampling and repeats fit together."""
    from evals.generation import load_model

    cfg = SokobanEval(form="brief", repeats=2, temperature=1.0, max_new_tokens=8, image_side=168)
    rows = sokoban.run(load_model(str(tiny_model)), generate(TINY, 3, seed=0), cfg, 4, tmp_path)
    assert len(rows) == 6
    assert all(1 <= row.length <= 8 for row in rows)
    assert len({row.response for row in rows}) > 3  # repeats differ
    again = sokoban.run(load_model(str(tiny_model)), generate(TINY, 3, seed=0), cfg, 4, tmp_path)
    assert rows == again


def test_repeats_at_temperature_zero_are_refused():
    with pytest.raises(ValueError, match="are equal"):
        SokobanEval(temperature=0)
    assert SokobanEval(temperature=0, repeats=1).sampling.temperature == 0
