"""Contract: what the real scale adds (bf16, a critic, other machines) trains the same run.

On the CPU, with a model that has every part of the real one.
"""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmmr1.batch import informative
from lmmr1.config import CriticConfig, LossConfig, RewardConfig, SamplingConfig, TrainConfig
from lmmr1.data import read_samples
from lmmr1.learner import Learner, build
from lmmr1.precision import computes_in
from lmmr1.processes import join, whole
from lmmr1.rollout import HFEngine
from lmmr1.store import Store, adopt
from lmmr1.train import train
from lmmr1.types import Reward, ScoredGroup
from lmmr1.update import accumulate_gradients, accumulate_value_gradients
from reproduce.micro.build import write_prompts
from tests.test_core_equality import relative
from tests.test_distributed import nothing_launched_before, on
from tests.test_training import graded_rewards, parent

__all__ = ["graded_rewards", "nothing_launched_before", "parent"]  # fixtures

CFG = TrainConfig(
    max_steps=6, num_prompts=4, num_generations=4, num_minibatches=2, save_steps=2, warmup_steps=2, learning_rate=1e-3,
    seed=3, loss=LossConfig(beta=0.01), reward=RewardConfig(verifier_workers=1),
    sampling=SamplingConfig(max_completion_length=10, max_prompt_length=256),
)  # fmt: skip
GAE = CFG.model_copy(update={"advantage": "gae", "critic": CriticConfig(learning_rate=3e-3, lam=0.9, gamma=0.99)})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    out = tmp_path_factory.mktemp("prompts") / "mixed.jsonl"
    write_prompts({"chain": 0.5, "drawn": 0.5}, 24, 0, out)
    return out


def changed(cfg, **settings):
    values = cfg.model_dump()
    for name, value in settings.items():
        values[name] = values[name] | value if isinstance(values[name], dict) else value
    return TrainConfig.model_validate(values)


def stopped(cfg, parent, prompts, root, after=3):
    """Train until `after` steps are done; the next one is as good as killed."""
    learn = Learner.learn

    def dies(learner, batch, step, store):
        if step > after:
            raise KeyboardInterrupt
        return learn(learner, batch, step, store)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Learner, "learn", dies)
        train(cfg, parent, prompts, root)
    assert not list(root.glob("*/final"))


def outcome(manifest, store):
    """Bytes of the logs that must repeat, and the weights."""
    logs = [(store.folder / name).read_bytes() for name in ("steps.jsonl", "completions.jsonl")]
    return logs, load_file(Path(manifest.weights) / "model.safetensors")


def steps(store):
    return [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]


DTYPES = {"fp32": CFG, "bf16": changed(CFG, bf16=True)}


@pytest.fixture(scope="module")
def reference_runs(parent, prompts, tmp_path_factory):
    """Each of DTYPES in one piece."""
    return {name: outcome(*train(cfg, parent, prompts, tmp_path_factory.mktemp(name))) for name, cfg in DTYPES.items()}


@pytest.fixture(scope="module")
def reference_run(reference_runs):
    return reference_runs["fp32"]


MACHINE = {
    "save_steps": 1,
    "gradient_checkpointing": True,
    "vllm": {"gpu_memory_utilization": 0.3, "sleep_level": 2},
    "reward": {"verifier_workers": 2},
    "tokens_per_rollout": 1048576,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MACHINE)
