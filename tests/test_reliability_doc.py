"""Contract: docs/reliability.md names tests that exist, one row for each requirement; the comparison of clones compares."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from faults.campaign import PLAN, faults
from faults.hashes import differences
from faults.kinds import KINDS
from faults.report import BEGIN, END, put
from lmmr1.types import Manifest, UserError

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| R(\d+) \| (.+?) \| (.+?) \| (.+?) \|$", DOC, re.MULTILINE)


def test_every_requirement_has_a_row_with_a_test_or_a_reason():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 30))
    for number, requirement, tests, result in ROWS:
        assert requirement and (result.startswith("passes") or ":" in result), f"R{number} gives no reason"
        assert re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests), f"R{number} names no test"


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`(test_\w+\.py)::", DOC))))
def test_every_test_that_is_named_exists(file):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    named = set(re.findall(rf"`{re.escape(file)}::(test_\w+)`", DOC))
    assert named <= known, f"{file} lacks {sorted(named - known)}"


def test_the_campaign_is_as_large_as_it_should_be():
    plan = faults(0)
    kills = [fault for fault in plan if "kill -9" in fault.kind]
    assert len(plan) >= 100 and len(kills) >= 50 and {fault.stage for fault in plan} >= set(PLAN)
    assert {fault.kind for fault in plan} >= set(KINDS)
    assert faults(0) == plan != faults(1) and len(faults(0, 0.1)) < 30
    assert {fault.stage for fault in faults(0, 0.1, ["training", "scores"])} == {"training", "scores"}


def clone(folder, text="1"):
    for name in (
        "results/micro/report/table1.csv",
        "results/micro/fre/0/timings.jsonl",
        "checkpoints/k/final/m.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text if "timings" not in name else str(folder))
    made = Manifest("k", "checkpoints/k/final", "0" * 64, None, {}, None, 1, "c", {}, "cpu")
    (folder / "results/micro/fre/0/manifest.json").write_text(json.dumps(asdict(made)))
    (folder / "checkpoints/of_another_profile").mkdir()
    (folder / "checkpoints/of_another_profile/m.safetensors").write_text(str(folder))
    return folder


def twice(*arguments):
    command = [sys.executable, "-m", "faults.twice", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_two_clones_are_compared_but_for_what_tells_the_time(tmp_path):
    first, second, other = (clone(tmp_path / name, text) for name, text in (("a", "1"), ("b", "1"), ("c", "2")))
    same = twice("compare", first, second)
    assert same.returncode == 0 and "0 differences" in same.stdout and "| weight files | 1 | 1 |" in same.stdout
    listed = twice("hashes", first)
    (tmp_path / "hashes.txt").write_text(listed.stdout)
    differing = twice("compare", tmp_path / "hashes.txt", other)
    assert differing.returncode == 1 and "different: results/micro/report/table1.csv" in differing.stdout
    assert "timings" not in differing.stdout
    assert twice("compare", first, tmp_path / "nothing").returncode == 2


def test_differences_are_missing_more_and_different():
    assert differences({"a": "1", "b": "1"}, {"b": "2", "c": "1"}) == ["different: b", "missing: a", "more: c"]


def test_the_table_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path):
    path = tmp_path / "doc.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put(path, "new")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(UserError, match="needs the markers"):
        put(path, "new")
