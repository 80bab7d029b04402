"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

import psutil

STOP_SECONDS = 30.0
"""After which a process that was asked to end is killed."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): a signal for the child when its parent dies, even of SIGKILL."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""That ask a process to end; a `finally` must still run."""


def start(command: Sequence[str], gpus: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """A child, in a group of its own, that sees `gpus` (none named: those of this process)."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,  # `stop` ends all that it starts
        close_fds=False,  # the locks of the GPUs stay held until the child is gone too
        preexec_fn=die_with_parent,  # noqa: PLW1509  a process that calls this has one thread
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started: asked first, since a server frees its GPU memory by itself."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def die_with_parent() -> None:
    """Let this process be asked to end when its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_on_signals(first: Callable[[], object] = lambda: None) -> None:
    """Let the first signal that asks this process to end call `first` and raise SystemExit; no later one counts."""

    def ended(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for sign in SIGNALS:
            signal.signal(sign, signal.SIG_IGN)
        first()
        raise SystemExit(128 + number)

    for sign in SIGNALS:
        if signal.getsignal(sign) != signal.SIG_IGN:  # as nohup and `&` of a script leave it
            signal.signal(sign, ended)


def watched(pid: int) -> Callable[[], bool]:
    """Whether the process that has this number now still runs; one that gets the number later does not count."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False

    def runs() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return runs
