"""How many solutions in plain sentences the verifier reads, and how often a number on the way is taken for the answer.

    python -m bench.prose --data-root DIR --out bench/results/prose.json

DIR holds gsm8k/test.jsonl as its authors publish it. Each solution, without its last line and its calculator marks, is
judged against its answer, and against every other number that stands in it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from lmmr1.rewards import Question, VerifierPool

_CALCULATOR = re.compile(r"<<.*?>>")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def solutions(path: Path) -> list[tuple[str, str]]:
    """(text, answer) of each problem."""
    rows = [json.loads(line)["answer"].partition("####") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(_CALCULATOR.sub("", text).strip(), answer.strip().replace(",", "")) for text, _, answer in rows]


def others(text: str, answer: str) -> list[str]:
    """The numbers of `text` that are not the answer."""
    numbers = {number.replace(",", "") for number in _NUMBER.findall(text)}
    return sorted(number for number in numbers if float(number) != float(answer))


def measure(rows: list[tuple[str, str]], pool: VerifierPool) -> dict[str, Any]:
    """Solutions read as their answer, and numbers on the way that would have been paid."""
    right = pool.judge([Question(answer, text) for text, answer in rows])
    pairs = [(number, text) for text, answer in rows for number in others(text, answer)]
    wrong = pool.judge([Question(number, text) for number, text in pairs])
    return {
        "data": "gsm8k test", "solutions": len(rows), "read": sum(int(v.accuracy) for v in right),
        "other_numbers": len(pairs), "paid": sum(int(v.accuracy) for v in wrong),
        "failures": sum(v.failed for v in [*right, *wrong]),
    }  # fmt: skip


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.prose", description="Measure the verifier on plain prose.")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    with VerifierPool(2) as pool:
        found = measure(solutions(args.data_root / "gsm8k" / "test.jsonl"), pool)
    print(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
