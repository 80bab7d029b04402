"""Contract: answers that were cut off or not found are counted per arm and benchmark."""

import pandas as pd
import pytest

from lmmr1.types import UserError
from reports.quality import markdown, rates
from tests import canned


def scores(folder, **arms):
    """arm -> (answers, of them cut off, of them without an answer), two seeds each."""
    rows = []
    for arm, (n, cut, lost) in arms.items():
        for seed in (0, 1):
            # a think block alone holds no answer
            texts = ["<think>So.</think>" if i < lost else "<answer>none</answer>" for i in range(n)]
            said = [canned.Said(text, "length" if i < cut else "stop") for i, text in enumerate(texts)]
            out = canned.write_answers(folder / f"{arm}-{seed}", canned.planned("micro_chain", n=n), said)
            rows.append({"arm": arm, "benchmark": "b", "samples": str(out / "samples.jsonl")})
    return pd.DataFrame(rows)


def test_rates_are_counted_from_the_samples(tmp_path):
    table = rates(scores(tmp_path, baseline=(100, 5, 1), fre=(100, 6, 0)))
    assert table.values.tolist() == [["baseline", "b", 200, 0.05, 0.01, ""], ["fre", "b", 200, 0.06, 0.0, "truncated"]]
    assert "| FRE-Text | B | 200 | **6.0** | 0.0 |  |" in markdown(table, {"b": "B"})


def test_arms_that_differ_are_flagged(tmp_path):
    table = rates(scores(tmp_path, baseline=(50, 0, 20), fre=(50, 0, 0), mgt_only=(50, 0, 19)))
    assert list(table["flags"]) == ["no_answer", "differs from the baseline", "no_answer"]
    assert rates(scores(tmp_path, fre=(10, 0, 0)))["flags"].tolist() == [""], (
        "without a baseline nothing differs from it"
    )


def test_a_missing_sample_file_is_named(tmp_path):
    frame = scores(tmp_path, fre=(10, 0, 0))
    canned.unseal(tmp_path / "fre-1/micro_chain").unlink()
    with pytest.raises(UserError, match=r"fre-1/micro_chain/samples\.jsonl: no such file"):
        rates(frame)
