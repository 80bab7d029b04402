"""Contract: the core's sampler and learner compute what the Hugging Face model computes on plain full rows.

If one of these breaks, training numbers changed: decide, and bump lmmr1.NUMERICS; do not widen a tolerance.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmmr1.advantages import per_token
from lmmr1.batch import collate, minibatches, rewards_of
from lmmr1.config import LossConfig, SamplingConfig, TrainConfig
from lmmr1.forward import batch_logprobs
from lmmr1.loss import policy_loss, token_weights
from lmmr1.policy import load_policy
from lmmr1.rollout import HFEngine
from lmmr1.suffix import TextWeights, group_hidden, rope_tables
from lmmr1.types import Reward, ScoredGroup
from lmmr1.update import accumulate_gradients

G, C = 4, 12
KINDS = {"text": lambda i: 0, "image": lambda i: 1, "mixed": lambda i: i % 3}  # mixed: none, one or two images


def full_rows(policy, sample, rollouts, temperature):
    """(G, T) log-probabilities of the completions by one plain forward per row, nothing shared, nothing cached."""
    out = []
    for rollout in rollouts:
        prompt = policy.encode([sample], 10_000)
        length = prompt["input_ids"].size(1)
        completion = torch.tensor([rollout.token_ids])
        batch = {
            **prompt,
            "input_ids": torch.cat([prompt["input_ids"], completion], 1),
            "attention_mask": torch.ones(1, length + completion.size(1), dtype=torch.long),
            "mm_token_type_ids": torch.cat([prompt["mm_token_type_ids"], torch.zeros_like(completion)], 1),
        }
        logits = policy.model(**batch).logits[0, length - 1 : -1].float() / temperature
        out.append(torch.log_softmax(logits, -1).gather(1, completion[0][:, None])[:, 0])
    return out


def rollouts_without_image_tokens(policy, samples, temperature=1.0, seed=1):
    """A random model may sample the image mark, with which a plain full-row forward cannot run: draw until none has it."""
    engine = HFEngine(policy)
    sampling = SamplingConfig(max_completion_length=C, temperature=temperature)
    marks = {policy.model.config.image_token_id, policy.model.config.video_token_id}
    for attempt in range(50):
        groups = engine.generate(samples, sampling, G, (seed, attempt))
        if not any(marks & set(r.token_ids) for g in groups for r in g):
            return groups
    raise AssertionError("no draw without image tokens")


def scored(samples, groups, dead=()):
    """Groups with made-up rewards; those in `dead` have equal ones."""
    values = lambda p, g: 1.0 if p in dead else float((p + g) % 3)
    return [
        ScoredGroup(s, rs, tuple(Reward(values(p, g), 0, 0) for g in range(len(rs))))
        for p, (s, rs) in enumerate(zip(samples, groups, strict=True))
    ]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def relative(a, b):
    """Norm of the difference over the norm, over all tensors; a missing gradient counts as zero."""
    names = sorted(a.keys() | b.keys())
    zero = torch.zeros(())
    difference = sum(float((a.get(n, zero) - b.get(n, zero)).pow(2).sum()) for n in names)
    return (difference / sum(float(b.get(n, zero).pow(2).sum()) for n in names)) ** 0.5


def advantages_of(groups):
    return per_token("group_norm", rewards_of(groups), collate(groups, 0).completion_mask)


@pytest.fixture(params=["fused", "apart"])
def projections(request, monkeypatch):
    """As a small model has them, and as one of the real width."""
    if request.param == "apart":
        monkeypatch.setattr("lmmr1.suffix.FUSED_BELOW", 1)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_equal_a_full_forward(projections, tiny_model, make_samples, kind, temperature):
    if projections == "apart" and (kind != "mixed" or temperature == 1.0):
        pytest.skip("covered by mixed")
    policy, samples = load_policy(str(tiny_model)), make_samples(4, KINDS[kind])
    for sample, group in zip(samples, rollouts_without_image_tokens(policy, samples, temperature), strict=True):
        with torch.no_grad():
            expected = full_rows(policy, sample, group, temperature)
        for rollout, row in zip(group, expected, strict=True):
            assert torch.allclose(torch.tensor(rollout.logprobs), row, atol=1e-5)


def test_greedy_equals_hugging_face_generate(tiny_model, make_samples):
    policy, samples = load_policy(str(tiny_model)), make_samples(3, KINDS["image"])
    mine = HFEngine(policy).generate(samples, SamplingConfig(temperature=0, max_completion_length=C), 1, (0,))
    for sample, (rollout,) in zip(samples, mine, strict=True):
        batch = policy.encode([sample], 1000)
        out = policy.model.generate(**batch, max_new_tokens=C, do_sample=False)
        assert list(rollout.token_ids) == out[0, batch["input_ids"].size(1) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_gradient_equals_plain_autograd(projections, tiny_model, make_samples, kind, beta, loss_type):
    alike = kind == "image" and (beta or loss_type != "dapo")
    if alike or (projections == "apart" and loss_type != "dapo"):
        pytest.skip("covered by mixed")
    cfg = TrainConfig(
        loss=LossConfig(loss_type=loss_type, beta=beta),
        sampling=SamplingConfig(max_completion_length=C),
        num_generations=G,
    )
    policy = load_policy(str(tiny_model), trainable=True)
    reference = None
    if beta:
        reference = load_policy(str(tiny_model))
        with torch.no_grad():
            for p in reference.model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) * 0.02)
    samples = make_samples(5, KINDS[kind])
    groups = scored(samples, rollouts_without_image_tokens(policy, samples), dead={2})
    batch = batch_of(policy, samples, groups)
    # old log-probabilities that differ from the present ones, so that ratios and clipping are exercised
    noise = torch.randn(batch.old_logprobs.shape, generator=torch.Generator().manual_seed(5)) * 0.3
    old = batch.old_logprobs + noise * batch.completion_mask
    batch = replace(batch, old_logprobs=old, sampler_logprobs=old)
    if beta:
        batch = replace(batch, ref_logprobs=batch_logprobs(reference, batch, cfg))
    stats = accumulate_gradients(policy, batch, cfg, float(batch.completion_mask.sum()))
    mine = gradients(policy.model)

    policy.model.zero_grad(set_to_none=True)
    weights = token_weights(batch.completion_mask, cfg.loss, C, float(batch.completion_mask.sum()))
    total = torch.zeros(())
    for i, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        new = full_rows(policy, sample, group.rollouts, 1.0)
        with torch.no_grad():
            ref = full_rows(reference, sample, group.rollouts, 1.0) if beta else [None] * G
        for g in range(G):
            row, n = i * G + g, len(group.rollouts[g].token_ids)
            loss, _ = policy_loss(new[g], batch.old_logprobs[row, :n], batch.advantages[row, :n], ref[g], cfg.loss)
            total = total + (loss * weights[row, :n]).sum()
    total.backward()
    assert relative(mine, gradients(policy.model)) < 1e-4
    if not beta:  # at beta 0 the skipped dead group has loss 0
        assert stats["loss"] == pytest.approx(total.item(), abs=1e-5)


def batch_of(policy, samples, groups):
    batch = collate(groups, policy.pad_id)
    return replace(batch, advantages=advantages_of(groups), old_logprobs=batch.sampler_logprobs)


def test_gradient_does_not_depend_on_batch_order_or_company(tiny_model, make_samples):
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=C), num_generations=G)
    policy = load_policy(str(tiny_model), trainable=True)
    samples = make_samples(4, KINDS["mixed"])
    groups = scored(samples, rollouts_without_image_tokens(policy, samples))
    whole = batch_of(policy, samples, groups)
    tokens = float(whole.completion_mask.sum())
    accumulate_gradients(policy, whole, cfg, tokens)
    expected = gradients(policy.model)

    policy.model.zero_grad(set_to_none=True)
    policy.stepped()
    accumulate_gradients(policy, batch_of(policy, samples[::-1], groups[::-1]), cfg, tokens)
    assert relative(gradients(policy.model), expected) < 1e-5

    policy.model.zero_grad(set_to_none=True)
    for part in minibatches(whole, 4):  # one prompt at a time: no padding, no company
        policy.stepped()
        accumulate_gradients(policy, part, cfg, tokens)
    assert relative(gradients(policy.model), expected) < 1e-5


@pytest.mark.parametrize("kind", ["image", "mixed"])
def test_cached_features_of_a_frozen_tower_change_nothing(tiny_model, make_samples, kind):
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=C), num_generations=G)
    samples, results = make_samples(4, KINDS[kind]), []
    groups = scored(samples, rollouts_without_image_tokens(load_policy(str(tiny_model)), samples))
    for cached in (False, True):
        policy = load_policy(str(tiny_model), trainable=True)
        policy.model.model.visual.requires_grad_(False)
        if not cached:
            policy.with_features = lambda _, batch: batch
        for _ in range(2):  # the second time from the cache
            policy.model.zero_grad(set_to_none=True)
            policy.stepped()
            accumulate_gradients(policy, batch_of(policy, samples, groups), cfg, 100.0)
        results.append(gradients(policy.model))
        assert bool(policy._features) == cached
    assert relative(*results) < 1e-6


def test_a_sampled_image_mark_is_an_ordinary_token(tiny_model, make_samples):
    """A plain full-row forward fails on it (features and marks do not match); sampler and learner must not."""
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=C), num_generations=G)
    policy, samples = load_policy(str(tiny_model), trainable=True), make_samples(3, KINDS["mixed"])
    mark = policy.model.config.image_token_id
    bias = torch.zeros(policy.model.config.text_config.vocab_size)
    bias[mark] = 1e4
    with pytest.MonkeyPatch.context() as patch:  # everything after the prompt is image marks
        from lmmr1 import rollout

        real = rollout.sample_tokens
        patch.setattr(rollout, "sample_tokens", lambda logits, *rest: real(logits + bias, *rest))
        groups = scored(samples, HFEngine(policy).generate(samples, cfg.sampling, G, (0,)))
    assert all(set(r.token_ids) == {mark} for g in groups for r in g.rollouts)
    stats = accumulate_gradients(policy, batch_of(policy, samples, groups), cfg, 100.0)
    assert all(abs(v) < 1e9 for v in stats.values())
    assert all(bool(torch.isfinite(g).all()) for g in gradients(policy.model).values())


def test_a_one_token_completion_trains(tiny_model, make_samples):
    """The shortest completion there is: the end token alone, predicted from the prompt."""
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=1), num_generations=G)
    policy, samples = load_policy(str(tiny_model), trainable=True), make_samples(2, KINDS["mixed"])
    groups = scored(samples, HFEngine(policy).generate(samples, cfg.sampling, G, (0,)))
    batch = batch_of(policy, samples, groups)
    assert batch.completion_ids.shape == (2 * G, 1)
    accumulate_gradients(policy, batch, cfg, float(batch.completion_mask.sum()))
    assert gradients(policy.model)["model.language_model.norm.weight"].any()


def test_importance_correction(tiny_model, make_samples):
    """With the learner's own samples nothing changes; a sampler that was off by log 1.5 or log 4 is weighed 1.5 or 2."""
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=C), num_generations=G)
    policy, samples = load_policy(str(tiny_model), trainable=True), make_samples(4, KINDS["mixed"])
    groups = scored(samples, rollouts_without_image_tokens(policy, samples))
    exact = batch_of(policy, samples, groups)
    own = batch_logprobs(policy, exact, cfg)
    assert torch.allclose(own, exact.sampler_logprobs, atol=1e-5)

    def gradient(batch):
        policy.model.zero_grad(set_to_none=True)
        policy.stepped()
        accumulate_gradients(policy, batch, cfg, 100.0)
        return gradients(policy.model)

    expected = gradient(exact)
    for factor, weight in ((1.0, 1.0), (1.5, 1.5), (4.0, 2.0), (0.5, 0.5)):
        off = exact.sampler_logprobs - torch.log(torch.tensor(factor)) * exact.completion_mask
        for old in (own, None):  # computed before, and by the update itself
            found = gradient(replace(exact, sampler_logprobs=off, old_logprobs=old))
            assert relative(found, {n: g * weight for n, g in expected.items()}) < 1e-4


