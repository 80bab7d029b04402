"""Contract: what the vLLM engine asks of vLLM, in which order, and that training with it follows the learner's weights.

vLLM is not needed: tests/vllm_standin.py stands for it. tests/test_vllm_engine.py holds the two together.
"""

import dataclasses
import json
import sys

import pytest
import torch

from lmmr1 import train as train_module
from lmmr1.batch import collate
from lmmr1.config import SamplingConfig, TrainConfig, VLLMConfig
from lmmr1.forward import batch_logprobs
from lmmr1.learner import Learner
from lmmr1.policy import load_policy
from lmmr1.processes import Processes
from lmmr1.rollout import HFEngine
from lmmr1.store import adopt
from lmmr1.train import train
from lmmr1.types import Reward, ScoredGroup, UserError
from lmmr1.vllm_engine import VLLMEngine
from reproduce.micro.build import write_prompts
from tests import vllm_standin

SAMPLING = SamplingConfig(max_completion_length=8, max_prompt_length=256, temperature=0.8)
CFG = TrainConfig(
    max_steps=3, num_prompts=2, num_generations=4, save_steps=1, engine="vllm", learning_rate=1e-2, warmup_steps=0,
    max_grad_norm=100.0, sampling=SAMPLING,
)  # fmt: skip


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", vllm_standin.module())
    monkeypatch.setattr(vllm_standin.LLM, "started", [])


@pytest.fixture
def policy(two_stops):
    return load_policy(str(two_stops), trainable=True)


def on_a_gpu(policy, level, monkeypatch):
    """An engine that takes this machine for one with a GPU; emptying PyTorch's cache is recorded among vLLM's calls."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        engine = VLLMEngine(policy, SAMPLING, VLLMConfig(sleep_level=level))
    monkeypatch.setattr(torch.cuda, "empty_cache", engine.llm.note("empty cache"))
    return engine


def moved(policy):
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.05)
    policy.stepped()


HANDED_OVER = ["weights", "reset prefix", "reset images", "reset encoder"]


def test_what_vllm_is_started_with(tiny_model, monkeypatch):
    """Its share of the card, the lengths of this run, the learner's commit and bounds on images."""
    policy = load_policy(str(tiny_model), min_pixels=3136, max_pixels=12544)
    policy.revision = "c" * 40
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        options = VLLMEngine(policy, SAMPLING, VLLMConfig(gpu_memory_utilization=0.15)).llm.options
    assert options["gpu_memory_utilization"] == 0.15
    assert options["max_model_len"] == SAMPLING.max_prompt_length + SAMPLING.max_completion_length
    assert options["mm_processor_kwargs"] == {"min_pixels": 3136, "max_pixels": 12544}
    assert options["revision"] == options["tokenizer_revision"] == "c" * 40
    assert options["logprobs_mode"] == "processed_logprobs"  # at the temperature, as the learner's
    assert options["limit_mm_per_prompt"] == {"image": 8, "video": 0}  # a problem may have several pictures
    long = SAMPLING.model_copy(update={"max_completion_length": policy.context})
    options = VLLMEngine(policy, long, VLLMConfig()).llm.options  # on a CPU vLLM bounds itself otherwise
    assert "gpu_memory_utilization" not in options and not options["enable_sleep_mode"]
    assert options["max_model_len"] == policy.context  # more is refused at the start


@pytest.mark.parametrize("size", [1, 8])
def test_a_training_starts_vllm_as_it_was_set(policy, monkeypatch, size):
    """The run's own share of the card, and one instance for each of several processes."""
    cfg = CFG.model_copy(update={"vllm": VLLMConfig(gpu_memory_utilization=0.25, sleep_level=2)})
    processes = Processes()
    processes.size = size
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        engine = train_module.build_engine(cfg, policy, processes)
    assert engine.llm.options["gpu_memory_utilization"] == 0.25 and engine.sleep_level == 2
    launched = {"distributed_executor_backend": "external_launcher"} if size > 1 else {}
    assert engine.llm.options.items() >= launched.items()
    assert ("distributed_executor_backend" in engine.llm.options) is (size > 1)


