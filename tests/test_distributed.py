"""Contract: several processes train what one process trains, and each can go on where the other stopped."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs, patch_environment
from safetensors.torch import load_file

from lmmr1 import store as store_module
from lmmr1 import train as train_module
from lmmr1.config import LossConfig, RewardConfig, SamplingConfig, TrainConfig
from lmmr1.processes import ALONE, Processes, join, require_prompts
from lmmr1.store import adopt, read_manifest, write_manifest
from lmmr1.types import UserError
from reproduce.micro.build import write_prompts
from tests.test_core_equality import relative

ROOT = Path(__file__).parents[1]
# Coins pay, because a random model's answers are all wrong. Its completions all have one length, so the advantages of a
# group add up to nothing: in the first pass over a batch the loss is rounding errors, in the third it is not.
CFG = TrainConfig(
    max_steps=5, num_prompts=5, num_generations=4, num_iterations=3, save_steps=2, warmup_steps=2, learning_rate=1e-3,
    seed=3, reward=RewardConfig(kind="random", verifier_workers=1, verifier_deadline=60), loss=LossConfig(beta=0.04, loss_type="grpo"),
    sampling=SamplingConfig(max_completion_length=8, max_prompt_length=256),
)  # fmt: skip
KINDS = {"text": {"chain": 1.0}, "image": {"count": 0.5, "drawn": 0.5}, "mixed": {"chain": 0.6, "drawn": 0.4}}
FSDP2 = yaml.safe_load((ROOT / "config/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
ENVIRONMENTS = {"ddp": {}, "fsdp2": {"accelerate_use_fsdp": "true"} | {k: str(v) for k, v in FSDP2.items()}}
ENVIRONMENTS["fsdp2"]["fsdp_transformer_cls_to_wrap"] = FSDP2["fsdp_transformer_layer_cls_to_wrap"]


@pytest.fixture(autouse=True)
def nothing_launched_before():
    """The launched processes are forks: a trainer that another test made here would make each of them a single one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def parent(tiny_model):
    return adopt(str(tiny_model), "tiny")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for kind, mix in KINDS.items():
        write_prompts(mix, 24, 0, folder / f"{kind}.jsonl")
    return folder


def run(parent, prompts, root, steps=CFG.max_steps):
    """Train; with fewer `steps` than all, the process is as good as killed after them."""
    with pytest.MonkeyPatch.context() as patch:
        if steps < CFG.max_steps:
            batches = train_module.prompt_batches
            patch.setattr(train_module, "prompt_batches", lambda *a: stop_after(batches(*a), steps))
        with contextlib.suppress(KeyboardInterrupt):
            train_module.train(CFG, parent, prompts, root)


def stop_after(batches, steps):
    for step, samples in batches:
        if step > steps:
            raise KeyboardInterrupt
        yield step, samples


def on(how, function, *arguments):
    """Call in this process ("one"), or in two that accelerate forks."""
    if how == "one":
        function(*arguments)
        return
    with patch_environment(**ENVIRONMENTS[how]):
        debug_launcher(_forked, (function, *arguments), 2)


def _forked(function, *arguments):
    """What a fork makes of torch's threads is mended by the first call; several threads at once, as those that load a
    checkpoint, fall over it ("Invalid thread pool"). Started processes, as `accelerate launch` has them, do not."""
    torch.set_num_threads(1)
    function(*arguments)


def outcome(root):
    """Steps and weights of the one run below `root`."""
    (folder,) = root.iterdir()
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    completions = (folder / "completions.jsonl").read_text()
    return rows, load_file(folder / "final" / "model.safetensors"), completions


