"""Contract: adapters are trained as peft's own forward would train them, and gradient checkpointing changes nothing."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="LoRA is optional: pip install 'lmmr1[peft]'")

from peft import PeftModel
from transformers import AutoModelForImageTextToText

from lmmr1.config import LoraConfig, LossConfig, RewardConfig, SamplingConfig, TrainConfig
from lmmr1.forward import batch_logprobs
from lmmr1.learner import build
from lmmr1.lora import add_adapters, effective_weight, merged_parameters, save_adapters
from lmmr1.loss import policy_loss, token_weights
from lmmr1.policy import load_policy, recompute_layers
from lmmr1.store import adopt
from lmmr1.train import train
from lmmr1.types import UserError
from lmmr1.update import accumulate_gradients
from reproduce.micro.build import write_prompts
from tests.test_core_equality import (
    KINDS,
    C,
    G,
    batch_of,
    full_rows,
    gradients,
    projections,
    relative,
    rollouts_without_image_tokens,
    scored,
)

LORA = LoraConfig(r=4, alpha=8)
CFG = TrainConfig(sampling=SamplingConfig(max_completion_length=C), num_generations=G, lora=LORA)


@pytest.fixture
def adapted(projections, tiny_model):
    """A policy with adapters that do something: peft starts with B = 0."""
    policy = load_policy(str(tiny_model), trainable=True)
    policy.peft = add_adapters(policy.model, LORA)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    return policy


__all__ = ["projections"]  # a fixture


def plain_gradients(policy, batch, groups, samples):
    """By one forward of the model, peft's layers in it, for every row."""
    policy.model.zero_grad(set_to_none=True)
    weights = token_weights(batch.completion_mask, CFG.loss, C, float(batch.completion_mask.sum()))
    total = torch.zeros(())
    for i, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        for g, new in enumerate(full_rows(policy, sample, group.rollouts, 1.0)):
            row, n = i * G + g, len(group.rollouts[g].token_ids)
            old, advantage = batch.old_logprobs[row, :n], batch.advantages[row, :n]
            total = total + (policy_loss(new, old, advantage, None, CFG.loss)[0] * weights[row, :n]).sum()
    total.backward()
    return gradients(policy.model)


def test_gradient_equals_autograd_through_pefts_forward(adapted, make_samples):
    samples = make_samples(3, KINDS["mixed"])
    groups = scored(samples, rollouts_without_image_tokens(adapted, samples))
    batch = batch_of(adapted, samples, groups)
    tokens = float(batch.completion_mask.sum())
    stats = accumulate_gradients(adapted, batch, CFG, tokens)
    mine = gradients(adapted.model)
    expected = plain_gradients(adapted, batch, groups, samples)
    assert mine.keys() == expected.keys() and all(".lora_" in name for name in mine)
    assert len(mine) == 2 * 7 * adapted.model.config.text_config.num_hidden_layers
    assert relative(mine, expected) < 1e-4
    assert stats["sampling/logp_difference"] < 1e-4  # the sampler has the adapters too


@pytest.mark.parametrize("fused_below", [1, 1024])
def test_a_bf16_base_trains_fp32_adapters(tiny_model, make_samples, tmp_path, monkeypatch, fused_below):
    """As on a GPU: about the gradient of an fp32 base, and what is merged at the end keeps fp32's small changes."""
    monkeypatch.setattr("lmmr1.suffix.FUSED_BELOW", fused_below)
    samples, found = make_samples(3, KINDS["mixed"]), []
    groups = scored(samples, rollouts_without_image_tokens(load_policy(str(tiny_model)), samples))
    for dtype in (torch.float32, torch.bfloat16):
        policy = load_policy(str(tiny_model), trainable=True)
        policy.model.to(dtype)
        policy.peft = add_adapters(policy.model, LORA)
        adapters = [p for p in policy.model.parameters() if p.requires_grad]
        assert adapters and all(p.dtype == torch.float32 for p in adapters)
        for p, values in zip(adapters, seeded(adapters), strict=True):
            p.data.copy_(values)
        accumulate_gradients(policy, batch_of(policy, samples, groups), CFG, 100.0)
        found.append(torch.cat([g.flatten() for g in gradients(policy.model).values()]))
    assert torch.cosine_similarity(*found, dim=0) > 0.98
    save_adapters(policy.peft, tmp_path)
    assert policy.model.dtype == torch.float32 and (tmp_path / "adapter_model.safetensors").is_file()


def seeded(like):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(p.shape, generator=generator) * 0.05 for p in like]


def test_the_reference_is_the_model_without_adapters(adapted, tiny_model, make_samples):
    samples = make_samples(3, KINDS["mixed"])
    batch = batch_of(adapted, samples, scored(samples, rollouts_without_image_tokens(adapted, samples)))
    base = batch_logprobs(load_policy(str(tiny_model)), batch, CFG)
    assert torch.allclose(batch_logprobs(adapted.reference(), batch, CFG), base, atol=1e-6)
    with_adapters = batch_logprobs(adapted, batch, CFG)
    assert (with_adapters - base).abs().max() > 1e-2
    assert torch.allclose(with_adapters, batch.old_logprobs, atol=1e-4)


