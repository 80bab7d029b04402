"""The process that does the algebra: `python -m lmmr1.rewards.worker SOFT HARD MEGABYTES`. Started by pool.py.

`serve` is the same for any other rule that may take any time and memory.

A JSON line [rule, target, answer] in, a JSON line [note, seconds] out, in order. It bounds itself three ways: an
exception after SOFT seconds of CPU time, the kernel's timer after HARD seconds of it (which ends the process even
inside one endless C call, and also when the parent is gone), and a limit on its address space. CPU time and not wall
time, because a verdict must not depend on what else the machine does; PATIENCE times as much wall time ends it anyway.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from lmmr1.rewards.judge import decide
from lmmr1.rewards.pool import PATIENCE


class OutOfTime(BaseException):
    """Not an Exception: sympy and math-verify swallow those."""


Decide = Callable[[Any, str, str], str]
"""Rule, target, answer -> note."""


def main() -> None:
    """Answer by judge.decide until standard input ends."""
    serve(decide, warm_up)


def serve(decide: Decide, warm_up: Callable[[], None]) -> None:
    """Answer by `decide` until standard input ends. `warm_up` loads what the first task would wait for."""
    soft, hard, megabytes = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    # What a library prints must not get between the answers.
    notes = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _out_of_time)
    print("ready", file=notes, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        note = bounded(decide, json.loads(line), soft, hard)
        print(json.dumps([note, time.perf_counter() - began]), file=notes, flush=True)
        if note == "memory":
            return  # what sympy keeps may be what filled the memory


def warm_up() -> None:
    """Load what the first question would wait for; the limits are set afterwards."""
    decide("lmmr1", r"\frac{\sqrt{2}}{2}", r"$\frac{1}{\sqrt{2}}$")
    decide("lmmr1", r"(-\infty, 2)", "$x < 2$")


def bounded(decide: Decide, task: Sequence[str], soft: float, hard: float) -> str:
    """The note within `soft` seconds of CPU time; `hard` seconds of it, or PATIENCE times as many, end the process."""
    for ending in (signal.SIGALRM, signal.SIGVTALRM):
        signal.signal(ending, signal.SIG_DFL)  # a library may have put its own in place
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * hard)
    signal.setitimer(signal.ITIMER_VIRTUAL, hard)
    signal.setitimer(signal.ITIMER_PROF, soft)
    try:
        rule, target, answer = task
        return decide(rule, target, answer)
    except OutOfTime:
        return "timeout"
    except MemoryError:
        return "memory"
    except Exception as e:  # sympy on hostile text raises anything; the note is counted, never swallowed
        return f"error: {type(e).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _out_of_time(number: int, frame: Any) -> None:
    raise OutOfTime


if __name__ == "__main__":
    main()