def test_a_prompt_that_is_too_long_is_refused_by_the_learner(policy, make_samples):
    """vLLM's own limit is that of prompt and completion together."""
    samples = make_samples(2)
    short = CFG.model_copy(update={"sampling": SAMPLING.model_copy(update={"max_prompt_length": 3})})
    groups = HFEngine(policy).generate(samples, SAMPLING, 2, (0,))
    batch = collate(graded(samples, groups), 0)
    with pytest.raises(UserError, match="longer than max_prompt_length 3"):
        batch_logprobs(policy, batch, short)


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_sleep_and_wake_order(policy, make_samples, monkeypatch, level, stepped):
    """vLLM's documented order: weights back, new weights in, then the cache; PyTorch hands memory back before each."""
    engine, samples = on_a_gpu(policy, level, monkeypatch), make_samples(2)
    assert (engine.llm.options["enable_sleep_mode"], engine.llm.options["dtype"]) == (level > 0, "bfloat16")
    engine.generate(samples, SAMPLING, 2, (0,))
    first, engine.llm.calls[:] = list(engine.llm.calls), []
    if stepped:
        moved(policy)
    engine.generate(samples, SAMPLING, 2, (1,))
    asleep = [f"sleep {level}"] if level else []
    weights, cache = (["empty cache", f"wake {tag}"] if level else [] for tag in ("weights", "kv_cache"))
    handed_over = HANDED_OVER if stepped or level == 2 else []
    assert first == ["generate", *asleep]
    assert engine.llm.calls == [*weights, *handed_over, *cache, "generate", *asleep]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_it_samples_what_the_learner_would(policy, make_samples, monkeypatch, level):
    """Before and after a step: tokens, log-probabilities, text, ends and order are the built-in sampler's."""
    engine, samples = on_a_gpu(policy, level, monkeypatch), make_samples(3)
    for step in range(3):
        groups, places = engine.generate(samples, SAMPLING, 8, (4, step), [5, 0, 3]), (5, 0, 3)
        for sample, group, place in zip(samples, groups, places, strict=True):
            seed = hash((4, step, place)) % 2**31  # its own, by its place
            (plain,) = HFEngine(policy).generate([sample], SAMPLING, 8, (seed,))
            assert [dataclasses.replace(r, logprobs=()) for r in group] == [
                dataclasses.replace(r, logprobs=()) for r in plain
            ]
            assert all(a.logprobs == pytest.approx(b.logprobs, abs=1e-5) for a, b in zip(group, plain, strict=True))
        assert {r.finish for group in groups for r in group} == {"stop", "length"}
        moved(policy)
    assert all(p.stop_token_ids == list(policy.stop_ids) for p in engine.llm.asked)


def graded(samples, rollouts, *_):
    """A random model's answers, all wrong, are told apart without a verifier: fewer distinct tokens pay more."""
    pay = lambda rollout: Reward(-float(len(set(rollout.token_ids))), 0.0, 0.0)
    return [ScoredGroup(s, group, tuple(map(pay, group))) for s, group in zip(samples, rollouts, strict=True)]


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """run(name): trains, and says of every group whether the learner's weights give the tokens that were sampled."""
    write_prompts({"chain": 1.0}, 12, 0, tmp_path / "prompts.jsonl")
    monkeypatch.setattr(train_module, "score", graded)
    real = VLLMEngine.generate

    def go(name):
        as_learner = []

        def generate(engine, samples, sampling, g, seed, places):
            groups = real(engine, samples, sampling, g, seed, places)
            for place, sample, group in zip(places, samples, groups, strict=True):
                own = HFEngine(engine.policy).generate([sample], sampling, g, (hash((*seed, place)) % 2**31,))[0]
                as_learner.append([r.token_ids for r in group] == [r.token_ids for r in own])
            return groups

        monkeypatch.setattr(VLLMEngine, "generate", generate)
        manifest, store = train(CFG, adopt(str(tiny_model), "tiny"), tmp_path / "prompts.jsonl", tmp_path / name)
        rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
        return manifest, rows, as_learner

    return go


def test_every_step_samples_the_learners_present_weights(run):
    _, rows, same = run("whole")
    assert len(rows) == 3 and len(same) == 6 and all(same)
    assert all(row["grad_norm"] > 0 for row in rows)


def test_a_resumed_run_samples_the_weights_that_it_resumed(run, monkeypatch):
    whole, rows, _ = run("whole")
    real = Learner.learn

    def dies(learner, batch, step, store):
        if step == 3:
            raise KeyboardInterrupt
        return real(learner, batch, step, store)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "learn", dies)
        run("resumed")
    manifest, resumed, same = run("resumed")
    assert len(vllm_standin.LLM.started) == 3 and len(same) == 2 and all(same)
    assert resumed == rows and manifest.weights_sha256 == whole.weights_sha256


def test_a_sampler_that_is_off_is_weighed_in_training(run, monkeypatch):
    """Log-probabilities too small by log 1.5, in every token: the first gradient is 1.5 times as long."""
    exact = run("exact")[1][0]["grad_norm"]
    real = vllm_standin.LLM.__init__
    monkeypatch.setattr(
        vllm_standin.LLM, "__init__", lambda self, **o: real(self, **o) or vars(self).update(off=0.4054651)
    )
    assert run("off")[1][0]["grad_norm"] == pytest.approx(1.5 * exact, rel=1e-3)
