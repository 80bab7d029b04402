"""Commands in processes that can be broken: forked from one that has imported everything, or started anew.

A fork saves the seconds of imports, so that a kill at a random moment meets the work and not the imports. What runs is
the command all the same: its module as `__main__`, its arguments, its own files for standard output and error.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.jobs import Job

PRELOADED = (
    "torch",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "lmmr1.policy",
    "lmmr1.vllm_engine",
    "lmmr1.rollout",
    "evals.lm_eval_harness",
    "evals.vlmevalkit",
    "evals.judging",
    "reports.cells",
    "reports.answers",
    "reports.verdicts",
    "reproduce.micro.build",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_agg",
)
"""Modules that the commands import, themselves not among them."""

LIMIT_SECONDS = 1800.0
LINGER_SECONDS = 30.0
"""What a killed command started must be gone by then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    """Exit code; minus the signal's number for one that was killed."""
    text: str
    """What it printed, to both."""
    seconds: float
    cpu: float
    """CPU seconds of the process itself, without its children."""
    lingering: int = 0
    """Processes that were left of it."""

    @property
    def line(self) -> str:
        """Its `error:` line, where it stopped with exactly one and no traceback; else empty."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return lines[0] if self.code == 2 and len(lines) == 1 and "Traceback" not in self.text else ""


def preload() -> None:
    """Import what the commands will need."""
    for module in PRELOADED:
        importlib.import_module(module)


_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept: a forgotten one would be waited for by the subprocess module."""

Prepare = Callable[[], None]
"""Called in the child before the command."""

Watch = Callable[[int, Callable[[], bool]], None]
"""Called in the parent with the child's pid, and with what says whether the child still runs."""


def run(job: Job, folder: Path, prepare: Prepare | None = None, watch: Watch | None = None) -> Outcome:
    """Run a job's command in `folder`: pretraining as a process of its own (it spawns others), the rest as a fork."""
    log = folder / job.log
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
    output = folder.parent / f"{folder.name}.out"
    began = time.monotonic()
    pid = _start(job, folder, output, prepare) if job.rule == "checkpoint" else _fork(job, folder, output, prepare)
    ended: list[int] = []
    used = 0.0

    def running() -> bool:
        nonlocal used
        if not ended:
            used = max(used, cpu_seconds(pid))  # of this process alone, as at_random_moment looks at it
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended.append(os.waitstatus_to_exitcode(status))
        return not ended

    if watch:
        watch(pid, running)
    while running():
        time.sleep(0.005)
        if time.monotonic() - began > LIMIT_SECONDS:
            os.kill(pid, signal.SIGKILL)
    seconds = time.monotonic() - began
    return Outcome(ended[0], output.read_text(errors="replace"), seconds, used, _lingering(pid))


def _lingering(session: int) -> int:
    """Processes of a session that do not end by themselves; they are ended here."""
    end = time.monotonic() + LINGER_SECONDS
    while (left := _members(session)) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(left)


def _members(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _start(job: Job, folder: Path, output: Path, prepare: Prepare | None) -> int:
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  (no threads here)
        )
    _STARTED.append(process)
    return process.pid


def _fork(job: Job, folder: Path, output: Path, prepare: Prepare | None) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if prepare:
            prepare()
        code = _run_module(job)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run_module(job: Job) -> int:
    sys.argv = [job.module, *job.arguments]
    try:
        runpy.run_module(job.module, run_name="__main__", alter_sys=True)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def limit_memory(megabytes: float) -> Prepare:
    """The child may take so much address space beyond what it has."""

    def prepare() -> None:
        has = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (has + int(megabytes * 2**20),) * 2)

    return prepare


def limit_files(size: int) -> Prepare:
    """The child may write no file of more than so many bytes: a full disk where none can be mounted."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def jumping_clock(seed: float) -> Prepare:
    """The child's clock (`time.time`, not the monotonic one) jumps by days, as a bad time server makes it.

    Of forks only: a process that is started anew keeps its clock.
    """

    def prepare() -> None:
        real, real_ns, days = time.time, time.time_ns, 86400

        def offset() -> int:
            return days * (30 if int(real() * 7 + seed) % 2 else -400)

        time.time = lambda: real() + offset()
        time.time_ns = lambda: real_ns() + offset() * 10**9

    return prepare


@contextlib.contextmanager
def small_disk(folder: Path, enabled: bool) -> Iterator[None]:
    """`folder` as a disk of its own in memory, where this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    if enabled:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "faults", str(folder)], check=True)
    try:
        yield
    finally:
        if enabled:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a `small_disk`."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a small disk."""
    try:
        with small_disk(folder, True):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
