"""Verification with a bound: worker processes that are killed when they overrun, and replaced.

A time limit inside the process does not hold (big-integer work keeps the interpreter's lock, and signals need the main
thread), so the algebra runs in child processes of its own (worker.py). Verdicts do not depend on the number of
workers, on the order of the questions or on the calling thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lmmr1.rewards.judge import Question, Rule, Verdict, triage, verdict

IN_FLIGHT = 8
"""Tasks that wait in a worker's pipe, so that it never waits for the parent."""

PATIENCE = 12
"""Wall time that a task may take, in times of its CPU time: only what waits, or gets no CPU at all, needs so much."""

POLL_SECONDS = 0.05
"""How often deadlines are looked at."""

Task = tuple[str, str, str]
"""Rule, target, answer: see judge.decide."""

Answer = tuple[str, float]
"""Note and seconds."""

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One child process and the numbers of the tasks that it has been sent."""

    def __init__(self, module: str, deadline: float, memory_mb: int) -> None:
        self.module, self.deadline, self.ready, self.asked, self.buffer = module, deadline, False, 0, b""
        self.sent: deque[int] = deque()
        self.since = time.monotonic()
        """When the task at the head of `sent` began."""
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(0.6 * deadline), str(deadline), str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def send(self, number: int, task: Task) -> None:
        """Send a task. A process that is gone shows at the next `receive`."""
        if not self.sent and self.ready:
            self.since = time.monotonic()
        self.sent.append(number)
        self.asked += 1
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write((json.dumps(task) + "\n").encode("ascii"))

    def receive(self) -> list[tuple[int, Answer]] | None:
        """What has been answered since the last call; None where the process is gone."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        if lines and not self.ready:
            self.ready = lines.pop(0) == b"ready"
        self.since = time.monotonic()
        return [(self.sent.popleft(), tuple(json.loads(line))) for line in lines]

    def overrun(self) -> bool:
        """True where the task at the head has had its time, and the process did not end itself."""
        return self.ready and bool(self.sent) and time.monotonic() - self.since > PATIENCE * self.deadline + 1

    def bury(self, waiting: deque[int], retried: set[int]) -> list[tuple[int, Answer]]:
        """End the process; the failure of its head task; its other tasks go back to the front of `waiting`.

        A head task whose process was killed from outside goes back, too, and into `retried`: once.

        Raises RuntimeError where the process never became ready.
        """
        seconds = time.monotonic() - self.since
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0 if self.overrun() else 1)  # its pipe may be closed a moment before it has ended
        running = self.process.returncode is None
        self.kill()
        if not self.ready:
            raise RuntimeError(f"a worker cannot start; `python -m {self.module} 1 2 1024` says why")
        killed = not running and self.process.returncode == -signal.SIGKILL  # by the system, which was out of memory
        if killed and self.sent and self.sent[0] not in retried:
            retried.add(self.sent[0])
            head = []  # another worker does it again
        else:
            head = [self.sent.popleft()] if self.sent and self.process.returncode != 0 else []
        waiting.extendleft(reversed(self.sent))
        self.sent.clear()
        late = running or self.process.returncode in (-signal.SIGALRM, -signal.SIGVTALRM)
        return [(number, ("timeout" if late else "crashed", seconds)) for number in head]

    def kill(self) -> None:
        """End the process, whatever it does, and reap it."""
        self.process.kill()
        self.process.wait()
        self.stdin.close()
        self.stdout.close()