def test_the_reference_of_a_run_stays_where_it_began(tiny_model, make_samples):
    """The policy moves away from it, and the KL says so."""
    cfg = CFG.model_copy(update={"learning_rate": 1e-2, "warmup_steps": 0, "loss": LossConfig(beta=0.04)})
    learner, samples = build(cfg, adopt(str(tiny_model), "tiny")), make_samples(3, KINDS["mixed"])
    groups = scored(samples, rollouts_without_image_tokens(learner.policy, samples))
    batches, divergence = [], []
    for step in (1, 2):
        batches.append(learner.batch(groups, exact=True))
        divergence.append(learner.learn(batches[-1], step, None).metrics["kl"])
    assert torch.allclose(batches[0].ref_logprobs, batches[0].old_logprobs, atol=1e-4)
    assert torch.allclose(batches[1].ref_logprobs, batches[0].ref_logprobs, atol=1e-6)
    assert divergence[0] < 1e-8 and divergence[1] > 1e-4


def test_a_run_in_bf16_has_fp32_adapters_on_a_bf16_base(tiny_model):
    learner = build(CFG.model_copy(update={"bf16": True}), adopt(str(tiny_model), "tiny"))
    dtypes = {name: param.dtype for name, param in learner.policy.model.named_parameters()}
    assert {t for n, t in dtypes.items() if ".lora_" in n} == {torch.float32}
    assert {t for n, t in dtypes.items() if ".lora_" not in n} == {torch.bfloat16}


def test_merged_parameters_have_the_base_models_names(adapted, tiny_model):
    base = dict(load_policy(str(tiny_model)).model.named_parameters())
    merged = dict(merged_parameters(adapted.model))
    assert merged.keys() == base.keys()
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(moved) == 7 * adapted.model.config.text_config.num_hidden_layers


def test_a_run_leaves_adapters_and_merged_weights_that_agree(tiny_model, make_samples, tmp_path):
    """From folders alone: the merged model, and the base with the adapters in peft's format."""
    cfg = TrainConfig(
        max_steps=2, num_prompts=3, num_generations=4, num_iterations=2, learning_rate=1e-2, warmup_steps=0, lora=LORA,
        gradient_checkpointing=True, reward=RewardConfig(kind="random", verifier_workers=1),
        loss=LossConfig(beta=0.04), sampling=SamplingConfig(max_completion_length=8, max_prompt_length=256),
    )  # fmt: skip
    write_prompts({"chain": 0.5, "drawn": 0.5}, 12, 0, tmp_path / "prompts.jsonl")
    manifest, _ = train(cfg, adopt(str(tiny_model), "tiny"), tmp_path / "prompts.jsonl", tmp_path / "store")
    load = AutoModelForImageTextToText.from_pretrained
    policy = load_policy(str(tiny_model))
    inputs = policy.encode(make_samples(2, KINDS["image"]), 1000)
    with torch.no_grad():
        base = policy.model(**inputs).logits
        merged = load(manifest.weights)(**inputs).logits
        adapters = PeftModel.from_pretrained(load(tiny_model), Path(manifest.weights) / "adapter")(**inputs).logits
    assert (merged - base).abs().max() > 1e-2
    assert torch.allclose(merged, adapters, atol=1e-4)


def test_adapters_have_the_settings_that_were_asked_for(tiny_model):
    policy = load_policy(str(tiny_model), trainable=True)
    add_adapters(policy.model, LoraConfig(r=3, alpha=12, target_modules=("q_proj", "gate_proj")))
    layers = {n: m for n, m in policy.model.named_modules() if hasattr(m, "lora_A")}
    assert {n.rpartition(".")[2] for n in layers} == {"q_proj", "gate_proj"}
    assert len(layers) == 2 * policy.model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for layer in layers.values():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight.normal_()
            assert a.size(0) == b.size(1) == 3
            assert torch.allclose(effective_weight(layer), layer.base_layer.weight + 12 / 3 * b @ a, atol=1e-6)


@pytest.mark.parametrize("kind", ["text", "mixed"])
def test_gradient_checkpointing_changes_nothing(projections, tiny_model, make_samples, kind):
    samples, results = make_samples(3, KINDS[kind]), []
    groups = scored(samples, rollouts_without_image_tokens(load_policy(str(tiny_model)), samples))
    for recompute in (False, True):
        policy = load_policy(str(tiny_model), trainable=True)
        if recompute:
            recompute_layers(policy.model)
        cfg = CFG.model_copy(update={"lora": None, "gradient_checkpointing": recompute})
        accumulate_gradients(policy, batch_of(policy, samples, groups), cfg, 100.0)
        results.append(gradients(policy.model))
    assert results[0].keys() == results[1].keys() and relative(*results) < 1e-6


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"target_modules": ["q_proj", "proj"]}])
def test_adapters_that_are_not_computed_are_refused(settings):
    with pytest.raises(UserError, match=r"lora: .*without dropout.*trainer: trl"):
        add_adapters(None, LoraConfig(**settings))
