"""Contract: `trainer: trl` runs the same stage through TRL: same prompts, rewards, rates, logs, and a run that resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("WANDB_DISABLED", "true")
pytest.importorskip("trl", reason="the reference trainer is a development dependency")

from lmmr1 import train as train_module
from lmmr1 import trl_trainer
from lmmr1.config import LoraConfig, LossConfig, RewardConfig, SamplingConfig, TrainConfig, parse_settings
from lmmr1.data import prompt_batches, read_samples
from lmmr1.policy import load_policy
from lmmr1.rewards import score, verifier_pool
from lmmr1.schedule import learning_rate
from lmmr1.store import adopt, run_key, write_manifest
from lmmr1.train import train
from lmmr1.trl_settings import DECIDED, OURS, adapter, arguments, mapped
from lmmr1.types import Reward, ScoredGroup, TrainingError, UserError
from reproduce.micro.build import write_prompts
from reproduce.plan import ROOT, Plan

CFG = TrainConfig(
    trainer="trl", max_steps=4, num_prompts=2, num_generations=4, save_steps=2, warmup_steps=2, learning_rate=1e-3, seed=3,
    freeze_vision=True, sampling=SamplingConfig(max_completion_length=8, max_prompt_length=256),
)  # fmt: skip


def graded(samples, rollouts, **_):
    """A random model's answers, all wrong, are told apart without a verifier: fewer distinct tokens pay more."""
    pay = lambda rollout: Reward(-float(len(set(rollout.token_ids))), 0.0, 0.0)
    return [ScoredGroup(s, group, tuple(map(pay, group))) for s, group in zip(samples, rollouts, strict=True)]


