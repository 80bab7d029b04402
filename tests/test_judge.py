"""The judge: verdicts are kept and never asked for twice, replies are parsed strictly, an absent judge ends the run."""

import json
import re
import socket
import sqlite3
import time
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from evals.adapters import ADAPTERS
from evals.generation import encodable
from evals.inputs import _problem, mathvision_rows, prepare
from evals.isolate import call_each
from evals.judge import Judge, Question, ReplyStore
from evals.judge_server import JudgeServer, check_reachable
from evals.judging import score_all, scorer_name, tool_equal, tool_olympiadbench
from evals.problems import Problem
from evals.protocols import JudgeCall, find_protocol
from evals.registry import find
from evals.run import Options, evaluate, main, plan, run_jobs
from evals.scorers.predictions import load
from evals.scoring import SCORER
from evals.vlmeval_import import mathv
from lmmr1.types import Rollout, UserError
from reproduce import cli
from tests.benchmark_files import png, table, write_all
from tests.judge_server import judge_by_rule, serving
from tests.test_evals import HOSTILE, samples_of, stub_model, text_of
from tests.test_scorers import DATA, OUTPUTS, RELEASED, needs_outputs

CALL = JudgeCall(temperature=0.0, max_tokens=16, tries=3)
JUDGED = ("mathvision", "mathverse", "mmstar", "mathvista_mini")


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def judge(server, tmp_path):
    store = ReplyStore(tmp_path / "judge.sqlite")
    yield Judge(find_protocol("paper").judge, JudgeServer(server.url), store)
    store.close()


class Answers:
    """Answers every prompt with the same text, its number in the place of `#`; counts."""

    def __init__(self, text: str):
        self.text, self.count = text, 0

    def generate(self, samples, sampling, num_generations, seed):
        return [(self._answer(sample),) for sample in samples]

    def _answer(self, sample):
        self.count += 1
        return Rollout(sample.id, (1,), (0.0,), self.text.replace("#", str(self.count)), "stop")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("files"))
    (folder / "system.txt").write_text("system prompt")
    return folder


def run_paper(files, tmp_path, url, names=JUDGED, text="So the answer is b.", out="out", protocol="paper", **changes):
    values = {"data_root": files, "any_data": True, "system_prompt_file": files / "system.txt"}
    options = Options.of(protocol, **values | {"judge": JudgeServer(url, timeout=5)} | changes)
    engine = Answers(text)
    model = replace(stub_model(), engine=engine)
    return run_jobs(lambda: model, plan(names, tmp_path, options), tmp_path / out, options, "k"), engine


# ------------------------------------------------------------------------------------------------------- the client


def test_replies_are_kept_by_content(judge, server):
    ask = lambda prompt, call=CALL, attempt=0: judge.reply(Question(prompt, call), attempt)
    assert ask("The answer is 4. Extracted") == ask("The answer is 4. Extracted") == "4"
    assert len(server.requests) == judge.requests == 1
    ask("The answer is 5. Extracted")
    ask("The answer is 4. Extracted", CALL.model_copy(update={"temperature": 0.6}))
    ask("The answer is 4. Extracted", CALL.model_copy(update={"options": ("0", "1")}))
    ask("The answer is 4. Extracted", attempt=1)
    other = Judge(judge.settings.model_copy(update={"model": "another"}), judge.server, judge.store)
    other.reply(Question("The answer is 4. Extracted", CALL))
    assert len(server.requests) == 6, "another prompt, temperature, form, attempt or model is another question"
    first, guided = server.requests[0], server.requests[3]
    assert (first["model"], first["temperature"], first["seed"], first["max_tokens"]) == (
        "Qwen/Qwen2.5-14B-Instruct",
        0.0,
        0,
        16,
    )
    assert "guided_choice" not in first and guided["guided_choice"] == ["0", "1"]
    again = Judge(judge.settings, replace(judge.server, url="http://127.0.0.1:9/v1"), judge.store)
    assert again.reply(Question("The answer is 4. Extracted", CALL)) == "4", "where the server is does not matter"


