"""Coverage-guided fuzzing of every parser of outside text. A tool, not a test: `make fuzz`, or

    python -m tests.fuzz data_rows -max_total_time=600 -timeout=10

Any exception but the one that a user can mend (UserError) is a find, and so is an input that takes over ten seconds; libFuzzer
saves it. What was found is a regression test in tests/test_fuzz.py, which also runs every parser on its seeds.
Needs `pip install atheris`.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path


def kept(name: str, target: Callable[[bytes], None], content: bytes) -> None:
    """Run the target and save what it fails on: libFuzzer's own alarm can end the process before it does."""
    try:
        target(content)
    except Exception:
        Path(f"fuzz-{name}-{hashlib.sha256(content).hexdigest()[:16]}").write_bytes(content)
        raise


def main() -> None:
    """Run one target on its seeds and what libFuzzer makes of them."""
    import atheris  # here, because this module is looked at for doctests too

    with atheris.instrument_imports(include=["lmmr1", "evals", "reports", "reproduce"]):
        from tests.fuzz_targets import SEEDS, TARGETS
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"error: unknown target {name!r}; give one of {', '.join(TARGETS)}")
    target: Callable[[bytes], None] = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
            TARGETS[name](seed)  # the verifier's workers start here: their seconds are no input's
        dictionary = Path(folder).with_suffix(".dict")
        words = {w for seed in SEEDS[name] for w in re.findall(r"\w{2,24}", seed.decode("utf-8", "ignore"), re.ASCII)}
        lines = [f'"{word}"\n' for word in sorted(words)]
        dictionary.write_text("# words of the seeds; libFuzzer refuses an empty file\n" + "".join(lines))
        options = [f"-dict={dictionary}", "-artifact_prefix=fuzz-"]
        atheris.Setup([sys.argv[0], *sys.argv[2:], *options, folder], partial(kept, name, target))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
