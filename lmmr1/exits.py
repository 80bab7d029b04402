"""Exit codes of every command: 0 ok, 1 failure, 2 usage, config or data error, 3 regression, 4 inconclusive."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lmmr1.types import TrainingError, UserError

FAILURE, BAD_INPUT, REGRESSION, INCONCLUSIVE = 1, 2, 3, 4


def run_cli(main: Callable[[], None]) -> None:
    """Run a command: an error that a user can mend becomes one line and exit code 2, failed training exit code 1.

    Any other exception is ours, and keeps its traceback.
    """
    try:
        main()
    except UserError as e:
        sys.exit(_say(e, BAD_INPUT))
    except TrainingError as e:
        sys.exit(_say(e, FAILURE))


def _say(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
