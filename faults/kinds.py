"""The faults: each breaks one run of a job in one way, or a file that the job reads, seeded."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.jobs import Job
from faults.process import Outcome, cpu_seconds, jumping_clock, limit_files, limit_memory, remount, run
from lmmr1.files import seal_of

FUTURE = 400 * 86400.0
"""Seconds that the files' times are moved ahead."""


@dataclass(frozen=True, slots=True)
class Case:
    """One job in a tree of its own, without what it makes."""

    job: Job
    folder: Path
    rng: random.Random
    cpu: float
    """CPU seconds of an undisturbed run."""
    mounted: bool
    """`folder` is a small disk."""
    finished: bool = False
    """What the job makes is there: a fault of a file then hits that, not what the job reads."""


Broken = tuple[Outcome | None, str]
"""How the disturbed run ended (None: files were broken, nothing ran) and what was done, in words."""


def at_random_moment(case: Case, number: int) -> Broken:
    """Send a signal once the command has used a random share of the CPU time that it needs undisturbed."""
    share, sent = case.rng.uniform(0.02, 0.98), []

    def watch(pid: int, running: Callable[[], bool]) -> None:
        while running():
            if cpu_seconds(pid) >= share * case.cpu:
                os.kill(pid, number)
                sent.append(share)
                return
            time.sleep(0.002)

    outcome = run(case.job, case.folder, watch=watch)
    return outcome, f"{signal.Signals(number).name} at {100 * share:.0f} % of its CPU time" + (
        "" if sent else ", too late"
    )


def kill(case: Case) -> Broken:
    """kill -9."""
    return at_random_moment(case, signal.SIGKILL)


def terminate(case: Case) -> Broken:
    """SIGTERM."""
    return at_random_moment(case, signal.SIGTERM)


def full_disk(case: Case) -> Broken:
    """The disk has room for a random part of what the job writes; afterwards for all of it."""
    needed = case.rng.uniform(0.0, 0.9)
    if not case.mounted:
        size = int(needed * 30_000)
        return run(case.job, case.folder, limit_files(size)), f"files of at most {size} bytes (RLIMIT_FSIZE)"
    used = (psutil.disk_usage(str(case.folder)).used >> 10) + 4
    room = 4 * int(needed * case.rng.choice((4, 40, 400)))
    remount(case.folder, f"size={used + room}k")
    outcome = run(case.job, case.folder)
    remount(case.folder, "size=1g")
    return outcome, f"disk with {room} KiB left"


