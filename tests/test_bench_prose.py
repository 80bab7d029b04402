"""Contract: bench.prose counts the solutions that are read as their answer, and the other numbers that would be paid."""

import json
import sys

from bench import prose

ROWS = [
    "Ann bakes 3 trays.\nShe has 3 * 12 = <<3*12=36>>36 rolls.\n#### 36",
    "He runs 4 km a day.\nIn a week he runs 4 x 7 = <<4*7=28>>28 km.\n#### 28",
    "There are 5 red balls.\nBlue ones are 9.\n#### 14",
]


def test_what_is_read_and_what_would_be_paid(tmp_path, monkeypatch, capsys):
    (tmp_path / "gsm8k").mkdir()
    lines = "".join(json.dumps({"question": "?", "answer": row}) + "\n" for row in ROWS)
    (tmp_path / "gsm8k" / "test.jsonl").write_text(lines, encoding="utf-8")
    out = tmp_path / "prose.json"
    monkeypatch.setattr(sys, "argv", ["prose", "--data-root", str(tmp_path), "--out", str(out)])
    prose.main()
    found = json.loads(out.read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert (found["solutions"], found["read"]) == (3, 2)
    assert (found["other_numbers"], found["paid"]) == (
        2 + 2 + 2,
        1,
    )  # 3 and 12; 4 and 7; 5 and 9, the last of which ends it
    assert found["failures"] == 0
