"""Contract: an evaluation that is killed anywhere goes on where it was, and its records are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest

from evals.generation import EvalModel
from evals.kept import KeptEngine, _read
from evals.records import read_records
from evals.run import Options, plan, read_manifest, run_jobs
from lmmr1.files import seal_folder
from lmmr1.lock import owned
from lmmr1.store import adopt, write_manifest
from lmmr1.types import Rollout, UserError
from reports.files import read_jsonl
from tests.test_evals import greedy, image_rows, jsonl, text_of, text_rows, tsv

ITEMS, BATCH = 60, 4


class SlowEngine:
    """Answers by the question's text, a little later; every prompt that it is asked is written to a file first."""

    def __init__(self, asked: Path) -> None:
        self.asked = asked

    def generate(self, samples, sampling, num_generations, seed):
        with self.asked.open("a") as file:
            file.write("".join(f"{text_of(sample)}\n" for sample in samples))
        time.sleep(0.02)
        texts = [f"<think>t</think><answer>{text_of(sample)}</answer>" for sample in samples]
        return [(Rollout(s.id, (1, 2), (-0.5, 0.0), t, "stop"),) for s, t in zip(samples, texts, strict=True)]


def run(folder: Path, name: str, out: Path, asked: Path) -> None:
    model = EvalModel(SlowEngine(asked), lambda s: json.dumps(s.messages), "stub/cpu", "float32", None, 50176)
    options = Options.of(batch_size=BATCH, benchmark_dir=folder)
    run_jobs(lambda: model, plan([name], folder, options), out, options, "k1")


def killed(folder: Path, name: str, out: Path, asked: Path, batches: int, later: float) -> bool:
    """Run in a child process that is killed `later` seconds after it was asked so many batches more."""
    target = lines(asked) + BATCH * batches
    if (child := os.fork()) == 0:
        try:
            run(folder, name, out, asked)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    while lines(asked) < target and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    time.sleep(later)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def lines(asked: Path) -> int:
    return len(asked.read_text().splitlines()) if asked.exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jsonl")}


@pytest.mark.parametrize("name", ["micro_chain", "micro_drawn"])
def test_five_kills_at_random_points_change_nothing_and_no_kept_answer_is_asked_again(tmp_path, name):
    if name == "micro_chain":
        jsonl(tmp_path / "micro_chain.jsonl", text_rows(ITEMS))
    else:
        tsv(tmp_path / "micro_drawn.tsv", image_rows(ITEMS))
    run(tmp_path, name, tmp_path / "whole", tmp_path / "asked_once")
    questions = (tmp_path / "asked_once").read_text().split()
    assert len(questions) == len(set(questions)) == ITEMS
    journal, asked, rng = tmp_path / "out" / f".{name}-answers.jsonl", tmp_path / "asked", random.Random(name)
    for _ in range(5):
        kept, before = len(_read(journal)), lines(asked)
        assert killed(tmp_path, name, tmp_path / "out", asked, rng.randint(0, 3), rng.uniform(0, 0.04))
        new = (asked.read_text().split() if asked.exists() else [])[before:]
        assert len(new) == len(set(new)) <= ITEMS - kept, "a kept answer was asked for again"
    run(tmp_path, name, tmp_path / "out", asked)
    times = {question: asked.read_text().split().count(question) for question in questions}
    assert sum(times.values()) <= ITEMS + 5 * BATCH and min(times.values()) == 1
    whole, again = (contents(tmp_path / where / name) for where in ("whole", "out"))
    assert whole.keys() == again.keys() and {"record.json", "samples.jsonl"} <= whole.keys()
    for file in ("record.json", "samples.jsonl"):
        assert whole[file] == again[file]
    assert not journal.exists() and not list((tmp_path / "out").glob(".*-run-*"))