def read_only(case: Case) -> Broken:
    """The folder cannot be written to; afterwards it can."""
    if case.mounted:
        remount(case.folder, "ro")
        outcome = run(case.job, case.folder)
        remount(case.folder, "rw")
        return outcome, "read-only file system"
    folders = [case.folder, *(p for p in case.folder.rglob("*") if p.is_dir() and not p.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)
    outcome = run(case.job, case.folder)
    for folder in folders:
        folder.chmod(0o755)
    return outcome, "folders without write permission"


def out_of_memory(case: Case) -> Broken:
    """Little address space beyond what the process starts with; for pretraining, a helper process is killed."""
    if case.job.rule != "checkpoint":
        megabytes = case.rng.choice((0.5, 2, 8, 32))
        return run(case.job, case.folder, limit_memory(megabytes)), f"{megabytes:g} MB more memory than at the start"
    share, killed = case.rng.uniform(0.1, 0.8), []

    def watch(pid: int, running: Callable[[], bool]) -> None:
        while running():
            if cpu_seconds(pid) >= share * case.cpu and (helper := _helper_of(pid)):
                helper.kill()
                killed.append(helper.pid)
                return
            time.sleep(0.01)

    outcome = run(case.job, case.folder, watch=watch)
    return outcome, "helper process killed, as the system does" + ("" if killed else ", too late")


def _helper_of(pid: int) -> psutil.Process | None:
    try:
        children = psutil.Process(pid).children()
    except psutil.Error:
        return None
    return next((c for c in children if any("spawn_main" in word for word in c.cmdline())), None)


def clock_jump(case: Case) -> Broken:
    """The clock jumps by days while the job runs, and every file of the tree has a time in the future."""
    for path in case.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            moved = path.stat().st_mtime + FUTURE
            os.utime(path, (moved, moved))
    return run(case.job, case.folder, jumping_clock(case.rng.random() * 10)), "clock jumps, files of the future"


def truncated(case: Case) -> Broken:
    """A file that the job reads lost its end."""
    path = victim(case)
    size = path.stat().st_size
    rest = case.rng.randrange(size)
    _overwrite(path, path.read_bytes()[:rest])
    return None, f"{path.relative_to(case.folder)} cut from {size} to {rest} bytes"


def flipped(case: Case) -> Broken:
    """One bit of a file that the job reads is another one."""
    path = victim(case)
    data = bytearray(path.read_bytes())
    at, bit = case.rng.randrange(len(data)), case.rng.randrange(8)
    data[at] ^= 1 << bit
    _overwrite(path, bytes(data))
    return None, f"{path.relative_to(case.folder)}: bit {bit} of byte {at}"


def killed_then_flipped(case: Case) -> Broken:
    """kill -9, and then one bit of something that the killed run left behind."""
    before = {p for p in case.folder.rglob("*") if p.is_file()}
    outcome, words = kill(case)
    left = [p for p in case.folder.rglob("*") if p.is_file() and p not in before and p.stat().st_size and not _quiet(p)]
    if not left:
        return outcome, words
    path = case.rng.choice(sorted(left))
    data = bytearray(path.read_bytes())
    data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
    _overwrite(path, bytes(data))
    return outcome, f"{words}, then a bit of {path.relative_to(case.folder)}"


def _quiet(path: Path) -> bool:
    """Files that tell the time: no result depends on them."""
    return path.suffix == ".log" or path.name in ("timing.json", "timings.jsonl", ".timings.jsonl.sha256")


def victim(case: Case) -> Path:
    """A file that the job reads, declared or not (images of prompts, samples, weights of the parent), or has made."""
    files = made_by(case.job, case.folder) if case.finished else read_by(case.job, case.folder)
    return case.rng.choice(sorted(path for path in files if path.stat().st_size and not _quiet(path)))


def made_by(job: Job, folder: Path) -> list[Path]:
    """All files of the tree that a job makes, declared or not."""
    found = set((folder / "results/smoke/check").glob("*")) if job.rule == "check" else set()
    for path in (folder / name for name in job.outputs):
        found |= {path, seal_of(path)}
        if path.name == "record.json":
            found |= set(path.parent.rglob("*"))
        if path.suffix == ".json" and job.rule in ("train", "checkpoint"):
            found |= set((weights_folder(path, folder).parent).rglob("*"))
        if job.rule == "prompts" and path.suffix == ".jsonl":
            found |= set((path.parent / f"images_{path.stem}").glob("*"))
    return [path for path in found if path.is_file()]


def read_by(job: Job, folder: Path) -> list[Path]:
    """All files of the tree that a job reads."""
    found = {folder / name for name in job.inputs if name.startswith("results/")}
    for path in list(found):
        if path.name == "manifest.json" and job.rule in ("train", *EVALUATIONS):
            found |= weights_of(path, folder)
        if path.name == "record.json":
            found.add(path.with_name("samples.jsonl"))
        if path.name == "scores.csv":
            found |= set(path.parent.glob("*/eval/*/samples.jsonl")) | set(path.parent.glob("*/eval/*/record.json"))
        found |= set((path.parent / f"images_{path.stem}").glob("*.png"))
    return [path for path in found if path.is_file() and "timings" not in path.parts]


EVALUATIONS = ("evaluate_arm", "evaluate_adopted", "evaluate_round", "evaluate_round_adopted")


def weights_of(manifest: Path, folder: Path) -> set[Path]:
    """The checkpoint's files."""
    return set(weights_folder(manifest, folder).iterdir())


def weights_folder(manifest: Path, folder: Path) -> Path:
    """The checkpoint's folder."""
    return folder / json.loads(manifest.read_text())["weights"]


def _overwrite(path: Path, data: bytes) -> None:
    """As a failing disk does: other bytes, the same name, no trace in the time of change."""
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


KINDS: dict[str, Callable[[Case], Broken]] = {
    "kill -9": kill,
    "SIGTERM": terminate,
    "full disk": full_disk,
    "read-only folder": read_only,
    "truncated file": truncated,
    "bit flip": flipped,
    "kill -9, then a bit flip": killed_then_flipped,
    "out of memory": out_of_memory,
    "clock jump": clock_jump,
}
"""Name in the table -> fault."""
