"""Contract of the built-in sampler: where completions end, what it holds in memory, and where it is the learner's equal."""

import weakref

import pytest
import torch

from lmmr1 import rollout
from lmmr1.config import DecodingConfig, SamplingConfig, TrainConfig
from lmmr1.packed import PackedEngine
from lmmr1.policy import Prefix, load_policy, stop_tokens
from lmmr1.rollout import HFEngine
from lmmr1.train import build_engine

G, C, T = 4, 12, 100
SAMPLING = SamplingConfig(max_completion_length=C, max_prompt_length=T)
MIXED = lambda i: i % 3
ONE_PROMPT = G * (T + C)
"""Tokens that one prompt and its completions may have."""


def generation_config(eos_token_id):
    return type("GenerationConfig", (), {"eos_token_id": eos_token_id})


@pytest.mark.parametrize("named, expected", [(None, (5,)), (5, (5,)), (3, (3, 5)), ([5, 3, 5], (3, 5)), ([], (5,))])
def test_stop_tokens_are_the_tokenizers_and_those_that_the_checkpoint_names(named, expected):
    tokenizer = type("Tokenizer", (), {"eos_token_id": 5})
    assert stop_tokens(tokenizer, generation_config(named)) == expected


@pytest.mark.parametrize("kind", [HFEngine, PackedEngine])
def test_a_completion_ends_at_whichever_stop_token_comes_first(two_stops, make_samples, kind):
    """The very completions that are drawn without stop tokens, cut after the first of them."""
    policy, samples, sampling = load_policy(str(two_stops)), make_samples(5, MIXED), DecodingConfig(**dict(SAMPLING))
    stops, ends = policy.stop_ids, set()
    assert len(stops) == 2 and list(stops) == sorted(stops)
    found = kind(policy).generate(samples, sampling, 8, (1,))
    policy.stop_ids = ()
    free = kind(policy).generate(samples, sampling, 8, (1,))
    for mine, uncut in zip([r for g in found for r in g], [r for g in free for r in g], strict=True):
        at = next((i for i, token in enumerate(uncut.token_ids) if token in stops), C - 1)
        assert mine.token_ids == uncut.token_ids[: at + 1] and len(mine.logprobs) == at + 1
        assert mine.finish == ("stop" if mine.token_ids[-1] in stops else "length") and uncut.finish == "length"
        ends.add(mine.token_ids[-1] if mine.finish == "stop" else None)
    assert ends == {*stops, None}


@pytest.mark.parametrize("budget", [1, 2 * ONE_PROMPT, 3 * ONE_PROMPT + 1, 7 * ONE_PROMPT])
def test_what_is_drawn_does_not_depend_on_the_pieces(tiny_model, make_samples, budget):
    policy, samples, places = load_policy(str(tiny_model)), make_samples(7, MIXED), [5, 0, 3, 9, 1, 2, 4]
    whole, pieces = (
        HFEngine(policy, budget=b).generate(samples, SAMPLING, G, (1,), places) for b in (None, budget)
    )  # fmt: skip
    for a, b in zip(whole, pieces, strict=True):
        assert [(r.sample_id, r.token_ids, r.text) for r in a] == [(r.sample_id, r.token_ids, r.text) for r in b]
        for x, y in zip(a, b, strict=True):
            assert torch.allclose(torch.tensor(x.logprobs), torch.tensor(y.logprobs), atol=1e-5)


def test_what_is_drawn_depends_on_the_place_not_on_the_company(tiny_model, make_samples):
    """Several processes share a batch: each draws for its places what one alone would."""
    engine, samples = HFEngine(load_policy(str(tiny_model))), make_samples(5, MIXED)
    whole = engine.generate(samples, SAMPLING, G, (1,))
    part = engine.generate([samples[3], samples[1]], SAMPLING, G, (1,), [3, 1])
    assert [[r.token_ids for r in g] for g in part] == [[r.token_ids for r in whole[i]] for i in (3, 1)]


@pytest.fixture
def held(monkeypatch):
    """Elements of keys and values that were allocated, where that began: all that were alive then."""
    caches, alive, real = [], [], rollout._expand

    def expand(*args):
        caches.append(weakref.ref(cache := real(*args)))
        alive.append(sum(c().numel() for c in caches if c() is not None))
        return cache

    monkeypatch.setattr(rollout, "_expand", expand)
    return alive


def test_memory_grows_with_the_budget_not_with_the_prompts(tiny_model, make_samples, held):
    policy, budget, peaks = load_policy(str(tiny_model)), 4 * ONE_PROMPT, {}
    text = policy.model.config.get_text_config()
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    for allowed in (budget, None):
        for p in (4, 8, 32):
            held.clear()
            HFEngine(policy, budget=allowed).generate(make_samples(p), SAMPLING, G, (0,))
            peaks[allowed, p] = max(held)
    assert max(peaks[budget, p] for p in (4, 8, 32)) <= budget * per_token
    assert peaks[budget, 32] < 1.1 * peaks[budget, 4] and peaks[None, 32] > 7 * peaks[None, 4]


@pytest.mark.parametrize("budget, graphs", [(4 * ONE_PROMPT, [True]), (4 * ONE_PROMPT - 1, [False, False])])
def test_only_prompts_that_were_drawn_at_once_are_kept_for_the_learner(
    tiny_model, make_samples, monkeypatch, budget, graphs
):
    policy, real, seen = load_policy(str(tiny_model), trainable=True), Prefix.forward, []
    monkeypatch.setattr(Prefix, "forward", lambda *args: seen.append(torch.is_grad_enabled()) or real(*args))
    HFEngine(policy, share_prefix=True, budget=budget).generate(make_samples(4), SAMPLING, G, (0,))
    assert seen == graphs


def test_training_draws_within_its_setting(tiny_model):
    cfg = TrainConfig(tokens_per_rollout=12345)
    engine = build_engine(cfg, load_policy(str(tiny_model)))
    assert (engine.budget, engine.share_prefix) == (12345, True)


@pytest.mark.parametrize("kind", [HFEngine, PackedEngine])
def test_log_probabilities_are_the_learners_in_fp32_alone(tiny_model, kind):
    """In bf16 they are 0.015 apart on the micro model: a decode step adds in another order than a whole row does."""
    policy = load_policy(str(tiny_model))
    engine = kind(policy)
    assert engine.exact
    policy.model.to(torch.bfloat16)
    assert not engine.exact
