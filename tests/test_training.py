"""Contract: a run is a pure function of its settings, parent and prompts, and an interrupted one ends the same."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from lmmr1 import NUMERICS
from lmmr1 import train as train_module
from lmmr1.checkpoint import load_processor
from lmmr1.config import RewardConfig, SamplingConfig, TrainConfig
from lmmr1.data import read_samples
from lmmr1.learner import Learner
from lmmr1.lock import owned
from lmmr1.schedule import learning_rate
from lmmr1.store import Store, adopt, read_parent, run_key, sha256_file, sha256_weights, write_manifest
from lmmr1.train import train
from lmmr1.types import TrainingError, UserError
from reproduce.micro.build import write_prompts
from reproduce.trace import Run

CFG = TrainConfig(
    max_steps=10, num_prompts=4, num_generations=4, save_steps=2, warmup_steps=2, learning_rate=1e-3, seed=3,
    sampling=SamplingConfig(max_completion_length=10, max_prompt_length=256),
)  # fmt: skip
GOLDEN = Path(__file__).parent / "golden" / "trajectory.json"


def graded(samples, rollouts, cfg, *bounds_and_seed):
    """The real score, but a random model's answers, all wrong, are told apart: fewer distinct tokens pay more."""
    groups = REAL_SCORE(samples, rollouts, cfg, *bounds_and_seed)
    if cfg.kind == "random":
        return groups
    return [
        dataclasses.replace(
            g,
            rewards=tuple(
                dataclasses.replace(r, total=-float(len(set(x.token_ids))))
                for r, x in zip(g.rewards, g.rollouts, strict=True)
            ),
        )
        for g in groups
    ]


REAL_SCORE = train_module.score


