"""Contract: on TRL's own recorded rollouts, loss and gradient equal TRL's, text and image, with and without KL."""

import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("WANDB_DISABLED", "true")
trl = pytest.importorskip("trl", reason="the reference trainer is a development dependency")

from datasets import Dataset
from PIL import Image

from lmmr1.config import LossConfig, SamplingConfig, TrainConfig
from lmmr1.forward import batch_logprobs
from lmmr1.policy import load_policy
from lmmr1.types import Batch, Sample
from lmmr1.update import accumulate_gradients

P, G, C = 3, 4, 10


def reward(completions, **_):
    """Graded, so that a random model's answers differ."""
    texts = [c[0]["content"] for c in completions]
    return [sum(map(ord, t)) % 7 / 7 + 0.1 * len(t) for t in texts]


def rows(kind, folder):
    out = []
    for i in range(P):
        row = {"prompt": [{"role": "user", "content": f"find {i}+{i}=?" + " give" * i}]}
        if kind == "image":
            path = folder / f"{i}.png"
            Image.effect_noise((28 * (i + 2), 56), 90 + i).convert("RGB").save(path)
            row["image"] = Image.open(path).convert("RGB")
        out.append(row)
    return out


def sample(i, row, kind, folder):
    text = {"type": "text", "text": row["prompt"][0]["content"]}
    if kind == "text":
        return Sample(str(i), [{"role": "user", "content": [text]}], (), "1")
    return Sample(str(i), [{"role": "user", "content": [{"type": "image"}, text]}], (folder / f"{i}.png",), "1")


def trainer(tiny_model, data, folder, **settings):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    blocked = [[model.config.image_token_id], [model.config.video_token_id]]  # a plain full row cannot hold them
    args = trl.GRPOConfig(
        output_dir=str(folder), num_generations=G, per_device_train_batch_size=P * G, max_completion_length=C,
        use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, max_steps=1, temperature=0.8,
        use_bias_correction_kl=False, generation_kwargs={"bad_words_ids": blocked}, seed=1, **settings,
    )  # fmt: skip
    return trl.GRPOTrainer(
        model=model, processing_class=processor, reward_funcs=reward, args=args, train_dataset=Dataset.from_list(data)
    )


def recorded(tr, data):
    """TRL's batch of P x G rollouts: it samples, scores and computes advantages itself."""
    tr.model.train()
    tr.current_gradient_accumulation_steps = 1
    return tr._generate_and_score_completions([row for row in data for _ in range(G)])


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "grpo sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_loss_and_gradient_equal_trl(tiny_model, tmp_path, kind, loss_type, beta):
    data = rows(kind, tmp_path)
    loss_type, _, level = loss_type.partition(" ")
    kind_of_loss = {"loss_type": loss_type, "beta": beta, "importance_sampling_level": level or "token"}
    kind_of_loss |= {"epsilon_high": 1.05} if loss_type == "cispo" else {}
    kind_of_loss |= {"epsilon": 0.02} if level else {}  # a row's mean moves less than its tokens
    tr = trainer(tiny_model, data, tmp_path, **kind_of_loss)
    batch = recorded(tr, data)
    with torch.no_grad():  # away from the reference and from the sampler, so that KL, ratio and clip all count
        for p in tr.model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.01)
    if batch.get("old_per_token_logps") is None:
        old = torch.randn(batch["completion_ids"].shape, generator=torch.Generator().manual_seed(0)) * 0.2
        with torch.no_grad():
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            keys = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
            extra = {k: batch[k] for k in keys if k in batch}
            logps = tr._get_per_token_logps_and_entropies(
                tr.model, ids, mask, batch["completion_ids"].size(1), **extra
            )[0]
        batch["old_per_token_logps"] = logps + old
    theirs = tr._compute_loss(tr.model, batch)
    theirs.backward()
    expected = {n: p.grad.clone() for n, p in tr.model.named_parameters() if p.grad is not None}

    policy = load_policy(str(tiny_model), trainable=True)
    policy.model.load_state_dict(tr.model.state_dict())
    mask = batch["completion_mask"].bool()
    mine = Batch(
        tuple(sample(i, row, kind, tmp_path) for i, row in enumerate(data)),
        batch["completion_ids"], mask, mask, batch["old_per_token_logps"] * mask, batch["advantages"][:, None] * mask, G,
        old_logprobs=batch["old_per_token_logps"] * mask,
    )  # fmt: skip
    cfg = TrainConfig(
        num_prompts=P, num_generations=G, loss=LossConfig(**kind_of_loss),
        sampling=SamplingConfig(max_completion_length=C, temperature=0.8),
    )  # fmt: skip
    if beta:
        mine = replace(mine, ref_logprobs=batch_logprobs(load_policy(str(tiny_model)), mine, cfg))
    stats = accumulate_gradients(policy, mine, cfg, float(mask.sum()))
    found = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    difference = sum(float((found[n] - expected[n]).pow(2).sum()) for n in expected)
    assert (difference / sum(float(g.pow(2).sum()) for g in expected.values())) ** 0.5 < 1e-4
    assert stats["loss"] == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)
    assert stats["clip_ratio/region_mean"] > 0
    if beta:
        assert stats["kl"] == pytest.approx(tr._metrics["train"]["kl"][-1], rel=1e-4)


def test_advantages_equal_trl(tiny_model, tmp_path):
    from lmmr1.advantages import group_norm

    data = rows("text", tmp_path)
    tr = trainer(tiny_model, data, tmp_path)
    batch = recorded(tr, data)
    completions = [
        [{"content": t}] for t in tr.processing_class.batch_decode(batch["completion_ids"] * batch["completion_mask"])
    ]
    assert len(completions) == P * G
    rewards = torch.tensor(list(tr._logs["rewards"]["reward"])).view(P, G)
    assert torch.allclose(group_norm(rewards).flatten(), batch["advantages"], atol=1e-5)
