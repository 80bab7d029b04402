"""The registry of published numbers: complete, consistent with the counts, and every error in it is found by computing."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmmr1.types import UserError
from reproduce.plan import ROOT
from reproduce.published import REGISTRY_FILE, Registry, load, registry
from reproduce.published_cli import published
from reproduce.registry_audit import audit, fitting_sizes, idle_scores, possible_counts, possible_macro

PUBLISHED = Path(os.environ.get("LMMR1_DATA", ROOT / "../shared/data")).parent / "paper/published.csv"


def found(registry_or_path=None) -> set[tuple[str, str, str]]:
    source = registry_or_path or registry()
    return {(f.check, f.level, f.cell) for f in audit(source)}


@pytest.fixture
def values() -> dict:
    """The registry's file as plain values, to be spoiled."""
    return yaml.safe_load(REGISTRY_FILE.read_text(encoding="utf-8"))


def reload(values: dict, folder: Path):
    path = folder / "copy.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load(path)


def test_every_cell_says_where_it_is_from_and_what_it_counts():
    cells = registry().cells()
    assert len(cells) == 5 * 9 + 4 * 11 + 9 * 2 + 4 * 3
    for cell in cells:
        assert cell.source and cell.version == "arXiv v2"
        if not cell.spec.mean_of:
            assert cell.spec.n and cell.protocol["harness"]
            if cell.spec.aggregation == "pooled" and cell.id != "table2.fre_text.solid":
                assert cell.count in possible_counts(cell.value, cell.spec.n, cell.decimals), cell.id


def test_values_equal_an_independent_transcription():
    if not PUBLISHED.is_file():
        pytest.skip(f"{PUBLISHED} is absent")
    tables = {"Table 1": "table1", "Table 2": "table2", "Table 3": "table3", "Table A6": "tableA6"}
    expected: dict[str, dict[str, list[float]]] = {t: {} for t in tables.values()}
    for row in csv.DictReader(PUBLISHED.open(encoding="utf-8")):
        if row["table"] in tables:
            expected[tables[row["table"]]].setdefault(row["model"], []).append(float(row["value"]))
    for name, table in registry().tables.items():
        assert {row.title: list(row.values) for row in table.rows.values()} == expected[name]


def test_the_known_errors_of_the_paper_are_found_by_computing():
    assert found() >= {
        ("average", "error", "table1.fre_multi.mm_avg"),
        ("ranking", "error", "table1.fre_multi.mm_avg"),
        ("grim", "error", "table2.fre_text.solid"),
        ("statement", "error", "table3.mgt_sokoban.sokoban_global"),
        ("statement", "error", "table1.mgt_percereason.mm_avg"),
        ("statement", "error", "table1.gpqa"),
        ("sokoban", "note", "table3.idle.sokoban_global"),
        *(("grim", "note", f"table1.{r}.mmstar") for r in ("fre_multi", "fre_text", "mgt_geo", "mgt_percereason")),
    }
    texts = {f.cell: f.text for f in audit(registry()) if f.check in ("average", "statement", "sokoban")}
    assert "38.71" in texts["table1.fre_multi.mm_avg"] and "39.59" in texts["table1.fre_multi.mm_avg"]
    assert (
        "47.51" in texts["table3.mgt_sokoban.sokoban_global"] and "47.91" in texts["table3.mgt_sokoban.sokoban_global"]
    )
    flips = [f.text for f in audit(registry()) if f.check == "ranking"]
    assert any("fre_multi (39.59) is above fre_text (39.35)" in t for t in flips) and len(flips) == 2
    assert "20 levels" in texts["table3.idle.sokoban_global"]


def test_no_finding_where_the_numbers_are_repaired(values, tmp_path):
    """The findings are computed: mend the numbers and they are gone."""
    tables = values["tables"]
    tables["table1"]["rows"]["fre_multi"]["values"][8] = 39.59
    tables["table2"]["rows"]["fre_text"]["values"][3:5] = [24.18, 26.46]
    tables["table1"]["columns"]["gpqa"].pop("notes")
    values["statements"] = [
        s for s in values["statements"] if s["source"] != "journal" and s.get("value") not in ("47.51", "448")
    ]
    values["statements"] = [s for s in values["statements"] if "above" not in s]
    # the page's +3.35 is a difference to the misprinted average
    values["statements"] = [s for s in values["statements"] if s.get("value") != "3.35"]
    assert not {f for f in found(reload(values, tmp_path)) if f[1] == "error"}


