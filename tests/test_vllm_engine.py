"""Contract: the vLLM engine samples what the Hugging Face model would, and follows its weights. Skipped without vLLM;
docs/vllm.md says how to make an environment in which it runs."""

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is optional: docs/vllm.md")

from lmmr1.config import SamplingConfig, TrainConfig
from lmmr1.policy import load_policy
from lmmr1.update import importance_corrected
from tests.test_core_equality import KINDS, batch_of, full_rows, scored

SAMPLING = SamplingConfig(max_completion_length=12, max_prompt_length=256, temperature=0.8)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model), trainable=True)


@pytest.fixture(scope="module")
def engine(policy):
    from lmmr1.vllm_engine import VLLMEngine

    return VLLMEngine(policy, SAMPLING)


def rollouts(policy, engine, samples, seed):
    """A random model may sample image marks, with which the plain reference cannot run: draw until none has one."""
    marks = {policy.model.config.image_token_id, policy.model.config.video_token_id}
    for attempt in range(50):
        groups = engine.generate(samples, SAMPLING, 4, (seed, attempt))
        if not any(marks & set(r.token_ids) for g in groups for r in g):
            return groups
    raise AssertionError("no draw without image tokens")


def largest_gap(policy, samples, groups):
    gap = 0.0
    for sample, group in zip(samples, groups, strict=True):
        with torch.no_grad():
            rows = full_rows(policy, sample, group, SAMPLING.temperature)
        gap = max(
            gap, *((torch.tensor(r.logprobs) - row).abs().max().item() for r, row in zip(group, rows, strict=True))
        )
    return gap


@pytest.mark.parametrize("kind", ["text", "image"])
def test_logprobs_equal_the_model(policy, engine, make_samples, kind):
    samples = make_samples(3, KINDS[kind])
    groups = rollouts(policy, engine, samples, 1)
    assert [len(g) for g in groups] == [4, 4, 4]
    assert len({r.token_ids for g in groups for r in g}) > 4
    assert largest_gap(policy, samples, groups) < 1e-4


def test_an_update_in_place_reaches_the_head_too(policy, engine, make_samples):
    samples = make_samples(3, KINDS["image"])
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.05)
    stale = largest_gap(policy, samples, rollouts(policy, engine, samples, 2))  # not told yet
    policy.stepped()
    assert largest_gap(policy, samples, rollouts(policy, engine, samples, 3)) < 1e-4 < stale


def test_importance_weights_are_one_up_to_rounding(policy, engine, make_samples):
    cfg = TrainConfig(sampling=SAMPLING, num_generations=4)
    samples = make_samples(3, KINDS["image"])
    batch = batch_of(policy, samples, scored(samples, rollouts(policy, engine, samples, 4)))
    corrected = importance_corrected(policy, batch, cfg)
    assert torch.allclose(corrected.advantages, batch.advantages, atol=1e-3)
