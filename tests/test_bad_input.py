"""Contract: bad input ends with exit code 2 and one line that names the file, the key and what is allowed; nothing is
written and nothing is lost."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from evals import run as run_module
from evals.agents.level_sets import _rows as level_rows
from evals.inputs import json_rows, jsonl_rows
from evals.records import read_records
from evals.samples import read_samples as read_stored
from evals.scorers.predictions import PredictionRow
from evals.scorers.predictions import read_jsonl as load_predictions
from evals.training_texts import training_texts
from lmmr1 import train as train_module
from lmmr1.checkpoint_files import read_object
from lmmr1.data import prompt_batches, read_samples
from lmmr1.exits import BAD_INPUT, exit_code, run_cli
from lmmr1.policy import load_policy
from lmmr1.store import read_manifest
from lmmr1.types import Sample, UserError
from reports.files import read_json, read_jsonl
from reproduce import cli
from reproduce.budget.geometry import read_geometry
from reproduce.judge_service import Service
from reproduce.plan import ROOT, Plan
from tests.checkouts import project_files

ROW = {"id": "a", "messages": [{"role": "user", "content": "1+1=?"}], "answer": "2"}
BAD_CONFIGS = {
    "profile": (
        {"profile": "mirco"},
        ["profile", "'mirco'", "cluster, micro, paper, single_gpu", "did you mean micro"],
    ),
    "arm": ({"arms": ["fer"]}, ["arms", "'fer'", "baseline, fre, mgt_only", "did you mean fre"]),
    "benchmark": ({"benchmarks": ["math50"]}, ["benchmarks", "'math50'", "micro_chain", "did you mean math500"]),
    "key": ({"colour": 1}, ["config/profiles/micro.yaml", "'colour'", "allowed: profile, name, world"]),
    "nested key": (
        {"train": {"loss": {"bta": 0}}},
        ["train", "'loss.bta'", "allowed: loss_type, importance_sampling_level"],
    ),
    "value": ({"train": {"max_steps": 0}}, ["train", "max_steps", "greater than 0", "got 0"]),
    "type": ({"seeds": "one"}, ["seeds", "got 'one'"]),
    "combination": ({"train": {"num_generations": 1}}, ["num_generations 1", "at least 2"]),
    "choice": ({"train": {"advantage": "ppo"}}, ["advantage", "'group_norm'", "got 'ppo'"]),
    "accelerate": ({"accelerate": "config/ddp.yaml"}, ["key accelerate", "no such file config/ddp.yaml"]),
    "processes": ({"processes": 2}, ["key processes", "2 need a file in key accelerate"]),
    "no candidate": ({"arms": ["candidate"]}, ["candidate", "--config candidate=PATH_OR_HUB_ID"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_config(case):
    config, words = BAD_CONFIGS[case]
    with pytest.raises(UserError) as error:
        plan = Plan.load(config)
        plan.base_spec("candidate")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def project(tmp_path):
    """A copy of the configuration that a test may break."""
    for part in ("config", "reproduce"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("reproduce/arms.yaml", "{parent: fre,      stage: mgt,", "{parent: two_stage, stage: mgt,", ["arms.yaml", "two_stage -> two_stage", "cycle"]),
        ("reproduce/arms.yaml", "parent: baseline, stage: fre,", "parent: two_stage, stage: fre,", ["fre", "two_stage", "cycle"]),
        ("reproduce/arms.yaml", "{parent: baseline, stage: mgt,", "{parent: baseline, stage: mtg,", ["arm mgt_only", "'mtg'", "fre, mgt, multi"]),
        ("reproduce/arms.yaml", "{parent: fre,      stage: mgt,", "{parent: fer,      stage: mgt,", ["arm two_stage", "parent", "'fer'"]),
        ("reproduce/arms.yaml", "{checkpoint: base,", "{checkpoint: base, stage: fre,", ["arm baseline", "either"]),
        ("reproduce/arms.yaml", "{checkpoint: base,", "{chekpoint: base,", ["arm baseline", "'chekpoint'", "allowed: checkpoint"]),
        ("reproduce/stages.yaml", "train: {reward: {kind: random}}", "train: {reward: {knd: random}}", ["stage random", "'reward.knd'", "kind"]),
        ("reproduce/stages.yaml", "repo:", "rep:", ["stages.yaml", "stage fre", "'data.paper.rep'", "allowed"]),
        ("config/profiles/micro.yaml", "world: micro", "world: [", ["micro.yaml", "not a YAML file"]),
        ("config/profiles/micro.yaml", "seeds: [0, 1, 2, 3, 4]", "seeds: []", ["micro.yaml", "seeds"]),
    ],
)  # fmt: skip
def test_bad_project_files(project, file, old, new, words):
    path = project / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        Plan.load({}, project)
    assert all(word in str(error.value) for word in words), str(error.value)


BAD_DATA = {
    "missing": (None, "no such data file"),
    "empty": (b"", "the file is empty"),
    "blank": (b"\n\n", "the file is empty"),
    "truncated": (
        json.dumps(ROW).encode() + b"\n" + json.dumps(ROW).encode()[:30],
        "line 2: not JSON, is the file truncated?",
    ),
    "not utf-8": (json.dumps(ROW).encode() + b"\n\xff\xfe\n", "line 2: not UTF-8"),
    "bad line": (json.dumps(ROW).encode() + b"\n\n[1]\n", "line 3: expected an object, got list"),
    "long number": (b'{"id": ' + b"1" * 5000 + b"}", "line 1: not JSON, is the file truncated? (Exceeds the limit"),
    "nested": (b'{"id": ' + b"[" * 100_000, "line 1: not JSON, is the file truncated? (nested too deeply"),
    "no messages": (json.dumps({"id": "a", "answer": "2"}).encode(), "line 1: `messages` must be"),
    "bad role": (
        json.dumps(ROW | {"messages": [{"role": "robot", "content": "x"}]}).encode(),
        "line 1: `messages` must be",
    ),
    "code as message": (
        json.dumps({"message": "__import__('os').getcwd()", "answer": "2"}).encode(),
        "line 1: `message` is neither",
    ),
    "no gold": (json.dumps(ROW | {"answer": " "}).encode(), "line 1: `answer` is missing or empty"),
    "same id": (json.dumps(ROW).encode() + b"\n" + json.dumps(ROW).encode(), "line 2: id 'a' stands twice"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_file(case, tmp_path):
    content, words = BAD_DATA[case]
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_samples(path)
    assert str(path) in str(error.value) and words in str(error.value)


HARD = {"long number": b'{"id": ' + b"1" * 5000 + b"}", "nested": b'{"id": ' + b"[" * 100_000, "list": b"[" * 100_000}
"""JSON that Python gives up on with another error than JSONDecodeError."""

JSON_READERS = {
    "prompts": read_samples,
    "manifest": read_manifest,
    "manifest to evaluate": run_module.read_manifest,
    "records": read_records,
    "samples": lambda path: list(read_stored(path)),
    "benchmark, lines": lambda path: list(jsonl_rows(path, path.read_bytes())),
    "benchmark, list": lambda path: list(json_rows(path, path.read_bytes())),
    "training texts": lambda path: list(training_texts(path)),
    "levels": level_rows,
    "checkpoint": read_object,
    "report": read_json,
    "report, lines": lambda path: list(read_jsonl(path)),
    "geometry": read_geometry,
    "judge": Service.read,
    "predictions": lambda path: load_predictions(path, PredictionRow),
}


@pytest.mark.parametrize("reader", JSON_READERS)
@pytest.mark.parametrize("case", HARD)
def test_json_that_python_gives_up_on_is_one_line(case, reader, tmp_path):
    (tmp_path / "file.json").write_bytes(HARD[case])
    with pytest.raises(UserError, match=r"file\.json") as error:
        JSON_READERS[reader](tmp_path / "file.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", HARD)
def test_verify_goes_on_after_json_that_python_gives_up_on(case, tmp_path):
    good = json.dumps({"gold": "2", "response": "\\boxed{2}"}).encode()
    (tmp_path / "pairs.jsonl").write_bytes(HARD[case] + b"\n" + good)
    done = CliRunner().invoke(cli.cli, ["verify", "--pairs", str(tmp_path / "pairs.jsonl"), "--workers", "1"])
    first, second = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert first["line"] == 1 and first["error"].startswith("not JSON (") and second["accuracy"] == 1


def test_message_of_the_released_data_is_read(tmp_path):
    path = tmp_path / "data.jsonl"
    message = [{"role": "user", "content": [{"type": "text", "text": "1+1=?"}]}]
    rows = [
        {"id": "json", "message": json.dumps(message), "answer": "2"},
        {"id": "literal", "message": str(message), "answer": "2"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [s.messages for s in read_samples(path)] == [message, message]


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_unreadable_image(content, tmp_path):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    row = ROW | {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"data.jsonl, line 1: image .*x.png cannot be read"):
        read_samples(tmp_path / "data.jsonl")


NO_CHECKPOINTS = {
    "missing": "no such checkpoint folder",
    "empty folder": "not a checkpoint folder, it has no config.json",
    "no weights": "no weights, neither model.safetensors nor",
    "text model": "model_type is 'no_such_model'",
    "hub name": "no commit of it found on the Hugging Face Hub",
}


@pytest.mark.parametrize("what", NO_CHECKPOINTS)
def test_not_a_checkpoint(what, tmp_path, tiny_model):
    folder = tmp_path / "model"
    if what == "empty folder":
        folder.mkdir()
    elif what in ("no weights", "text model"):
        shutil.copytree(tiny_model, folder)
        (folder / "model.safetensors").unlink()
        if what == "text model":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    name = "owner/no-such-model" if what == "hub name" else str(folder)
    with pytest.raises(UserError) as error:
        load_policy(name)
    assert name in str(error.value) and NO_CHECKPOINTS[what] in str(error.value)


def test_prompt_too_long_and_images_that_do_not_fit(tiny_model, tmp_path):
    policy = load_policy(str(tiny_model))
    long = Sample("long", [{"role": "user", "content": "1+" * 50}], (), "1")
    with pytest.raises(UserError, match=r"sample 'long': prompt of \d+ tokens is longer than max_prompt_length 20"):
        policy.encode([long], 20)
    (length,) = policy.encode([long], 1000)["attention_mask"].sum(1).tolist()
    policy.encode([long], length)  # the limit itself is allowed
    with pytest.raises(UserError, match=rf"prompt of {length} tokens is longer than max_prompt_length {length - 1}"):
        policy.encode_rows([long], length - 1)
    Image.new("RGB", (28, 28)).save(tmp_path / "x.png")
    extra = Sample("extra", [{"role": "user", "content": "no mark"}], (tmp_path / "x.png",), "1")
    with pytest.raises(UserError, match="sample 'extra': 1 images but 0"):
        policy.encode([extra], 1000)
    forged = Sample("forged", [{"role": "user", "content": "a <|image_pad|> in the text"}], (), "1")
    with pytest.raises(UserError, match="sample 'forged': 0 images but 1"):
        policy.encode([forged], 1000)


def run(monkeypatch, capsys, main, *args):
    """Exit code and the two outputs of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *args])
    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    return stop.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--arm", "fer"], ["--arm", "'fer'", "two_stage"]),
        (["train", "--arm", "fre", "--seed", "9"], ["--seed", "0, 1, 2, 3, 4"]),
        (["train", "--arm", "fre", "--profile", "big"], ["'big'", "micro, paper, single_gpu"]),
        (["eval", "--model", "./nowhere", "--benchmarks", "math500", "--out", "o"], ["./nowhere"]),
        (["eval", "--model", "a/b", "--benchmarks", "math50", "--out", "o"], ["math50", "math500"]),
    ],
)
def test_cli_says_one_line_and_exits_2(args, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, cli.cli, *args)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(word in line for word in words), err
    assert not list(tmp_path.iterdir())


