"""Hold the verifier against the exact oracle on fresh generated pairs. A tool, not a test: `make oracle`, or

    python -m tests.oracle_run --pairs 20000 --seed 17

Wrong verdicts go to standard output, one JSON object a line; the seed and a table by kind to standard error. Exit code 1 where a
wrong answer was rewarded. `tests/test_verifier_oracle.py` runs 1,000 pairs of the same kinds.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from lmmr1.rewards import Question, VerifierPool
from tests.oracle_cases import KINDS, Case, generated

BATCH = 500
"""Pairs that are judged together."""


def judged(pool: VerifierPool, cases: Iterable[Case]) -> Iterator[tuple[Case, int, str]]:
    """Each case with the verifier's accuracy and note, in order."""
    rest = iter(cases)
    while batch := list(islice(rest, BATCH)):
        verdicts = pool.judge([Question(case.gold, case.response) for case in batch])
        yield from ((case, int(v.accuracy), v.note) for case, v in zip(batch, verdicts, strict=True))


def fault(case: Case, accuracy: int) -> str | None:
    """What kind of wrong verdict this is, if one."""
    if accuracy == case.expected:
        return None
    return "false reward" if accuracy else "false refusal"


def table(drawn: Counter[str], equal: Counter[str], faults: Counter[tuple[str, str]]) -> str:
    """Counts by kind."""
    lines = [f"{'kind':<14} {'pairs':>6} {'equal':>6} {'false rewards':>14} {'false refusals':>15}"]
    for kind in [*KINDS, "all"]:
        names = list(KINDS) if kind == "all" else [kind]
        counts = [sum(c[n] for n in names) for c in (drawn, equal)]
        wrong = [sum(faults[n, f] for n in names) for f in ("false reward", "false refusal")]
        lines.append(f"{kind:<14} {counts[0]:>6} {counts[1]:>6} {wrong[0]:>14} {wrong[1]:>15}")
    return "\n".join(lines)


def main() -> int:
    """Judge and report; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to repeat it")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    seed = secrets.randbelow(10**9) if given.seed is None else given.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    drawn, equal, faults = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    with VerifierPool(given.workers) as pool:
        for case, accuracy, note in judged(pool, generated(given.pairs, seed)):
            drawn[case.kind] += 1
            equal[case.kind] += case.expected
            if found := fault(case, accuracy):
                faults[case.kind, found] += 1
                row = {"fault": found, "kind": case.kind, "gold": case.gold, "response": case.response}
                print(json.dumps(row | {"expected": case.expected, "note": note}), flush=True)
    print(table(drawn, equal, faults), file=sys.stderr)
    return int(any(name == "false reward" for _, name in faults))


if __name__ == "__main__":
    sys.exit(main())