@pytest.fixture(scope="module", autouse=True)
def graded_rewards():
    """Without a difference between answers nothing would be trained, and every test here would be vacuous."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl_trainer, "score", graded)
        patch.setattr(train_module, "score", lambda samples, rollouts, *_: graded(samples, rollouts))
        yield


@pytest.fixture(scope="module")
def parent(tiny_model):
    return adopt(str(tiny_model), "tiny")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    out = tmp_path_factory.mktemp("prompts") / "mixed.jsonl"
    write_prompts({"chain": 0.5, "count": 0.25, "drawn": 0.25}, 24, 0, out)
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    out = tmp_path_factory.mktemp("prompts") / "images.jsonl"
    write_prompts({"count": 1.0}, 8, 0, out)
    return out


@pytest.fixture(scope="module")
def whole(parent, prompts, tmp_path_factory):
    """An uninterrupted run: its manifest and store."""
    return train(CFG, parent, prompts, tmp_path_factory.mktemp("whole"))


def rows(store, name="steps.jsonl"):
    return [json.loads(line) for line in (store.folder / name).read_text().splitlines()]


def test_a_run_leaves_what_ours_leaves(whole, parent, prompts, tmp_path):
    manifest, store = whole
    mine, ours = train(CFG.model_copy(update={"trainer": "lmmr1", "max_steps": 1}), parent, prompts, tmp_path)
    names = rows(ours)[0].keys() - {"sampling/logp_difference"}  # generate() keeps no log-probabilities
    assert [r["step"] for r in rows(store)] == [1, 2, 3, 4] and all(names == r.keys() for r in rows(store))
    for name in ("completions.jsonl", "timings.jsonl"):
        assert rows(store, name)[0].keys() == rows(ours, name)[0].keys()
    assert {p.name for p in store.final.iterdir()} == {p.name for p in ours.final.iterdir()}
    for name in ("generation_config.json", "tokenizer_config.json", "config.json"):
        assert (store.final / name).read_bytes() == (ours.final / name).read_bytes(), name
    assert manifest.versions["trl"] and manifest.parent == parent.key and "trl" not in mine.versions
    assert manifest.key != mine.key and not (store.folder / "resume").exists()


def test_something_was_learned_and_the_vision_tower_stood_still(whole, parent):
    from safetensors.torch import load_file

    before, after = (load_file(Path(m.weights) / "model.safetensors") for m in (parent, whole[0]))
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and not any("visual" in k for k in moved)


def test_prompts_and_rates_are_those_of_our_loop(whole, prompts):
    samples = read_samples(prompts)
    drawn = {step: [s.id for s in batch] for step, batch in prompt_batches(samples, 2, CFG.seed, 0, 4)}
    assert [r["sample_id"] for r in rows(whole[1], "completions.jsonl")[::2]] == [drawn[s][0] for s in (1, 2, 3, 4)]
    assert [r["learning_rate"] for r in rows(whole[1])] == pytest.approx([learning_rate(CFG, s) for s in (1, 2, 3, 4)])
    assert any(s.images for s in samples) and not all(s.images for s in samples)  # mixed batches train too


def test_resume_after_a_kill_is_bit_equal(whole, parent, prompts, tmp_path, monkeypatch):
    """Killed in the fourth step, after the checkpoint of the second; then once more, from a damaged checkpoint."""
    calls = []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return graded(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trl_trainer, "score", killed)
        with pytest.raises(KeyboardInterrupt):
            train(CFG, parent, prompts, tmp_path)
    (point,) = tmp_path.glob("*/resume/checkpoint-2")
    assert json.loads((point / "state.json").read_text())["step"] == 2
    manifest, store = train(CFG, parent, prompts, tmp_path)
    assert len(calls) == 4 and manifest.weights_sha256 == whole[0].weights_sha256
    for name in ("steps.jsonl", "completions.jsonl"):
        assert (store.folder / name).read_bytes() == (whole[1].folder / name).read_bytes()


def test_a_finished_run_is_found_again(whole, parent, prompts, monkeypatch):
    monkeypatch.setattr(trl_trainer, "build", lambda *a: pytest.fail("trained again"))
    assert train(CFG, parent, prompts, whole[1].folder.parent)[0] == whole[0]


def test_rewards_are_ours_to_the_last_coin(prompts):
    """Texts in, the very groups of our own loop out, the control's coins among them."""
    samples = read_samples(prompts)[:3]
    texts = [f"<think>x</think><answer>{s.answer}</answer>" for s in samples] + ["<answer>", "7", ""]
    for kind in ("rule", "random"):
        cfg = CFG.model_copy(update={"reward": RewardConfig(kind=kind), "num_generations": 2})
        with verifier_pool(cfg.reward) as verifier:
            ask = lambda s, r, seed, cfg=cfg: score(s, r, cfg.reward, cfg.sampling, verifier, seed)
            rewards = trl_trainer.Rewards(cfg, ask, stop_ids=(0,))
            state = type("State", (), {"global_step": 4})
            found = rewards(
                completions=[[{"content": t}] for t in texts], completion_ids=[[5, 0], [5, 6]] * 3,
                sample=[samples[i // 2] for i in range(6)], trainer_state=state,
            )  # fmt: skip
            rollouts = [g.rollouts for g in rewards.groups]
            assert [r.finish for g in rollouts for r in g] == ["stop", "length"] * 3
            assert rewards.groups == ask(tuple(samples), rollouts, (cfg.seed, 5))
            assert found == [r.total for g in rewards.groups for r in g.rewards]


def test_completions_end_at_every_stop_token_of_the_checkpoint(two_stops, prompts, tmp_path):
    """TRL stops where our engines do, and what it cut counts as ended."""
    policy = load_policy(str(two_stops))
    assert len(policy.stop_ids) == 2
    end = policy.processor.tokenizer.eos_token_id
    sampling = CFG.sampling.model_copy(update={"temperature": 0.1})  # a random model's favourite is seldom drawn at 1
    cfg, groups = CFG.model_copy(update={"max_steps": 2, "num_prompts": 4, "sampling": sampling}), []
    scorer = lambda samples, rollouts, **_: groups.extend(rollouts) or graded(samples, rollouts)
    args = trl_trainer.arguments(cfg, tmp_path)[0]
    trainer = trl_trainer.build(cfg, str(two_stops), read_samples(prompts), scorer, args)
    assert tuple(sorted(trainer.eos_token_ids)) == policy.stop_ids
    trainer.train()
    rollouts = [r for group in groups for r in group]
    assert not any(set(policy.stop_ids) & set(r.token_ids[:-1]) for r in rollouts)
    assert all(r.finish == ("stop" if r.token_ids[-1] in policy.stop_ids else "length") for r in rollouts)
    assert any(r.token_ids[-1] in policy.stop_ids and r.token_ids[-1] != end for r in rollouts)
    assert any(r.finish == "length" for r in rollouts)


def leaves(model, prefix=""):
    """Dotted names of all settings below `model`."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if hasattr(value, "model_fields") and prefix + name != "reward":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


OTHER = {
    "seed": 4, "max_steps": 5, "num_prompts": 4, "num_generations": 8, "num_iterations": 2, "num_minibatches": 2,
    "engine": "vllm", "advantage": "group_mean", "learning_rate": 2e-3, "adam_beta1": 0.8, "adam_beta2": 0.9,
    "weight_decay": 0.1, "max_grad_norm": 2.0, "save_steps": 3, "sampling.temperature": 0.7,
    "sampling.max_completion_length": 9, "loss.loss_type": "grpo", "loss.epsilon": 0.1, "loss.epsilon_high": 0.3,
    "loss.beta": 0.1, "gradient_checkpointing": True, "vllm.gpu_memory_utilization": 0.7, "vllm.sleep_level": 0,
    "loss.mask_truncated_completions": True, "loss.importance_sampling_cap": 3.0,
    "loss.importance_sampling_level": "sequence",
}  # fmt: skip


def with_setting(name, value):
    values = CFG.model_dump()
    *path, last = name.split(".")
    inner = values
    for part in path:
        inner = inner[part]
    inner[last] = value
    return parse_settings(TrainConfig, values, "test")


def test_every_setting_reaches_trl_or_is_kept_by_us():
    assert set(leaves(CFG)) == set(OTHER) | set(OURS)
    for name, value in OTHER.items():
        assert mapped(with_setting(name, value), 1) != mapped(CFG, 1), name


def test_mapping_by_name():
    fields = mapped(CFG.model_copy(update={"num_minibatches": 2, "num_iterations": 3}), 1)
    assert fields["max_steps"] == 4 * 6 and fields["save_steps"] == 2 * 6
    assert fields["per_device_train_batch_size"] == 4 and fields["steps_per_generation"] == 2
    fields = mapped(CFG.model_copy(update={"trl": {"per_device_train_batch_size": 2}}), 2)
    assert (fields["gradient_accumulation_steps"], fields["steps_per_generation"]) == (2, 2)
    assert fields["scale_rewards"] == "group" and fields["loss_type"] == "dapo" and not fields["use_bias_correction_kl"]
    assert mapped(with_setting("loss.loss_type", "seq_mean"), 1)["loss_type"] == "grpo"


def test_what_of_the_real_scale_reaches_trl():
    """The profiles' own settings, which no training here has."""
    values = Plan.load({"profile": "paper"}).train_config("fre", 0)
    cfg = parse_settings(TrainConfig, values | {"trainer": "trl"}, "paper")
    fields = mapped(cfg, 8)
    assert cfg.engine == "vllm" and fields["use_vllm"] and fields["vllm_enable_sleep_mode"]
    assert fields["gradient_checkpointing"] is cfg.gradient_checkpointing is True
    assert fields["beta"] == cfg.loss.beta > 0 and fields["scale_rewards"] == "group"
    assert fields["max_steps"] == 130 * 16 and fields["gradient_accumulation_steps"] == 1
    assert mapped(cfg.model_copy(update={"advantage": "group_mean"}), 8)["scale_rewards"] == "none"
    assert mapped(with_setting("loss.importance_sampling_cap", 3.0), 1)["vllm_importance_sampling_clip_max"] == 3.0
    values = Plan.load({"profile": "single_gpu_24gb"}).train_config("fre", 0)
    found = adapter(parse_settings(TrainConfig, values | {"trainer": "trl"}, "single_gpu_24gb"))
    assert (found.r, found.lora_alpha, found.lora_dropout) == (64, 128, 0.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("advantage", "rloo", "advantage 'rloo': TRL's trainer has 'group_norm' or 'group_mean' only"),
        ("advantage", "reinforce_baseline", "advantage 'reinforce_baseline'"),
        ("advantage", "gae", "advantage 'gae'"),
        ("bf16", True, "bf16 True"),
        ("dynamic_sampling_factor", 2, "dynamic_sampling_factor 2"),
        ("loss.kl_in_reward", True, "loss.kl_in_reward True"),
        ("loss.kl_estimator", "k1", "loss.kl_estimator 'k1'"),
        ("trainer", "trlx", "Input should be 'lmmr1' or 'trl'"),
    ],
)
def test_what_trl_lacks_is_refused_with_the_settings(name, value, words):
    with pytest.raises(UserError, match=words):
        with_setting(name, value)


def test_options_of_trl_need_its_trainer():
    with pytest.raises(UserError, match="trl: bf16: options of TRL's trainer; give trainer: trl"):
        parse_settings(TrainConfig, {"trl": {"bf16": True}}, "test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vllm_mod": "server"}, "trl.vllm_mod: .* did you mean vllm_mode"),
        ({"learning_rate": 1e-6}, "trl.learning_rate: decided by learning_rate"),
        ({"use_vllm": True}, "trl.use_vllm: decided by engine"),
        ({"use_peft": True}, "trl.use_peft: decided by lora"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size 3 on 1 processes does not divide the 8"),
        ({"deepspeed": "ds.json"}, "deepspeed is not installed|refused by TRL"),
        ({"top_entropy_quantile": 0.5, "auto_find_batch_size": True}, "refused by TRL 1.16"),
    ],
)
def test_options_are_checked_before_anything_is_computed(options, words, parent, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(trl_trainer, "load", lambda *a: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=words):
        train(CFG.model_copy(update={"trl": options}), parent, prompts, tmp_path)


def test_options_of_trl_pass_through(tmp_path):
    options = {"bf16": True, "top_p": 0.9, "vllm_mode": "server", "per_device_train_batch_size": 4}
    args, adapter = arguments(CFG.model_copy(update={"trl": options}), tmp_path)
    assert {k: getattr(args, k) for k in options} == options and adapter is None
    assert args.gradient_accumulation_steps == 2 and args.generation_batch_size == 8 and args.max_steps == 4
    assert set(DECIDED) & set(mapped(CFG, 1)) and not set(options) & set(DECIDED)


def test_options_from_snakemakes_command_line_have_types():
    """There `--config train='{trl: {top_k: 8}}'` arrives as strings."""
    given = {"top_k": "8", "top_p": "0.9", "bf16": "true", "vllm_mode": "server", "fsdp": ["full_shard"]}
    found = with_setting("trl", given).trl
    assert found == {"top_k": 8, "top_p": 0.9, "bf16": True, "vllm_mode": "server", "fsdp": ["full_shard"]}
    assert [type(v) for v in found.values()] == [int, float, bool, str, list]


def test_bnpo_is_refused_where_trl_would_average_locally():
    with pytest.raises(UserError, match="bnpo"):
        mapped(with_setting("loss.loss_type", "bnpo").model_copy(update={"trl": {"per_device_train_batch_size": 4}}), 1)
    with pytest.raises(UserError, match="num_prompts 2: cannot be shared by 3 processes"):
        mapped(CFG, 3)


def test_trainer_and_options_are_part_of_the_key():
    keys = {
        run_key(c, "parent", "data")
        for c in (CFG, CFG.model_copy(update={"trainer": "lmmr1"}), CFG.model_copy(update={"trl": {"top_p": 0.9}}))
    }
    assert len(keys) == 3


def test_several_optimizer_steps_with_kl_and_accumulation(parent, images, tmp_path):
    """One line per rollout batch, whatever TRL's steps are; and the reference model of the KL."""
    cfg = CFG.model_copy(
        update={
            "max_steps": 2, "num_minibatches": 2, "num_iterations": 2, "loss": LossConfig(beta=0.1),
            "trl": {"per_device_train_batch_size": 2},
        }
    )  # fmt: skip
    _, store = train(cfg, parent, images, tmp_path)
    assert [r["step"] for r in rows(store)] == [1, 2] and rows(store)[-1]["kl"] > 0
    assert [r["learning_rate"] for r in rows(store)] == pytest.approx([learning_rate(cfg, s) for s in (1, 2)])


def test_a_prompt_that_is_too_long_is_an_error(parent, prompts, tmp_path):
    with pytest.raises(UserError, match="longer than max_prompt_length 5"):
        train(with_setting("sampling.max_prompt_length", 5), parent, prompts, tmp_path)


def test_rewards_that_are_not_finite_stop_the_run(prompts):
    """TRL would take them for an advantage of 0."""
    (sample, *_), state = read_samples(prompts), type("State", (), {"global_step": 0})
    endless = lambda s, r, seed: [ScoredGroup(s[0], r[0], tuple(Reward(float("inf"), 0, 0) for _ in r[0]))]
    with pytest.raises(TrainingError, match=f"step 1: rewards not finite for samples {sample.id}"):
        trl_trainer.Rewards(CFG, endless, (0,))([[{"content": ""}]] * 4, [[0]] * 4, [sample] * 4, state)


def test_numbers_that_are_not_finite_stop_the_run_before_its_checkpoint(parent, prompts, tmp_path, monkeypatch):
    real = trl_trainer.Trainer._compute_loss
    monkeypatch.setattr(trl_trainer.Trainer, "_compute_loss", lambda *args: real(*args) * float("nan"))
    with pytest.raises(TrainingError, match="step 1: loss, grad_norm not finite for samples"):
        train(CFG.model_copy(update={"save_steps": 1}), parent, prompts, tmp_path)
    assert not list(tmp_path.glob("*/resume/*")) and not list(tmp_path.glob("*/manifest.json"))


def test_rows_with_and_without_images_are_not_split(parent, prompts, tmp_path):
    with pytest.raises(UserError, match="have no image, and TRL cannot split such a rollout batch"):
        train(CFG.model_copy(update={"num_minibatches": 2}), parent, prompts, tmp_path)


def test_an_adapter_is_merged_into_the_checkpoint(parent, prompts, tmp_path):
    pytest.importorskip("peft", reason="LoRA is TRL's, through peft (optional)")
    from safetensors.torch import load_file

    lora = LoraConfig(r=4, target_modules=("q_proj", "gate_proj"))
    manifest, _ = train(CFG.model_copy(update={"max_steps": 2, "lora": lora}), parent, prompts, tmp_path)
    before, after = (load_file(Path(m.weights) / "model.safetensors") for m in (parent, manifest))
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert before.keys() == after.keys() and moved and not any("visual" in k for k in moved)
    assert {k.split(".")[-2] for k in moved} == {"q_proj", "gate_proj"}


@pytest.mark.slow
def test_two_processes_share_one_run(parent, images, tmp_path):
    """Whole groups per process, one log, one manifest; as `accelerate launch` starts them on GPUs."""
    config = CFG.model_copy(update={"max_steps": 2, "save_steps": 1})
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump()))
    write_manifest(tmp_path / "parent.json", parent)
    files = {"config": "config.yaml", "parent": "parent.json", "out": "out", "checkpoints": "store"}
    arguments = [x for name, file in files.items() for x in (f"--{name}", str(tmp_path / file))]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmmr1.train"]
    done = subprocess.run(
        [sys.executable, *launch, *arguments, "--prompts", str(images)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    steps = [json.loads(x) for x in (out / "steps.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == [1, 2]
    drawn = [batch for _, batch in prompt_batches(read_samples(images), 2, CFG.seed, 0, 2)]
    logged = [json.loads(x)["sample_id"] for x in (out / "completions.jsonl").read_text().splitlines()]
    assert logged[::2] == [batch[0].id for batch in drawn]
    manifest = json.loads((out / "manifest.json").read_text())
    assert Path(manifest["weights"]).joinpath("model.safetensors").exists()
