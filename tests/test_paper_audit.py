"""docs/audit.md is what the rule writes, and its sentences follow the numbers."""

from __future__ import annotations

import re

import pytest
import yaml

from lmmr1.types import UserError
from reports import paper_audit
from reports.rules import rules
from reproduce.plan import ROOT
from reproduce.published import REGISTRY_FILE, Registry, registry


def test_the_committed_page_is_the_one_that_the_rule_writes():
    page = ROOT / "docs/audit.md"
    paper_audit.main(["--out", str(page), "--check"])
    assert page.read_text(encoding="utf-8") == paper_audit.document(registry(), rules())


def test_check_fails_on_another_text_and_writes_nothing(tmp_path):
    path = tmp_path / "audit.md"
    path.write_text("old")
    with pytest.raises(UserError, match="out of date"):
        paper_audit.main(["--out", str(path), "--check"])
    assert path.read_text() == "old"
    paper_audit.main(["--out", str(path)])
    paper_audit.main(["--out", str(path), "--check"])


def test_counts_and_findings_are_on_the_page():
    text = paper_audit.document(registry(), rules())
    assert re.search(r"Of 28 cells .* \*\*13\*\* .* \*\*9\*\* .* \*\*7\*\*", text)
    assert "+4.83 ± 1.48" in text and "-0.24 ± 1.48" in text and "no single cell separates" in text
    assert "is not distinguishable from multimodal training" in text
    assert "38.71" in text and "24.10" in text and "47.51" in text
    assert "Below 80 % power even when paired: MATH, GPQA, MathVista." in text
    widths = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths[block[:30]] = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
    assert all(len(w) == 1 for w in widths.values()), widths


def test_sentences_follow_the_numbers():
    """Other numbers, another text: nothing is written by hand."""
    values = yaml.safe_load(REGISTRY_FILE.read_text(encoding="utf-8"))
    rows = values["tables"]["table1"]["rows"]
    rows["fre_text"]["values"] = [round(v + 20, 2) for v in rows["fre_multi"]["values"]]
    rows["mgt_percereason"]["values"] = [round(v + 10, 2) for v in rows["fre_text"]["values"]]
    for row in rows.values():
        row.pop("counts")
        row["values"] = [min(v, 99.0) for v in row["values"]]
    text = paper_audit.document(Registry.model_validate(values), rules())
    assert "is distinguishable from multimodal training" in text and "no single cell" not in text
