"""Contract: `python -m bench.before FOLDER` times the core of that checkout, and this one's, and writes which they were."""

import json
import subprocess
import sys

import pytest

from bench import before
from bench.compare import QUICK, ROOT
from lmmr1.store import code_version

SIDE = """
import json
from pathlib import Path

rounds = Path(__file__).with_suffix(".txt")
with rounds.open("a") as file:
    file.write("x")
print(json.dumps({"seconds": [1e6 * len(rounds.read_text())]}))
"""


@pytest.fixture
def other(tmp_path):
    """A checkout whose step takes 1e6 seconds in the first round and 2e6 in the second."""
    folder = tmp_path / "other"
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "__init__.py").touch()
    (folder / "bench" / "side.py").write_text(SIDE)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "other"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def test_the_core_of_the_other_checkout_is_timed(other, tmp_path, monkeypatch, capsys):
    out = tmp_path / "before.json"
    monkeypatch.setattr(before, "MAIN", QUICK[:1])
    monkeypatch.setattr(sys, "argv", ["bench.before", str(other), "--rounds", "2", "--out", str(out)])
    before.main()
    written = json.loads(out.read_text())
    (row,) = written["results"]
    assert row["seconds"]["before"] == 1.5e6 and 0 < row["seconds"]["after"] < 1000
    assert row["ratio"] == row["seconds"]["before"] / row["seconds"]["after"]
    assert len(row["by_round"]) == written["rounds"] == 2 and min(row["by_round"]) > 1000
    assert (written["before"], written["after"]) == (code_version(other), code_version(ROOT))
    assert written["before"] not in ("unknown", written["after"])
    assert f"{QUICK[0].name}: {row['ratio']:.3f} times as fast as before" in capsys.readouterr().out
