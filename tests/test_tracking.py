"""Contract: trackers get exactly the rows of steps.jsonl, each step once, resumed or not; they change no number, a broken
one stops nothing, a missing one stops everything before compute is spent."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest

from lmmr1 import tracking
from lmmr1 import train as train_module
from lmmr1.learner import Learner
from lmmr1.store import adopt, run_key
from lmmr1.tracking import VARIABLE, Reporting, Trackers, parse_names, redacted, require_installed
from lmmr1.train import train
from lmmr1.types import UserError
from reproduce.micro.build import write_prompts
from reproduce.plan import Plan
from reproduce.start import tell_jobs
from tests.test_training import CFG

STEPS = 5
SHORT = CFG.model_copy(update={"max_steps": STEPS})


@pytest.fixture(scope="module")
def parent(tiny_model):
    return adopt(str(tiny_model), "tiny")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    out = tmp_path_factory.mktemp("prompts") / "text.jsonl"
    write_prompts({"chain": 1.0}, 12, 0, out)
    return out


def interrupted(names, parent, prompts, folder):
    """A run that dies in step 4, after the resume point of step 2, and is then run again: manifest, rows, results."""
    report_to, learn = Reporting(names, folder / "results/x/fre/0"), Learner.learn

    def dies(learner, batch, step, store):
        if step == 4:
            raise KeyboardInterrupt
        return learn(learner, batch, step, store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", dies)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, parent, prompts, folder / "checkpoints", report_to)
    manifest, store = train(SHORT, parent, prompts, folder / "checkpoints", report_to)
    rows = [json.loads(line) for line in (store.folder / "steps.jsonl").read_text().splitlines()]
    return manifest, rows, report_to.folder


class Recorder:
    """A tracker that cannot take steps back and keeps what it got, over restarts."""

    errors = (OSError,)
    rewinds = False
    got = []

    def __init__(self, run, start):
        self.run = run

    def log(self, step, metrics):
        type(self).got.append((step, metrics))

    def close(self):
        type(self).got.append(("closed", self.run.name))


class Broken(Recorder):
    def log(self, step, metrics):
        raise ConnectionError("cannot reach https://example.org with key 0123456789secret")


def with_fakes(patch):
    """Two of the names lead to fakes; all packages are there."""
    Recorder.got = []
    patch.setattr(tracking, "KINDS", {**tracking.KINDS, "trackio": Recorder, "wandb": Broken})
    patch.setattr(train_module, "require_installed", lambda names: None)
    patch.setattr(tracking, "_opening_errors", lambda name: (OSError,))


@pytest.fixture
def fakes(monkeypatch):
    with_fakes(monkeypatch)


@pytest.fixture(scope="module")
def tracked(parent, prompts, tmp_path_factory):
    """One interrupted run with the real TensorBoard and both fakes: what it made, what was sent, what was warned."""
    folder, errors = tmp_path_factory.mktemp("tracked"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        with_fakes(patch)
        patch.setenv("SOME_API_KEY", "0123456789secret")
        return (
            *interrupted(("tensorboard", "trackio", "wandb"), parent, prompts, folder),
            list(Recorder.got),
            errors.getvalue(),
        )


def test_event_files_have_every_step_once(tracked):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, rows, folder, *_ = tracked
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert {"reward", "loss", "seconds"} <= set(found.Tags()["scalars"]) and "step" not in found.Tags()["scalars"]
    for metric in ("reward", "loss", "completions/mean_length", "learning_rate"):
        events = found.Scalars(metric)
        assert [e.step for e in events] == list(range(1, STEPS + 1))
        assert [e.value for e in events] == pytest.approx([r[metric] for r in rows], rel=1e-6)


def test_trackers_change_nothing(tracked, parent, prompts, tmp_path):
    manifest, rows, _, got, _ = tracked
    plain, _ = train(SHORT, parent, prompts, tmp_path)
    assert (manifest.key, manifest.weights_sha256) == (plain.key, plain.weights_sha256)
    sent = [row for row in got if row[0] != "closed"]
    assert [step for step, _ in sent] == list(range(1, STEPS + 1))
    assert all(metrics["reward"] == row["reward"] for (_, metrics), row in zip(sent, rows, strict=True))
    assert [row for row in got if row[0] == "closed"] == [("closed", "x/fre/0")] * 2


def test_a_broken_tracker_stops_nothing_and_tells_no_secret(tracked):
    warned = [line for line in tracked[-1].splitlines() if line.startswith("warning: wandb")]
    assert len(warned) == 2 and "***" in warned[0] and "secret" not in warned[0]  # once per process


def test_a_missing_package_stops_before_compute(parent, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="report_to: wandb is not installed; pip install wandb"):
        train(SHORT, parent, prompts, tmp_path / "checkpoints", Reporting(("wandb",), tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_names():
    assert parse_names("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    assert parse_names("none") == parse_names("") == parse_names(None) == ()
    with pytest.raises(UserError, match="unknown tracker 'mlflow'; allowed: tensorboard, wandb, trackio, none"):
        parse_names("mlflow")
    require_installed(())


def test_launch_setting_is_no_part_of_a_run(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    plain, told = Plan.load({"profile": "micro"}), Plan.load({"profile": "micro", "report_to": "tensorboard,wandb"})
    assert told.profile.report_to == ("tensorboard", "wandb")
    assert plain.train_config_json("fre", 0) == told.train_config_json("fre", 0)
    assert "report_to" not in SHORT.model_dump() and run_key(SHORT, "a", "b") == run_key(SHORT, "a", "b")
    tell_jobs(plain)
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "")
    tell_jobs(told)
    assert parse_names(os.environ[VARIABLE]) == ("tensorboard", "wandb")
    with pytest.raises(UserError, match="report_to"):
        Plan.load({"profile": "micro", "report_to": "mlflow"})


def test_only_finite_numbers_are_sent(fakes, tmp_path):
    with Reporting(("trackio",), tmp_path).open(SHORT, "key", 0) as trackers:
        trackers.log(1, {"step": 1, "reward": 2, "loss": float("nan"), "text": "<b>", "flag": True})
    assert Recorder.got[0] == (1, {"reward": 2.0})


def test_damaged_marks_are_no_reason_to_stop(fakes, tmp_path):
    (tmp_path / tracking.MARKS).write_text("{")
    with Trackers(("trackio",), tracking.Run("key", "name", tmp_path, SHORT), 3) as trackers:
        trackers.log(4, {"reward": 1.0})
    assert json.loads((tmp_path / tracking.MARKS).read_text()) == {"trackio": 4}


def test_secrets_are_taken_out(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    assert redacted(f"401 for {'k' * 40}\nand hf_abcdefgh") == "401 for *** and ***"


def wandb_rows(file):
    """{step: row} of a .wandb file, whose records stand in LevelDB log blocks. Asserts that no step is there twice."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = file.read_bytes(), 7, b"", {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too short for a header: padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, whole = wandb_internal_pb2.Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                assert row["_step"] not in found
                found[row["_step"]] = row
    return found


def test_wandb_offline(parent, prompts, tmp_path, monkeypatch):
    """The real package without its server: rows read back from its own files; no key needed, none written."""
    pytest.importorskip("wandb", reason="wandb is optional (pip install 'lmmr1[tracking]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 36 + "beef")
    _, rows, folder = interrupted(("wandb",), parent, prompts, tmp_path)
    files = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    parts = [wandb_rows(file) for file in files]
    found = {step: row for part in parts for step, row in part.items()}
    assert len(files) == 2 and sum(map(len, parts)) == len(found)
    assert [found[s]["reward"] for s in range(1, STEPS + 1)] == [r["reward"] for r in rows]
    assert not any(b"beef" in f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_trackio_database(parent, prompts, tmp_path, monkeypatch):
    """The real package with its local database."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is optional (pip install 'lmmr1[tracking]')")
    import sqlite3

    _, rows, _ = interrupted(("trackio",), parent, prompts, tmp_path)
    (file,) = (tmp_path / "trackio").glob("*.db")
    found = sqlite3.connect(file).execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    assert [json.loads(m)["reward"] for _, m in found] == [r["reward"] for r in rows]


def test_the_workflow_needs_no_torch_for_it():
    code = "import lmmr1.tracking, reproduce.start, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
