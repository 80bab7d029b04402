"""Contract: what came from the Hub is a commit, everywhere: adopted, trained from, evaluated, traced. Against a local Hub
whose newest commits move after each model and data set was first met."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from evals.records import read_records
from evals.run import Candidate, Options, evaluate, identify, read_manifest
from lmmr1.config import LossConfig, SamplingConfig, TrainConfig
from lmmr1.data import read_samples, training_data
from lmmr1.files import are_weights, sha256_weights
from lmmr1.hub_commits import require_whole
from lmmr1.store import adopt
from lmmr1.types import UserError
from reproduce.plan import ROOT
from tests.benchmark_files import gpqa
from tests.hub_server import Hub, files_of, serving

MODEL, DATA, GPQA = "me/tiny", "me/data", "Idavidrein/gpqa"
TAUGHT, OTHER = "find the answer, reason first", "another instruction"
CHAIN = [{"id": f"c{i}", "question": f"find {i}+{i}=?", "answer": str(2 * i), "category": "x"} for i in range(3)]
GPQA_CARD = b"---\nconfigs:\n- config_name: gpqa_diamond\n  data_files: gpqa_diamond.jsonl\n---\n"
CFG = TrainConfig(
    max_steps=1, num_prompts=2, num_generations=4, warmup_steps=0, learning_rate=1e-3, reward={"kind": "random"},
    sampling=SamplingConfig(max_completion_length=6, max_prompt_length=256),
)  # fmt: skip
TRACE = """
import json, sys
from pathlib import Path
from reproduce.trace import Run
for base in map(Path, sys.argv[1:]):
    run = Run(base, base / "results/x")
    record = base / "results/x/baseline/0/eval/gpqa_diamond/record.json"
    roots = [run.checkpoint("baseline", "0"), run.checkpoint("fre", "0"), run.record(record)]
    print(json.dumps([[one.what, one.name, one.state, one.found] for root in roots for one in root.walk()]))
"""
ADOPT = """
import json, sys
from dataclasses import asdict
from lmmr1.checkpoint import load_processor
from lmmr1.hub_commits import require_whole
from lmmr1.store import adopt
from lmmr1.types import UserError
for name in sys.argv[1:]:
    try:
        found = adopt(name, "test")
        processor = load_processor(found.weights, found.revision)
        said = processor.apply_chat_template([{"role": "user", "content": "give"}], tokenize=False)
        print(json.dumps(asdict(found) | {"said": said}))
    except UserError as e:
        print(json.dumps({"error": str(e)}))
"""
GET = """
import sys
from pathlib import Path
from evals.inputs import download_hub
from lmmr1.types import UserError
for pin in sys.argv[1:]:
    try:
        print(download_hub(pin, Path("."))[1])
    except UserError as e:
        print(e)
