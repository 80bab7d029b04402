"""Contract: a published folder holds safetensors, configuration, records and a card whose metadata the Hub's own library
reads back; nothing leaves the machine unless asked; the token is nowhere."""

import base64
import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from typer.testing import CliRunner

from lmmr1.store import read_manifest, sha256_weights, write_manifest
from lmmr1.types import UserError
from reports import paper_tables, scores, tables
from reproduce import cli
from reproduce.model_card import check_card, result
from reproduce.plan import Plan
from reproduce.publish import check_repo, collect, prepare, push
from tests import report_tree

TOKEN = "hf_" + "a1B2" * 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """results/micro with records of all arms, tables, a profile and one real checkpoint behind every run."""
    base = tmp_path_factory.mktemp("published")
    results = report_tree.write_tree(base, seeds=(0, 1))
    weights = base / "checkpoints/x"
    shutil.copytree(tiny_model, weights)
    (weights / "training_args.bin").write_bytes(b"\x80\x04pickle")
    profile = Plan.load({"profile": "micro", "seeds": [0, 1]}).profile
    (results / "profile.json").write_text(profile.model_dump_json())
    for file in results.glob("*/*/manifest.json"):
        manifest = read_manifest(file)
        parent = f"fre-{file.parent.name}" if file.parts[-3] == "two_stage" else manifest.parent
        write_manifest(file, replace(manifest, weights_sha256=sha256_weights(weights), parent=parent))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        arms = list(report_tree.SKILL)
        for arm in arms:
            records = report_tree.records_of(results, arm, (0, 1))
            scores.main(["--out", f"results/micro/{arm}/scores.csv", "--records", *records])
        files = [f"results/micro/{arm}/scores.csv" for arm in arms]
        for make in (tables, paper_tables):
            make.main(["--out-dir", "results/micro/report", "--scores", *files, "--benchmarks", *report_tree.NAMES])
    return results


@pytest.fixture
def results(finished, tmp_path):
    """A copy that a test may break."""
    shutil.copytree(finished.parents[1], tmp_path / "run")
    return tmp_path / "run/results/micro"


def test_folder_and_card(results):
    folder, published = prepare(results / "two_stage", None, "me/two-stage", None)
    assert folder == results / "publish/two_stage-0"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"README.md", "model.safetensors", "config.json", "eval/micro_chain/record.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    assert sha256_weights(folder) == published.manifest.weights_sha256
    text = (folder / "README.md").read_text(encoding="utf-8")
    for word in (
        "0123abc",
        r"two\_stage-0",
        "FRE-Text → Two-stage",
        "Difference",
        "MM avg",
        "format_weight",
        "## Limits",
        "not distinguishable",
        "protocol",
    ):
        assert word in text, word
    prepare(results / "two_stage", 1, None, None)
    again, _ = prepare(results / "two_stage", 0, "me/two-stage", None)
    assert (again / "README.md").read_text(encoding="utf-8") == text


def test_metadata_survive_the_hubs_own_library(results):
    folder, published = prepare(results / "fre", 1, "me/fre", None)
    card = ModelCard.load(folder / "README.md")
    values = yaml.safe_load(card.data.to_yaml())
    assert (values["license"], values["library_name"]) == ("apache-2.0", "transformers")
    assert values["pipeline_tag"] == "image-text-to-text" and values["base_model"] == "lmmr1/micro-base"
    name, found = model_index_to_eval_results(values["model-index"])
    assert (name, len(found)) == ("fre", len(published.records) == 7 and 7)
    assert found == [result(r) for r in published.records]
    record = json.loads((folder / "eval/micro_chain/record.json").read_text())
    value = next(r["value"] for r in record if r["subset"] == "all")
    assert found[0].metric_value == pytest.approx(100 * value, abs=0.005)
    assert found[0].metric_args["protocol_hash"] == next(r["protocol_hash"] for r in record if r["subset"] == "all")


