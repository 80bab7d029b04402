"""Exit codes of every command: 0 ok, 1 failure, 2 usage, config or data error, 3 regression, 4 inconclusive."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable

from lmmr1.files import cannot_write
from lmmr1.types import TrainingError, UserError

FAILURE, BAD_INPUT, REGRESSION, INCONCLUSIVE = 1, 2, 3, 4


NO_SPACE = "No space left on device"
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")
"""How libraries say it inside their own errors."""

WRONG_PATH = {
    errno.EISDIR: "a folder, where a file is needed; name the file in it",
    errno.ENOTDIR: "a part of this path is a file, where a folder is needed; mend the path",
    errno.ENAMETOOLONG: "the name is too long for this disk; shorten it",
    errno.ELOOP: "links that lead to one another; name the file itself",
}
"""What is wrong with a path that a user gave, by the system's number for it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command: an error that a user can mend becomes one line and exit code 2, failed training exit code 1.

    Any other exception is ours, and keeps its traceback.
    """
    if code := exit_code(main):
        sys.exit(code)


def exit_code(main: Callable[[], int | None]) -> int:
    """What `main` returns, 0 for None; the exit code of an error after its line was printed (see `run_cli`)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a sign that the terminal does not have must not end a command
    try:
        return main() or 0
    except UserError as e:
        return _say(e, BAD_INPUT)
    except TrainingError as e:
        return _say(e, FAILURE)
    except (OSError, MemoryError, RuntimeError) as e:
        mendable = shortage(e) or wrong_path(e)
        if mendable is None:
            raise
        return _say(mendable, BAD_INPUT)


def shortage(error: Exception) -> UserError | None:
    """An error of a machine that ran out of space or memory, or refuses to write, as the user should read it."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return UserError(
            "the machine is out of memory; end other processes or lower the batch size, and run the same command again"
        )
    if isinstance(error, OSError) and (refused := cannot_write(error.filename or "a file", error)):
        return refused
    if NO_SPACE in text:
        return UserError(f"the disk is full ({text[:200]}); free some space and run the same command again")
    return None


def wrong_path(error: Exception) -> UserError | None:
    """An error of a path that is not what it was given for, as the user should read it."""
    if not isinstance(error, OSError) or error.errno not in WRONG_PATH or error.filename is None:
        return None
    return UserError(f"{error.filename}: {WRONG_PATH[error.errno]}")


def _say(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
