"""Run by `make bench`: single pieces with pytest-benchmark, and the ratio to TRL, which alone may fail."""

from pathlib import Path

import pytest
import torch

from bench.common import Setting
from bench.compare import QUICK, built_models, kind_of, run_side

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return built_models(tmp_path_factory.mktemp("bench"), QUICK)


@pytest.mark.parametrize(("side", "least"), [(0, 1.5), (112, 1.5)], ids=["text", "image"])
def test_a_step_is_faster_than_trl(models, side, least, benchmark):
    """Ratio of medians on a small point, sides interleaved; the target at full size is in docs/performance.md."""
    setting = Setting("forced", side, G=4, P=4, C=16, steps=4)
    model = models[kind_of(setting)]
    runs = {"trl": [], "core": []}

    def one_round() -> None:
        for name in runs:
            runs[name] += run_side(name, model, setting)["seconds"]

    benchmark.pedantic(one_round, rounds=2)
    ratio = torch.tensor(runs["trl"]).median() / torch.tensor(runs["core"]).median()
    benchmark.extra_info["ratio"] = float(ratio)
    assert ratio > least


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_sampling_a_token(benchmark, temperature):
    from lmmr1.rollout import sample_tokens

    logits, uniforms = torch.randn(128, 512), torch.rand(128)
    tokens, logprobs = benchmark(sample_tokens, logits, uniforms, temperature)
    assert torch.allclose(logprobs, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0], atol=1e-5)


def test_rewards_per_second(benchmark):
    from lmmr1.rewards import accuracy

    texts = [f"<think>{i}+1={i + 1}</think><answer>{i + 1}</answer>" for i in range(500)]
    verdicts = benchmark(lambda: [accuracy(t, "7") for t in texts])
    assert sum(value for value, _ in verdicts) == 1