def test_a_torn_line_is_cut_off_and_a_file_of_another_kind_is_no_journal(tmp_path):
    from lmmr1.types import Sample

    samples = [Sample(str(i), [{"role": "user", "content": f"q{i}"}], (), "") for i in range(4)]
    model = EvalModel(SlowEngine(tmp_path / "asked"), lambda s: json.dumps(s.messages), "b", "d", None, None)
    journal = tmp_path / "journal"
    first = KeptEngine(model, "k", journal).generate(samples[:2], greedy(8), 1, (0,))
    KeptEngine(model, "k", journal).generate(samples[2:], greedy(8), 1, (0,))
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])
    again = KeptEngine(model, "k", journal)
    assert len(again.answers) == 2 and again.generate(samples[:2], greedy(8), 1, (0,)) == first
    again.generate(samples[2:], greedy(8), 1, (0,))
    assert journal.read_bytes() == whole
    assert KeptEngine(model, "other weights", journal).generate(samples[:1], greedy(8), 1, (0,))
    assert (tmp_path / "asked").read_text().split() == ["q0", "q1", "q2", "q3", "q2", "q3", "q0"]
    journal.write_text("[1, 2]\n")
    assert KeptEngine(model, "k", journal).answers == {}


def results(folder: Path) -> dict[str, bytes]:
    """`contents` without lm-eval's own summary, which tells the time."""
    return {name: text for name, text in contents(folder).items() if name != "lm_eval_results.json"}


@pytest.fixture
def done(tmp_path):
    """A finished evaluation in `tmp_path/out`: its files as they were written."""
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(8))
    run(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked")
    return results(tmp_path / "out/micro_chain")


def test_a_damaged_line_of_the_journal_is_named_and_answered_again(tmp_path, capsys):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(12))
    run(tmp_path, "micro_chain", tmp_path / "whole", tmp_path / "asked_once")
    assert killed(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked", 2, 0.0)
    journal = tmp_path / "out/.micro_chain-answers.jsonl"
    text = journal.read_text()
    at = text.index("<answer>") + 9
    journal.write_text(text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :])
    run(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked")
    assert ".micro_chain-answers.jsonl: 1 of " in capsys.readouterr().out
    assert results(tmp_path / "whole/micro_chain") == results(tmp_path / "out/micro_chain")


def test_records_that_snakemake_removed_are_brought_back_without_a_question(tmp_path, done):
    """Where a job fails, Snakemake deletes all that it declared, the finished benchmarks' records too."""
    asked = lines(tmp_path / "asked")
    (tmp_path / "out/micro_chain/record.json").unlink()
    run(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked")
    assert results(tmp_path / "out/micro_chain") == done and lines(tmp_path / "asked") == asked


@pytest.mark.parametrize("name", ["record.json", "samples.jsonl", "SHA256SUMS"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_record_is_named_and_measured_again(tmp_path, done, name, cut, capsys):
    path = tmp_path / "out/micro_chain" / name
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data[: len(data) // 2] if cut else data)
    run(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked")
    said = capsys.readouterr().out
    assert "micro_chain" in said and ("damaged" in said or "missing" in said)
    assert results(tmp_path / "out/micro_chain") == done


def test_reports_refuse_a_damaged_record(tmp_path, done):
    path = tmp_path / "out/micro_chain/record.json"
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(UserError, match=r"record\.json: damaged, .* delete .*micro_chain and run the evaluation again"):
        read_records(path)
    samples = path.with_name("samples.jsonl")
    samples.write_bytes(samples.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"samples\.jsonl: damaged"):
        list(read_jsonl(samples))


def test_two_evaluations_into_one_folder_are_refused_before_a_model_is_loaded(tmp_path):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(8))
    with (
        owned(tmp_path / "out", "another evaluation", ".micro_chain.lock"),
        pytest.raises(UserError, match=r"in use by another evaluation \(process .* rm .*\.micro_chain\.lock"),
    ):
        run(tmp_path, "micro_chain", tmp_path / "out", tmp_path / "asked")
    assert lines(tmp_path / "asked") == 0


@pytest.mark.parametrize("name", ["base.json", "final/model.safetensors", "final/config.json"])
def test_a_damaged_checkpoint_is_named_before_it_is_evaluated(tmp_path, tiny_model, name):
    shutil.copytree(tiny_model, tmp_path / "final")
    seal_folder(tmp_path / "final")
    write_manifest(tmp_path / "base.json", adopt(str(tmp_path / "final"), "tiny"))
    assert read_manifest(tmp_path / "base.json").weights == str(tmp_path / "final")
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"damaged"):
        read_manifest(tmp_path / "base.json")