@pytest.fixture(scope="module")
def one(parent, prompts, tmp_path_factory):
    """What one process makes of each kind of prompts."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, root in roots.items():
        run(parent, prompts / f"{kind}.jsonl", root)
    return {kind: outcome(root) for kind, root in roots.items()}


def assert_same(expected, got):
    """The same samples and rewards, and loss, gradient and weights but for rounding."""
    (rows, weights, completions), (other_rows, other_weights, other_completions) = expected, got
    assert other_completions == completions
    for row, other in zip(rows, other_rows, strict=True):
        assert abs(row["loss"]) > 1e-2 and row["grad_norm"] > 0.1, "a comparison of rounding errors"
        assert other == pytest.approx(row, rel=1e-5, abs=2e-6)
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert relative(other_weights, weights) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENVIRONMENTS)
def test_two_processes_train_as_one(one, parent, prompts, tmp_path, how, kind):
    on(how, run, parent, prompts / f"{kind}.jsonl", tmp_path)
    assert_same(one[kind], outcome(tmp_path))


def test_training_moves_the_weights_by_more_than_the_tolerance(one, parent):
    before = load_file(Path(parent.weights) / "model.safetensors")
    for _, after, _ in one.values():
        assert relative(after, before) > 1e-3


@pytest.mark.parametrize(("first", "then"), [("ddp", "one"), ("one", "ddp"), ("fsdp2", "one"), ("one", "fsdp2")])
def test_another_number_of_processes_goes_on(one, parent, prompts, tmp_path, first, then):
    on(first, run, parent, prompts / "mixed.jsonl", tmp_path, 3)
    assert list(tmp_path.glob("*/resume/step-2")) and not list(tmp_path.glob("*/final"))
    on(then, run, parent, prompts / "mixed.jsonl", tmp_path)
    assert_same(one["mixed"], outcome(tmp_path))


def describe(out):
    """What `join` makes of the environment, and of a model's weights before, in and after a step."""
    processes, model = join(), torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    rows = [processes.share(range(5)), processes.gather(processes.share("abcde"))]
    facts = {"class": type(processes).__name__, "rows": rows, "used": []}
    if processes.size == 2:
        model[0].bias.grad = torch.ones(5) if processes.main else None
        facts["used"] = processes.used([p.grad for p in model.parameters()])
    (out / f"{processes.index}.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(("how", "name"), [("ddp", "DataParallel"), ("fsdp2", "FullyShardedDataParallel")])
def test_processes_split_and_join(tmp_path, how, name):
    on(how, describe, tmp_path)
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert first["class"] == second["class"] == name
    assert [first["rows"][0], second["rows"][0]] == [[0, 2, 4], [1, 3]]
    assert first["rows"][1] == second["rows"][1] == list("abcde")
    assert first["used"] == second["used"] == [False, True, False, False]


def test_processes_wait_for_one_that_writes_a_checkpoint(monkeypatch):
    """torch's limit of 10 minutes would end a run whose first process writes 45 GB."""
    asked = {}
    made = lambda **options: asked.update(options) or SimpleNamespace(num_processes=2, process_index=0)
    monkeypatch.setattr("accelerate.Accelerator", made)
    with patch_environment(world_size="2"):
        join()
    (handler,) = asked["kwargs_handlers"]
    assert isinstance(handler, InitProcessGroupKwargs) and handler.timeout >= timedelta(hours=1)


def read_once(parent, prompts, root, out):
    """Train in two processes and say which of them opened the data, hashed it, or checked files that were written."""
    done = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((train_module, "read_samples"), (train_module, "training_data"), (store_module, "sha256_file"),
                             (store_module, "verify_weights")):  # fmt: skip
            real = getattr(module, name)
            patch.setattr(module, name, lambda *a, real=real, name=name: (done.append(name), real(*a))[1])
        run(parent, prompts, root)
    (out / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(done))


def test_one_process_reads_and_checks_for_all(parent, prompts, tmp_path):
    """Eight would read 45 GB each, of the same files."""
    (tmp_path / "again").mkdir()
    on("ddp", run, parent, prompts / "text.jsonl", tmp_path / "runs", 3)
    on("ddp", read_once, parent, prompts / "text.jsonl", tmp_path / "runs", tmp_path)
    on("ddp", read_once, parent, prompts / "text.jsonl", tmp_path / "runs", tmp_path / "again")
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert {"read_samples", "training_data", "sha256_file"} <= set(first) and second == []
    again, other = (json.loads((tmp_path / f"again/{i}.json").read_text()) for i in (0, 1))
    assert "verify_weights" in again and other == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ENVIRONMENTS)
def test_the_real_command_with_the_real_config_file(parent, prompts, tmp_path, how):
    """`accelerate launch` as docs/distributed.md and the workflow call it; what one process logs is logged."""
    cfg = CFG.model_copy(update={"max_steps": 1, "num_iterations": 1})
    (tmp_path / "config.yaml").write_text(json.dumps(cfg.model_dump()))
    write_manifest(tmp_path / "parent.json", parent)
    arguments = [
        "--config",
        "config.yaml",
        "--parent",
        "parent.json",
        "--prompts",
        prompts / "text.jsonl",
        "--out",
        "out",
    ]
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / f"config/accelerate/{how}.yaml",
        "--mixed_precision",
        "no",
    ]
    command = [sys.executable, *launch, "-m", "lmmr1.train", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, _ = train_module.train(cfg, parent, prompts / "text.jsonl", tmp_path / "alone")
    (row,) = [json.loads(line) for line in (tmp_path / "out/steps.jsonl").read_text().splitlines()]
    (expected,) = [
        json.loads(line) for line in next((tmp_path / "alone").glob("*/steps.jsonl")).read_text().splitlines()
    ]
    assert row == pytest.approx(expected, rel=1e-5, abs=2e-6)
    config = json.loads((tmp_path / read_manifest(tmp_path / "out/manifest.json").weights / "config.json").read_text())
    assert config == json.loads((Path(alone.weights) / "config.json").read_text())


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_config_files_are_accelerates_own(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / f"config/accelerate/{name}.yaml"))  # an unknown key is an error there
    expected = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name]
    assert config.distributed_type.value == expected and config.num_processes == 2


def test_what_this_core_does_not_do_is_said():
    with (
        patch_environment(world_size="2", accelerate_use_deepspeed="true"),
        pytest.raises(UserError, match="fsdp2.yaml"),
    ):
        join()
    two = Processes()
    two.size = 2
    require_prompts(two, 2)
    with pytest.raises(UserError, match="2 processes but 1 prompts per optimizer step"):
        require_prompts(two, 1)


def test_alone_is_one_process_without_accelerate():
    assert join() is ALONE and ALONE.main
    assert ALONE.share("abc") == ALONE.gather("abc") == list("abc")


def test_a_training_with_more_processes_than_prompts_of_a_step_is_refused(parent, prompts, tmp_path, monkeypatch):
    """The prompts of one optimizer step are shared, not those of the rollout batch: asked before anything is read."""
    processes = Processes()
    processes.size = 2
    monkeypatch.setattr(train_module, "join", lambda: processes)
    cfg = CFG.model_copy(update={"num_prompts": 4, "num_minibatches": 4})
    with pytest.raises(UserError, match="2 processes but 1 prompts per optimizer step"):
        train_module.train(cfg, parent, prompts / "missing.jsonl", tmp_path)