def test_a_run_goes_on_with_other_machine_settings_to_the_same_bytes(
    reference_runs, parent, prompts, tmp_path, name, dtype
):
    cfg, (same_logs, same_weights) = DTYPES[dtype], reference_runs[dtype]
    stopped(cfg, parent, prompts, tmp_path)
    logs, weights = outcome(*train(changed(cfg, **{name: MACHINE[name]}), parent, prompts, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1, "another key"
    assert logs == same_logs and all(torch.equal(weights[n], w) for n, w in same_weights.items())


@pytest.mark.parametrize("name", ["tokens_per_micro_batch", "tokens_per_rollout"])
def test_another_token_budget_regroups_sums_and_no_more(reference_run, parent, prompts, tmp_path, name):
    """Rows of a group are computed apart, prompts one by one: the same numbers but for the order of additions."""
    stopped(CFG, parent, prompts, tmp_path)
    manifest, store = train(changed(CFG, **{name: 16}), parent, prompts, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "another key"
    logs, weights = outcome(manifest, store)
    assert logs[1] == reference_run[0][1] and relative(weights, reference_run[1]) < 1e-5


def test_a_critic_learns_what_comes_and_is_thrown_away(parent, prompts, tmp_path):
    manifest, store = train(changed(GAE, max_steps=25, save_steps=100), parent, prompts, tmp_path)
    rows = steps(store)
    early, late = (sum(r["loss/value_avg"] for r in part) for part in (rows[:5], rows[-5:]))
    assert late < early / 2 and all(r["critic/grad_norm"] > 0 and r["grad_norm"] > 0 for r in rows)
    assert not any("value_head" in name for name in load_file(Path(manifest.weights) / "model.safetensors"))


def test_a_run_with_a_critic_is_resumed_to_the_same_bytes(parent, prompts, tmp_path):
    expected = outcome(*train(GAE, parent, prompts, tmp_path / "whole"))
    stopped(GAE, parent, prompts, tmp_path / "stopped")
    (point,) = (tmp_path / "stopped").glob("*/resume/step-2")
    names = load_file(point / "model.safetensors")
    assert "critic.value_head.weight" in names and "critic.model.language_model.norm.weight" in names
    logs, weights = outcome(*train(GAE, parent, prompts, tmp_path / "stopped"))
    assert logs == expected[0] and all(torch.equal(weights[n], w) for n, w in expected[1].items())


def test_every_network_sees_images_within_the_same_bounds(parent, prompts):
    """The paper's profiles bound the area from both sides; policy, reference and critic read pictures of one size."""
    cfg = changed(GAE, min_pixels=56 * 56 * 4, max_pixels=56 * 56 * 9)
    samples = [sample for sample in read_samples(prompts) if sample.images][:2]
    learner = build(cfg, parent)
    for network in (learner.policy, learner.reference, learner.critic):
        size = network.processor.image_processor.size
        assert (size["shortest_edge"], size["longest_edge"]) == (cfg.min_pixels, cfg.max_pixels)
        grids = network.encode(samples, 1024)["image_grid_thw"]
        patch = network.processor.image_processor.patch_size
        areas = grids.prod(1) * patch**2
        assert all(cfg.min_pixels <= area <= cfg.max_pixels for area in areas.tolist())


def networks(learner):
    """What is trained: the policy, and the critic where there is one."""
    return [network for network in (learner.policy, learner.critic) if network is not None]


def test_every_network_is_of_the_parents_commit(parent):
    commit = "0123456789abcdef0123456789abcdef01234567"
    learner = build(GAE, replace(parent, revision=commit))
    assert [network.revision for network in (*networks(learner), learner.reference)] == [commit] * 3


def test_policy_and_critic_recompute_their_prompts(parent, prompts):
    """The second time on the way back; completions do without the layers' own forward."""
    learner = build(changed(GAE, num_minibatches=1, gradient_checkpointing=True), parent)
    batch, calls = batch_for(learner, prompts), []
    for network in networks(learner):
        for layer in network.model.model.language_model.layers:
            layer.mlp.register_forward_pre_hook(lambda module, *_: calls.append(module))
    learner.learn(batch, 2, None)
    layers = [layer for network in networks(learner) for layer in network.model.model.language_model.layers]
    assert [calls.count(layer.mlp) for layer in layers] == [2] * len(layers)


def test_the_critics_learning_rate_is_its_own(parent, prompts, tmp_path):
    """Its schedule is the policy's, its peak another: with next to none it stays where it was, the policy does not."""
    learner = build(changed(GAE, critic={"learning_rate": 1e-30}), parent)
    before = {n: p.detach().clone() for n, p in learner.trained.items()}
    learner.learn(batch_for(learner, prompts), 1, None)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in learner.trained.items()}
    assert max(m for n, m in moved.items() if n.startswith("critic.")) < 1e-25
    assert max(m for n, m in moved.items() if not n.startswith("critic.")) > 1e-4
    assert [g["lr"] for g in learner.optimizer.param_groups] == pytest.approx([CFG.learning_rate / 2, 5e-31])


# --------------------------------------------------------------------------------------------------------------- bf16


def batch_for(learner, prompts, exact=True):
    """One rollout batch, drawn by an fp32 model from the same weights, with graded rewards: the same for every dtype."""
    samples = tuple(read_samples(prompts)[: CFG.num_prompts])
    drawing = build(CFG, adopt(learner.policy.source, "tiny")).policy
    groups = HFEngine(drawing).generate(samples, CFG.sampling, CFG.num_generations, (0,))
    scored = [
        ScoredGroup(s, rs, tuple(Reward(float(len(set(r.token_ids)) % 4), 0, 0) for r in rs))
        for s, rs in zip(samples, groups, strict=True)
    ]
    return learner.batch(informative(scored, CFG.num_prompts), exact)


BF16 = changed(CFG, bf16=True)
BF16_GAE = changed(GAE, bf16=True)


@pytest.mark.parametrize("gpu", [True, False])
def test_without_a_setting_a_gpu_computes_in_bf16_and_a_cpu_does_not(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = [computes_in(changed(CFG, bf16=setting)) for setting in (None, True, False)]
    assert found == [torch.bfloat16 if gpu else torch.float32, torch.bfloat16, torch.float32]


def test_policy_and_reference_in_bf16_begin_at_kl_zero(parent, prompts, tmp_path):
    """An fp32 policy beside a bf16 reference would begin with a divergence, which is rounding."""
    _, store = train(changed(BF16, max_steps=1, num_minibatches=1), parent, prompts, tmp_path)
    (row,) = steps(store)
    assert row["kl"] == 0.0 and row["grad_norm"] > 0 and row["sampling/logp_difference"] > 1e-4


def test_bf16_trains_fp32_masters(parent, prompts, tmp_path):
    """A step of 1e-6 is lost in a bf16 weight of 0.02; what is saved has it, in fp32, and a resumed run goes on with it."""
    cfg = changed(BF16, learning_rate=1e-6, warmup_steps=0)
    expected = outcome(*train(cfg, parent, prompts, tmp_path / "whole"))
    before = load_file(Path(parent.weights) / "model.safetensors")
    moved = {n: (w - before[n]).abs().max() for n, w in expected[1].items()}
    assert all(w.dtype == torch.float32 for w in expected[1].values())
    assert max(moved.values()) < 2e-5 and sum(bool(m > 0) for m in moved.values()) > len(moved) / 2
    stopped(cfg, parent, prompts, tmp_path / "stopped")
    logs, weights = outcome(*train(cfg, parent, prompts, tmp_path / "stopped"))
    assert logs == expected[0] and all(torch.equal(weights[n], w) for n, w in expected[1].items())


@pytest.mark.parametrize("how", [{"freeze_vision": True}, {"lora": {"r": 4, "target_modules": ["q_proj"]}}], ids=str)
def test_what_bf16_does_not_train_is_saved_as_it_came(parent, prompts, tmp_path, how):
    """Not rounded: a stage's parent has fp32 weights that the stage before it moved by less than bf16 can say."""
    if "lora" in how:
        pytest.importorskip("peft", reason="LoRA is optional: pip install 'lmmr1[peft]'")
    manifest, _ = train(changed(BF16, max_steps=2, **how), parent, prompts, tmp_path)
    before, after = (load_file(Path(m.weights) / "model.safetensors") for m in (parent, manifest))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all("q_proj" in n if "lora" in how else "visual" not in n for n in moved)


def one_without_a_gradient(cfg, parent, prompts, out=None):
    """A step in which the first process's only group is dead, and nothing else gives it a gradient."""
    processes = join()
    learner = build(cfg, parent, processes)
    samples = tuple(read_samples(prompts)[:2])
    groups = HFEngine(build(cfg, parent).policy).generate(samples, cfg.sampling, cfg.num_generations, (0,))
    scored = [ScoredGroup(s, rs, tuple(Reward(float(p * (i % 2)), 0, 0) for i in range(len(rs))))
              for p, (s, rs) in enumerate(zip(samples, groups, strict=True))]  # fmt: skip
    norm = learner.learn(learner.batch(scored, exact=True), 2, None).metrics["grad_norm"]
    if out and processes.main:
        out.write_text(json.dumps(norm))
    return norm


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_a_process_without_a_gradient_keeps_up_with_the_others(parent, prompts, tmp_path, how):
    cfg = changed(CFG, num_prompts=2, num_minibatches=1, loss={"beta": 0.0})
    expected = one_without_a_gradient(cfg, parent, prompts)
    on(how, one_without_a_gradient, cfg, parent, prompts, tmp_path / "norm.json")
    assert json.loads((tmp_path / "norm.json").read_text()) == pytest.approx(expected, rel=1e-5) and expected > 0


def assert_rounded_masters(network):
    """Every weight that computes is bf16, and those that are trained are their masters, rounded."""
    weights = dict(network.model.named_parameters())
    assert network.masters and all(w.dtype == torch.bfloat16 for w in weights.values())
    assert all(torch.equal(weights[name], master.bfloat16()) for name, master in network.masters.items())


def test_what_computes_follows_the_masters(parent, prompts):
    learner = build(BF16_GAE, parent)
    before = [{n: p.detach().clone() for n, p in of.model.named_parameters()} for of in networks(learner)]
    learner.learn(batch_for(learner, prompts, exact=False), 2, None)
    for network, old in zip(networks(learner), before, strict=True):
        assert_rounded_masters(network)
        after = dict(network.model.named_parameters())
        assert sum(not torch.equal(after[n], old[n]) for n in network.masters) > len(old) / 2


def test_a_resumed_learner_computes_with_what_was_saved(parent, prompts, tmp_path):
    first, second = build(BF16_GAE, parent), build(BF16_GAE, parent)
    store = Store(tmp_path, "run")
    assert store.resume(first.trained, first.optimizer) == 0
    first.learn(batch_for(first, prompts, exact=False), 2, None)
    store.save(2, first.trained, first.optimizer)
    assert store.resume(second.trained, second.optimizer) == 2
    second.loaded()
    for network, saved in zip(networks(second), networks(first), strict=True):
        assert_rounded_masters(network)
        assert all(torch.equal(network.masters[name], master) for name, master in saved.masters.items())


def critic_after_a_step(cfg, parent, prompts, folder):
    """Each process writes the critic that it has after one batch, whole."""
    processes = join()
    learner = build(cfg, parent, processes)
    learner.learn(batch_for(learner, prompts), 2, None)
    critic = {name: whole(param.detach()).clone() for name, param in learner.critic.trained.items()}
    torch.save(critic, folder / f"{processes.index}.pt")


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_train_one_critic(parent, prompts, tmp_path, how):
    cfg = changed(GAE, num_minibatches=1)
    critic_after_a_step(cfg, parent, prompts, tmp_path)
    expected = torch.load(tmp_path / "0.pt")
    on(how, critic_after_a_step, cfg, parent, prompts, tmp_path)
    first, second = (torch.load(tmp_path / f"{i}.pt") for i in (0, 1))
    assert all(torch.equal(second[name], weight) for name, weight in first.items())
    assert relative(first, expected) < 1e-5


def gradients_of(cfg, parent, prompts, out=None):
    """Gradients of policy and critic for one batch, whole, by whatever processes there are."""
    processes = join()
    learner = build(cfg, parent, processes)
    batch = batch_for(learner, prompts, exact=False)
    tokens = float(batch.loss_mask.sum())
    accumulate_gradients(learner.policy, batch, cfg, tokens, processes)
    accumulate_value_gradients(learner.critic, batch, cfg, tokens, processes)
    for network in networks(learner):  # the weights are still whole
        assert {p.dtype for p in network.model.parameters()} == {computes_in(cfg)}
        processes.reduce(network)
    # every process has to help
    found = {n: whole(p.grad).float().clone() for n, p in learner.trained.items() if p.grad is not None}
    if out and processes.main:
        torch.save(found, out)
    return found


@pytest.fixture(scope="module")
def fp32_gradients(parent, prompts):
    return gradients_of(changed(GAE, bf16=False), parent, prompts)


@pytest.mark.parametrize("how", ["one", "ddp", "fsdp2"])
@pytest.mark.parametrize("bf16", [True, False])
def test_gradients_are_those_of_one_fp32_process(fp32_gradients, parent, prompts, tmp_path, how, bf16):
    """With recomputation and a trained vision tower, for policy and critic: 2 % in bf16, rounding in fp32."""
    cfg = changed(GAE, bf16=bf16, gradient_checkpointing=True, tokens_per_micro_batch=16)
    on(how, gradients_of, cfg, parent, prompts, tmp_path / "gradients.pt")
    found = torch.load(tmp_path / "gradients.pt")
    assert found.keys() == fp32_gradients.keys()
    for part in ("critic.", "model.visual", "model.language"):
        mine, theirs = ({n: g for n, g in of.items() if n.startswith(part)} for of in (found, fp32_gradients))
        assert mine and relative(mine, theirs) < (0.02 if bf16 else 1e-5), part
