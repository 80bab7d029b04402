"""Contract: a key names all that decides a run's numbers and nothing else; a resume point gives back what was saved."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from lmmr1.config import LoraConfig, Settings, TrainConfig
from lmmr1.data import training_data
from lmmr1.policy import load_policy
from lmmr1.precision import settled
from lmmr1.store import LOGS, Store, adopt, read_manifest, run_key
from lmmr1.types import Sample, UserError

MACHINE = {
    "gradient_checkpointing", "reward.verifier_workers", "save_steps",
    "tokens_per_micro_batch", "tokens_per_rollout", "vllm.gpu_memory_utilization", "vllm.sleep_level",
}  # fmt: skip
"""What may change between two attempts of one run; said here once more, so that no mark comes or goes unseen."""

# --------------------------------------------------------------------------------------------------------------- keys


def leaves(settings, prefix=""):
    """Dotted name of every setting, with one that has another value there and is else the same."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            for inner, changed in leaves(value, f"{prefix}{name}."):
                yield inner, settings.model_copy(update={name: changed})
        else:
            yield prefix + name, settings.model_copy(update={name: another(value, field.annotation)})


def another(value, kind):
    """A value of the same kind that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, tuple):
        return value[1:]
    return {**value, "top_k": 1} if isinstance(value, dict) else next(k for k in get_args(kind))()


def test_the_key_covers_every_setting_but_those_of_the_machine():
    """Whoever adds a setting finds it here: it is part of the key, or named above."""
    cfg = TrainConfig(lora=LoraConfig())
    key, changed = run_key(cfg, "parent", "data"), dict(leaves(cfg))
    assert {"seed", "loss.beta", "sampling.temperature", "lora.r", "reward.sokoban.length_terms"} < changed.keys()
    assert {name for name, other in changed.items() if run_key(other, "parent", "data") == key} == MACHINE
    assert run_key(cfg.model_copy(update={"lora": None}), "parent", "data") != key


def test_what_a_machine_computes_in_is_part_of_the_key(monkeypatch):
    """`bf16` left open is fp32 on a CPU and bf16 on a GPU: one must not go on with, or stand for, the other."""
    cfg, key = TrainConfig(), lambda cfg: run_key(settled(cfg), "parent", "data")
    said = {bf16: cfg.model_copy(update={"bf16": bf16}) for bf16 in (True, False)}
    here = {bf16: key(one) for bf16, one in said.items()}
    assert settled(cfg) == cfg and key(cfg) not in here.values()
    trl = TrainConfig(trainer="trl")
    monkeypatch.setattr("lmmr1.precision.has_gpu", lambda: True)
    assert key(cfg) == here[True]
    assert {bf16: key(one) for bf16, one in said.items()} == here  # the machine has no part in it
    assert settled(trl) == trl  # TRL has `trl: {bf16: ...}`, which is part of the key by itself


# ------------------------------------------------------------------------------------------------------ resume points


@pytest.fixture
def trained(tiny_model):
    """A policy and its optimizer after two steps, in which some parameters had no gradient."""
    policy, optimizer = fresh(tiny_model)
    for step in (1, 2):
        move(policy, optimizer, step)
    return policy, optimizer


def fresh(model, **options):
    policy = load_policy(str(model), trainable=True, **options)
    return policy, torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad], lr=1e-2)


def move(policy, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(p for p in policy.model.parameters() if p.requires_grad):
        p.grad = None if seed == 1 and i % 3 == 0 else torch.randn(p.shape, generator=generator)
    optimizer.step()


def state(policy, optimizer):
    """All that a resumed run must have again, by name."""
    found = dict(policy.model.named_parameters())
    moments = {f"{n}:{k}": v for n, p in found.items() for k, v in optimizer.state[p].items()}
    return {k: v.detach().clone() for k, v in (found | moments).items()}


def logs(store):
    return {name: (store.folder / name).read_text() for name in LOGS}


def grow(store, word):
    for name in LOGS:
        store.log(name, {"said": word, "in": name})


@pytest.fixture
def saved(trained, tmp_path):
    """A store with points at steps 9, 10 and 11, and logs that went on: what each point is, and the logs at it."""
    store, at, (policy, optimizer) = Store(tmp_path, "run"), {}, trained
    for step in (9, 10, 11):
        grow(store, f"before {step}")
        move(policy, optimizer, step)
        store.save(step, policy.trained, optimizer)
        at[step] = state(policy, optimizer), logs(store)
    grow(store, "lost")
    return store, at


def resumed(store, model):
    policy, optimizer = fresh(model)
    step = store.resume(policy.trained, optimizer)
    return step, state(policy, optimizer), logs(store)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_newest_point_gives_back_weights_moments_and_logs(saved, tiny_model):
    store, at = saved
    step, found, logged = resumed(store, tiny_model)
    assert step == 11 and logged == at[11][1]
    assert same(found, at[11][0]) and not same(found, at[10][0])
    steps = {float(v) for k, v in found.items() if k.endswith(":step")}
    assert steps == {4.0, 5.0}  # those without a gradient in the first step have taken one less


def test_two_points_are_kept(saved):
    assert {p.name for p in (saved[0].folder / "resume").iterdir()} == {"step-10", "step-11"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_point_gives_way_to_the_one_before(saved, tiny_model, name):
    store, at = saved
    file = store.folder / "resume/step-11" / name
    # in the state a step of 10 instead of 11: nothing but the seal can tell
    flip(file, file.read_bytes().index(b'"step": 11') + 9 if name == "state.json" else None)
    step, found, logged = resumed(store, tiny_model)
    assert step == 10 and same(found, at[10][0]) and logged == at[10][1]


def test_without_a_whole_point_a_run_begins_anew_with_empty_logs(saved, tiny_model):
    store, _ = saved
    flip(store.folder / "timings.jsonl", at=3)  # before every point
    step, found, logged = resumed(store, tiny_model)
    assert step == 0 and same(found, state(*fresh(tiny_model))) and set(logged.values()) == {""}


def test_steps_are_counted_not_spelt(trained, tiny_model, tmp_path):
    store = Store(tmp_path, "run")
    weights, optimizer = trained[0].trained, trained[1]
    store.resume(weights, optimizer)
    for step in (90, 100):
        store.save(step, weights, optimizer)
    assert resumed(store, tiny_model)[0] == 100
    store.save(110, weights, optimizer)
    assert {p.name for p in (store.folder / "resume").iterdir()} == {"step-100", "step-110"}


def test_what_is_frozen_is_not_saved(tiny_model, tmp_path):
    policy, optimizer = fresh(tiny_model)
    policy.model.model.visual.requires_grad_(False)
    store = Store(tmp_path, "run")
    store.resume(policy.trained, optimizer)
    store.save(1, policy.trained, optimizer)
    names = load_file(store.folder / "resume/step-1/model.safetensors").keys()
    assert names == {n for n, p in policy.model.named_parameters() if p.requires_grad}


def test_points_of_another_trainer_are_sealed_and_found_the_same_way(tmp_path):
    store, at = Store(tmp_path, "run"), {}
    for step in (9, 10):
        grow(store, f"before {step}")
        point = store.folder / f"resume/checkpoint-{step}"
        (point / "rank0").mkdir(parents=True)
        (point / "rank0/rng.pt").write_bytes(bytes(range(64)))
        store.seal(step, point)
        at[step] = logs(store)
    grow(store, "lost")
    assert store.sealed().name == "checkpoint-10" and logs(store) == at[10]
    flip(store.folder / "resume/checkpoint-10/rank0/rng.pt")
    assert store.sealed().name == "checkpoint-9" and logs(store) == at[9]
    shutil.rmtree(store.folder / "resume")
    assert store.sealed() is None and set(logs(store).values()) == {""}


def flip(path: Path, at: int | None = None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


# -------------------------------------------------------------------------------------------------------- the result


def test_a_finished_run_says_what_it_came_from_and_keeps_the_processor_of_its_parent(tiny_model, tmp_path):
    """The bounds of an image's area are training's: an evaluation asks as it would ask the parent."""
    parent, cfg = adopt(str(tiny_model), "tiny"), TrainConfig(max_pixels=28 * 28 * 4, seed=7)
    policy, optimizer = fresh(tiny_model, max_pixels=cfg.max_pixels)
    move(policy, optimizer, 1)
    (tmp_path / "p.jsonl").write_text("{}")
    data = training_data(tmp_path / "p.jsonl", [Sample("a", [{"role": "system", "content": "be brief"}], (), "1")])
    store = Store(tmp_path, "run")
    store.resume(policy.trained, optimizer)
    store.save(1, policy.trained, optimizer)
    manifest = store.finish(policy, parent, cfg, data)
    assert not (store.folder / "resume").exists()
    assert manifest == store.finished() == read_manifest(store.folder / "manifest.json")
    assert (manifest.key, manifest.parent) == ("run", parent.key)
    assert (manifest.data_sha256, manifest.system_prompt) == (data.sha256, "be brief")
    assert TrainConfig.model_validate(manifest.config) == cfg
    mine, parents = (json.loads((Path(f) / "processor_config.json").read_text()) for f in (store.final, tiny_model))
    assert mine == parents


def test_a_finished_runs_log_is_sealed(tiny_model, tmp_path):
    parent, (policy, optimizer) = adopt(str(tiny_model), "tiny"), fresh(tiny_model)
    (tmp_path / "p.jsonl").write_text("{}")
    store = Store(tmp_path, "run")
    store.resume(policy.trained, optimizer)
    grow(store, "all")
    data = training_data(tmp_path / "p.jsonl", [Sample("a", [], (), "1")])
    store.finish(policy, parent, TrainConfig(), data)
    flip(store.folder / "timings.jsonl", at=3)
    with pytest.raises(UserError, match=r"timings\.jsonl: damaged, .*delete .*run"):
        store.finished()
