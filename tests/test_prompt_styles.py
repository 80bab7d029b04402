"""Contract: a gain is also shown against the prompt that suits the baseline best, and what was seen in training beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from evals.completion import Completion, judge_completion
from evals.contamination import overlaps, summary
from evals.problems import Problem
from evals.training_texts import TrainingText
from lmmr1.types import UserError
from reports import exposure, page, prompt_styles, scores, tables
from reports.layout import parse_benchmarks
from tests.report_tree import write_eval

NAMES = ["micro_chain", "micro_drawn"]
SKILL = {
    ("none", "baseline"): (0.7, 0.2), ("r1", "baseline"): (0.3, 0.5),
    ("none", "fre"): (0.6, 0.3), ("r1", "fre"): (0.8, 0.6),
}  # fmt: skip


def write_styles(root, n=60):
    rng, files = np.random.default_rng(3), []
    easiness = {name: rng.random(n) for name in NAMES}
    for (style, arm), skills in SKILL.items():
        records, arm_folder = [], root / "results/micro/prompts" / style / arm
        for seed in (0,) if arm == "baseline" else (0, 1):
            folder = arm_folder / str(seed)
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text(json.dumps({"key": f"{arm}-{seed}"}))
            for name, skill in zip(NAMES, skills, strict=True):
                write_eval(folder / "eval" / name, easiness[name] < skill + 0.02 * seed, prompt=style)
                records.append(str(folder / "eval" / name / "record.json"))
        files.append(str(arm_folder / "scores.csv"))
        scores.main(["--out", files[-1], "--records", *records])
    return files


@pytest.fixture
def styles(tmp_path):
    return write_styles(tmp_path)


def table_of(files, out):
    prompt_styles.main(["--out-dir", str(out), "--scores", *files, "--benchmarks", *NAMES])
    return prompt_styles.read_table(out / "prompts.csv")


def test_gains_are_against_the_baselines_best_style_of_each_column(styles, tmp_path):
    table = table_of(styles, tmp_path / "out").set_index(["arm", "style", "column"])
    best = table.best.groupby("column").unique()
    assert best.map(list).to_dict() == {
        "micro_chain": ["none"], "text_avg": ["none"], "micro_drawn": ["r1"], "mm_avg": ["r1"]
    }  # fmt: skip
    for (arm, style, column), row in table.iterrows():
        base = table.loc["baseline", row.best, column]
        if (arm, style) == ("baseline", row.best):
            assert np.isnan(row["diff"])
        else:
            assert row["diff"] == pytest.approx(row["mean"] - base["mean"], abs=2e-6)
            assert row.diff_low <= row["diff"] <= row.diff_high
    assert table.loc["fre", "r1", "micro_drawn"]["diff"] < table.loc["fre", "r1", "micro_drawn"]["mean"] - 0.3
    text = (tmp_path / "out/prompts.md").read_text()
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + len(SKILL)


def test_the_order_of_styles_changes_no_number(styles, tmp_path):
    key = ["arm", "style", "column"]
    one, two = (table_of(files, tmp_path / str(i)).set_index(key) for i, files in enumerate((styles, styles[::-1])))
    assert one.sort_index().equals(two.sort_index())


def test_bad_styles_are_refused(styles, tmp_path):
    with pytest.raises(UserError, match="no scores of arm 'baseline'"):
        table_of([f for f in styles if "baseline" not in f], tmp_path / "out")
    with pytest.raises(UserError, match="not made by reports.prompt_styles"):
        prompt_styles.read_table(tmp_path / "results/micro/prompts/none/fre/scores.csv")


def contamination(name, folder, with_picture=False):
    """What `lmmr1 contamination` writes of 8 problems: one stands in the training data, another's words do; one is known."""
    image = folder / "p.png"
    Image.linear_gradient("L").save(image)
    Image.radial_gradient("L").save(folder / "q.png")
    shown = [(image,) if with_picture else ()] * 8
    problems = [Problem(f"p{i}", f"how many are {i} + {i} - 1 in all ?", "1", images=shown[i]) for i in range(8)]
    texts = [TrainingText("a", problems[1].question, shown[1])]
    texts += [TrainingText("b", problems[2].question, (folder / "q.png",))] if with_picture else []
    rows = tuple(judge_completion(p.id, "7 8", "7 8" if p is problems[3] else "no") for p in problems)
    completed = Completion(name, 8, 0.125, 0.4, 0.6, rows)
    settings = {"train": {"results/micro/data/fre.jsonl": "0"}, "words": 13, "model": None}
    return summary(overlaps({name: problems}, texts), [completed], settings, {"micro_count": "no file", "mmstar": "no"})


def test_exposure_stands_in_the_column_of_its_benchmark(tmp_path):
    found = contamination("micro_drawn", tmp_path, with_picture=True)
    (tmp_path / "c.json").write_text(json.dumps(found))
    shown = exposure.read_exposure(tmp_path / "c.json", parse_benchmarks(NAMES))
    assert [texts for _, texts in shown["rows"]] == [
        ["", "", text, ""] for text in ("12.5 (1/8)", "12.5 (1/8)", "12.5")
    ]
    assert "13 words" in shown["note"] and "fre.jsonl" in shown["note"]
    del found["benchmarks"]["micro_drawn"]["overlap"]["words_only"]
    for bad in ({}, {**found, "benchmarks": []}, found):
        (tmp_path / "c.json").write_text(json.dumps(bad))
        with pytest.raises(UserError, match="not made by lmmr1 contamination"):
            exposure.read_exposure(tmp_path / "c.json", parse_benchmarks(NAMES))


def test_the_page_shows_both(tmp_path, monkeypatch, styles):
    from tests.report_tree import write_tree

    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path, n=8, seeds=(0, 1), steps=4)
    (tmp_path / "c.json").write_text(json.dumps(contamination("micro_chain", tmp_path)))
    table_of(styles, tmp_path / "out")
    files, run = [], "results/micro/{}/0/eval/{}/record.json"
    for arm in ("baseline", "fre"):
        files.append(f"results/micro/{arm}/scores.csv")
        scores.main(["--out", files[-1], "--records", *[run.format(arm, name) for name in NAMES]])
    tables.main(["--out-dir", "out", "--scores", *files, "--benchmarks", *NAMES])
    manifests = ["results/micro/baseline/0/manifest.json", "results/micro/fre/0/manifest.json"]
    common = ["--table", "out/table1.csv", "--scores", *files, "--manifests", *manifests, "--benchmarks", *NAMES]
    page.main(["--out", "out/plain.html", *common])
    page.main(["--out", "out/full.html", "--prompt-styles", "out/prompts.csv", "--contamination", "c.json", *common])
    plain, full = ((tmp_path / "out" / name).read_text() for name in ("plain.html", "full.html"))
    assert "prompt-styles" not in plain and "<tfoot>" not in plain
    assert full.count("against none") == 6 and "12.5 (1/8)" in full and "prompts.csv" in full
