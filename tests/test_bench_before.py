"""Contract: `python -m bench.before FOLDER` times the core of that checkout, and this one's, and writes which they were."""

import json
import subprocess
import sys

import pytest

from bench import before
from bench.compare import QUICK

SECONDS = 1e6


@pytest.fixture
def other(tmp_path):
    """A checkout whose step takes very long."""
    folder = tmp_path / "other"
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "__init__.py").touch()
    (folder / "bench" / "side.py").write_text(f"print('{{\"seconds\": [{SECONDS}]}}')\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "other"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def test_the_core_of_the_other_checkout_is_timed(other, tmp_path, monkeypatch, capsys):
    out = tmp_path / "before.json"
    monkeypatch.setattr(before, "MAIN", QUICK[:1])
    monkeypatch.setattr(before, "commit", lambda folder, real=before.commit: real(other))  # a clone need not have git
    monkeypatch.setattr(sys, "argv", ["bench.before", str(other), "--rounds", "1", "--out", str(out)])
    before.main()
    written = json.loads(out.read_text())
    (row,) = written["results"]
    assert row["seconds"]["before"] == SECONDS and 0 < row["seconds"]["after"] < 1000
    assert row["ratio"] == SECONDS / row["seconds"]["after"] and len(row["by_round"]) == written["rounds"] == 1
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=other, capture_output=True, text=True, check=True).stdout
    assert head.startswith(written["before"]) and len(written["before"]) >= 7
    assert f"{QUICK[0].name}: {row['ratio']:.3f} times as fast as before" in capsys.readouterr().out
