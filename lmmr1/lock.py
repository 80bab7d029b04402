"""One run per folder: a lock that names its owner, and that the kernel releases whatever ends the owner."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmmr1.files import writing
from lmmr1.types import UserError


@contextlib.contextmanager
def owned(folder: Path, what: str, name: str = ".lock") -> Iterator[None]:
    """Inside, this process is the only one with `folder/name`; the folder is made where it is missing.

    Raises UserError, naming the owner and the way out, where another process has it.
    """
    path = folder / name
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = _claim(path)
    try:
        with writing(path):
            file.write(json.dumps(_card(what)) + "\n")
            file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # while it is locked: who waits for this very file sees that it is gone
        with contextlib.suppress(OSError):
            file.close()


def _card(what: str) -> dict[str, str | int]:
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"pid": os.getpid(), "host": platform.node(), "since": started, "what": what}


def _claim(path: Path) -> IO[str]:
    """The lock file, open and locked. Raises UserError where it is taken."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise UserError(f"{path.parent}: in use by {_owner(file)}; {_way_out(path)}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                file.truncate()
                return file
        file.close()


def _owner(file: IO[str]) -> str:
    try:
        card = json.loads(file.read())
        return "{what} (process {pid} on {host}, since {since})".format(**card)
    except (ValueError, KeyError, TypeError):
        return "another process"


def _way_out(path: Path) -> str:
    return (
        "wait for it or end it, then run the same command again; where no such process is left (a lock of another "
        f"machine), break the lock with: rm {path}"
    )