"""


def template_edited(files):
    """The same model under another chat template."""
    return files | {"chat_template.jinja": files["chat_template.jinja"] + b"find"}


def chat_rows(n, first=0):
    """Rows in the authors' format: three of four bring one system message, the fourth another."""
    rows = []
    for i in range(first, first + n):
        chat = [{"role": "system", "content": OTHER if i % 4 == 3 else TAUGHT}]
        chat.append({"role": "user", "content": f"give {i}+{i}=?"})
        rows.append({"id": i, "message": json.dumps(chat), "answer": str(2 * i)})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class World:
    """A folder in which commands run, against a Hub; `home` is the cache of the machine that they run on."""

    def __init__(self, hub: Hub, base: Path, model: dict) -> None:
        self.hub, self.base, self.model = hub, base, model
        self.first = hub.commit(MODEL, model)
        self.data = hub.commit(DATA, {"sets/fre.jsonl": chat_rows(8)}, "datasets")
        with gpqa(base / "gpqa_diamond.csv", 198).open(newline="") as file:
            problems = "".join(json.dumps(row) + "\n" for row in csv.DictReader(file))
        files = {"README.md": GPQA_CARD, "gpqa_diamond.jsonl": problems.encode()}
        self.problems = hub.commit(GPQA, files, "datasets")

    def run(self, *arguments: object, home: str = "hf", offline: bool = False) -> str:
        """What the command printed; it must not fail."""
        done = self.start(*arguments, home=home, offline=offline)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def start(self, *arguments, home="hf", offline=False):
        more = {"PYTHONPATH": str(ROOT), **({"HF_HUB_OFFLINE": "1"} if offline else {})}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=self.base, env=self.hub.environment(self.base / home) | more,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def adopt(self, model: str, out: str, **where) -> dict:
        self.run("-m", "reproduce.prepare", "checkpoint", "--spec", json.dumps({"adopt": model}), "--out", out, **where)
        return json.loads((self.base / out).read_text())

    def evaluate(self, manifest: str, out: str, *benchmarks: str, **where) -> None:
        self.run(
            "-m", "evals.run", "--harness", "lm_eval", "--manifest", manifest, "--out", out, "--benchmarks", *benchmarks,
            "--benchmark-dir", ".", "--limit", 2, "--max-new-tokens", 4, **where,
        )  # fmt: skip

    def train(self, cfg: TrainConfig, parent: str, out: str, **where) -> dict:
        (self.base / f"{Path(out).name}.yaml").write_text(json.dumps(cfg.model_dump()))
        self.run(
            "-m", "lmmr1.train", "--config", f"{Path(out).name}.yaml", "--parent", parent,
            "--prompts", "results/x/data/fre.jsonl", "--out", out, **where,
        )  # fmt: skip
        return json.loads((self.base / out / "manifest.json").read_text())

    def record(self, folder: str, benchmark: str):
        return read_records(self.base / folder / benchmark / "record.json")[0]