def test_informative_groups_come_first(tiny_model, make_samples):
    from lmmr1.batch import informative

    samples = make_samples(5)
    rollouts = HFEngine(load_policy(str(tiny_model))).generate(
        samples, SamplingConfig(max_completion_length=2), G, (0,)
    )
    groups = scored(samples, rollouts, dead={0, 2})
    ids = lambda count: [g.sample.id for g in informative(groups, count)]
    names = [s.id for s in samples]
    assert ids(3) == [names[1], names[3], names[4]]
    assert ids(4) == [names[0], names[1], names[3], names[4]]  # filled up in order
    assert ids(5) == names


def test_chunked_logprobs_equal_whole_ones_forward_and_backward():
    from lmmr1.loss import token_logprobs

    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (50, 40))
    targets = torch.randint(40, (50,), generator=generator)
    results = []
    for chunk in (1000, 7):
        hidden.grad = head.grad = None
        logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, logits=chunk * 40)
        (logprobs * torch.arange(50)).sum().backward()
        results.append((logprobs.detach(), entropy, hidden.grad, head.grad))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-5)


def test_compaction_changes_no_sample(tiny_model, make_samples, monkeypatch):
    policy, samples = load_policy(str(tiny_model)), make_samples(4, KINDS["mixed"])
    sampling = SamplingConfig(max_completion_length=C)
    # a stop token that a random model samples often, so that rows end at many places
    common = HFEngine(policy).generate(samples, sampling, G, (2,))[0][0].token_ids[0]
    policy.stop_ids = (common,)
    with_compaction = HFEngine(policy).generate(samples, sampling, 8, (2,))
    monkeypatch.setattr("lmmr1.rollout.COMPACT_EVERY", 0)
    without = HFEngine(policy).generate(samples, sampling, 8, (2,))
    lengths = {len(r.token_ids) for g in without for r in g}
    assert len(lengths) > 1
    for a, b in zip(with_compaction, without, strict=True):
        assert [r.token_ids for r in a] == [r.token_ids for r in b]
        assert all(
            torch.allclose(torch.tensor(x.logprobs), torch.tensor(y.logprobs), atol=1e-5)
            for x, y in zip(a, b, strict=True)
        )


