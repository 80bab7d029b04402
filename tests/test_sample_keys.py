"""Contract: evals/samples.py alone knows the keys of a stored answer; whatever reads answers reads a `SampleRow`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from evals.samples import FootballRow, SampleRow, SokobanRow
from reproduce.plan import ROOT

KEYS = {*SampleRow.model_fields, *SokobanRow.model_fields, *FootballRow.model_fields}
COMMON = {
    "kind", "category", "accuracy", "format", "note", "length", "finish", "score", "parts", "steps", "turns", "frames",
    "repeat", "dropped", "failed",
}  # fmt: skip
"""Names that other files have too: completions of training, verdicts, game states, facts of a gate."""

FOREIGN = {
    "evals/lm_eval_harness.py": {"doc", "doc_id", "filtered_resps", "target"},  # lm-eval's own log
    "evals/inputs.py": {"cluster", "subsets"},  # what an adapter made of a benchmark's row
    "evals/samples.py": {"doc"},
    "evals/agents/sokoban.py": {"prompt_hash"},  # of what was shown, before there is a row
    "evals/agents/level_sets.py": {"upper_reward"},  # of a file of levels
    "evals/agents/sokoban_levels.py": {"upper_reward"},  # MageBench's published table
}
"""Where a key of that name is read all the same: it is no sample's."""


def sample_keys_read(path: Path) -> set[str]:
    """Keys of a sample that are read from a mapping by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        key = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            key = next(iter(node.args), None)
        if isinstance(key, ast.Constant) and key.value in KEYS - COMMON:
            found.add(key.value)
    return found


def test_nothing_but_samplerow_knows_the_keys_of_a_sample():
    found = {}
    for folder in ("evals", "reports", "reproduce", "bench", "faults", "lmmr1"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if keys := sample_keys_read(path):
                found[path.relative_to(ROOT).as_posix()] = keys
    assert found == FOREIGN  # neither one more nor an exception that is not needed


@pytest.mark.parametrize("code", ['row["resps"][0][0]', 'row.get("doc_id")', 'x = [r["target"] for r in rows]'])
def test_a_consumer_that_reads_keys_is_found(tmp_path, code):
    (tmp_path / "consumer.py").write_text(code + "\n")
    assert sample_keys_read(tmp_path / "consumer.py") <= KEYS and sample_keys_read(tmp_path / "consumer.py")