def test_paper_scale_card(finished):
    """Metadata of a 3B run: the base model's licence, the stage's data set."""
    published = collect(finished / "two_stage", 0, "me/x")
    plan = Plan.load({"profile": "paper"})
    base = replace(published.base, weights="Qwen/Qwen2.5-VL-3B-Instruct")
    paper = replace(published, plan=plan, base=base, results=finished / "nowhere")
    from reproduce.model_card import card_text

    values = yaml.safe_load(ModelCard(card_text(paper)).data.to_yaml())
    assert (values["license"], values["license_name"]) == ("other", "qwen-research")
    assert values["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct" and values["datasets"] == ["VLM-Reasoner/VerMulti"]


def test_hostile_names_are_no_markup(results):
    file = results / "fre/0/manifest.json"
    manifest = read_manifest(file)
    evil = "cpu |x| <script>alert(1)</script>\n# heading"
    write_manifest(file, replace(manifest, device=evil, code="`a`"))
    folder, _ = prepare(results / "fre", 0, None, None)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in text and "\n# heading" not in text


def test_refusals(results, tmp_path):
    for folder, seed, words in (
        (results / "baseline", None, "not a trained arm"),
        (results / "fre", 7, "not finished in"),
        (results / "nothing", None, "not a trained arm"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(folder, seed, None, None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="something else"):
        prepare(results / "fre", 0, None, tmp_path / "mine")
    weights = results.parents[1] / "checkpoints/x/model.safetensors"
    weights.unlink()  # a link of earlier folders: never write through it
    weights.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        prepare(results / "fre", 0, None, None)
    shutil.rmtree(results / "mgt_only/0/eval")
    with pytest.raises(UserError, match="not evaluated"):
        prepare(results / "mgt_only", 0, None, None)
    for repo in ("name", "a/b/c", "-bad/x", "a/b--c", "../x/y"):
        with pytest.raises(UserError, match="--repo"):
            check_repo(repo)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("license: apache-2.0\n", ""), "license"),
        (("type: accuracy", "typ: accuracy"), "cannot be read|change"),
        (("value:", "value_:"), "cannot be read|change"),
        (("---\n", "--\n"), "cannot be read|lack"),
    ],
)
def test_a_bad_card_is_refused(results, change, word):
    folder, _ = prepare(results / "fre", 0, None, None)
    text = (folder / "README.md").read_text(encoding="utf-8")
    check_card(text)
    with pytest.raises(UserError, match=word):
        check_card(text.replace(*change, 1))


# ------------------------------------------------------------------------------------------------ the Hub


class FakeHub(BaseHTTPRequestHandler):
    """The few addresses of the Hub that an upload of small files asks; keeps requests."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def answer(self, body):
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        code, reply = 200, {}
        if self.server.refuse and "/commit/" in self.path:
            code, reply = 403, {"error": f"forbidden for {self.headers.get('Authorization')}"}
        elif self.path == "/api/repos/create":
            reply = {"url": f"http://{self.headers['Host']}/me/fre", "name": "me/fre", "id": "1"}
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            reply = {"files": files, "commitOid": "0" * 40}
        elif "/commit/" in self.path:
            reply = {
                "commitUrl": f"http://{self.headers['Host']}/me/fre/commit/abc",
                "commitOid": "a" * 40,
                "success": True,
                "hookOutput": "",
            }
        elif self.path == "/api/validate-yaml":
            reply = {"errors": [], "warnings": []}
        elif "/api/models/me/fre" in self.path:
            reply = {"id": "me/fre", "sha": "0" * 40, "siblings": [], "private": True, "xetEnabled": False}
        data = json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def fake_hub(monkeypatch, refuse=False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.seen, server.refuse = [], refuse
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_push_sends_the_folder_and_the_token_stays_in_headers(results, monkeypatch):
    """Against a local server that stands for the Hub."""
    folder, _ = prepare(results / "fre", 0, "me/fre", None)
    with fake_hub(monkeypatch) as hub:
        assert push(folder, "me/fre").endswith("/me/fre/commit/abc")
    (create,) = [json.loads(body) for path, _, body in hub.seen if path == "/api/repos/create"]
    assert create["visibility"] == "private"
    (commit,) = [body for path, _, body in hub.seen if "/commit/" in path]
    sent = {v["value"]["path"]: v["value"] for v in map(json.loads, commit.splitlines()) if v["key"] == "file"}
    assert set(sent) == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert base64.b64decode(sent["README.md"]["content"]) == (folder / "README.md").read_bytes()
    assert {auth for _, auth, _ in hub.seen} - {None} == {f"Bearer {TOKEN}"}  # some requests need none
    assert not any(TOKEN.encode() in (body or b"") for _, _, body in hub.seen)
    assert not any(TOKEN.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_a_refused_push_is_one_line_without_the_token(results, monkeypatch):
    folder, _ = prepare(results / "fre", 0, "me/fre", None)
    with fake_hub(monkeypatch, refuse=True), pytest.raises(UserError) as error:
        push(folder, "me/fre")
    assert "me/fre: not uploaded" in str(error.value) and TOKEN not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("reproduce.publish.get_token", lambda: None)
    with pytest.raises(UserError, match="no token; set HF_TOKEN"):
        push(folder, "me/fre")


def test_command(results, monkeypatch):
    run = lambda *args: CliRunner().invoke(cli.cli, ["publish", *map(str, args)])
    done = run(results / "two_stage", "--seed", 1)
    assert done.exit_code == 0 and "nothing was uploaded" in done.output
    assert (results / "publish/two_stage-1/README.md").is_file()
    assert isinstance(run(results / "two_stage", "--push").exception, UserError)
    assert len(run("--help").output.splitlines()) <= 40
    assert Path(results).exists()