@pytest.fixture(scope="module", autouse=True)
def graded_rewards():
    """Without a difference between answers nothing would be trained, and every test here would be vacuous."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "score", graded)
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
def whole(parent, prompts, tmp_path_factory):
    """An uninterrupted run: its manifest and store."""
    return train(CFG, parent, prompts, tmp_path_factory.mktemp("whole"))


def logs(store):
    return {name: (store.folder / name).read_bytes() for name in ("steps.jsonl", "completions.jsonl")}


def test_something_was_learned(whole, parent):
    rows = [json.loads(line) for line in (whole[1].folder / "steps.jsonl").read_text().splitlines()]
    assert whole[0].weights_sha256 != parent.weights_sha256
    assert sum(r["reward_std"] > 0 and r["grad_norm"] > 0 for r in rows) >= 8


def test_log_has_trl_names_for_every_step(whole):
    rows = [json.loads(line) for line in (whole[1].folder / "steps.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 11))
    names = {
        "reward", "reward_std", "frac_reward_zero_std", "rewards/accuracy/mean", "rewards/format/mean", "loss", "grad_norm",
        "entropy", "kl", "learning_rate", "completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean",
    }  # fmt: skip
    assert names <= rows[0].keys()
    assert rows[0]["learning_rate"] == CFG.learning_rate / 2 and rows[3]["learning_rate"] == CFG.learning_rate


def crash_after(steps, parent, prompts, root, monkeypatch):
    """Run CFG until `steps` steps are done, then stop it in the middle of the next one."""
    calls, real = [], train_module.score

    def crash(*args):
        calls.append(1)
        if len(calls) == steps + 1:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "score", crash)
        with pytest.raises(KeyboardInterrupt):
            train(CFG, parent, prompts, root)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_resume_after_a_crash_is_bit_equal(whole, parent, prompts, tmp_path, monkeypatch, step):
    crash_after(step, parent, prompts, tmp_path, monkeypatch)
    manifest, store = train(CFG, parent, prompts, tmp_path)
    assert manifest.weights_sha256 == whole[0].weights_sha256
    assert logs(store) == logs(whole[1])


def test_a_damaged_resume_point_is_named_and_the_one_before_is_used(
    whole, parent, prompts, tmp_path, monkeypatch, capsys
):
    crash_after(5, parent, prompts, tmp_path, monkeypatch)
    (newest,) = tmp_path.glob("*/resume/step-4/model.safetensors")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    manifest, _ = train(CFG, parent, prompts, tmp_path)
    assert "step-4" in capsys.readouterr().out
    assert manifest.weights_sha256 == whole[0].weights_sha256


def test_a_finished_run_is_found_again(whole, parent, prompts, monkeypatch):
    monkeypatch.setattr(train_module, "build", lambda *a: pytest.fail("trained again"))
    manifest, _ = train(CFG, parent, prompts, whole[1].folder.parent)
    assert manifest == whole[0]


def test_a_run_is_traced_wherever_it_was_trained(whole, parent, prompts, tmp_path, monkeypatch):
    """Settings that leave the dtype to the machine: fp32 here, bf16 where there is a GPU (computed on the CPU)."""
    one = CFG.model_copy(update={"max_steps": 1})
    monkeypatch.setattr("lmmr1.precision.has_gpu", lambda: True)
    gpu, store = train(one, parent, prompts, tmp_path / "checkpoints")
    logged = json.loads((store.folder / "steps.jsonl").read_text().splitlines()[0])
    monkeypatch.undo()
    cpu, store = train(one, parent, prompts, tmp_path / "checkpoints")
    assert gpu.key != cpu.key and (gpu.config["bf16"], cpu.config["bf16"]) == (True, None)
    assert logged["loss"] != json.loads((store.folder / "steps.jsonl").read_text().splitlines()[0])["loss"]

    def settings_of(arm, manifest):
        write_manifest(tmp_path / f"results/x/{arm}/0/manifest.json", manifest)
        run = Run(tmp_path, tmp_path / "results/x")
        return next(link for link in run.checkpoint(arm, "0").walk() if link.what == "settings")

    assert {settings_of("gpu", gpu).state, settings_of("cpu", cpu).state} == {"verified"}
    other = dataclasses.replace(gpu, config=gpu.config | {"seed": gpu.config["seed"] + 1})
    assert settings_of("other", other).state == "unknown"


def test_a_damaged_checkpoint_is_named_not_used(parent, prompts, tmp_path):
    _, store = train(CFG.model_copy(update={"max_steps": 1}), parent, prompts, tmp_path)
    file = store.final / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"weights are damaged, .* delete"):
        train(CFG.model_copy(update={"max_steps": 1}), parent, prompts, tmp_path)


def test_other_images_are_other_data(prompts, tmp_path):
    from lmmr1.data import data_sha256, read_samples

    copy = tmp_path / "copy"
    shutil.copytree(prompts.parent, copy)
    samples = read_samples(copy / prompts.name)
    before = data_sha256(copy / prompts.name, samples)
    image = next(i for s in samples for i in s.images)
    image.write_bytes(image.read_bytes() + b"x")
    assert data_sha256(copy / prompts.name, samples) != before


def test_the_key_covers_everything_that_decides_the_numbers(parent, monkeypatch):
    key = run_key(CFG, parent.key, "data")
    assert key == run_key(TrainConfig(**CFG.model_dump()), parent.key, "data")
    assert key != run_key(CFG.model_copy(update={"seed": 4}), parent.key, "data")
    assert key != run_key(CFG, "other parent", "data")
    assert key != run_key(CFG, parent.key, "other data")
    monkeypatch.setattr("lmmr1.store.NUMERICS", NUMERICS + 1)
    assert key != run_key(CFG, parent.key, "data")


def test_golden_trajectory(whole):
    """Numbers of a fixed run. If this fails, training numbers moved: bump lmmr1.NUMERICS and write the file anew
    (the test says how), or undo the change. Another torch build may differ in the last digits, hence the tolerance."""
    rows = [json.loads(line) for line in (whole[1].folder / "steps.jsonl").read_text().splitlines()]
    kept = [{k: r[k] for k in ("reward", "loss", "grad_norm", "entropy", "completions/mean_length")} for r in rows]
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"numerics": NUMERICS, "steps": kept}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} did not exist and was written; commit it")
    golden = json.loads(GOLDEN.read_text())
    assert golden["numerics"] == NUMERICS, f"NUMERICS was bumped: delete {GOLDEN.name} and run this test again"
    for row, expected in zip(kept, golden["steps"], strict=True):
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-4)


def test_learning_moves_the_reward(parent, prompts, tmp_path):
    """A random model that is paid for repeating itself must learn to."""
    cfg = CFG.model_copy(update={"max_steps": 25, "num_generations": 8, "learning_rate": 3e-3, "save_steps": 100})
    _, store = train(cfg, parent, prompts, tmp_path)
    rewards = [json.loads(line)["reward"] for line in (store.folder / "steps.jsonl").read_text().splitlines()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 1


def test_non_finite_numbers_stop_the_run_and_keep_the_batch(parent, prompts, tmp_path, monkeypatch):
    real = Learner.batch

    def broken(learner, groups, exact):
        batch = real(learner, groups, exact)
        return dataclasses.replace(batch, advantages=batch.advantages + float("nan"))

    monkeypatch.setattr(Learner, "batch", broken)
    with pytest.raises(TrainingError, match=r"step 1: .*loss.* not finite for samples .*failed-step-1.pt"):
        train(CFG, parent, prompts, tmp_path)
    (file,) = tmp_path.glob("*/failed-step-1.pt")
    saved = torch.load(file, weights_only=True)
    assert len(saved["sample_ids"]) == 4 and saved["advantages"].isnan().any()
    assert not list(tmp_path.glob("*/final"))


def test_kl_in_the_reward_and_in_the_loss_train(parent, prompts, tmp_path):
    base = CFG.model_dump() | {
        "max_steps": 2,
        "advantage": "reinforce_baseline",
        "num_iterations": 2,
        "num_minibatches": 2,
    }
    for in_reward in (True, False):
        cfg = TrainConfig.model_validate(base | {"loss": {"beta": 0.05, "kl_in_reward": in_reward}})
        manifest, store = train(cfg, parent, prompts, tmp_path)
        rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
        assert manifest.weights_sha256 != parent.weights_sha256
        assert rows[-1]["kl"] > 0  # the curve that the paper plots, wherever the KL is paid


def test_dynamic_sampling_draws_more_and_trains_on_as_many(parent, prompts, tmp_path):
    cfg = CFG.model_copy(update={"max_steps": 2, "dynamic_sampling_factor": 2})
    _, store = train(cfg, parent, prompts, tmp_path)
    rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(r["grad_norm"] > 0 for r in rows)


def test_random_reward_ignores_answers_but_trains(parent, prompts, tmp_path):
    cfg = CFG.model_copy(update={"max_steps": 2, "reward": RewardConfig(kind="random")})
    manifest, store = train(cfg, parent, prompts, tmp_path)
    rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
    assert all(0 < r["reward"] < 1 for r in rows) and manifest.weights_sha256 != parent.weights_sha256


def test_frozen_vision_does_not_move(parent, prompts, tmp_path):
    from safetensors.torch import load_file

    manifest, _ = train(CFG.model_copy(update={"max_steps": 1, "freeze_vision": True}), parent, prompts, tmp_path)
    before, after = (load_file(Path(m.weights) / "model.safetensors") for m in (parent, manifest))
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and not any("visual" in k for k in moved)


def test_finished_checkpoint_loads_as_any_hugging_face_model(whole):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(whole[0].weights)
    AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sha256_weights(folder) == whole[0].weights_sha256


def test_schedule():
    cosine = CFG.model_copy(update={"lr_scheduler_type": "cosine", "max_steps": 100, "warmup_steps": 0})
    rates = [learning_rate(cosine, s) for s in range(1, 101)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0.1 * CFG.learning_rate)
    assert rates[49] == pytest.approx(0.55 * CFG.learning_rate)  # half way
    assert rates[24] == pytest.approx((0.55 + 0.45 * 2**-0.5) * CFG.learning_rate)
    warm = cosine.model_copy(update={"warmup_steps": 4})
    assert [learning_rate(warm, s) / r for s, r in zip(range(1, 7), rates, strict=False)] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 1]
    )
    constant = CFG.model_copy(update={"max_steps": 100, "warmup_steps": 4})
    assert [learning_rate(constant, s) / CFG.learning_rate for s in (1, 4, 50, 100)] == pytest.approx([0.25, 1, 1, 1])


def test_a_folder_without_weights_cannot_be_adopted(tmp_path):
    with pytest.raises(UserError, match="not a checkpoint folder"):
        adopt(str(tmp_path), "empty")


def test_log_lines_after_the_last_resume_point_are_cut(tmp_path):
    store = Store(tmp_path, "run")
    store.log("steps.jsonl", {"step": 1})
    store._cut_logs({"steps.jsonl": 0, "completions.jsonl": 0, "timings.jsonl": 0})
    assert sha256_file(store.folder / "steps.jsonl") == sha256_file(store.folder / "completions.jsonl")


# ------------------------------------------------------------------------------------------------------------- damage


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["steps.jsonl", "completions.jsonl", "resume/step-4/state.json"])
def test_a_damaged_log_or_state_is_not_continued(whole, parent, prompts, tmp_path, monkeypatch, capsys, name):
    crash_after(5, parent, prompts, tmp_path, monkeypatch)
    (path,) = tmp_path.glob(f"*/{name}")
    flip(path, 30)
    manifest, store = train(CFG, parent, prompts, tmp_path)
    assert "not usable" in (said := capsys.readouterr().out) and name.rpartition("/")[2] in said
    assert manifest.weights_sha256 == whole[0].weights_sha256 and logs(store) == logs(whole[1])


def test_a_resume_point_that_was_being_written_is_no_resume_point(whole, parent, prompts, tmp_path, monkeypatch):
    crash_after(5, parent, prompts, tmp_path, monkeypatch)
    (newest,) = tmp_path.glob("*/resume/step-4")
    newest.rename(newest.with_name("step-4.partial"))
    manifest, store = train(CFG, parent, prompts, tmp_path)
    assert manifest.weights_sha256 == whole[0].weights_sha256 and logs(store) == logs(whole[1])
    assert not (store.folder / "resume").exists()


@pytest.mark.parametrize("name", ["steps.jsonl", "manifest.json", "final/config.json", "final/SHA256SUMS"])
def test_any_damaged_file_of_a_finished_run_is_named_not_used(whole, parent, prompts, tmp_path, name):
    root = tmp_path / "store"
    shutil.copytree(whole[1].folder, root / whole[1].key)
    # the list's line about the weights is not read: their sha256 stands in the manifest
    flip(root / whole[1].key / name, at=3 if name.endswith("SHA256SUMS") else None)
    with pytest.raises(UserError, match=rf"{name.rpartition('/')[2]}.* delete {root / whole[1].key}"):
        train(CFG, parent, prompts, root)


def test_a_run_that_was_killed_right_after_its_manifest_is_finished_and_tidied(whole, parent, prompts, tmp_path):
    folder = tmp_path / whole[1].key
    shutil.copytree(whole[1].folder, folder)
    (folder / "resume/step-8").mkdir(parents=True)
    manifest, _ = train(CFG, parent, prompts, tmp_path)
    assert manifest == whole[0] and not (folder / "resume").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_parent_is_named_before_it_is_used(whole, tmp_path, name):
    folder = tmp_path / "parent"
    shutil.copytree(whole[1].folder, folder)
    manifest = dataclasses.replace(whole[0], weights=str(folder / "final"))
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_parent(tmp_path / "manifest.json") == manifest
    flip(folder / "final" / name)
    with pytest.raises(UserError, match=rf"parent/final.*damaged.* delete {folder} and {tmp_path}/manifest\.json"):
        read_parent(tmp_path / "manifest.json")


def test_a_damaged_image_of_the_prompts_is_named(tmp_path):
    write_prompts({"count": 1.0}, 4, 0, tmp_path / "p.jsonl")
    assert len(read_samples(tmp_path / "p.jsonl")) == 4
    flip(tmp_path / "images_p/00002.png")
    with pytest.raises(UserError, match=r"images_p/00002\.png: damaged"):
        read_samples(tmp_path / "p.jsonl")


def test_two_trainings_of_one_folder_are_refused(whole, parent, prompts, tmp_path):
    with (
        owned(tmp_path / whole[1].key, "another training"),
        pytest.raises(UserError, match=r"in use by another training \(process"),
    ):
        train(CFG, parent, prompts, tmp_path)


def test_a_saved_processor_does_not_tell_how_it_was_loaded(tiny_model, tmp_path):
    """Online and offline runs must give the same bytes; transformers saves `local_files_only` and `is_local`."""
    load_processor(str(tiny_model)).save_pretrained(tmp_path)
    assert not {"local_files_only", "is_local"} & json.loads((tmp_path / "tokenizer_config.json").read_text()).keys()
