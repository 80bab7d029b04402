"""Contract: the Sokoban reward is a pure function of hostile text, equal to arithmetic done by hand, and says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmr1.rewards.sokoban import (
    SokobanRewardConfig,
    action_length_term,
    is_looping,
    sokoban_reward,
    split_blocks,
    thinking_length_term,
)
from lmmr1.sokoban import MAX_TEXT, Action, Level, State, parse_actions, play
from lmmr1.types import UserError

PLAIN = SokobanRewardConfig()
RELEASED = SokobanRewardConfig(length_terms=True)
DROP = SokobanRewardConfig(on_invalid="drop", length_terms=True)

ONE = Level.parse("#####\n#@$.#\n#####")
TWO = Level.parse("#######\n#@$.  #\n#  $. #\n#     #\n#######")
ROW = Level.parse("#######\n#@$.. #\n#  $  #\n#     #\n#######")


def said(actions: str, thinking: str = "go there") -> str:
    return f"<think>{thinking}</think><answer>{actions}</answer>"


def rewards(level: Level, actions: str) -> list[float]:
    state, paid = State.start(level), []
    for action in actions.split():
        state, reward = state.step(Action(action))
        paid.append(reward)
    return paid


@pytest.mark.parametrize(
    ("level", "actions", "expected"),
    [
        (ONE, "right", [-0.1 + 1 + 10]),
        (ONE, "up left down right", [-0.1, -0.1, -0.1, 10.9]),  # walls stop the player, the step costs
        (TWO, "right down right", [-0.1 + 1, -0.1, -0.1 + 1 + 10]),
        (TWO, "right right", [-0.1 + 1, -0.1 - 1]),  # onto the target and off it again
        (TWO, "right right right right", [0.9, -1.1, -0.1, -0.1]),  # to the wall; there the box cannot be pushed
        (ROW, "right right", [-0.1 + 1, -0.1 + 1 - 1]),  # from one target onto the next: as many as before
        (ROW, "right down down right up", [-0.1 + 1, -0.1, -0.1, -0.1, -0.1]),  # two boxes in a row do not move
    ],
)
def test_every_step_pays_as_computed_by_hand(level, actions, expected):
    assert rewards(level, actions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("level", "actions", "expected"),
    [
        (ONE, "Right", 10.9 + 0.5),  # -0.1 + 1 + 10 for the step that solves
        (ONE, "Left, Right", -0.1 + 10.9 + 0.5),
        (ONE, " UP,\n right ", -0.1 + 10.9 + 0.5),  # any case, blanks around
        (TWO, "Right,Down,Right", 0.9 - 0.1 + 10.9 + 0.5),  # = 10 + 2 boxes - 3 steps / 10, and the format
        (TWO, "Right,Down,Right,Up,Up", 0.9 - 0.1 + 10.9 + 0.5),  # nothing is played after the end
        (TWO, "Right,Right", 0.9 + 0.5),  # the best sum counts, not the last: 0.9, then -0.2
        (TWO, "Down,Up", 0.0 + 0.5),  # sums -0.1, -0.2: the best is the empty sum
        (ONE, ",".join(["Up"] * 49 + ["Right"]), -4.9 + 10.9 + 0.5),  # 50 actions are played
        (ONE, ",".join(["Up"] * 50 + ["Right"]), 0.0 + 0.5),  # the 51st is not
    ],
)
def test_reward_is_best_running_reward_and_format(level, actions, expected):
    reward = sokoban_reward(said(actions), level, PLAIN)
    assert reward.total == pytest.approx(expected, abs=1e-12)
    assert reward.format == 1.0
    assert (reward.action_length, reward.thinking_length) == (0.0, 0.0)  # off by default


def test_the_120th_step_is_the_last():
    cfg = SokobanRewardConfig(max_actions=120)
    late = sokoban_reward(said(",".join(["Up"] * 119 + ["Right"])), ONE, cfg)
    assert late.solved
    assert late.environment == 0.0  # -11.9 + 10.9 = -1.0, less than the empty sum
    assert not sokoban_reward(said(",".join(["Up"] * 120 + ["Right"])), ONE, cfg).solved
    with pytest.raises(ValueError, match="over"):
        play(ONE, [Action.UP] * 120)[-1].step(Action.RIGHT)


@pytest.mark.parametrize(
    ("actions", "thinking", "expected"),
    [
        ("Right", "go there", 10.9 + 0.5 + 0.05 * 1 + 0.001 * 2),
        ("Right", "a b go", 10.9 + 0.5 + 0.05 * 1 + 0.001 * 1),  # words of one letter do not count
        ("Right", "word " * 500, 10.9 + 0.5 + 0.05 * 1 + 0.2),  # capped
        ("Up,Down," * 9 + "Up", "", 0.5 + min(0, 0.05 * 19 - 0.2)),  # Up,Down 9 times in a row: 0.75, so 0
        ("Up,Down,Left," * 6 + "Up", "", 0.5 + 0.05 * 19),  # 6 times a triple is allowed
        ("Up,Left,Down,Left," * 5, "", 0.5 + 1.0),  # n = 20: 1 - 0.2 * 0
        ("Up,Up,Left,Left,Down,Down,Left," * 7, "", 0.5 + 1 - 0.2 * ((49 - 20) / 30) ** 2),
        ("Up," * 8, "", 0.5 + min(0, 0.05 * 8 - 0.2)),  # 0.2, so 0
        ("Up," * 7, "", 0.5 + 0.05 * 7),  # 7 in a row are allowed
        ("Up," * 200, "", 0.5 + 1 - 0.2 * (180 / 30) ** 2 - 0.2),  # -6.2, then 0.2 less
    ],
)
def test_released_length_terms(actions, thinking, expected):
    assert sokoban_reward(said(actions.strip(","), thinking), ONE, RELEASED).total == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("response", "note"),
    [
        ("", "no_format"),
        ("Right", "no_format"),
        ("<answer>Right</answer>", "no_format"),
        ("<think>x<answer>Right</answer>", "no_format"),
        ("<think>x</think><answer>Right", "no_format"),
        ("<think>x</think><answer>Right</answer></answer>", "no_format"),
        ("<think><think>x</think></think><answer>Right</answer>", "no_format"),
        ("<think>x<answer>Right</answer></think>", "no_format"),  # nested
        ("<answer>Right</answer><think>x</think>", "no_format"),
        ("<THINK>x</THINK><ANSWER>Right</ANSWER>", "no_format"),
        (said(""), "invalid_action: dropped 1, first ''"),
        (said("Right,"), "invalid_action: dropped 1, first ''"),
        (said("Right, jump, Up, fly"), "invalid_action: dropped 2, first 'jump'"),
        (said("Right Up"), "invalid_action: dropped 1, first 'Right Up'"),
        (said("Right;Up"), "invalid_action: dropped 1, first 'Right;Up'"),
        (said("[Right]"), "invalid_action: dropped 1, first '[Right]'"),
        (said("Ｒｉｇｈｔ"), r"invalid_action: dropped 1, first '\uff32\uff49\uff47\uff48\uff54'"),
        (said("R\u0131ght"), r"invalid_action: dropped 1, first 'R\u0131ght'"),
        (said("\ud800\x00"), r"invalid_action: dropped 1, first '\ud800\x00'"),
    ],
)
def test_a_bad_answer_earns_nothing_and_the_note_says_why(response, note):
    reward = sokoban_reward(response, ONE, RELEASED)
    assert (reward.total, reward.format, reward.note) == (0.0, 0.0, note)


def test_dropping_pays_the_actions_but_neither_format_nor_length():
    reward = sokoban_reward(said("jump, Up, Right,"), ONE, DROP)
    assert reward.total == pytest.approx(-0.1 + 10.9)
    assert (reward.format, reward.action_length, reward.note) == (0.0, 0.0, "solved; dropped 2, first 'jump'")
    assert sokoban_reward(said("jump"), ONE, DROP).total == 0.0


def test_notes_and_the_record_for_training():
    reward = sokoban_reward(said("Right,Up,Up"), ONE, PLAIN)
    assert reward.note == "solved; 2 not played"
    record = reward.as_reward()
    assert (record.total, record.accuracy, record.format) == (reward.total, 1.0, 1.0)
    assert sokoban_reward(said("Up"), ONE, PLAIN).note == "unsolved"


HOSTILE = {
    "a megabyte": "Right," * 200_000,
    "a million actions": said(",".join(["Right"] * 1_000_000)),
    "a million tags": "<think>" * 1_000_000,
    "as many actions as are read": said(",".join(["Up"] * (MAX_TEXT // 4))),
    "commas": said("," * (MAX_TEXT - 100)),
    "one long word": said("r" * (MAX_TEXT - 100)),
    "one long blank": said(" " * (MAX_TEXT - 100) + "Right"),
    "null bytes": said("\x00" * 1000),
    "right to left": said("\u202eRight\u202c"),
    "code": said("__import__('os').remove('canary')"),
    "markup": said("<script>alert(1)</script>"),
    "deep tags": "<think>" * 20_000 + "</think>" * 20_000 + "<answer>Right</answer>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_earn_no_solution_and_are_refused_or_played_to_the_limit(name, monkeypatch):
    steps = []
    step = State.step
    monkeypatch.setattr(State, "step", lambda self, action: steps.append(action) or step(self, action))
    reward = sokoban_reward(HOSTILE[name], ONE, RELEASED)
    assert len(steps) <= RELEASED.max_actions
    assert reward.environment == (10.9 if name == "one long blank" else 0.0)
    assert len(reward.note) < 120
    assert reward.note.isascii()
    if len(HOSTILE[name]) > MAX_TEXT:
        assert reward.note.startswith("refused")


@given(st.text(max_size=60), st.sampled_from(["{}", "<think>{}</think><answer>{}</answer>", "<think>{}<answer>{}"]))
def test_any_text_is_judged_without_an_error(text, frame):
    reward = sokoban_reward(frame.replace("{}", text), TWO, RELEASED)
    assert reward.environment in (0.0, 0.9) or reward.solved
    assert reward.note


@given(st.lists(st.sampled_from([*Action, "jump", "", "Upp", "lefт"]), max_size=30))
def test_every_piece_is_an_action_or_counted_as_dropped(pieces):
    parsed = parse_actions(", ".join(map(str, pieces)))
    assert list(parsed.actions) == [p for p in pieces if isinstance(p, Action)]
    assert len(parsed.actions) + parsed.dropped == max(1, len(pieces))  # an empty text is one empty piece


def test_no_other_character_of_unicode_reads_as_a_letter_of_an_action():
    """Case folding maps some letters beyond ASCII into it; none of them may make a move."""
    for code in range(0x80, 0x110000):
        for action in ("Left", "Right", "Up", "Down"):
            if chr(code).lower()[:1] in action.lower():
                for i in range(len(action)):
                    assert not parse_actions(action[:i] + chr(code) + action[i + 1 :]).actions


def test_exact_case_is_magebenchs():
    assert parse_actions("Left, left, LEFT, Up", exact_case=True).actions == (Action.LEFT, Action.UP)


def naive_looping(actions: str) -> bool:
    return any(
        actions[i : i + k] * 8 == actions[i : i + 8 * k] for k in range(1, 6) for i in range(len(actions) - 8 * k + 1)
    )


@given(st.text("LR", max_size=4), st.text("LRU", min_size=1, max_size=6), st.integers(0, 12), st.text("LR", max_size=4))
def test_looping_agrees_with_its_definition(before, unit, times, after):
    text = before + unit * times + after
    names = {"L": Action.LEFT, "R": Action.RIGHT, "U": Action.UP}
    assert is_looping([names[c] for c in text]) is naive_looping(text)


def test_length_terms_at_their_edges():
    varied = (Action.UP, Action.UP, Action.LEFT, Action.DOWN, Action.LEFT, Action.RIGHT, Action.LEFT) * 7
    assert action_length_term(varied[:19]) == pytest.approx(0.95)
    assert action_length_term(varied[:20]) == pytest.approx(1.0)
    assert action_length_term(varied[:35]) == pytest.approx(1 - 0.2 / 4)
    assert action_length_term(()) == 0.0
    assert thinking_length_term("ab " * 200) == pytest.approx(0.2)
    assert split_blocks("a<think>b</think> c <answer>d</answer>e") == ("b", "d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 to 64"),
        ("#" * 65, "1 to 64"),
        ("#\n" * 70, "1 to 64"),
        ("#@$.x#", "character 'x'"),
        ("#$.#", "0 players"),
        ("#@@$.#", "2 players"),
        ("#@ #", "0 boxes"),
        ("#@$..#", "1 boxes and 2 targets"),
        ("#@*#", "already"),
    ],
)
def test_a_bad_level_is_refused_with_its_reason(text, message):
    with pytest.raises(UserError, match=message):
        Level.parse(text)


def test_a_level_without_walls_ends_at_the_edge_of_its_text():
    level = Level.parse("@$.")
    assert rewards(level, "left up down right") == pytest.approx([-0.1, -0.1, -0.1, 10.9])
    assert rewards(Level.parse("$@.\n   "), "left down") == pytest.approx([-0.1, -0.1])  # no push over the edge


def test_a_box_that_starts_on_a_target_pays_only_when_it_moves():
    level = Level.parse("#######\n#@*$. #\n#     #\n#######")
    assert rewards(level, "right down") == pytest.approx([-0.1, -0.1])
    level = Level.parse("#######\n#@* $.#\n#######")
    assert rewards(level, "right") == pytest.approx([-0.1 - 1])