def test_train_command_refuses_before_it_writes(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("max_stepz: 3\n")
    args = ["--config", "config.yaml", "--parent", "p.json", "--prompts", "d.jsonl", "--out", "out"]
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, train_module.main, *args)
    assert code == 2 and "config.yaml: unknown key 'max_stepz'; allowed: " in err and "seed, max_steps" in err
    (tmp_path / "config.yaml").write_text("max_steps: 3\n")
    code, _, err = run(monkeypatch, capsys, train_module.main, *args)
    assert code == 2 and "p.json: no such manifest" in err
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_batches_do_not_depend_on_where_they_start():
    samples = [Sample(str(i), [], (), "1") for i in range(7)]
    whole = list(prompt_batches(samples, 3, seed=1, start=0, stop=9))
    assert list(prompt_batches(samples, 3, seed=1, start=4, stop=9)) == whole[4:]
    first_epoch = [s.id for _, batch in whole for s in batch][:7]
    assert sorted(first_epoch) == [s.id for s in samples]


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    samples = [Sample(str(i), [], (), "1") for i in range(20)]
    orders = [tuple(s.id for s in batch) for seed in (0, 1) for _, batch in prompt_batches(samples, 20, seed, 0, 3)]
    assert all(sorted(order) == sorted(s.id for s in samples) for order in orders)
    assert len({*orders, tuple(s.id for s in samples)}) == 7  # the file's own is none of the six


