"""Contract of the verifier: docs/verifier.md pair by pair, the same verdict however an answer is dressed, and a bound on
time and memory that no text breaks. Every hostile text goes through a pool with the deadline shortened to 1.5 seconds."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmr1.rewards import Question, VerifierPool
from lmmr1.rewards.judge import triage
from lmmr1.rewards.limits import refusal
from lmmr1.rewards.pool import PATIENCE
from lmmr1.rewards.sentence import announced, concluded
from lmmr1.rewards.worker import _out_of_time, bounded
from tests.hostile import MEASURED, canaries, generated
from tests.metamorphic import Rewriting, rewritings

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(os.environ.get("LMMR1_DATA", Path(__file__).parents[2] / "shared" / "data"))
DEADLINE, MEMORY_MB = 1.5, 768


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


def question(row: dict) -> Question:
    return Question(row["gold"], row["response"], tuple(row.get("choices", ())))


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def short_pool():
    with VerifierPool(2, DEADLINE, MEMORY_MB) as pool:
        yield pool


def mistaken(pool, name: str) -> tuple[int, str]:
    """How many pairs a golden file holds, and those whose verdict is another, with the reason where one is given."""
    rows = lines(name)
    verdicts = pool.judge([question(row) for row in rows])
    return len(rows), "\n".join(
        f"{row['gold']!r} <- {row['response']!r}: {v.note}, but {row['accuracy']} {row.get('why', '')}"
        for row, v in zip(rows, verdicts, strict=True)
        if v.accuracy != row["accuracy"]
    )


@pytest.mark.parametrize("name", ["verifier_pairs.jsonl", "verifier_pairs_kinds.jsonl"])
def test_every_golden_pair_has_its_verdict(pool, name):
    n, wrong = mistaken(pool, name)
    assert n >= 500 and not wrong, wrong


def test_every_reported_pair_has_its_verdict(pool):
    """Pairs by someone who tried to be paid for wrong answers; the verifier of that day had each of them wrong."""
    n, wrong = mistaken(pool, "verifier_pairs_reported.jsonl")
    assert n >= 390 and not wrong, wrong


@pytest.mark.parametrize("text", ["1+", "1+1=", "$1$+", "so 1 ", "if 1, ", "- 1", "A, ", "half of "])
def test_sentences_are_read_in_little_more_than_one_pass(text):
    """The main process reads them without a deadline: four times the text may not take sixteen times as long."""

    def seconds(n: int) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            concluded(text * n), announced(text * n)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(2000) < 12 * seconds(500) + 0.01


def test_the_released_rule_agrees_with_the_measured_cases():
    rows = lines("released_cases.jsonl")
    with VerifierPool(1, rule="released") as released:
        verdicts = released.judge([question(row) for row in rows])
    wrong = [
        f"{row['case']}: {row['gold']!r} <- {row['response']!r} gives {v.accuracy:.0f} ({v.note}), format {v.format:.0f}"
        for row, v in zip(rows, verdicts, strict=True)
        if (v.accuracy, v.format) != (row["accuracy"], row["format"])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_released_rule_takes_the_gold_for_the_prediction():
    """math-verify lets a prediction be an interval where the gold is an inequality, not the other way round; the authors
    call it with both exchanged."""
    with VerifierPool(1, rule="released") as released:
        pairs = [Question("(1,2)", "\\boxed{1<x<2}"), Question("1<x<2", "\\boxed{(1,2)}")]
        assert [v.accuracy for v in released.judge(pairs)] == [1.0, 0.0]


@settings(max_examples=80)
@given(case=rewritings())
def test_dressing_an_answer_up_never_changes_its_verdict(pool, case: Rewriting):
    plain, rewritten = pool.judge([Question(case.gold, case.plain), Question(case.gold, case.rewritten)])
    assert plain.accuracy == rewritten.accuracy, (plain, rewritten)
    assert not case.equal or plain.accuracy == 1, plain


@settings(max_examples=200)
@given(text=st.text(max_size=60), gold=st.text(max_size=20))
def test_any_text_is_triaged_with_a_reason(text, gold):
    found = triage(Question(gold, text))
    assert found.note is None or found.note
    assert refusal(text) is None or refusal(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 1000, None), ("x" * 1001, "length"),
        ("9" * 60, None), ("9" * 61, "digits"),
        ("(" * 20 + "x" + ")" * 20, None), ("(" * 21 + "x" + ")" * 21, "nesting"),
        ("2^{12345}", None), ("2^{123456}", "power"),
        ("e^{x^{2}}", None), ("e^{x^{2^{2}}}", "power"),
        ("2^{3^4}", None), ("2^{30^5}", "power"),
        ("9999!", None), ("99999!", "size"), ("(5!)!", "size"),
        ("\\binom{9}{5}", None), ("\\binom{10^9}{5}", "size"),
        ("1" + "+1" * 120, None), ("1" + "+1" * 121, "commands"),
    ],
)  # fmt: skip
def test_hostile_answers_are_refused_for_their_reason(text, reason):
    assert refusal(text) == reason


# ----------------------------------------------------------------------------------------------------- hostile texts


def hostile_questions() -> list[Question]:
    texts = [*MEASURED.values(), *(text for _, text in generated(200))]
    return [Question("\\sqrt{7}", text) for text in texts]


def slowest_hostile(pool: VerifierPool) -> tuple[float, list[str]]:
    """Seconds of the slowest call, one text a call, and which texts earned something."""
    pool.judge([Question(f"x+{i}", f"{i}+x") for i in range(8)])  # start the workers
    slowest, paid = 0.0, []
    for q in hostile_questions():
        began = time.monotonic()
        (verdict,) = pool.judge([q])
        slowest = max(slowest, time.monotonic() - began)
        paid += [q.response[:80]] if verdict.accuracy else []
    return slowest, paid


def slowest_in_process() -> tuple[float, list[str]]:
    with VerifierPool(1, DEADLINE, MEMORY_MB) as pool:
        return slowest_hostile(pool)


@pytest.mark.parametrize("where", ["main thread", "worker thread", "process pool"])
def test_every_hostile_text_ends_in_time_and_the_pool_is_whole_afterwards(short_pool, where):
    largest, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not stop.wait(0.1):
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = [p for p in psutil.Process().children(recursive=True) if "worker" in " ".join(p.cmdline())]
                largest = max([largest, *(p.memory_info().rss for p in workers)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        if where == "main thread":
            slowest, paid = slowest_hostile(short_pool)
        elif where == "worker thread":
            with ThreadPoolExecutor(1) as threads:
                slowest, paid = threads.submit(slowest_hostile, short_pool).result(timeout=600)
        else:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as processes:
                slowest, paid = processes.submit(slowest_in_process).result(timeout=600)
    finally:
        stop.set()
        watcher.join()
    assert slowest < PATIENCE * DEADLINE + 2 and not paid  # of a machine that is busy; of CPU time see below
    assert 0 < largest < MEMORY_MB << 20
    assert [v.accuracy for v in short_pool.judge([Question("x+1", "1+x"), Question("x+1", "x")])] == [1.0, 0.0]
    assert where == "process pool" or len(short_pool.pids()) == 2


def judge_in_thread(pool: VerifierPool, questions: list[Question]) -> list[str]:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(v.note for v in pool.judge(questions)))
    thread.start()
    thread.join(600)
    assert not thread.is_alive()
    return found


def judge_in_process(questions: list[Question]) -> list[str]:
    with VerifierPool(1, DEADLINE, MEMORY_MB) as pool:
        return [v.note for v in pool.judge(questions)]


def test_the_same_verdicts_from_thread_process_any_order_and_any_pool_size(short_pool):
    rows = [question(row) for row in lines("verifier_pairs.jsonl")[::9]]
    measured = [Question("2", text) for text in MEASURED.values()]
    questions = rows + measured
    expected = [v.note for v in short_pool.judge(questions)]
    assert judge_in_thread(short_pool, questions) == expected
    assert [v.note for v in reversed(short_pool.judge(questions[::-1]))] == expected
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as executor:
        assert executor.submit(judge_in_process, questions).result(timeout=600) == expected


def test_a_forked_process_gets_workers_of_its_own(short_pool):
    short_pool.judge([Question("x+1", "1+x")])
    if (child := os.fork()) == 0:
        right = short_pool.judge([Question("x+1", "1+x"), Question("x+1", "x+2")])
        short_pool.close()
        os._exit(0 if [v.accuracy for v in right] == [1.0, 0.0] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert short_pool.judge([Question("x+1", "x+1+0")])[0].accuracy == 1


def test_canaries_are_never_run(short_pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    texts = canaries(canary)
    assert len(texts) > 10
    short_pool.judge([Question(gold, text) for text in texts for gold in ("2", "x+1")])
    short_pool.parses(texts)
    assert not canary.exists() and not list(tmp_path.iterdir())


def monster(monkeypatch, name: str) -> VerifierPool:
    """A pool whose cheap checks let everything through, so that only the process bounds remain."""
    monkeypatch.setattr("lmmr1.rewards.judge.refusal", lambda text: None)
    return VerifierPool(1, DEADLINE, MEMORY_MB)


@pytest.mark.parametrize("answer", ["2^{30^{5}}", "\\binom{10^9}{5\\cdot 10^8}", "9^{9^{9^{9}}}"])
def test_without_the_cheap_checks_the_process_bounds_hold(monkeypatch, answer):
    with monster(monkeypatch, answer) as pool:
        pool.judge([Question("x+1", "1+x")])
        began = time.monotonic()
        late, fine = pool.judge([Question("2", answer), Question("x+1", "1+x")])
        assert time.monotonic() - began < DEADLINE + 20  # the second question may wait for a fresh worker
        assert late.accuracy == 0 and fine.note == "equal"


def test_a_worker_that_is_killed_from_outside_costs_no_answer(short_pool):
    with VerifierPool(1, 5.0, MEMORY_MB) as pool:
        pool.judge([Question("x+1", "1+x")])
        (worker,) = (p for p in psutil.Process().children() if p.pid in pool.pids())
        worker.kill()
        verdicts = pool.judge([Question(f"x+{i}", f"{i}+x") for i in range(30)])
        assert {v.note for v in verdicts} == {"equal"}


def endless(rule: str, target: str, answer: str) -> str:
    return str(sum(range(10**13)))  # one call into C: no exception can end it


def test_a_task_gets_its_cpu_time_and_no_more():
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGPROF, _out_of_time)  # as `serve` does
        bounded(endless, ["lmmr1", "2", "2"], 0.3, 0.6)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGVTALRM
    assert 0.5 < usage.ru_utime < 1.1, "CPU seconds: other work on the machine does not count"


def test_a_machine_that_is_busy_changes_no_verdict():
    """A worker that gets no CPU for longer than its deadline answers all the same: the deadline is CPU time."""
    with VerifierPool(1, 1.0, MEMORY_MB) as pool, ThreadPoolExecutor(1) as threads:
        pool.judge([Question("x+1", "1+x")])
        (worker,) = (p for p in psutil.Process().children() if p.pid in pool.pids())
        worker.suspend()
        verdict = threads.submit(pool.judge, [Question("x+2", "2+x")])
        time.sleep(2.5)
        worker.resume()
        assert verdict.result()[0].note == "equal"


# --------------------------------------------------------------------------------------------------------- real golds


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; set LMMR1_DATA")
@pytest.mark.parametrize(("name", "unparsable"), [("math500", 0), ("olympiadbench", 3)])
def test_real_golds_parse_and_equal_themselves(pool, name, unparsable):
    from bench.golds import read_golds

    golds = read_golds(DATA)[name]
    good = [gold for gold, parses in zip(golds, pool.parses(golds), strict=True) if parses]
    assert len(golds) - len(good) == unparsable
    boxed = pool.judge([Question(gold, f"<think>so</think><answer>\\boxed{{{gold}}}</answer>") for gold in good])
    assert [g for g, v in zip(good, boxed, strict=True) if v.accuracy != 1] == []
