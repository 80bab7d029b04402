"""The stage that asks a judge: the smoke profile has none, so a judged evaluation of its base stands in for it.

The server is a process of its own that judges by a rule (tests/judge_server.py): it proves the way, not a judge.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.hashes import differences, hashes
from faults.jobs import Job
from faults.process import Outcome, run
from tests.benchmark_files import write_all
from tests.judge_server import Server, judge_by_rule

STAGE = "judged evaluation"
BAD = ("judge: garbage text", "judge: no JSON", "judge: HTTP 500", "judge: stalls")
KINDS = (*BAD, "judge: damaged replies", "kill -9")


class Bad(Server):
    """A judge that fails in one way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "judge: garbage text":
            self.rule = lambda prompt: "\x00{{<html>" + "zz" * 1500
        if kind == "judge: no JSON":
            self.body = b"<html>502 Bad Gateway</html>"
        if kind == "judge: HTTP 500":
            self.status = lambda number: 500
        if kind == "judge: stalls":
            self.late = lambda prompt: 3600.0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is what this is about."""


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The URL of a judge in a process of its own; `kind` "" is a good one."""
    judge = Bad(kind)
    judge.rule = judge.rule if kind == "judge: garbage text" else judge_by_rule
    if (pid := os.fork()) == 0:
        try:
            judge.serve_forever(poll_interval=0.05)
        finally:
            os._exit(0)
    judge.socket.close()
    try:
        yield f"http://127.0.0.1:{judge.server_address[1]}/v1"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def job(reference: Path, url: str) -> Job:
    """`lmmr1 eval` of the smoke profile's base, with a judge."""
    weights = json.loads((reference / "results/smoke/baseline/0/manifest.json").read_text())["weights"]
    arguments = [
        "eval",
        "--model",
        weights,
        "--benchmarks",
        "mathverse,mmstar",
        "--out",
        "judged",
        "--protocol",
        "paper",
    ]
    arguments += ["--data-root", "data", "--any-data", "--system-prompt-file", "data/system.txt"]
    arguments += ["--max-new-tokens", "16", "--judge-url", url, "--judge-timeout", "1"]
    return Job("judged", (), (), "judged.log", "reproduce.cli", tuple(arguments))


def inject(kind: str, folder: Path, reference: Path) -> dict[str, Any]:
    """Run with a bad judge, then the same command with a good one: the records must be those of the good one alone."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(reference / "checkpoints", folder / "checkpoints")
    write_all(folder / "data")
    (folder / "data" / "system.txt").write_text("Answer briefly.\n")
    with server("") as url:
        expected = _undisturbed(job(reference, url), folder)
    with server(kind if kind in BAD else "") as url:
        first = _disturbed(kind, job(reference, url), folder, expected[1])
    with server("") as url:
        again = run(job(reference, url), folder)
    if kind == "judge: damaged replies" and again.line and "judge.sqlite" in again.line:
        line, seconds = again.line, again.seconds
        (folder / "judged/judge.sqlite").unlink()
        with server("") as url:
            again = run(job(reference, url), folder)
        wrong = differences(expected[0], _records(folder))
        outcome = "not mended" if again.code or wrong else "clear stop"
        return _facts(kind, outcome, first, line if not wrong else "; ".join(wrong), seconds)
    wrong = [again.text[-300:]] if again.code else differences(expected[0], _records(folder))
    return _facts(kind, "wrong" if wrong else "same bytes", first, "; ".join(wrong[:4]), again.seconds)


def _facts(kind: str, outcome: str, first: Outcome | None, line: str, seconds: float) -> dict[str, Any]:
    ended = "" if first is None else "one line" if first.line else "killed" if first.code < 0 else f"code {first.code}"
    return {"job": STAGE, "what": kind, "outcome": outcome, "first": ended, "line": line, "seconds": seconds}


def _records(folder: Path) -> dict[str, str]:
    found = hashes([folder / "judged"], folder)
    return {name: digest for name, digest in found.items() if not name.endswith("judge.sqlite")}


def _undisturbed(good: Job, folder: Path) -> tuple[dict[str, str], float]:
    """Hashes of what a good judge leads to, and the seconds that it took."""
    outcome = run(good, folder)
    if outcome.code:
        raise RuntimeError(f"{STAGE}, undisturbed: {outcome.text[-2000:]}")
    expected = _records(folder)
    shutil.rmtree(folder / "judged")
    return expected, outcome.seconds


def _disturbed(kind: str, bad: Job, folder: Path, seconds: float) -> Outcome | None:
    if kind == "kill -9":
        return run(bad, folder, watch=lambda pid, running: (time.sleep(0.6 * seconds), os.kill(pid, signal.SIGKILL)))
    outcome = run(bad, folder)
    if kind == "judge: damaged replies":
        _damage(folder / "judged/judge.sqlite")
        for name in ("mathverse", "mmstar"):
            shutil.rmtree(folder / "judged" / name, ignore_errors=True)
    return outcome


def _damage(store: Path) -> None:
    """Another byte in the middle of a kept reply."""
    data = bytearray(store.read_bytes())
    at = data.rfind(b"Qwen/Qwen2.5-14B-Instruct") - 1
    data[at] ^= 1
    store.write_bytes(bytes(data))
