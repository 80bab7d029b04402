"""Break the smoke profile on purpose, at every stage, and see that nothing is lost or silently wrong.

    python -m faults --docs docs/reliability.md                    # all (`make faults`)
    python -m faults --share 0.1 --stages training evaluation

Exit code 0: every fault ended with the bytes of an undisturbed run or with one clear line; 1: one did not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.campaign import PLAN, Campaign, faults
from faults.judged import STAGE
from faults.report import put, text
from lmmr1.exits import exit_code


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that only this process removes: the forked commands run their exit functions, too.

    A `TemporaryDirectory` is removed by such a function.
    """
    folder = Path(tempfile.mkdtemp(prefix="lmmr1-faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(args: argparse.Namespace) -> int:
    """The campaign."""
    began = time.monotonic()
    with scratch() as folder:
        campaign = Campaign(args.folder or folder, args.seed, args.reference)
        if args.reference is None:
            campaign.make_reference(args.workers)
        print(f"the undisturbed run took {time.monotonic() - began:.0f} s", flush=True)
        campaign.prepare()
        wanted = faults(args.seed, args.share, args.stages)
        results = campaign.run_all(wanted, args.workers, campaign.folder / "results.jsonl")
        touched = campaign.wrong(campaign.reference)
    body = text(results, args.seed, (time.monotonic() - began) / 60, campaign.mountable)
    print(body)
    if args.docs:
        put(args.docs, body)
    if touched:
        print(f"the reference itself was changed: {touched[:5]}")
    return int(bool(touched) or any(not r.good for r in results))


def main() -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the faults of each stage, at least one")
    parser.add_argument("--stages", nargs="+", default=[], choices=[*PLAN, STAGE])
    parser.add_argument("--workers", type=int, default=2, help="processes; also cores of the undisturbed run")
    parser.add_argument("--folder", type=Path, help="keep the undisturbed run here, and take it up again")
    parser.add_argument("--reference", type=Path, help="a clone with a finished run of the smoke profile")
    parser.add_argument("--docs", type=Path, help="write the result table into this file")
    args = parser.parse_args()
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