BASELINE, TRAINED = "results/x/baseline/0/manifest.json", "results/x/fre/0"


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model):
    """Model and data are fetched at their first commits; then all three repositories move on."""
    base = tmp_path_factory.mktemp("world")
    (base / "micro_chain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAIN))
    with serving() as hub:
        world = World(hub, base, files_of(tiny_model))
        world.adopted = world.adopt(MODEL, BASELINE)
        shutil.copytree(base / "hf", base / "offline", symlinks=True)
        spec = {"hub": {"repo": DATA, "file": "sets/fre.jsonl", "images": None, "revision": "main"}}
        spec |= {"limits": {"max_prompt_length": 256, "min_pixels": None, "max_pixels": None}}
        world.run(
            "-m", "reproduce.prepare", "prompts", "--spec", json.dumps(spec), "--checkpoint", BASELINE,
            "--out", "results/x/data/fre.jsonl",
        )  # fmt: skip
        world.moved = hub.commit(MODEL, template_edited(world.model))
        hub.commit(DATA, {"sets/fre.jsonl": chat_rows(8, first=50)}, "datasets")
        hub.seen.clear()
        yield world


@pytest.fixture(scope="module")
def evaluated(world):
    """The adopted checkpoint, evaluated on a machine with an empty cache after the model moved; its requests."""
    world.evaluate(BASELINE, "results/x/baseline/0/eval", "micro_chain", "gpqa_diamond", home="other-machine")
    seen = list(world.hub.seen)
    world.hub.seen.clear()
    return seen


@pytest.fixture(scope="module")
def trained(world):
    """One step of our own trainer from the adopted checkpoint."""
    return world.train(CFG, BASELINE, TRAINED)


# ----------------------------------------------------------------------------------------------------------- models


def test_an_adopted_model_is_its_commit_and_its_key_that_of_its_files(world, tiny_model):
    assert (world.adopted["weights"], world.adopted["revision"]) == (MODEL, world.first)
    assert world.adopted["weights_sha256"] == sha256_weights(tiny_model)
    assert world.adopted["key"] == adopt(str(tiny_model), "the same, in a folder").key


def test_after_the_model_moved_the_adopted_commit_is_evaluated(world, evaluated, tiny_model, tmp_path):
    assert any(world.first in request for request in evaluated)
    assert not any(world.moved in request or f"{MODEL}/resolve/main" in request for request in evaluated)
    record = world.record("results/x/baseline/0/eval", "micro_chain")
    assert record.checkpoint == world.adopted["key"]
    options = Options.of(limit=2, benchmark_dir=world.base, max_new_tokens=4)
    (local, *_) = evaluate(str(tiny_model), ["micro_chain"], tmp_path, options)
    assert record.protocol.prompt_hash == local.protocol.prompt_hash  # the chat template is that of the first commit


def test_adopted_again_the_moved_model_has_another_key_and_other_prompts(world):
    again, asked = map(json.loads, world.run("-c", ADOPT, MODEL, f"{MODEL}@{world.first}", home="again").splitlines())
    assert again["revision"] == world.moved and again["key"] != world.adopted["key"] == asked["key"]
    assert (asked["weights"], asked["revision"]) == (MODEL, world.first)
    assert again["said"] == asked["said"] + "find"


def test_without_the_hub_the_cached_commit_is_adopted_and_nothing_else(world):
    names = (MODEL, "me/gone", f"{MODEL}@{world.moved}", f"{MODEL}@no-such-branch")
    printed = world.run("-c", ADOPT, *names, home="offline", offline=True).splitlines()
    cached, gone, later, branch = map(json.loads, printed)
    assert (cached["revision"], cached["key"]) == (world.first, world.adopted["key"])
    assert gone["error"].startswith("me/gone: no commit of it found on the Hugging Face Hub (")
    assert later["error"].startswith(f"{MODEL}@{world.moved}: its files cannot be had from the Hugging Face Hub (")
    assert branch["error"].startswith(f"{MODEL}@no-such-branch: no commit of it found")


def test_a_cache_with_a_part_of_the_weights_is_not_a_model(tmp_path):
    """What a loading that broke off, or another program, may leave: `snapshot_download` takes it where it is offline."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    for name, content in (("config.json", "{}"), ("model-1.safetensors", ""), ("model.safetensors.index.json", index)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=r"me/tiny@1: model-2\.safetensors is not in the Hub's cache"):
        require_whole(tmp_path, "me/tiny@1")
    (tmp_path / "model-2.safetensors").write_text("")
    require_whole(tmp_path, "me/tiny@1")


def test_a_damaged_file_in_the_cache_is_named_before_it_is_evaluated(world, evaluated):
    shutil.copytree(world.base / "other-machine", world.base / "damaged", symlinks=True)
    (blob,) = (world.base / "damaged").rglob(f"{world.first}/tokenizer.json")
    target = blob.resolve()
    target.write_bytes(target.read_bytes().replace(b"find", b"fund"))
    done = world.start("-m", "evals.run", "--harness", "lm_eval", "--manifest", BASELINE, "--out", "damaged-out",
                       "--benchmarks", "micro_chain", "--benchmark-dir", ".", home="damaged")  # fmt: skip
    assert done.returncode == 2 and "weights are damaged, or tokenizer" in done.stderr
    assert "delete" in done.stderr and "models--me--tiny" in done.stderr


ALL_FILES = (
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "additional_chat_templates/tools.jinja", "preprocessor_config.json",
)  # fmt: skip


def keys_of(folder):
    """As an arm's checkpoint, and as the model of `lmmr1 eval`."""
    return adopt(str(folder), "tiny").key, identify(str(folder)).key


@pytest.mark.parametrize("name", ALL_FILES)
def test_any_file_that_a_checkpoint_is_loaded_from_changes_its_keys(tmp_path, tiny_model, name):
    copy, file = tmp_path / "copy", tmp_path / "copy" / name
    shutil.copytree(tiny_model, copy)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        text = (copy / ("processor_config.json" if name.endswith("json") else "chat_template.jinja")).read_text()
        file.write_text(json.dumps(json.loads(text)["image_processor"]) if name.endswith("json") else text)
    before = keys_of(copy)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if name.endswith("safetensors") else data + b"\n")
    after = keys_of(copy)
    assert not {*before} & {*after}
    file.write_bytes(data)
    assert keys_of(copy) == before