def test_replies_that_cannot_be_read_are_asked_for_again_a_limited_number_of_times(judge, server):
    replies = iter(["maybe", "1 or 0", "1"])
    server.rule = lambda prompt: next(replies)
    parse = {"0": 0.0, "1": 1.0}.get
    assert judge.ask(Question("q", CALL), parse) == 1.0
    assert [request["seed"] for request in server.requests] == [0, 1, 2]
    server.rule = lambda prompt: "never"
    assert judge.ask(Question("p", CALL), parse) is None and len(server.requests) == 6
    assert judge.ask(Question("p", CALL), parse) is None and len(server.requests) == 6, "that was kept, too"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_goes_both_ways(judge, server, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.rule = lambda prompt: text
    reply = judge.reply(Question(f"Response: {text}", CALL))
    assert reply == text.encode("utf-8", "replace").decode()[:10_000]
    assert not (tmp_path / "CANARY").exists()


def test_a_failing_server_is_tried_again_and_then_given_up(judge, server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.status = lambda number: 200 if number == 3 else 503
    assert judge.reply(Question("The answer is 4. Extracted", CALL)) == "4" and len(server.requests) == 3
    server.status = lambda number: 503
    with pytest.raises(UserError, match="HTTP 503"):
        judge.reply(Question("other", CALL))
    assert 4 < len(server.requests) <= 8, "not for ever"
    server.status, count = (lambda number: 400), len(server.requests)
    with pytest.raises(UserError, match="HTTP 400.*guided decoding"):
        judge.reply(Question("third", CALL))
    assert len(server.requests) == count + 1, "what is wrong with the request stays wrong"


@pytest.fixture
def impatient(server, tmp_path):
    """A judge whose replies may take 0.2 s, then 0.4 s, up to 6.4 s."""
    store = ReplyStore(tmp_path / "impatient.sqlite")
    yield Judge(find_protocol("paper").judge, JudgeServer(server.url, timeout=0.2), store)
    store.close()


def test_a_late_reply_is_asked_for_again_with_more_patience(impatient, server):
    server.late = lambda prompt: 0.6 if len(server.requests) < 4 else 0.0
    start = time.monotonic()
    assert impatient.ask(Question("The answer is 4. Extracted", CALL), str) == "4"
    assert len(server.requests) == 3 and time.monotonic() - start > 0.2 + 0.4 + 0.6, "late twice, then waited for"
    assert (impatient.asked, impatient.unread, impatient.late) == (1, [], 0)
    assert {request["seed"] for request in server.requests} == {0}, "it is the same question"


@pytest.mark.parametrize("protocol", ["paper", "vlmevalkit"])
@pytest.mark.parametrize("name", JUDGED)
def test_one_question_that_is_never_answered_is_unread_and_asked_again_next_time(
    files, tmp_path, server, monkeypatch, name, protocol
):
    monkeypatch.setattr("evals.judge.PATIENCE", (1, 3))
    run = lambda out, **more: run_paper(
        files, tmp_path, server.url, names=(name,), protocol=protocol, text="#! So the answer is b.", out=out,
        judge=JudgeServer(server.url, timeout=0.4), **more,
    )  # fmt: skip
    whole, _ = run("whole")
    stuck = server.requests[0]["messages"][0]["content"]
    server.late = lambda prompt: 60.0 if prompt == stuck else 0.0
    run("late")
    rows, expected = samples_of(tmp_path / "late", name), samples_of(tmp_path / "whole", name)
    unread = [i for i, row in enumerate(rows) if row.note == "judge_unreadable"]
    assert len(unread) == 1 and rows[unread[0]].accuracy == 0.0
    others = [(row, wanted) for i, (row, wanted) in enumerate(zip(rows, expected, strict=True)) if i not in unread]
    assert all(row == wanted for row, wanted in others), "nothing else is touched"
    server.late = lambda prompt: 0.0
    again, _ = run("again", judge_cache=tmp_path / "late" / "judge.sqlite")
    assert samples_of(tmp_path / "again", name) == expected and [r.value for r in again] == [r.value for r in whole]


def test_a_server_that_answers_nothing_is_refused(impatient, server, monkeypatch):
    monkeypatch.setattr("evals.judge.PATIENCE", (1, 1))
    server.late = lambda prompt: 60.0
    with pytest.raises(
        UserError, match=r"[1-9]\d+ questions in a row got no reply, even within 0\.2 s; start the server"
    ):
        impatient.map(lambda i: impatient.ask(Question(f"q{i}", CALL), str), range(1000))
    # each question twice would be 2000; how many are on their way when the tenth has had no reply depends on the load
    assert len(server.requests) <= 500, "the other questions are not waited for"


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "no connection"])
def test_a_server_that_is_gone_is_an_error_and_not_late(impatient, monkeypatch, silent):
    monkeypatch.setattr("evals.judge.CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("evals.judge.RETRY_SECONDS", 3.0)
    with socket.socket() as taken, socket.socket() as first:
        taken.bind(("127.0.0.1", 0))
        if silent:  # a queue of one connection, which is full: the kernel answers nobody else
            taken.listen(0)
            first.connect(taken.getsockname())
        gone = JudgeServer(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", timeout=0.2)
        judge = Judge(impatient.settings, gone, impatient.store)
        with pytest.raises(UserError, match=r"APIConnectionError.*start the server and run the same command again"):
            judge.ask(Question("q", CALL), str)
    assert judge.requests == 3, "tried again for a while, not with growing patience"


def test_an_absent_judge_is_seen_without_a_request(server):
    check_reachable(JudgeServer(server.url), "m")
    assert server.requests == []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for url, message in {
        f"http://127.0.0.1:{port}/v1": "no server answers there",
        "http://127.0.0.1:99999/v1": "no server answers there",
        "localhost:8000": "expected http",
    }.items():
        with pytest.raises(UserError, match=message):
            check_reachable(JudgeServer(url), "m")


def test_a_file_that_holds_no_replies_is_refused(tmp_path):
    (tmp_path / "judge.sqlite").write_bytes(b"something else, and long enough to be taken for a header" * 10)
    with pytest.raises(UserError, match=r"judge\.sqlite: cannot be used"):
        ReplyStore(tmp_path / "judge.sqlite")


# ----------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("protocol", ["paper", "vlmevalkit"])
def test_judged_protocols_run_and_running_again_sends_nothing(files, tmp_path, server, protocol):
    records, engine = run_paper(files, tmp_path, server.url, protocol=protocol)
    value = {r.benchmark: r.value for r in records if r.subset == "all"}
    assert set(value) == set(JUDGED)
    # The judge reads B everywhere: right are MM-Star's one B (macro: a third of one sub-category of two).
    assert value["mmstar"] == pytest.approx(1 / 6 if protocol == "paper" else 1 / 4)
    for r in records:
        assert r.protocol.judge["model"] == find_protocol(protocol).judge.model and r.protocol.judge["seed"] == 0
        assert len(r.protocol.judge["prompt_sha256"]) == 16 and "judge" not in r.protocol.images
    sent = len(server.requests)
    assert sent and engine.count == sum(r.n for r in records if r.subset == "all")
    before = {name: (tmp_path / "out" / name / "samples.jsonl").read_bytes() for name in JUDGED}
    _, idle = run_paper(files, tmp_path, server.url, protocol=protocol)
    assert (len(server.requests), idle.count) == (sent, 0), "done work is not touched"
    cache = tmp_path / "out" / "judge.sqlite"
    run_paper(files, tmp_path, server.url, protocol=protocol, out="again", judge_cache=cache)
    assert len(server.requests) == sent, "the same answers need no judge"
    assert before == {name: (tmp_path / "again" / name / "samples.jsonl").read_bytes() for name in JUDGED}


def test_the_paper_protocol_asks_as_the_paper_did(files, tmp_path, server):
    long = "word " * 50 + "So the answer is 20."
    records, _ = run_paper(files, tmp_path, server.url, names=("mathverse", "mmstar"), text=long)
    prompts = [request["messages"][0]["content"] for request in server.requests]
    extracting = [p for p, r in zip(prompts, server.requests, strict=True) if r["max_tokens"] == 256]
    thirty = "'" + "word " * 25 + "So the answer is 20.'"
    assert extracting and all(thirty in prompt for prompt in extracting), "the last 30 words only"
    comparing = [r for r in server.requests if r.get("guided_choice") == ["0", "1"]]
    options = [r for r in server.requests if len(r.get("guided_choice", [])) == 10]
    assert comparing and options and {r["temperature"] for r in comparing + options} == {0.6}
    assert all("so the answer is 20." in r["messages"][0]["content"] for r in options), "lower case"
    assert {r.subset: r.value for r in records if r.benchmark == "mathverse"}["all"] == 0.5, "20 is the free answer"


def test_a_judge_that_goes_away_loses_nothing(files, tmp_path, server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.status, numbered = (lambda number: 200 if number <= 6 else 503), "The answer is #."
    with pytest.raises(UserError, match="run the same command again"):
        run_paper(files, tmp_path, server.url, names=("mathverse",), text=numbered)
    assert not (tmp_path / "out" / "mathverse").exists()
    kept = sqlite3.connect(tmp_path / "out" / "judge.sqlite").execute("SELECT count(*) FROM replies").fetchone()[0]
    assert 0 < kept <= 6
    failed = len(server.requests)
    server.status = lambda number: 200
    records, engine = run_paper(files, tmp_path, server.url, names=("mathverse",), text=numbered)
    assert engine.count == 0, "no answer is generated twice"
    assert len(server.requests) - failed == 20 - kept, "and no question asked twice"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["judge.sqlite", "mathverse", "timing.json"]
    whole, _ = run_paper(files, tmp_path, server.url, names=("mathverse",), out="whole", text=numbered)
    assert [(r.subset, r.value) for r in whole] == [(r.subset, r.value) for r in records]


def test_an_absent_judge_is_exit_2_before_the_model_is_loaded(files, tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("evals.run.load_model", lambda *_: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    values = {"data_root": files, "any_data": True, "system_prompt_file": files / "system.txt"}
    with pytest.raises(UserError, match="no server answers there"):
        evaluate(str(tiny_model), ["mmstar"], tmp_path / "out", Options.of("paper", judge=JudgeServer(url), **values))
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"key": "k", "weights": str(tiny_model)}))
    arguments = ["--harness", "vlmevalkit", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
    arguments += ["--benchmarks", "mmstar", "--protocol", "paper", "--data-root", str(files), "--any-data"]
    arguments += ["--system-prompt-file", str(files / "system.txt")]
    assert main([*arguments, "--judge-url", url]) == 2
    assert "no server answers there" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "--judge-url" in capsys.readouterr().err


def test_another_judge_model_is_another_protocol(files, tmp_path, server):
    first, _ = run_paper(files, tmp_path, server.url, names=("mmstar",))
    second, _ = run_paper(files, tmp_path, server.url, names=("mmstar",), out="other", judge_model="another")
    assert second[0].protocol.judge["model"] == "another" == server.requests[-1]["model"]
    assert first[0].protocol.hash != second[0].protocol.hash


@pytest.mark.parametrize("protocol", ["paper", "vlmevalkit"])
def test_hostile_answers_and_replies_are_scored_as_wrong(files, tmp_path, server, protocol, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(HOSTILE[2::5]):
        server.rule = lambda prompt, text=text: text
        records, _ = run_paper(files, tmp_path, server.url, text=text, out=f"out{number}", protocol=protocol)
        # Both tools always name some option of MM-Star or MathVista, by a guess or the nearest text: it may hit.
        assert {r.value for r in records if r.subset == "all" and r.benchmark in ("mathvision", "mathverse")} == {0.0}
    assert not list(tmp_path.rglob("CANARY"))
    assert len(samples_of(tmp_path / "out0", "mathvision")) == 7


# ------------------------------------------------------------------------------------------------ the tool itself

TABLES = {
    "mathvision": "MathVision",
    "mathverse": "MathVerse_MINI",
    "mathvista_mini": "MathVista_MINI",
    "mmstar": "MMStar",
}


@pytest.fixture
def tool(files, server, monkeypatch):
    """VLMEvalKit's own classes, reading the same files from $LMUData and asking the same judge."""
    from evals import vlmeval_import as tool

    kinds = {
        "mathvision": tool.MathVision,
        "mathverse": tool.MathVerse,
        "mathvista_mini": tool.MathVista,
        "mmstar": tool.ImageMCQDataset,
        "olympiadbench": tool.OlympiadBench,
    }
    for kind in kinds.values():
        monkeypatch.setattr(kind, "DATASET_MD5", {})
    settings = {"LMUData": str(files), "PRED_FORMAT": "tsv", "OPENAI_API_KEY": "none"}
    with tool.environment(OPENAI_API_BASE=f"{server.url}/chat/completions", LOCAL_LLM=None, **settings):
        yield {name: kind(TABLES.get(name, "OlympiadBench_EN")) for name, kind in kinds.items()}


def test_protocol_vlmevalkit_asks_what_the_tool_asks(files, tmp_path, tool):
    """The tool reads its table with pandas, we with csv: the prompts must be the same, pictures included."""
    from evals.vlmevalkit import build

    def content(message, name):
        # The tool stores OlympiadBench's pictures as JPEG again, which changes them.
        picture = lambda path: name == "olympiadbench" or Image.open(path).convert("RGB").tobytes()
        return [picture(part["value"]) if part["type"] == "image" else part["value"] for part in message]

    options = Options.of("vlmevalkit", data_root=files, any_data=True, judge=JudgeServer("http://127.0.0.1:9/v1"))
    for name, own in tool.items():
        ours = build(plan([name], tmp_path, options)[0].measurement)
        theirs = {str(own.data.iloc[i]["index"]): i for i in range(len(own))}
        shared = [(i, theirs[p.id]) for i, p in enumerate(ours.problems) if p.id in theirs]
        # The tool drops rows without an image; OlympiadBench's text-only problem is one.
        assert len(shared) == len(ours.problems) - (name == "olympiadbench")
        for i, j in shared:
            assert content(ours.build_prompt(i), name) == content(own.build_prompt(j), name)


@pytest.mark.parametrize(
    "text", ["The answer is \\boxed{#}. So the answer is B.", "I take \\boxed{20} for it, (b).", "#"]
)
@pytest.mark.parametrize("name", TABLES)
def test_protocol_vlmevalkit_scores_as_the_tool_scores(files, tmp_path, server, tool, name, text):
    records, _ = run_paper(files, tmp_path, server.url, names=(name,), protocol="vlmevalkit", text=text)
    rows = samples_of(tmp_path / "out", name)
    own = tool[name]
    own.data["prediction"] = [row.response for row in rows]
    file = tmp_path / f"m_{TABLES[name]}.tsv"
    own.data.drop(columns="image").to_csv(file, sep="\t", index=False)
    table = own.evaluate(str(file), model="gpt-4o-mini", nproc=4)
    if "tot" in table:
        overall = table[table.iloc[:, 0] == "Overall"]
        theirs = float(overall["acc"].iloc[0]) / 100
    else:
        theirs = float(table["Overall"].mean()) / (100 if name == "mathverse" else 1)
    if name == "mmstar" and any(row.note == "guessed" for row in rows):
        pytest.skip("the tool guesses by the global random generator")
    assert records[0].value == pytest.approx(theirs)


# ----------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("3", "3", True),
        ("3.0000001", "3", True),
        ("6/2", "3", True),
        ("The result is \\boxed{\\frac{1}{2}}.", "0.5", True),
        ("4", "3", False),
        ("nothing", "3", False),
        ("1/0", "3", False),
        ("__import__('os').system('touch CANARY') or 3", "3", False),
    ],
)
def test_the_tools_comparison_without_eval(answer, gold, right, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call_each(tool_equal, [(answer, gold)], 30.0, None) == [right]
    assert not (tmp_path / "CANARY").exists()


# Gold answer with its columns, answer, right under `rule`, right under `paper`.
OLYMPIAD = [
    ("2.5", {"error": "1e-1"}, "2.51", 1, 1), ("2.5", {"error": "1e-1"}, "2.6", 1, 1), ("2.5", {"error": "1e-1"}, "2.4", 1, 1),
    ("2.5", {"error": "1e-1"}, "2.61", 0, 0), ("2.5", {"error": "1e-1"}, "2.39", 0, 0), ("2.5", {"error": "1e-1"}, "-2.5", 0, 0),
    ("2.5", {}, "2.51", 0, 0), ("2.5", {}, "2.5", 1, 1), ("2.5", {"error": "1e-1"}, "\\frac{251}{100}", 1, 1),
    ("2.5", {"error": "1e-1"}, "250", 0, 1),  # a percentage may be meant, says the released rule
    ("2.5", {"error": "1e-1"}, "2.51}. I checked it, and it is \\boxed{2.51", 1, 0),  # and a box too many is an answer too many
    ("2.5, 100", {"error": "0.1,5", "is_multiple_answer": "True"}, "2.4, 103", 1, 1),
    ("2.5, 100", {"error": "0.1,5", "is_multiple_answer": "True"}, "103, 2.4", 1, 1),
    ("2.5, 100", {"error": "0.1,5", "is_multiple_answer": "True"}, "2.4, 106", 0, 0),
    ("2.5, 100", {"error": "0.1,5", "is_multiple_answer": "True"}, "2.5", 0, 0),
    ("(2.5,1)", {"error": "1e-1", "answer_type": "Tuple"}, "(2.51,1)", 0, 0),  # tuples have no tolerance
]  # fmt: skip
VISTA = [
    ("1.45", {"answer_type": "float", "precision": "2"}, "1.4531", 1, 1),
    ("1.45", {"answer_type": "float", "precision": "2.0"}, "1.4549", 1, 1),
    ("1.45", {"answer_type": "float", "precision": "2"}, "1.4451", 1, 1),
    ("1.45", {"answer_type": "float", "precision": "2"}, "1.46", 0, 0),
    ("1.45", {"answer_type": "float", "precision": "2"}, "1.444", 0, 0),
    ("1.45", {"answer_type": "float", "precision": ""}, "1.4531", 1, 1),  # the decimals of the gold answer
    ("1.4", {"answer_type": "float", "precision": "1"}, "1.39", 1, 1),
    ("1.4", {"answer_type": "float", "precision": "1"}, "1.33", 0, 0),
    ("0.5", {"answer_type": "float", "precision": "1"}, "\\frac{1}{2}", 1, 0),  # the data set reads plain numbers only
    ("7", {"answer_type": "integer"}, "7.0", 1, 1), ("7", {"answer_type": "integer"}, "8", 0, 0),
    ("7", {"answer_type": "integer"}, "7.9", 0, 1),  # the data set cuts whole numbers
    ("red", {"answer_type": "text"}, "red", 1, 1), ("red", {"answer_type": "text"}, "blue", 0, 0),
    ("sea green", {"choices": "['orchid', 'sea green']", "answer_option": "B"}, "B", 1, 1),
    ("sea green", {"choices": "['orchid', 'sea green']", "answer_option": "B"}, "A", 0, 0),
    ("sea green", {"choices": "['orchid', 'sea green']", "answer_option": "B"}, "seagreens", 0, 1),  # the nearest text
]  # fmt: skip
PLACES = {"olympiadbench": "OlympiadBench_EN.tsv", "mathvista_mini": "MathVista_MINI.tsv"}


def golden_row(name: str, number: int, gold: str, cells: dict) -> dict:
    """A row of the benchmark's table; the question says which."""
    row = {"index": number, "question": f"What is value {number}?"}
    if name == "olympiadbench":
        usual = {"answer_type": "Numerical", "error": "", "unit": "", "is_multiple_answer": "False", "context": ""}
        return row | usual | {"image": "", "source": "OE_TO_maths_en_COMP", "final_answer": str([gold])} | cells
    usual = {"answer_type": "text", "precision": "", "choices": "", "answer_option": "", "task": "t", "skills": "[]"}
    kind = "multi_choice" if "choices" in cells else "free_form"
    return row | usual | {"image": png(number), "question_type": kind, "answer": gold} | cells


class ByNumber(Answers):
    """Answers the question of each number with the text of that number."""

    def __init__(self, texts):
        super().__init__("")
        self.texts = texts

    def _answer(self, sample):
        number = int(re.search(r"What is value (\d+)\?", text_of(sample))[1])
        return Rollout(sample.id, (1,), (0.0,), self.texts[number], "stop")


@pytest.mark.parametrize("protocol", ["rule", "paper"])
@pytest.mark.parametrize(("name", "golden"), [("olympiadbench", OLYMPIAD), ("mathvista_mini", VISTA)])
def test_tolerances_and_precision_of_the_data_sets_hold(tmp_path, server, judge, name, golden, protocol):
    """Both sides of each, by `score_all` and by a whole run."""
    table(tmp_path / PLACES[name], [golden_row(name, i, gold, cells) for i, (gold, cells, *_) in enumerate(golden)])
    (tmp_path / "system.txt").write_text("system prompt")
    texts = [f"So the final answer is \\boxed{{{answer}}}." for _, _, answer, *_ in golden]
    wanted = [by_rule if protocol == "rule" else by_paper for *_, by_rule, by_paper in golden]
    problems = prepare(find(name), tmp_path, None, None, tmp_path, any_data=True).problems
    direct = score_all(find_protocol(protocol), find(name), problems, texts, judge)
    assert [verdict.accuracy for verdict in direct] == wanted
    options = Options.of(
        protocol,
        data_root=tmp_path,
        any_data=True,
        judge=JudgeServer(server.url),
        system_prompt_file=tmp_path / "system.txt",
    )
    model = replace(stub_model(), engine=ByNumber(texts))
    records = run_jobs(lambda: model, plan([name], tmp_path, options), tmp_path / "out", options, "k")
    assert [row.accuracy for row in samples_of(tmp_path / "out", name)] == wanted
    assert records[0].protocol.scorer == scorer_name(find_protocol(protocol), find(name), SCORER)


def test_the_record_names_the_rule_that_scored():
    names = {
        (protocol, name): scorer_name(find_protocol(protocol), find(name), "ours")
        for protocol in ("rule", "paper", "vlmevalkit")
        for name in ("olympiadbench", "mathvision", "mathvista_mini", "mmstar")
    }
    assert names["rule", "olympiadbench"].startswith("ours, or within the data set's error, revision ")
    assert names["rule", "mathvista_mini"].startswith("ours, or within the data set's precision, revision ")
    assert names["rule", "mathvision"] == names["rule", "mmstar"] == "ours"
    assert names["paper", "olympiadbench"].startswith("olympiadbench_official, revision ")
    assert names["paper", "mathvision"].startswith("extracted by the judge, then mathvision_official, revision ")
    assert len({names["vlmevalkit", name] for _, name in names}) == 1


def test_the_judges_letter_is_read_and_the_released_rule_decides(judge, server):
    choice = Problem("1", "q", "B", choices=("one", "2", "three"))
    cases = {"(B)": 1, "2.001": 1, "b": 1, "the answer is (B) 2": 1, "(A)": 0, "three": 0, "(b)": 0}
    for reply, right in cases.items():
        server.rule = lambda prompt, reply=reply: reply
        (verdict,) = score_all(find_protocol("paper"), find("mathvision"), [choice], [f"I say {reply}"], judge)
        assert (verdict.accuracy, reply) == (right, reply)


@needs_outputs
@pytest.mark.parametrize("name", RELEASED)
def test_protocol_paper_and_lmmr1_score_agree_with_the_released_labels(name, judge, server, tmp_path, monkeypatch):
    """A judge that extracts what MathVision's authors extracted: 3,040 verdicts, each the one that they published."""
    answered, _ = load(OUTPUTS / f"{name}.jsonl", DATA)
    source = DATA / "mathvision" / "test.jsonl"
    read = mathvision_rows(source, source.read_bytes())
    known = {row["index"]: _problem(ADAPTERS["mathvision"](row, where), where) for where, row in read}
    problems = [known[a.item.id] for a in answered]
    prompts = [
        mathv.build_mathv_gpt4_prompt({"question": problem.question, "prediction": a.row.response})
        for problem, a in zip(problems, answered, strict=True)
    ]
    extracted = dict(zip(map(encodable, prompts), (a.row.model_answer for a in answered), strict=True))
    server.rule = extracted.__getitem__
    found = score_all(find_protocol("paper"), find("mathvision"), problems, [a.row.response for a in answered], judge)
    labels = [a.row.correct for a in answered]
    assert len(labels) == 3040 and sum(labels) == RELEASED[name]
    assert [verdict.accuracy == 1.0 for verdict in found] == labels
    arguments = ["--predictions", str(OUTPUTS / f"{name}.jsonl"), "--scorer", "official", "--data-root", str(DATA)]
    shown = CliRunner().invoke(cli.cli, ["score", *arguments, "--disagreements", str(tmp_path / "d.jsonl"), "--json"])
    assert shown.exit_code == 0 and (tmp_path / "d.jsonl").read_text() == "", "and so are those of `lmmr1 score`"


def slow_or_fatal(item):
    if item == "hang":
        time.sleep(60)
    if item == "die":
        raise SystemExit(3)
    return item


def test_calls_that_hang_or_die_cost_their_own_item_only():
    items = ["a", "hang", "b", "die", "die", "c"]
    assert call_each(slow_or_fatal, items, 0.5, None) == ["a", None, "b", None, None, "c"]


def test_the_tools_olympiad_rule_survives_hostile_answers():
    cells = {"final_answer": "['3']", "error": float("nan"), "answer_type": "Numerical"}
    problem = Problem("1", "q", "3", cells=cells)
    answers = [
        "So the final answer is \\boxed{3}.",
        "\\boxed{4}",
        *HOSTILE[2:6],
        "__import__('os').system('touch CANARY')",
    ]
    verdicts = tool_olympiadbench([(problem, answer) for answer in answers], None)
    assert [value for value, _, _ in verdicts] == [1.0] + [0.0] * (len(answers) - 1)


# ------------------------------------------------------------------------------------------------------------- faults


def test_a_judge_of_which_nothing_can_be_read_is_refused_and_its_words_are_forgotten(files, tmp_path, server):
    whole, _ = run_paper(files, tmp_path, server.url, names=("mathverse",), out="whole")
    server.rule = lambda prompt: "z" * 2000
    with pytest.raises(
        UserError, match=r"10 of 10 questions got no reply that can be read.* run the same command again"
    ):
        run_paper(files, tmp_path, server.url, names=("mathverse",))
    assert not (tmp_path / "out/mathverse").exists()
    server.rule = judge_by_rule
    again, engine = run_paper(files, tmp_path, server.url, names=("mathverse",))
    assert engine.count == 0 and [r.value for r in again] == [r.value for r in whole]


def test_a_damaged_reply_is_named_and_not_used(judge, server):
    judge.reply(Question("The answer is 4. Extracted", CALL))
    with judge.store._db as database:
        database.execute("UPDATE replies SET reply = '5'")
    with pytest.raises(UserError, match=r"judge\.sqlite: a kept reply is damaged; delete it"):
        judge.reply(Question("The answer is 4. Extracted", CALL))
    judge.store.path.write_bytes(judge.store.path.read_bytes()[:3000] + b"x" * 9000)
    with pytest.raises(UserError, match=r"judge\.sqlite: "):
        ReplyStore(judge.store.path).get("key")
