"""Contract: settings that cannot train are refused when they are read, and their neighbours are not."""

import sys

import pytest

from lmmr1.config import TrainConfig, parse_settings, read_mapping
from lmmr1.types import UserError

REFUSED = {
    "minibatches": ({"num_prompts": 6, "num_minibatches": 4}, "num_minibatches 4 does not divide num_prompts 6"),
    "one sample": ({"num_generations": 1, "advantage": "rloo"}, "num_generations 1: rloo compares samples"),
    "greedy": ({"sampling": {"temperature": 0}}, "sampling.temperature 0: greedy samples"),
    "k1 in the loss": ({"loss": {"beta": 0.1, "kl_estimator": "k1"}}, "loss.kl_estimator 'k1': in the loss"),
    "adapters with a critic": ({"advantage": "gae", "lora": {}}, "lora: a critic is trained as a whole"),
    "TRL's options with our loop": ({"trl": {"top_k": 8}}, "trl: top_k: options of TRL's trainer"),
}
ALLOWED = {
    "minibatches": {"num_prompts": 8, "num_minibatches": 4},
    "one sample with a critic": {"num_generations": 1, "advantage": "gae"},
    "k1 in the reward": {"loss": {"beta": 0.1, "kl_estimator": "k1", "kl_in_reward": True}},
    "k1 of no weight": {"loss": {"kl_estimator": "k1"}},
    "adapters": {"advantage": "reinforce_baseline", "lora": {}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_refused_with_the_fix(case):
    settings, words = REFUSED[case]
    with pytest.raises(UserError, match=rf"stage: .*{words}"):
        parse_settings(TrainConfig, settings, "stage")


@pytest.mark.parametrize("case", ALLOWED)
def test_its_neighbours_train(case):
    assert parse_settings(TrainConfig, ALLOWED[case], "stage").model_dump(exclude_unset=True) == ALLOWED[case]


def test_prompts_and_steps_of_a_rollout_batch():
    cfg = TrainConfig(num_prompts=8, num_minibatches=4, num_iterations=3, dynamic_sampling_factor=2)
    assert (cfg.optimizer_steps, cfg.prompts_drawn) == (12, 16)


@pytest.fixture
def usual_digits():
    """Python's own limit of the digits of a number: VLMEvalKit, which other tests import, lifts it for the process."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    yield
    sys.set_int_max_str_digits(digits)


@pytest.mark.parametrize(
    "text",
    [
        "a: 2024-99-99",
        "a: " + "9" * 5000,
        "a: !!bool x",
        "[" * 5000,
        "a: 0x_",
        "a: !!timestamp x",
        '"\\UFFFFFFFF"',
        "a: [",
    ],
    ids=lambda text: text[:12],
)
def test_whatever_the_yaml_parser_raises_is_one_line_with_the_file(tmp_path, text, usual_digits):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError, match="odd.yaml: not a YAML file: [^\n]*$"):
        read_mapping(tmp_path / "odd.yaml")


def test_what_cannot_be_read_is_said_to_be_unreadable(tmp_path):
    for path in (tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=r"cannot be read \(.*\); give a YAML file"):
            read_mapping(path)
    with pytest.raises(UserError, match="none.yaml: no such file"):
        read_mapping(tmp_path / "none.yaml")
