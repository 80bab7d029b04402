"""Contract: what an evaluation computes without padding, and once for all prompts, is what the plain model computes."""

from dataclasses import replace

import pytest
import torch

from lmmr1.config import DecodingConfig
from lmmr1.packed import PackedEngine, Rows, head_of
from lmmr1.policy import load_policy
from lmmr1.rollout import HFEngine
from lmmr1.suffix import TextWeights
from tests.test_core_equality import projections

__all__ = ["projections"]  # a fixture

SYSTEM = "find the answer, reason first and give it alone " * 2
KINDS = {"text": lambda i: 0, "image": lambda i: 1, "mixed": lambda i: i % 3}


def under(system, samples):
    return [replace(s, messages=[{"role": "system", "content": system}, *s.messages]) for s in samples]


def greedy(tokens=10, penalty=1.0):
    return DecodingConfig(temperature=0, max_completion_length=tokens, repetition_penalty=penalty)


def tokens_of(engine, samples, sampling, sizes):
    """Greedy tokens, in batches of the given sizes."""
    out, start = [], 0
    for size in sizes:
        out += [r.token_ids for (r,) in engine.generate(samples[start : start + size], sampling, 1, (0,))]
        start += size
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", ["", SYSTEM])
def test_tokens_and_logprobs_equal_the_plain_engine(projections, tiny_model, make_samples, kind, system):
    policy, samples = load_policy(str(tiny_model)), under(system, make_samples(6, KINDS[kind]))
    engine = PackedEngine(policy)
    packed = [engine.generate(part, greedy(), 1, (0,)) for part in (samples[:4], samples[4:], samples[:2])]
    plain = HFEngine(policy).generate(samples + samples[:2], greedy(), 1, (0,))
    for (mine,), (theirs,) in zip([g for part in packed for g in part], plain, strict=True):
        assert (mine.token_ids, mine.text, mine.finish) == (theirs.token_ids, theirs.text, theirs.finish)
        assert torch.allclose(torch.tensor(mine.logprobs), torch.tensor(theirs.logprobs), atol=1e-5)


def test_batches_of_any_size_and_order_give_the_same_tokens(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), under(SYSTEM, make_samples(9, KINDS["mixed"]))
    whole = tokens_of(PackedEngine(policy), samples, greedy(), [9])
    for sizes in ([1] * 9, [2, 3, 4], [4, 1, 4]):
        assert tokens_of(PackedEngine(policy), samples, greedy(), sizes) == whole
    assert tokens_of(PackedEngine(policy), samples[::-1], greedy(), [5, 4]) == whole[::-1]


def test_what_is_kept_is_used_for_another_beginning_only_as_far_as_it_agrees(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), make_samples(5, KINDS["mixed"])
    engine = PackedEngine(policy)
    for system in (SYSTEM, SYSTEM[:60], "another instruction " * 5, "", SYSTEM + "!"):
        asked = under(system, samples)
        assert tokens_of(engine, asked, greedy(6), [2, 3]) == tokens_of(HFEngine(policy), asked, greedy(6), [5])


def test_greedy_equals_hugging_face_generate(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), under(SYSTEM, make_samples(3, KINDS["mixed"]))
    for sample, mine in zip(samples, tokens_of(PackedEngine(policy), samples, greedy(), [1, 2]), strict=True):
        batch = policy.encode([sample], 1000)
        out = policy.model.generate(**batch, max_new_tokens=10, do_sample=False)
        assert list(mine) == out[0, batch["input_ids"].size(1) :].tolist()


def test_the_beginning_is_computed_once(tiny_model, make_samples, monkeypatch):
    calls = []
    monkeypatch.setattr("lmmr1.packed.head_of", lambda *args: calls.append(args[2]) or head_of(*args))
    engine = PackedEngine(load_policy(str(tiny_model)))
    tokens_of(engine, under(SYSTEM, make_samples(9, KINDS["image"])), greedy(4), [1, 3, 2, 3])
    assert len(calls) == 1 and calls[0].numel() > len(SYSTEM) // 2


def test_the_penalty_sees_the_tokens_of_the_beginning(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), under(SYSTEM, make_samples(4, KINDS["mixed"]))
    ours = tokens_of(PackedEngine(policy), samples, greedy(penalty=1.5), [2, 2])
    assert ours == tokens_of(HFEngine(policy), samples, greedy(penalty=1.5), [4])
    assert ours != tokens_of(HFEngine(policy), samples, greedy(), [4])


def test_several_samples_per_prompt_are_those_of_the_plain_engine(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), under(SYSTEM, make_samples(3, KINDS["mixed"]))
    sampling = DecodingConfig(temperature=1.0, max_completion_length=12)
    packed, plain = (e(policy).generate(samples, sampling, 4, (7,)) for e in (PackedEngine, HFEngine))
    assert [[r.token_ids for r in g] for g in packed] == [[r.token_ids for r in g] for g in plain]


def test_images_are_never_part_of_the_beginning(tiny_model, make_samples):
    policy = load_policy(str(tiny_model))
    (sample,) = make_samples(1, KINDS["image"])
    with torch.inference_mode():
        batch = policy.with_features([sample, sample], policy.encode_rows([sample, sample], 1000))
        rows = Rows.of(policy.model, batch)
        common = rows.common(None)
    assert common.numel() > 0 and policy.model.config.image_token_id not in common.tolist()
    assert rows.common(rows.ids[0][:2]).numel() == 2


def test_a_context_that_fills_up_ends_the_answer_as_in_the_plain_engine(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), under(SYSTEM, make_samples(3, KINDS["mixed"]))
    longest = max(policy.encode([s], 1000)["input_ids"].size(1) for s in samples)
    policy.model.config.text_config.max_position_embeddings = longest + 3
    packed, plain = (tokens_of(e(policy), samples, greedy(), [3]) for e in (PackedEngine, HFEngine))
    assert packed == plain and min(map(len, packed)) <= 3


def test_pixels_instead_of_features_are_refused(tiny_model, make_samples):
    policy = load_policy(str(tiny_model), trainable=True)
    with pytest.raises(ValueError, match="freeze the vision tower"):
        PackedEngine(policy).generate(make_samples(2, KINDS["image"]), greedy(4), 1, (0,))


def test_grouped_query_attention(make_samples):
    """Two query heads per key-value head: Qwen2.5-VL's own models have eight."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    from lmmr1.policy import Policy
    from reproduce.micro.model import ModelConfig, build_processor, model_config

    config = model_config(ModelConfig(hidden=128))
    config.text_config.num_key_value_heads = 2
    torch.manual_seed(0)
    model, processor = Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False), build_processor()
    tokenizer = processor.tokenizer
    policy = Policy(model, processor, "built here", tokenizer.pad_token_id, (tokenizer.eos_token_id,))
    assert TextWeights.of(model, grad=False).heads == 4
    samples = under(SYSTEM, make_samples(5, KINDS["mixed"]))
    packed, plain = (tokens_of(e(policy), samples, greedy(), [3, 2]) for e in (PackedEngine, HFEngine))
    assert packed == plain