def test_completions_end_where_the_context_is_full(tiny_model, make_samples, monkeypatch):
    """Each row has its own room: prompt and completion together never exceed the context, whoever is in the batch."""
    policy, samples = load_policy(str(tiny_model)), make_samples(4, KINDS["mixed"])
    free = HFEngine(policy).generate(samples, SamplingConfig(max_completion_length=40), 2, (3,))
    monkeypatch.setattr(type(policy), "context", 45)
    for group, sample, whole in zip(
        HFEngine(policy).generate(samples, SamplingConfig(max_completion_length=40), 2, (3,)),
        samples,
        free,
        strict=True,
    ):
        room = 45 - int(policy.encode([sample], 1000)["attention_mask"].sum())
        for rollout, uncut in zip(group, whole, strict=True):
            assert rollout.token_ids == uncut.token_ids[: max(room, 1)]
            assert len(rollout.token_ids) == max(1, min(room, len(uncut.token_ids)))


def test_ratio_is_exactly_one_before_the_first_step(tiny_model, make_samples):
    cfg = TrainConfig(sampling=SamplingConfig(max_completion_length=C, temperature=0.7), num_generations=G)
    policy, samples = load_policy(str(tiny_model), trainable=True), make_samples(4, KINDS["mixed"])
    groups = scored(samples, HFEngine(policy, share_prefix=True).generate(samples, cfg.sampling, G, (0,)))
    stats = accumulate_gradients(policy, batch_of(policy, samples, groups), cfg, 100.0)
    assert stats["sampling/logp_difference"] < 1e-5 and stats["clip_ratio/region_mean"] == 0