PLANTED = {
    "a transposed cell": (("tables", "table1", "rows", "fre_text", "values", 0), 64.50, "count", "table1.fre_text.math500"),
    "a cell and its count": (("tables", "table1", "rows", "mgt_geo", "values", 4), 26.94, "average", "table1.mgt_geo.mm_avg"),
    "an average": (("tables", "table2", "rows", "mgt_geo", "values", 4), 29.97, "average", "table2.mgt_geo.mathvision_avg"),
    "an impossible share": (("tables", "table1", "rows", "qwen", "values", 1), 30.40, "grim", "table1.qwen.gpqa"),
    "a count": (("tables", "table2", "rows", "mgt_geo", "counts", 5), 401, "same", "table2.mgt_geo.mathverse_avg"),
    "a twin": (("tables", "table2", "rows", "fre_text", "values", 10), 38.38, "same", "table2.fre_text.mathverse_avg"),
    "a gain": (("statements", 0, "value"), "4.38", "statement", "table1.mgt_percereason.mm_avg"),
    "a level": (("sokoban", "uppers", "mini", 11.2), 3, "sokoban", "table3.idle.sokoban_global"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_error_is_found(case, values, tmp_path):
    path, value, check, cell = PLANTED[case]
    part = values
    for key in path[:-1]:
        part = part[key]
    assert part[path[-1]] != value
    part[path[-1]] = value
    new = {(f.check, f.level, f.cell) for f in audit(reload(values, tmp_path)) if f.text not in TEXTS}
    assert (check, "error", cell) in new


@given(data=st.data())
@settings(max_examples=30)
def test_any_misprint_of_a_counted_cell_is_found(data):
    """Whatever single counted cell is moved by 0.01 to 30 points."""
    values = yaml.safe_load(REGISTRY_FILE.read_text(encoding="utf-8"))
    name = data.draw(st.sampled_from(["table1", "table2"]))
    row = data.draw(st.sampled_from(list(values["tables"][name]["rows"].values())))
    at = data.draw(st.sampled_from([i for i, k in enumerate(row["counts"]) if k is not None]))
    row["values"][at] = round(row["values"][at] + data.draw(st.integers(1, 3000)) / 100, 2)
    new = {(f.check, f.level) for f in audit(Registry.model_validate(values)) if f.text not in TEXTS}
    assert ("count", "error") in new


TEXTS = {f.text for f in audit(registry())}


@given(n=st.integers(1, 3000), share=st.floats(0, 1))
def test_a_true_percentage_always_passes_grim(n, share):
    k = round(share * n)
    assert k in possible_counts(round(100 * k / n, 2), n, 2)
    assert possible_counts(round(100 * k / n, 2), n, 2) == [
        j for j in range(n + 1) if abs(100 * j / n - round(100 * k / n, 2)) <= 0.005 + 1e-9
    ]


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3), tenths=st.integers(0, 1000))
def test_macro_test_equals_trying_everything(sizes, tenths):
    value = tenths / 10
    means = (
        np.mean([100 * k / n for k, n in zip(ks, sizes, strict=True)])
        for ks in itertools.product(*(range(n + 1) for n in sizes))
    )
    assert possible_macro(value, tuple(sizes), 1) == any(abs(m - value) <= 0.05 + 1e-9 for m in means)


def test_olympiadbench_has_one_size_that_fits():
    table = registry().tables["table1"]
    column = list(table.columns).index("olympiadbench")
    assert fitting_sizes([row.values[column] for row in table.rows.values()], 2, range(50, 2228)) == [1517]


def test_idle_score_is_that_of_the_20_levels():
    scores = idle_scores(registry())
    assert scores["mini"] == (pytest.approx(41.175), 20)
    assert scores["all"] == (pytest.approx(45.60, abs=0.005), 182)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("tables", "table1", "colour"), "red", ["tables.table1", "colour"]),
        (("tables", "table1", "rows", "qwen", "values"), [1.0], ["table1", "row qwen has 1 values"]),
        (("tables", "table1", "rows", "qwen", "values", 0), 63.401, ["63.401 has more than 2 decimals"]),
        (("tables", "table1", "source"), "v9", ["unknown name 'v9'", "known: v2"]),
        (("statements", 0, "minus"), ["table1.qwen.nope", "table1.qwen.gpqa"], ["unknown name 'nope'"]),
        (("tables", "table2", "columns", "metric", "sizes"), [1, 2], ["`sizes` sum to 3"]),
        (("tables", "table1", "columns", "math500", "n"), 0, ["math500.n", "greater than 0"]),
    ],
)
def test_a_bad_registry_is_refused_by_name(values, tmp_path, path, value, words):
    part = values
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(UserError) as error:
        reload(values, tmp_path)
    assert "copy.yaml" in str(error.value) and all(w in str(error.value) for w in words), str(error.value)


def test_command_line(tmp_path):
    run = CliRunner().invoke
    assert "table2" in run(published, ["list"]).output
    listed = json.loads(run(published, ["list", "--json"]).output)
    assert set(listed) == {"table1", "table2", "table3", "tableA6"}
    (cell,) = json.loads(run(published, ["show", "table1.fre_text.mathverse", "--json"]).output)
    assert (cell["count"], cell["n"], cell["value"]) == (1530, 3940, 38.83) and cell["protocol"][
        "max_new_tokens"
    ] == 4096
    assert "recomputed  39.590" in run(published, ["show", "table1.fre_multi.mm_avg"]).output
    assert len(json.loads(run(published, ["show", "table1.qwen", "--json"]).output)) == 9
    audited = json.loads(run(published, ["audit", "--json"]).output)
    assert audited["cells"] == 119 and len(audited["findings"]) == len(audit(registry()))
    assert "38.71" in run(published, ["audit"]).output
    assert isinstance(run(published, ["show", "table9"]).exception, UserError)
    assert isinstance(run(published, ["audit", "--registry", str(tmp_path / "none.yaml")]).exception, UserError)


def test_it_imports_no_torch():
    code = "import sys, reproduce.published_cli; print('torch' in sys.modules, 'pandas' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False False\n"


@pytest.mark.parametrize("arms", [[1], None])
def test_arms_that_are_no_table_are_one_line(values, tmp_path, arms):
    with pytest.raises(UserError, match=r"\.yaml: arms"):
        reload(values | {"arms": arms}, tmp_path)