class WorkerPool:
    """Answers tasks within bounds. Workers start with the first task and live until `close`.

    Args:
        module: what a worker runs: a module that calls `worker.serve`.
        workers: processes; answers do not depend on it.
        deadline: seconds of CPU time for one task, and PATIENCE times as many of wall time.
        memory_mb: address space of one worker.
        recycle: tasks after which a worker is replaced, so that what sympy caches stays small.
    """

    def __init__(self, module: str, workers: int, deadline: float, memory_mb: int, recycle: int) -> None:
        self.module, self.size, self.recycle = module, workers, recycle
        self.deadline, self.memory_mb = deadline, memory_mb
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. The pool can be used again: workers then start anew."""
        if self._owner == os.getpid():
            for worker in self._take(self.size, wait=False):
                if worker is not None:
                    worker.kill()
        self._forget()

    def pids(self) -> list[int]:
        """Process ids of the idle workers that run."""
        idle = self._take(self.size, wait=False)
        for worker in idle:
            self._idle.put(worker)
        return [worker.process.pid for worker in idle if worker is not None and worker.process.poll() is None]

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: a worker that is not started yet
        for _ in range(self.size):
            self._idle.put(None)

    def _take(self, most: int, wait: bool = True) -> list[Worker | None]:
        """Up to `most` idle workers; with `wait`, at least one."""
        taken = [self._idle.get()] if wait else []
        with contextlib.suppress(queue.Empty):
            while len(taken) < most:
                taken.append(self._idle.get_nowait())
        return taken

    def _start(self) -> Worker:
        return Worker(self.module, self.deadline, self.memory_mb)

    def run(self, tasks: Sequence[Task]) -> list[Answer]:
        """Answers to `tasks`, in order, by as many workers as are idle now. From any thread or forked process.

        Raises RuntimeError where a worker process cannot be started.
        """
        if self._owner != os.getpid():
            self._forget()  # after a fork the workers belong to the parent
        answers: dict[int, Answer] = {}
        waiting, retried = deque(range(len(tasks))), set[int]()
        crew = [worker or self._start() for worker in self._take(min(self.size, -(-len(tasks) // 2)))]
        try:
            while len(answers) < len(tasks):
                for worker in crew:
                    self._feed(worker, waiting, tasks)
                ready, _, _ = select.select([worker.stdout for worker in crew], [], [], POLL_SECONDS)
                for slot, worker in enumerate(crew):
                    arrived = worker.receive() if worker.stdout in ready else []
                    if arrived is None or worker.overrun():
                        answers.update(worker.bury(waiting, retried))
                        crew[slot] = self._start()
                    else:
                        answers.update(arrived)
        finally:
            for worker in crew:
                self._give_back(worker)
        return [answers[i] for i in range(len(tasks))]

    def _feed(self, worker: Worker, waiting: deque[int], tasks: Sequence[Task]) -> None:
        while waiting and len(worker.sent) < IN_FLIGHT:
            number = waiting.popleft()
            worker.send(number, tasks[number])

    def _give_back(self, worker: Worker) -> None:
        """Idle again; replaced where it still works on something (an interrupted call) or has done its share."""
        if worker.sent or worker.asked >= self.recycle:
            worker.kill()
            self._idle.put(self._start() if worker.asked >= self.recycle else None)
        else:
            self._idle.put(worker)


class VerifierPool(WorkerPool):
    """Judges answers. Workers start with the first question that needs algebra.

    Args: as WorkerPool's, and
        rule: judge.py.
    """

    def __init__(
        self, workers: int = 2, deadline: float = 5.0, memory_mb: int = 1024, rule: Rule = "lmmr1", recycle: int = 5000
    ) -> None:
        super().__init__("lmmr1.rewards.worker", workers, deadline, memory_mb, recycle)
        self.rule = rule

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict per question, in order. From any thread or forked process; equal tasks are done once.

        Raises RuntimeError where a worker process cannot be started.
        """
        clock, found = time.perf_counter, []
        for question in questions:
            began = clock()
            found.append((question, triage(question, self.rule), clock() - began))
        tasks = list(dict.fromkeys((self.rule, t.target, t.answer) for _, t, _ in found if t.note is None))
        answers = dict(zip(tasks, self.run(tasks), strict=True)) if tasks else {}
        verdicts = []
        for question, sorted_out, seconds in found:
            task = (self.rule, sorted_out.target, sorted_out.answer)
            note, more = (sorted_out.note, 0.0) if sorted_out.note is not None else answers[task]
            verdicts.append(verdict(question, sorted_out.answer, note, seconds + more))
        return verdicts

    def parses(self, golds: Sequence[str]) -> list[bool]:
        """Which golds can be judged against; the others must not get into training data."""
        distinct = list(dict.fromkeys(golds))
        answers = self.run([("gold", gold, "") for gold in distinct]) if distinct else []
        good = {gold: note == "equal" for gold, (note, _) in zip(distinct, answers, strict=True)}
        return [good[gold] for gold in golds]