class Made(TorchDispatchMode):
    """Shapes of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


@pytest.fixture(scope="module")
def grouped_model(tmp_path_factory):
    """Two query heads per head of keys and values."""
    from bench.memory import build_model

    folder = tmp_path_factory.mktemp("grouped") / "model"
    build_model(folder, layers=2, hidden=128, vocab=512)
    return folder


@pytest.mark.parametrize("recompute", [False, True])
def test_long_completions_attend_as_short_ones_without_a_mask(grouped_model, make_samples, monkeypatch, recompute):
    """A causal square for completions of LONG tokens: same states, same gradients, rows of different lengths."""
    policy, samples = load_policy(str(grouped_model), trainable=True), make_samples(3)
    lengths = torch.tensor([14, 3, 9, 1])
    ids = torch.randint(32, 200, (4, 14), generator=torch.Generator().manual_seed(0))
    real = torch.arange(14) < lengths[:, None]
    row, results = 0, []
    for long in (512, 1):
        monkeypatch.setattr("lmmr1.suffix.LONG", long)
        policy.model.zero_grad(set_to_none=True)
        prefix, weights = policy.prefix(samples, 1000, grad=True), TextWeights.of(policy.model, grad=True)
        assert prefix.padding(row) > 0  # and the prompt's padding is seen by neither
        cos, sin = rope_tables(policy.model, prefix.next_position, 14)
        with Made() as made:
            hidden = group_hidden(
                weights, prefix, row, ids, lengths, cos[row : row + 1], sin[row : row + 1], recompute
            )[real]
            (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        prefix.backward()
        weights.backward()
        results.append((hidden.detach(), gradients(policy.model)))
        n, whole = 13, prefix.mask.size(1) - prefix.padding(row) + 13
        squares = {
            s for s in made.shapes if (len(s) > 1 and s[-1] == whole and s[-2] % n == 0) or s[-2:] == (whole, whole)
        }
        assert bool(squares) == (long > n), squares
    (a, of_a), (b, of_b) = results
    assert torch.allclose(a, b, atol=1e-5)
    assert of_a.keys() == of_b.keys() and relative(of_b, of_a) < 1e-5
