"""Contract: the vLLM engine samples what the Hugging Face model would, and follows its weights. Skipped without vLLM;
docs/vllm.md says how to make an environment in which it runs."""

import inspect
import json

import pytest
import torch

LLM = pytest.importorskip("vllm", reason="vLLM is optional: docs/vllm.md").LLM

from evals.generation import generate_all, greedy, load_model
from lmmr1.config import RewardConfig, SamplingConfig, TrainConfig
from lmmr1.forward import batch_logprobs
from lmmr1.policy import load_policy
from lmmr1.store import adopt
from lmmr1.train import train
from lmmr1.update import correction
from lmmr1.vllm_engine import VLLMEngine
from reproduce.micro.build import write_prompts
from tests import vllm_standin
from tests.test_core_equality import KINDS, batch_of, full_rows, scored

SAMPLING = SamplingConfig(max_completion_length=12, max_prompt_length=256, temperature=0.8)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model), trainable=True)


@pytest.fixture(scope="module")
def engine(policy):
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
            [gap, *((torch.tensor(r.logprobs) - row).abs().max().item() for r, row in zip(group, rows, strict=True))]
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
    weights = correction(batch_logprobs(policy, batch, cfg), batch.sampler_logprobs, cfg)
    assert torch.allclose(weights, torch.ones(()), atol=1e-3)


@pytest.mark.parametrize("checkpoint", ["tiny_model", "two_stops"])
def test_greedy_answers_of_an_evaluation_are_the_hugging_face_engines(request, make_samples, checkpoint):
    """`lmmr1 eval --engine vllm`: the same answers, text and image, with and without a repetition penalty, which end at
    the same tokens."""
    samples = [*make_samples(4, KINDS["text"], seed=5), *make_samples(4, KINDS["image"], seed=6)]
    models = {name: load_model(str(request.getfixturevalue(checkpoint)), engine=name) for name in ("hf", "vllm")}
    for penalty in (1.0, 1.2):
        answers = {k: generate_all(m, samples, greedy(12, penalty), 4) for k, m in models.items()}
        assert [r.token_ids for r in answers["vllm"]] == [r.token_ids for r in answers["hf"]]
        assert [(r.text, r.finish) for r in answers["vllm"]] == [(r.text, r.finish) for r in answers["hf"]]
    assert models["vllm"].backend == "VLLMEngine/cpu" and models["vllm"].dtype == models["hf"].dtype


@pytest.mark.parametrize("name", ["sleep", "wake_up", "collective_rpc", "generate"])
def test_what_stands_in_for_vllm_takes_the_arguments_of_the_real_methods(name):
    """tests/test_vllm_calls.py is worth what vllm_standin.py is: sleep exists on a GPU only, and no other test binds it."""
    real, mine = (inspect.signature(getattr(llm, name)) for llm in (LLM, vllm_standin.LLM))
    assert set(mine.parameters) <= set(real.parameters)
    required = {p.name for p in real.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    assert required <= set(mine.parameters)


def test_a_training_run_with_vllm(tiny_model, tmp_path, monkeypatch):
    """Three whole steps, every one with samples of the weights that the learner has then."""
    cfg = TrainConfig(
        max_steps=3, num_prompts=3, num_generations=4, engine="vllm", learning_rate=1e-2, warmup_steps=0,
        sampling=SAMPLING, reward=RewardConfig(kind="random", verifier_workers=1),
    )  # fmt: skip
    real, gaps = VLLMEngine.generate, []

    def generate(engine, samples, sampling, *rest):
        groups = real(engine, samples, sampling, *rest)
        marks = {engine.policy.model.config.image_token_id, engine.policy.model.config.video_token_id}
        plain = [[r for r in group if not marks & set(r.token_ids)] for group in groups]
        gaps.append(largest_gap(engine.policy, samples, plain))
        return groups

    monkeypatch.setattr(VLLMEngine, "generate", generate)
    write_prompts({"chain": 0.5, "drawn": 0.5}, 12, 0, tmp_path / "prompts.jsonl")
    parent = adopt(str(tiny_model), "tiny")
    manifest, store = train(cfg, parent, tmp_path / "prompts.jsonl", tmp_path / "store")
    rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
    assert manifest.weights_sha256 != parent.weights_sha256
    assert len(gaps) == 3 and max(gaps) < 1e-4
    assert all(r["grad_norm"] > 0 for r in rows)
