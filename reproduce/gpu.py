"""Run a command on GPUs of its own, where several jobs share one machine.

    python -m reproduce.gpu 1 python -m evals.run ...

Snakemake counts GPUs but does not say which; without this, jobs that run at once would all take the first. A GPU is
taken by a lock on a file, which the command holds until it ends, however it ends. The locks of an allocation of SLURM
are its own: GPU 0 of two jobs on one node is not the same, and of two commands within one job it is.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from lmmr1.exits import run_cli
from lmmr1.types import UserError

POLL_SECONDS = 1.0


def visible() -> list[str]:
    """Names of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def take(count: int, folder: Path) -> list[str]:
    """Wait until `count` GPUs are free and hold them until this process, and what it becomes, ends.

    Raises UserError where there are fewer than `count`.
    """
    names = visible()
    if count > len(names):
        raise UserError(f"{count} GPUs are asked for, and this machine shows {len(names)}; see lmmr1 doctor")
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held = {name: fd for name in names if (fd := _lock(folder / f"{name.replace('/', '_')}.lock")) is not None}
        if len(held) >= count:
            for fd in list(held.values())[count:]:
                os.close(fd)
            return list(held)[:count]
        for fd in held.values():  # all or none: two jobs that wait for each other's half would wait for ever
            os.close(fd)
        time.sleep(POLL_SECONDS)


def _lock(path: Path) -> int | None:
    """An open file that survives exec, locked; None where another process has it."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    os.set_inheritable(fd, True)
    return fd


def hold(count: int) -> list[str]:
    """`take` with the locks of this user on this machine, or of this job of SLURM; nothing where `count` is 0."""
    if not count:
        return []
    job = os.environ.get("SLURM_JOB_ID")
    return take(count, Path(tempfile.gettempdir()) / f"lmmr1-gpus-{os.getuid()}{f'-{job}' if job else ''}")


def become(command: list[str], count: int) -> NoReturn:
    """Turn this process into `command`, on `count` GPUs of its own."""
    if held := hold(count):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    os.execvp(command[0], command)


def main() -> None:
    """`python -m reproduce.gpu COUNT COMMAND...`: become the command."""
    become(sys.argv[2:], int(sys.argv[1]))


if __name__ == "__main__":
    run_cli(main)
