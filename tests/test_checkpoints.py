"""Contract: a checkpoint that is not whole is one line and exit code 2 before anything is computed, whoever loads it; one
that is only unusual answers as it should; and no training is lost when its result is written."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evals import run as evaluation
from evals.generation import load_model
from evals.plan import Options
from evals.samples import read_samples
from lmmr1 import store as store_module
from lmmr1 import train as train_module
from lmmr1.config import RewardConfig, SamplingConfig, TrainConfig
from lmmr1.data import read_samples as read_prompts
from lmmr1.files import sha256_weights
from lmmr1.learner import Learner
from lmmr1.policy import load_policy
from lmmr1.store import Store, adopt, write_manifest
from lmmr1.train import train
from lmmr1.types import Manifest, Sample, UserError
from reproduce import cli, prepare
from reproduce.micro.build import write_prompts
from reproduce.plan import ROOT, Plan
from tests import vllm_standin
from tests.benchmark_files import math500, mathvision, table
from tests.checkpoint_cases import CASES, TABLE, answer, broken_copy, edit, listed, outcome, row
from tests.test_bad_input import run

PAGE = listed((ROOT / "docs/checkpoints.md").read_text(encoding="utf-8"))
CFG = TrainConfig(
    max_steps=3, num_prompts=2, num_generations=4, warmup_steps=0, learning_rate=1e-3, reward=RewardConfig(kind="random"),
    sampling=SamplingConfig(max_completion_length=6, max_prompt_length=256),
)  # fmt: skip


@pytest.fixture(scope="module")
def expected(tiny_model):
    return answer(load_policy(str(tiny_model)))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_prompts({"chain": 1.0}, 8, 0, file)
    return file


def manifest_of(folder: Path) -> Manifest:
    """As a version of this suite wrote it that did not look into what it adopted."""
    digest = sha256_weights(folder)
    return Manifest(digest[:16], str(folder), digest, None, {}, None, 1, "c", {}, "cpu")


# -------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", CASES)
def test_what_happens_is_what_the_documentation_says(name, tiny_model, expected, tmp_path):
    case = CASES[name]
    assert row(case, outcome(case, broken_copy(case, tiny_model, tmp_path), expected)) == PAGE.get(name)


def test_the_table_is_whole():
    assert PAGE.keys() == CASES.keys() and len(CASES) >= 100 and len(CASES) == sum(map(len, TABLE.values()))
    assert {"Weights", "Tensors", "Quantized", "Adapters", "Tokenizer", "Chat template"} <= TABLE.keys()
    assert all(len(cases) >= 5 for cases in TABLE.values())


# ------------------------------------------------------------------------------------------------------ who loads it

KINDS = {
    "Weights: a git LFS pointer": "model.safetensors: a git LFS pointer",
    "Weights: cut off": "model.safetensors: damaged or cut off",
    "Weights: pickled: pytorch_model.bin": "pytorch_model.bin: pickled",
    "Chat template: missing": "no chat template",
    "Quantized: AWQ": "quantized with awq",
    "Adapters: an adapter alone": "an adapter, not a model",
    "Tensors: more tokens in config.json (vocab_size)": "(vocab_size)",
    "Tensors: one is missing": "missing tensors: model.language_model.layers.2.mlp.up_proj.weight",
    "Tensors: one holds NaN": "NaN or infinite",
    "Tokenizer: no end token": "no eos_token",
    "Image processor: of another patch size": "patch_size 16",
    "Image processor: with a spread of zero": "image_std [0, 0, 0]",
    "Chat template: that divides by zero": "division by zero",
    "config.json: of a Llama": "'llama'",
    "config.json: with a vision tower whose windows hold nothing": "window_size 0",
}
"""One of each kind, and words of its line."""
LENGTHS = [name for name, case in CASES.items() if "nothing is cut" in case.works or "filled up" in case.works]
ADOPTED = [kind for kind in KINDS.items() if "pickled" not in kind[0]]


@pytest.fixture
def folder(request, tiny_model, tmp_path):
    return broken_copy(CASES[request.param], tiny_model, tmp_path / "broken")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data/math500").mkdir(parents=True)
    math500(tmp_path / "data/math500/test.jsonl")
    return tmp_path / "data"


def one_line(code, out, err, words):
    lines = [line for line in err.strip().splitlines() if line]
    assert code == 2 and "Traceback" not in out + err
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], err


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(("folder", "words"), KINDS.items(), indirect=["folder"], ids=KINDS)
def test_lmmr1_eval_says_one_line_before_a_problem_is_asked(folder, words, dry, data, monkeypatch, capsys, tmp_path):
    args = ["eval", "--model", str(folder), "--benchmarks", "math500", "--data-root", str(data), "--any-data", *dry]
    args += ["--limit", "4", "--max-new-tokens", "16", "--workers", "1", "--out", str(tmp_path / "out")]
    one_line(*run(monkeypatch, capsys, cli.cli, *args), words)
    assert not [f for f in tmp_path.glob("out/**/*") if f.is_file()]


@pytest.mark.parametrize(("folder", "words"), KINDS.items(), indirect=["folder"], ids=KINDS)
def test_a_folder_that_is_not_whole_is_not_adopted(folder, words, monkeypatch, capsys, tmp_path):
    args = ["checkpoint", "--spec", json.dumps({"adopt": str(folder)}), "--out", str(tmp_path / "base.json")]
    one_line(*run(monkeypatch, capsys, prepare.main, *args), words)
    assert not (tmp_path / "base.json").exists()


@pytest.mark.parametrize("trainer", ["lmmr1", "trl"])
@pytest.mark.parametrize(("folder", "words"), ADOPTED, indirect=["folder"], ids=dict(ADOPTED))
def test_nothing_is_trained_from_one_that_was_adopted_before(folder, words, trainer, prompts, monkeypatch, tmp_path):
    for module in ("lmmr1.train.build", "lmmr1.trl_trainer.build"):
        monkeypatch.setattr(module, lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError) as error:
        train(CFG.model_copy(update={"trainer": trainer}), manifest_of(folder), prompts, tmp_path / "store")
    assert words in str(error.value) and str(folder) in str(error.value)
    assert not list(tmp_path.glob("store/*/steps.jsonl"))


@pytest.mark.parametrize("folder", ["Tensors: one is missing"], indirect=True)
def test_the_training_command_ends_with_one_line(folder, prompts, monkeypatch, capsys, tmp_path):
    write_manifest(tmp_path / "base.json", manifest_of(folder))
    (tmp_path / "config.yaml").write_text(json.dumps(CFG.model_dump()))
    args = ["--config", "config.yaml", "--parent", "base.json", "--prompts", str(prompts), "--out", "out"]
    monkeypatch.chdir(tmp_path)
    one_line(*run(monkeypatch, capsys, train_module.main, *args), KINDS["Tensors: one is missing"])


@pytest.mark.parametrize("engine", ["hf", "vllm"])
@pytest.mark.parametrize(("folder", "words"), KINDS.items(), indirect=["folder"], ids=KINDS)
def test_no_engine_starts_on_it(folder, words, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=lambda **_: pytest.fail("started")))
    with pytest.raises(UserError) as error:
        load_model(str(folder), engine=engine)
    assert words in str(error.value)


@pytest.mark.parametrize("folder", ["Chat template: missing"], indirect=True)
def test_a_manifest_of_before_is_evaluated_by_nobody(folder, data, tmp_path):
    write_manifest(tmp_path / "base.json", manifest_of(folder))
    command = [sys.executable, "-m", "evals.run", "--manifest", "base.json", "--out", "out", "--benchmarks", "math500"]
    done = subprocess.run(
        [*command, "--data-root", str(data), "--any-data"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    one_line(done.returncode, done.stdout, done.stderr, "no chat template")


@pytest.mark.parametrize("folder", ["Weights: cut off"], indirect=True)
def test_the_workflow_and_the_doctor_look_before_anything_runs(folder):
    from reproduce import doctor

    plan = Plan.load({"profile": "single_gpu", "arms": ["fre"], "base_model": str(folder)})
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or cut off"):
        plan.check_checkpoints()
    found = next(f for f in doctor.examine(plan) if f.what == str(folder))
    assert found.state == "missing" and "damaged or cut off" in found.fix


def test_a_template_that_refuses_the_system_message_is_named_with_the_sample(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = tmp_path / "model/chat_template.jinja"
    template.write_text(refuses + template.read_text())
    policy = load_policy(str(tmp_path / "model"))
    sample = Sample("s1", [{"role": "system", "content": "x"}, {"role": "user", "content": "1"}], (), "1")
    with pytest.raises(UserError, match=r"sample 's1': the chat template cannot render .*no system role"):
        policy.encode([sample], 100)


@pytest.mark.parametrize("folder", LENGTHS, indirect=True)
def test_prompts_are_as_long_as_they_are_and_what_is_saved_cuts_nothing(folder, tiny_model, make_samples, tmp_path):
    samples, lengths = make_samples(4, images=lambda i: i % 2), []
    load_policy(str(folder)).processor.save_pretrained(tmp_path / "saved")
    assert '"max_length": 4' not in "".join(file.read_text() for file in (tmp_path / "saved").glob("tokenizer*.json"))
    for policy in map(load_policy, map(str, (folder, tiny_model))):
        lengths.append([len(row) for row in policy.encode_rows(samples, 1000)["input_ids"]])
        lengths.append(policy.encode(samples, 1000)["attention_mask"].sum(1).tolist())
        lengths.append(
            [len(policy.processor.tokenizer(policy.render(s))["input_ids"]) for s in samples if not s.images]
        )
    assert lengths[:3] == lengths[3:] and lengths[0] == lengths[1] and min(lengths[0]) > 4


def test_trying_a_model_draws_nothing_that_training_would_have_drawn(tiny_model):
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    load_policy(str(tiny_model))
    assert torch.rand(4).equal(expected)


# ------------------------------------------------------------------------------------------------------- stop tokens


@pytest.mark.parametrize("name", ["math500", "mathvision"])
def test_answers_end_at_every_stop_token_under_each_harness(name, tiny_model, data, tmp_path):
    """lm-eval and VLMEvalKit: a token that the answers hold becomes the second end token, and they end at its first."""
    table(data / "MathVision.tsv", mathvision())
    shutil.copytree(tiny_model, tmp_path / "model")
    options = Options.of(data_root=data, any_data=True, limit=4, max_new_tokens=12)

    def answers(out):
        evaluation.evaluate(str(tmp_path / "model"), [name], tmp_path / out, options)
        return list(read_samples(tmp_path / out / name / "samples.jsonl"))

    tokenizer, before = load_policy(str(tiny_model)).processor.tokenizer, answers("one")
    said = tokenizer(before[0].response)["input_ids"]
    edit("generation_config.json", eos_token_id=[256, said[-1]])(tmp_path / "model")
    after = answers("two")
    assert (before[0].finish, after[0].finish) == ("length", "stop")
    assert after[0].length == said.index(said[-1]) + 1
    assert all(b.response.startswith(a.response) for a, b in zip(after, before, strict=True))


def test_vllm_stops_at_all_of_them(two_stops, monkeypatch, make_samples):
    monkeypatch.setitem(sys.modules, "vllm", vllm_standin.module())
    monkeypatch.setattr(vllm_standin.LLM, "started", [])
    model = load_model(str(two_stops), engine="vllm")
    model.engine.generate(make_samples(1), SamplingConfig(max_completion_length=4, temperature=0), 1, (0,))
    wanted = json.loads((two_stops / "generation_config.json").read_text())["eos_token_id"]
    assert sorted(vllm_standin.LLM.started[0].asked[0].stop_token_ids) == sorted(wanted)


def test_trl_tells_vllm_all_of_them(two_stops, prompts, monkeypatch, tmp_path):
    from lmmr1 import trl_trainer

    monkeypatch.setattr(
        trl_trainer, "Trainer", lambda *_, args, **__: types.SimpleNamespace(args=args, remove_callback=id)
    )
    args, _ = trl_trainer.arguments(CFG.model_copy(update={"trainer": "trl", "engine": "vllm"}), tmp_path)
    built = trl_trainer.build(CFG, str(two_stops), read_prompts(prompts), print, args)
    wanted = json.loads((two_stops / "generation_config.json").read_text())["eos_token_id"]
    assert sorted(built.args.generation_kwargs["stop_token_ids"]) == sorted(wanted)


# ------------------------------------------------------------------------------------------------ the end of training

UNSAVABLE = edit("generation_config.json", temperature=0.7)


@pytest.mark.parametrize("trainer", ["lmmr1", "trl"])
def test_a_generation_config_that_cannot_be_saved_costs_no_training(trainer, tiny_model, prompts, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    UNSAVABLE(tmp_path / "model")
    parent, cfg = adopt(str(tmp_path / "model"), "tiny"), CFG.model_copy(update={"trainer": trainer})
    _, store = train(cfg, parent, prompts, tmp_path / "store")
    saved = json.loads((store.final / "generation_config.json").read_text())
    assert "temperature" not in saved and saved["eos_token_id"] == 256
    assert load_policy(str(store.final)).stop_ids == load_policy(str(tiny_model)).stop_ids


@pytest.mark.parametrize("trainer", ["lmmr1", "trl"])
def test_a_parent_that_vanishes_meanwhile_costs_no_training(trainer, tiny_model, prompts, monkeypatch, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    parent, cfg = adopt(str(tmp_path / "model"), "tiny"), CFG.model_copy(update={"trainer": trainer})
    real = Store.log

    def log(store, *args):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        return real(store, *args)

    monkeypatch.setattr(Store, "log", log)
    _, store = train(cfg, parent, prompts, tmp_path / "store")
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "tokenizer_config.json"):
        assert (store.final / name).read_bytes() == (tiny_model / name).read_bytes()
    assert not store.begun.exists()


@pytest.mark.parametrize("trainer", ["lmmr1", "trl"])
def test_where_the_result_cannot_be_written_it_is_written_next_time_without_training(
    trainer, tiny_model, prompts, monkeypatch, tmp_path
):
    parent, cfg = adopt(str(tiny_model), "tiny"), CFG.model_copy(update={"trainer": trainer, "save_steps": 100})
    _, whole = train(cfg, parent, prompts, tmp_path / "whole")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left on device; free some space"):
        patch.setattr(store_module, "seal_folder", full)
        train(cfg, parent, prompts, tmp_path / "store")
    monkeypatch.setattr(Learner, "learn", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("lmmr1.trl_trainer.Rewards.__call__", lambda *_, **__: pytest.fail("trained again"))
    manifest, store = train(cfg, parent, prompts, tmp_path / "store")
    first, second = (load_file(s.final / "model.safetensors") for s in (whole, store))
    assert all((first[name] == second[name]).all() for name in first)
    assert (
        manifest.key == store.key
        and (store.folder / "steps.jsonl").read_text() == (whole.folder / "steps.jsonl").read_text()
    )


def test_what_cannot_be_saved_is_refused_before_the_model_is_loaded(tiny_model, prompts, monkeypatch, tmp_path):
    parent = adopt(str(tiny_model), "tiny")
    monkeypatch.setattr(train_module, "build", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(
        "lmmr1.checkpoint.savable", lambda generation: vars(generation).update(temperature=0.7) or generation
    )
    with pytest.raises(UserError, match="a model trained from it could not be saved .*temperature"):
        train(CFG, parent, prompts, tmp_path / "store")