def test_every_yaml_file_of_the_project_loads():
    import yaml

    files = [ROOT / path for path in project_files() if path.suffix in (".yaml", ".yml")]
    assert len(files) >= 6
    for path in files:
        assert isinstance(yaml.load(path.read_text(), yaml.BaseLoader), dict | list), path


@pytest.mark.parametrize("profile", sorted(p.stem for p in Path(ROOT / "config/profiles").glob("*.yaml")))
def test_every_profile_resolves(profile):
    plan = Plan.load({"profile": profile})
    assert {"baseline", "fre", "mgt_only", "two_stage"} <= plan.arms.keys()
    assert plan.parent_manifest("two_stage", "0") == plan.results("fre", "0", "manifest.json")
    differing = {k for k, v in plan.train_config("two_stage", 0).items() if v != plan.train_config("mgt_only", 0)[k]}
    assert not differing  # same stage: they differ in where they start


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a folder", "name the file in it"),
        ("below a file", "mend the path"),
        ("a long name", "shorten it"),
        ("a loop", "links"),
    ],
)
def test_a_path_that_is_none_is_one_line(name, words, tmp_path, capsys):
    """Whatever reads it: here training its parent's manifest."""
    (tmp_path / "file").write_text("{}")
    (tmp_path / "loop").symlink_to("loop")
    paths = {
        "a folder": tmp_path, "below a file": tmp_path / "file" / "manifest.json", "a long name": tmp_path / ("x" * 300),
        "a loop": tmp_path / "loop",
    }  # fmt: skip
    (tmp_path / "cfg.yaml").write_text("{max_steps: 2}")
    given = {
        "config": tmp_path / "cfg.yaml",
        "parent": paths[name],
        "prompts": tmp_path / "p.jsonl",
        "out": tmp_path / "o",
    }
    arguments = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    assert exit_code(lambda: train_module.main(arguments)) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: {tmp_path}") and words in said[0], said