def test_every_file_of_the_model_changes_its_keys(tiny_model):
    assert {f.name for f in tiny_model.iterdir()} <= set(ALL_FILES)


def test_notes_seals_and_folders_inside_do_not_change_a_key(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "copy")
    for name in ("README.md", ".verified.json", "SHA256SUMS", "adapter/config.json", ".git/config.json", ".git/HEAD"):
        (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_text("{}")
    assert keys_of(tmp_path / "copy") == keys_of(tiny_model)
    (tmp_path / "copy/pretrain.json").write_text("{}")
    assert adopt(str(tmp_path / "copy"), "tiny").key == adopt(str(tiny_model), "tiny").key


def test_a_manifest_of_before_that_covers_the_weights_alone_still_counts(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "copy")
    (tmp_path / "alone").mkdir()
    shutil.copy(tiny_model / "model.safetensors", tmp_path / "alone")
    old = sha256_weights(tmp_path / "alone")  # what the digest was over
    assert old != sha256_weights(tmp_path / "copy") and are_weights(tmp_path / "copy", old)
    manifest = asdict(adopt(str(tmp_path / "copy"), "tiny")) | {"weights_sha256": old}
    for field in ("revision", "system_prompt", "data_source"):
        del manifest[field]
    (tmp_path / "old.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path / "old.json") == Candidate(str(tmp_path / "copy"), manifest["key"])
    (tmp_path / "copy/model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="weights are damaged"):
        read_manifest(tmp_path / "old.json")


def test_a_name_on_the_hub_without_a_commit_is_refused(tmp_path, tiny_model):
    manifest = asdict(adopt(str(tiny_model), "tiny")) | {"weights": MODEL}
    (tmp_path / "old.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="names me/tiny without a commit"):
        read_manifest(tmp_path / "old.json")


# ------------------------------------------------------------------------------------------------- data and training


def test_training_says_which_commit_of_the_data_and_which_system_prompt(world, trained):
    card = json.loads((world.base / "results/x/data/fre.card.json").read_text())
    assert card["source"] == {"repo": DATA, "revision": world.data, "asked": "main", "file": "sets/fre.jsonl"}
    assert trained["data_source"] == f"{DATA}@{world.data}#sets/fre.jsonl"
    systems = Counter(s.messages[0]["content"] for s in read_samples(world.base / "results/x/data/fre.jsonl"))
    assert trained["system_prompt"] == systems.most_common(1)[0][0] == TAUGHT and len(systems) == 2
    assert trained["parent"] == world.adopted["key"] and trained["revision"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.base)
        found = read_manifest(Path(TRAINED) / "manifest.json")
    assert found == Candidate(trained["weights"], trained["key"], None, TAUGHT)
    saved = world.base / trained["weights"] / "chat_template.jinja"
    assert saved.read_bytes() == world.model["chat_template.jinja"]


def test_an_arm_is_asked_in_the_words_that_it_was_trained_with(world, trained, evaluated):
    """From the training rows through the manifest to the record: under `rule` the baseline is asked in ours."""
    world.evaluate(f"{TRAINED}/manifest.json", f"{TRAINED}/eval", "micro_chain", "gpqa_diamond")
    ours, theirs = (world.record(f, "gpqa_diamond").protocol for f in ("results/x/baseline/0/eval", f"{TRAINED}/eval"))
    assert (ours.prompt, theirs.prompt) == ("r1", "training")
    assert theirs.instruction == TAUGHT != ours.instruction
    assert ours.prompt_hash != theirs.prompt_hash and ours.settings_hash == theirs.settings_hash
    assert world.record(f"{TRAINED}/eval", "micro_chain").protocol.prompt == "none"  # the benchmark's own


def test_rows_without_a_system_message_teach_none(world, tmp_path):
    rows = [{"id": i, "messages": [{"role": "user", "content": f"give {i}"}], "answer": "1"} for i in range(3)]
    rows[0]["messages"].insert(0, {"role": "system", "content": TAUGHT})
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = training_data(path, read_samples(path))
    assert (found.system_prompt, found.source) == (None, None)


def test_a_card_that_was_changed_is_found(world, tmp_path):
    shutil.copytree(world.base / "results/x/data", tmp_path / "data")
    card = tmp_path / "data/fre.card.json"
    card.write_text(card.read_text().replace(world.data, "0" * 40))
    with pytest.raises(UserError, match=r"fre\.card\.json: damaged"):
        read_samples(tmp_path / "data/fre.jsonl")


def test_trl_and_its_reference_model_load_the_adopted_commit(world):
    pytest.importorskip("trl", reason="the reference trainer is a development dependency")
    world.hub.seen.clear()
    cfg = CFG.model_copy(update={"trainer": "trl", "loss": LossConfig(beta=0.1)})
    manifest = world.train(cfg, BASELINE, "results/x/trl/0", home="trl-machine")
    models = [request for request in world.hub.seen if f"/{MODEL}" in request]
    assert any(world.first in request for request in models)
    assert not any("/main/" in request or world.moved in request for request in models), models
    saved = world.base / manifest["weights"] / "chat_template.jinja"
    assert saved.read_bytes() == world.model["chat_template.jinja"]
    assert manifest["system_prompt"] == TAUGHT and manifest["data_source"]


# -------------------------------------------------------------------------------------------------------- benchmarks


def test_a_benchmark_from_the_hub_is_recorded_with_its_commit(world, evaluated):
    record = world.record("results/x/baseline/0/eval", "gpqa_diamond")
    assert record.protocol.data_pin == f"{GPQA}@{world.problems}#gpqa_diamond:train"


def test_without_the_hub_only_the_commit_that_was_asked_for_is_measured_on(world, evaluated):
    """`datasets` falls back to whatever it loaded last, with a warning; that may be another commit."""
    pin = f"{GPQA}@{world.problems}#gpqa_diamond:train"
    other = pin.replace(world.problems, "1" * 40)
    same, refused = world.run("-c", GET, pin, other, home="other-machine", offline=True).splitlines()
    assert same == pin and f"the cache holds commit {world.problems}, not {'1' * 40}" in refused


# ------------------------------------------------------------------------------------------------------------- trace


def links_of(line):
    """{(what, name): (state, found)} of a line that TRACE printed."""
    return {(what, name): (state, found) for what, name, state, found in json.loads(line)}


def test_trace_shows_and_verifies_the_commits(world, evaluated, trained, tmp_path):
    """Here, in a copy whose manifest names other files, and on a machine that has nothing of the Hub."""
    shutil.copytree(world.base / "results", tmp_path / "results")
    (tmp_path / "results/x/baseline/0/.manifest.json.sha256").unlink()
    manifest = json.loads((tmp_path / BASELINE).read_text()) | {"weights_sha256": "0" * 64}
    (tmp_path / BASELINE).write_text(json.dumps(manifest))
    model, problems = ("weights", f"{MODEL}@{world.first}"), ("problems", f"{GPQA}@{world.problems}#gpqa_diamond:train")
    printed = world.run("-c", TRACE, world.base, tmp_path, home="other-machine", offline=True).splitlines()
    here, changed = map(links_of, printed)
    assert here[model][0] == here[problems][0] == "verified"
    state, found = here["data", "results/x/data/fre.jsonl"]
    assert state == "verified" and f"from {DATA}@{world.data}#sets/fre.jsonl" in found
    assert changed[model] == ("broken", f"sha256 is {world.adopted['weights_sha256']:.16}, not {'0' * 16}")
    elsewhere = links_of(world.run("-c", TRACE, world.base, home="third-machine", offline=True))
    assert elsewhere[model] == ("unknown", "this commit is not in the Hub's cache on this machine")
    assert elsewhere[problems][0] == "unknown" and "cannot be had here" in elsewhere[problems][1]
