"""From a synthetic results tree to scores, table, figures, page and README: what a reader may rely on."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import statistics as plain
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import t as student

from lmmr1.types import UserError
from reports import answers, cells, images, layout, page, plots, readme, scores, summary, tables
from reports.embed import json_block, packed
from tests import canned
from tests.benchmark_files import png
from tests.report_tree import BENCHMARKS, HOSTILE, NAMES, SKILL, build, picture, records_of, write_eval, write_tree

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "test_reports_golden"
HASHES = cells.COLUMNS.index("protocols")
PAPER_TABLES = ("paper_table1", "paper_table2", "paper_table3")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with its report, to be read only. Returns the folder above results/."""
    root = tmp_path_factory.mktemp("tree")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build(write_tree(root))
    return root


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh small tree that a test may spoil; the working directory is above results/."""
    monkeypatch.chdir(tmp_path)
    return write_tree(tmp_path, n=6, steps=6)


def make_table(results: Path, arms: list[str] | None = None) -> None:
    """Scores of all arms (or of some, in that order), then the table."""
    for arm in arms or SKILL:
        scores.main(["--out", f"results/micro/{arm}/scores.csv", "--records", *records_of(results, arm)])
    files = [f"results/micro/{arm}/scores.csv" for arm in arms or SKILL]
    tables.main(["--out-dir", "results/micro/report", "--scores", *files, "--benchmarks", *BENCHMARKS])


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", ["table1.md", "table1.csv", "table1.tex", "contrasts.csv"])
def test_table_is_the_golden_one(built: Path, name: str) -> None:
    """After a wanted change: copy the new file there and say why in the commit.

    Without the hashes of protocols, which name versions of libraries.
    """
    got = (built / "results/micro/report" / name).read_text(encoding="utf-8")
    if name == "table1.csv":
        lines = [row[:HASHES] + row[HASHES + 1 :] for row in csv.reader(got.splitlines())]
        got = "".join(",".join(row) + "\n" for row in lines)
    assert got == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_number_can_be_traced_to_its_records(built: Path) -> None:
    rows = list(csv.DictReader((built / "results/micro/report/table1.csv").open(encoding="utf-8")))
    assert len(rows) == len(SKILL) * (len(BENCHMARKS) + 2)
    for row in rows:
        files = [json.loads((built / path).read_text()) for path in row["records"].split(";")]
        values = [r["value"] for file in files for r in file if r["subset"] == "all"]
        assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert {r["protocol_hash"] for file in files for r in file} == set(row["protocols"].split(";"))
        assert row["seeds"] == ("0" if row["arm"] == "baseline" else "0;1;2")


def test_second_build_is_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    monkeypatch.chdir(tmp_path)
    again = build(write_tree(tmp_path))
    files = sorted(p.name for p in again.iterdir() if not p.name.endswith(".sha256"))  # seals are compared below
    assert files == sorted(
        [
            "index.html",
            "contrasts.csv",
            *(f"{f}.{k}" for f in ("arms", "curves") for k in ("png", "svg")),
            *(f"{t}.{k}" for t in ("table1", *PAPER_TABLES) for k in ("csv", "md", "tex")),
        ]
    )
    for name in sorted(p.name for p in again.iterdir()):
        assert (again / name).read_bytes() == (built / "results/micro/report" / name).read_bytes(), name


def test_order_of_sample_lines_does_not_matter(results: Path) -> None:
    names = ("table1.csv", "contrasts.csv")
    make_table(results)
    before = [(results / "report" / name).read_bytes() for name in names]
    for path in results.glob("*/*/eval/*/samples.jsonl"):
        canned.reorder(path.parent)
    make_table(results)
    assert [(results / "report" / name).read_bytes() for name in names] == before


def test_latex_and_markdown_are_escaped() -> None:
    assert tables.escape_latex(r"50 % of a_b & {x} \ →") == (r"50 \% of a\_b \& \{x\} \textbackslash{} $\rightarrow$")
    text = (GOLDEN / "table1.md").read_text(encoding="utf-8")
    assert r"Drawn\|chain" in text and r"Legend\_key" in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert widths == {len(BENCHMARKS) + 4}
    rows = (GOLDEN / "table1.tex").read_text(encoding="utf-8").split(r"\midrule")[2::2]
    assert {line.count(" & ") for block in rows for line in block.splitlines() if line.endswith(r"\\")} == {9}


def test_macro_average_over_categories(results: Path, tmp_path: Path) -> None:
    """Each category counts the same, whatever its size: MM-Star's under the paper's protocol."""
    job = canned.planned("mmstar", "paper", role="baseline")
    easy = [p.category in ("sub 0", "sub 3") for p in job.measurement.prepared.problems]
    for arm in ("baseline", "fre"):
        write_eval(results / arm / "0" / "eval" / "mmstar", easy, protocol="paper", role="baseline")
        record = f"results/micro/{arm}/0/eval/mmstar/record.json"
        scores.main(["--out", f"{arm}.csv", "--records", record])
    tables.main(["--out-dir", "out", "--scores", "baseline.csv", "fre.csv", "--benchmarks", "mmstar"])
    table = cells.read_table(tmp_path / "out/table1.csv").set_index(["arm", "column"])
    assert np.mean(easy) == 120 / 1500 and table.loc[("fre", "mmstar"), "mean"] == pytest.approx(2 / 18)


# ------------------------------------------------------------------------------------------------ contrasts


def test_contrasts_equal_a_slow_version(built: Path) -> None:
    """Plain loops over the sample files: t interval with the items' and both arms' seed variances (Satterthwaite)."""
    folder = built / "results/micro"
    rows = list(csv.DictReader((folder / "report/contrasts.csv").open(encoding="utf-8")))
    assert [(r["arm"], r["against"]) for r in rows[:: len(BENCHMARKS) + 2]] == list(layout.CONTRASTS)
    columns = {
        name: [b.name for b in members] for name, _, members in layout.columns(layout.parse_benchmarks(BENCHMARKS))
    }
    for row in rows:
        runs, members, files = [], columns[row["column"]], []
        for arm in (row["arm"], row["against"]):
            paths = [[folder / arm / str(s) / "eval" / b for b in members] for s in (0, 1, 2)]
            runs.append([[read_right(path / "samples.jsonl") for path in of_seed] for of_seed in paths])
            files += [str((path / "record.json").relative_to(built)) for of_seed in paths for path in of_seed]
        terms = []
        for arm_runs in runs:
            averages = [plain.fmean(plain.fmean(part) for part in of_seed) for of_seed in arm_runs]
            terms.append((plain.variance(averages) / 3, 2))
        means = []
        for b in range(len(members)):
            pairs = zip(
                zip(*(r[b] for r in runs[0]), strict=True), zip(*(r[b] for r in runs[1]), strict=True), strict=True
            )
            items = [plain.fmean(x) - plain.fmean(y) for x, y in pairs]
            means.append(plain.fmean(items))
            terms.append((plain.variance(items) / len(items) / len(members) ** 2, len(items) - 1))
        mean, variance = plain.fmean(means), sum(v for v, _ in terms)
        df = variance**2 / sum(v * v / d for v, d in terms)
        half = student.ppf(0.975, df) * variance**0.5
        got = [float(row[key]) for key in ("diff", "diff_low", "diff_high")]
        assert got == pytest.approx([mean, mean - half, mean + half], abs=1e-6)
        assert float(row["p"]) == pytest.approx(2 * student.sf(abs(mean) / variance**0.5, df), rel=1e-3)
        assert (row["n"], row["seeds"], row["profile"]) == (str(40 * len(members)), "0;1;2|0;1;2", "micro")
        assert sorted(row["records"].split(";")) == sorted(files)


def read_right(path: Path) -> list[int]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [r["accuracy"] for r in sorted(rows, key=lambda r: r["doc_id"])]


def test_order_of_arms_does_not_change_contrasts(results: Path) -> None:
    make_table(results)
    before = (results / "report/contrasts.csv").read_bytes()
    make_table(results, list(reversed(SKILL)))
    assert (results / "report/contrasts.csv").read_bytes() == before


def test_contrast_is_the_difference_of_the_differences(built: Path) -> None:
    table = cells.read_table(built / "results/micro/report/table1.csv").set_index(["arm", "column"])["diff"]
    for row in cells.read_contrasts(built / "results/micro/report/contrasts.csv").itertuples():
        expected = table[row.arm, row.column] - table[row.against, row.column]
        assert row.diff == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("arms", "shown"),
    [
        (["baseline", "fre", "mgt_only", "random_reward"], []),
        (["baseline", "two_stage"], []),
        (["baseline", "two_stage", "fre"], [("two_stage", "fre")]),
        (["baseline", "mgt_only", "two_stage"], [("two_stage", "mgt_only")]),
    ],
)
def test_contrast_without_one_of_its_arms_is_not_shown(
    results: Path, arms: list[str], shown: list[tuple[str, str]]
) -> None:
    build(results, arms)
    text = (results / "report/contrasts.csv").read_text()
    assert text.startswith(",".join(cells.CONTRAST_COLUMNS) + "\n")
    rows = cells.read_contrasts(results / "report/contrasts.csv")
    assert list(dict.fromkeys(zip(rows.arm, rows.against, strict=True))) == shown
    html = Page((results / "report/index.html").read_text(encoding="utf-8"))
    for text in (*((results / f"report/table1.{k}").read_text(encoding="utf-8") for k in ("md", "tex")), html.text):
        assert ("between two trained arms" in text) == bool(shown)
    for pair, title in layout.CONTRASTS.items():
        assert (title in html.text) == (pair in shown)
    assert ("Text-first against direct RL" in html.text) == (layout.CLAIM in shown)
    assert (("id", "contrasts") in [a for _, attrs in html.tags for a in attrs.items()]) == bool(shown)


def test_contrast_of_other_items_is_refused() -> None:
    benchmarks = layout.parse_benchmarks(BENCHMARKS[:1])
    frames = {a: pd.DataFrame(np.eye(2), columns=[a, "x"]) for a in layout.CLAIM}
    table = pd.DataFrame({"arm": list(layout.CLAIM)})
    with pytest.raises(UserError, match="micro_chain of arm two_stage: other items than arm mgt_only"):
        cells.summarise_contrasts(table, {(a, "micro_chain"): f for a, f in frames.items()}, benchmarks)


def test_marks_against_a_hand_computation() -> None:
    """Holm over the four benchmark cells: 0.0124 <= 0.05 / 4, 0.016 <= 0.05 / 3, but 0.03 > 0.05 / 2 ends it.

    Were the average counted, the smallest would be held against 0.05 / 5 = 0.01 and nothing would survive.
    """
    rows = pd.DataFrame(
        [
            ("a", 0.03, 0.01, 0.05),
            ("b", 0.0124, 0.01, 0.05),
            ("text_avg", 0.04, 0.01, 0.05),
            ("c", 0.016, -0.05, -0.01),
            ("d", 0.2, -0.01, 0.05),
            ("e", np.nan, np.nan, np.nan),
        ],
        columns=["column", "p", "diff_low", "diff_high"],
    )
    assert tables.with_marks(rows).mark.tolist() == ["*", "*†", "*", "*†", "", ""]
    assert tables.with_marks(rows.assign(p=rows.p * 1.1)).mark.tolist() == ["*", "*", "*", "*", "", ""]


def test_marks_are_those_of_the_p_values_in_the_csv(built: Path) -> None:
    """All blocks of Markdown, LaTeX and the page carry the same marks, corrected within their own block."""
    report = built / "results/micro/report"
    texts = {name: (report / name).read_text(encoding="utf-8") for name in ("table1.md", "table1.tex", "index.html")}
    want = ""
    for rows in (cells.read_table(report / "table1.csv"), cells.read_contrasts(report / "contrasts.csv")):
        tested = rows[rows.p.notna() & ~rows.column.isin(["text_avg", "mm_avg"])]
        assert len(tested) in (4 * 7, 2 * 7)
        limit, left = set(), len(tested)
        for row in tested.sort_values("p").itertuples():
            if row.p > 0.05 / left:
                break
            limit.add(row.Index)
            left -= 1
        want += "".join("*†" if i in limit else "*" if p < 0.05 else "." for i, p in rows.p.dropna().items())
    assert "*†" in want and "*." in want
    md = re.findall(r"\] ?(\\\*†?)? \|", texts["table1.md"].replace(" |", " | "))
    tex = re.findall(r"\{\]\}( \*(?:\$\\dagger\$)?)? (?:&|\\\\)", texts["table1.tex"].partition("the baseline")[2])
    page_marks = re.findall(r">[+−]?[\d.]+( \*†?)? <small>\[", texts["index.html"])
    assert "".join(m.removeprefix("\\") or "." for m in md) == want
    assert "".join(m.strip().replace(r"$\dagger$", "†") or "." for m in tex) == want
    assert "".join(m.strip() or "." for m in page_marks) == want


# ------------------------------------------------------------------------------------------------ refusals


def test_missing_record_is_named(results: Path) -> None:
    folder = results / "fre/1/eval/micro_scene"
    (folder / "record.json").unlink()
    with pytest.raises(UserError, match=r"fre/1/eval/micro_scene/record\.json: missing, but listed in .*SHA256SUMS"):
        make_table(results)
    canned.unseal(folder)
    with pytest.raises(UserError, match=r"fre/1/eval/micro_scene/record\.json: no such record file"):
        make_table(results)


def test_crashed_run_never_yields_a_table(results: Path) -> None:
    """Even where the workflow's list of records leaves the crashed one out."""
    for arm in SKILL:
        files = [r for r in records_of(results, arm) if r != "results/micro/fre/1/eval/micro_scene/record.json"]
        scores.main(["--out", f"results/micro/{arm}/scores.csv", "--records", *files])
    with pytest.raises(UserError, match=r"fre/1/eval/micro_scene.*run this evaluation"):
        tables.main(
            [
                "--out-dir",
                "out",
                "--scores",
                *[f"results/micro/{a}/scores.csv" for a in SKILL],
                "--benchmarks",
                *BENCHMARKS,
            ]
        )
    assert not Path("out").exists()


def test_different_protocols_are_not_mixed(results: Path) -> None:
    right = [True, False] * 3
    write_eval(results / "fre/1/eval/micro_scene", right, max_new_tokens=32)
    with pytest.raises(
        UserError, match=r"(?s)micro_scene.*differ in decoding: .*'max_new_tokens': 64.*32.*the same way"
    ):
        make_table(results)
    for seed in (0, 1, 2):
        write_eval(results / f"fre/{seed}/eval/micro_scene", right, batch_size=2)
    with pytest.raises(UserError, match=r"arm fre was measured .* arm baseline .*batch_size: 64 / 2"):
        make_table(results)


def test_other_items_than_the_baseline_are_refused(results: Path) -> None:
    for seed in (0, 1, 2):
        folder = results / f"fre/{seed}/eval/micro_scene"
        canned.change_rows(folder, lambda row: row.update(doc_id=77) if row["doc_id"] == 3 else None)
    with pytest.raises(UserError, match=r"micro_scene of arm fre: other items than arm baseline.*: 3, 77"):
        make_table(results)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"accuracy": 1.0', '"accuracy": 0.0', "record.json says"),
        ('"doc_id": 3,', '"doc_id": 2,', "doc_id 2 is there twice"),
        ('"accuracy"', '"exact"', "line 1: `exact`: Extra inputs are not permitted"),
        ('"accuracy": 1.0', '"accuracy": null', "item '0' has no accuracy"),
        ('"doc_id": 5', '"doc_id" 5', "line 6: not a sample"),
    ],
)
def test_samples_that_contradict_their_record_are_refused(results: Path, old: str, new: str, message: str) -> None:
    folder = results / "fre/1/eval/micro_scene"
    write_eval(folder, [True, False] * 3)
    path = canned.unseal(folder)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=rf"fre/1/eval/micro_scene/samples\.jsonl.*{message}"):
        make_table(results)


def test_a_changed_sample_breaks_the_seal_of_its_folder(results: Path) -> None:
    path = results / "fre/1/eval/micro_scene/samples.jsonl"
    path.write_text(path.read_text().replace("Let me see", "Let me sea"))
    with pytest.raises(UserError, match=r"fre/1/eval/micro_scene/samples\.jsonl: damaged"):
        make_table(results)


def test_other_user_errors_name_file_and_fix(results: Path) -> None:
    record = "results/micro/fre/0/eval/micro_scene/record.json"
    with pytest.raises(UserError, match="is there twice"):
        scores.main(["--out", "x.csv", "--records", record, record])
    with pytest.raises(UserError, match="not in a run folder; expected results/PROFILE/ARM/SEED"):
        plots.main(["curves", "--out", "x", "--steps", "steps.jsonl"])
    with pytest.raises(UserError, match="no scores of arm 'baseline'"):
        scores.main(["--out", "fre.csv", "--records", *records_of(results, "fre")])
        tables.main(["--out-dir", "out", "--scores", "fre.csv", "--benchmarks", *BENCHMARKS])
    with pytest.raises(UserError, match="unknown group 'video'"):
        layout.parse_benchmarks(["a:video:A"])
    Path("x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"x\.csv: not made by reports\.scores"):
        scores.read_scores([Path("x.csv")])
    with pytest.raises(UserError, match=r"x\.csv: not made by reports\.tables"):
        cells.read_table(Path("x.csv"))
    with pytest.raises(UserError, match=r"x\.csv: not made by reports\.tables"):
        cells.read_contrasts(Path("x.csv"))
    with pytest.raises(UserError, match=r"x\.csv: not a figure of reports\.plots"):
        page.inline_svg(Path("x.csv"))
    assert not Path("out").exists()


def test_command_line_says_user_errors_in_one_line_and_exits_with_2(results: Path) -> None:
    record = "results/micro/fre/0/eval/no/record.json"
    command = [sys.executable, "-m", "reports.scores", "--out", "s.csv", "--records", record]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {record}: no such record file; run the evaluation first\n"


def test_reports_do_not_import_torch() -> None:
    """Every module, so that a report is made again in seconds, on a machine without torch too."""
    modules = ", ".join(f"reports.{p.stem}" for p in sorted((ROOT / "reports").glob("[a-z]*.py")))
    assert "reports.page," in modules and "reports.evidence_plots," in modules
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


# ------------------------------------------------------------------------------------------------ page


def test_page_needs_no_network(built: Path) -> None:
    html = (built / "results/micro/report/index.html").read_text(encoding="utf-8")
    shown = Page(html)
    links = [
        value
        for _, attrs in shown.tags
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data")
    ]
    relative = [value for value in links if not value.startswith("#")]
    assert relative and all((built / "results/micro/report" / value).resolve().is_file() for value in relative)
    assert not {"link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in shown.tags}
    policy = [a["content"] for tag, a in shown.tags if tag == "meta" and a.get("http-equiv")]
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert len(policy) == 1
    assert policy[0].split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    assert not re.search(r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_page_shows_all_parts(built: Path) -> None:
    html = (built / "results/micro/report/index.html").read_text(encoding="utf-8")
    shown = Page(html)
    for part in (
        "MM avg of 5 benchmarks",
        "Text-first against direct RL: Two-stage (FRE → MGT) is 13.5 points above MGT-only (direct RL) in the MM avg of 5",
        *layout.CONTRASTS.values(),
        "What does stage 2 add?",
        "The random-reward control cannot be told from the baseline",
        "Two-stage (FRE → MGT)",
        "Settings that differ between arms",
        "reward.kind",
        "learning_rate: 0.0005",
        "0123abc",
        "torch 2.9",
        "train",
        "results/micro/fre/2/eval/micro_most/record.json",
        "What is 1 + 1?",
        "step 30",
        "All 1,400 answers of each arm's first seed.",
        "2.0",
    ):
        assert part in shown.text, part
    assert "pretraining" not in shown.text
    ids = [a["id"] for _, a in shown.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert len([1 for tag, _ in shown.tags if tag == "svg"]) == 2
    assert plots.INK not in html[html.index("<svg") :]


def unpacked(html: str) -> dict:
    """The data of the browser of sample answers."""
    packed = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', html).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_every_cell_names_the_records_that_it_is_computed_from(built: Path) -> None:
    """From the link in a table cell to the record files, whose values give the number in the cell."""
    html = (built / "results/micro/report/index.html").read_text(encoding="utf-8")
    trail = json.loads(re.search(r'id="trail">(.*?)</script>', html).group(1))
    cells_shown = re.findall(r'<a class="cell" href="#(r\d+|paper)" data-cell="(\d+)">([^<]*)<', html)
    assert {int(at) for _, at, _ in cells_shown} == set(range(len(trail["cells"])))  # none is left out
    ids = set(re.findall(r'id="(r\d+)"', html))
    means = 0
    for target, at, text in cells_shown:
        cell = trail["cells"][int(at)]
        assert target == "paper" or target in ids
        records = [trail["records"][i] for i in cell["records"]]
        values = [r["value"] for r in map(headline_of, records, [built] * len(records))]
        facts = dict(cell["facts"])
        if "accuracy" in facts:
            assert float(text) == pytest.approx(100 * np.mean(values), abs=0.051)
            means += 1
        elif "difference to the baseline" in facts and text.strip():
            ours = [v for v, r in zip(values, records, strict=True) if r["arm"] != "baseline"]
            base = [v for v, r in zip(values, records, strict=True) if r["arm"] == "baseline"]
            shown = float(facts["difference to the baseline"].split()[0].replace("−", "-"))
            assert shown == pytest.approx(100 * (np.mean(ours) - np.mean(base)), abs=0.051)
        elif "published" in facts and "measured" not in facts:
            assert not records and "table" in facts["published"]
    assert means == len(SKILL) * (len(BENCHMARKS) + 2)


def headline_of(record: dict, built: Path) -> dict:
    """The record that the page links to, after comparing what the page says of it."""
    file = (built / "results/micro/report" / record["href"]).resolve()
    found = next(r for r in json.loads(file.read_text()) if r["subset"] == "all")
    manifest = json.loads((file.parents[2] / "manifest.json").read_text())
    said = [record[k] for k in ("checkpoint", "weights", "commit", "protocol", "n")]
    assert said == [
        found["checkpoint"],
        manifest["weights_sha256"],
        manifest["code"],
        found["protocol_hash"],
        found["n"],
    ]
    assert found["checkpoint"] == manifest["key"] and file == (built / record["file"]).resolve()
    return found


def test_a_record_of_another_checkpoint_is_refused(results: Path) -> None:
    manifest = results / "fre/1/manifest.json"
    manifest.write_text(manifest.read_text().replace('"fre-1"', '"other"'))
    with pytest.raises(
        UserError, match=r"fre/1/.*measured on checkpoint fre-1, but the manifest of its run is of other"
    ):
        build(results)


@pytest.mark.parametrize(("limit", "taken"), [(1400, 1400), (700, 700), (100, 70), (1, 35)])
def test_as_many_answers_as_allowed_and_the_same_items_for_every_arm(built: Path, limit: int, taken: int) -> None:
    """70: an equal share of 20 items for 7 benchmarks is 2 or 3; 35: one item of each benchmark is always taken."""
    data, found = embedded(built, max_answers=limit)
    items, answers = data["items"], data["answers"]
    assert found.answers == len(answers["item"]) and found.available == 5 * 7 * 40
    assert (found.answers == taken) if limit != 100 else (70 <= found.answers <= 100)
    per_arm = [{i for i, a in zip(answers["item"], answers["arm"], strict=True) if a == arm} for arm in range(5)]
    assert all(of == set(range(len(items["id"]))) for of in per_arm)
    counts = [items["benchmark"].count(b) for b in range(7)]
    assert max(counts) - min(counts) <= 1
    assert (f"{found.answers:,} of the 1,400 answers" in found.rule) == (limit < 1400)


def test_the_page_never_holds_more_megabytes_than_allowed(built: Path) -> None:
    data, found = embedded(built, max_megabytes=0.005)
    assert found.bytes <= 5_000 and 35 <= found.answers < 1400 and "up to 0.005 MB" in found.rule
    assert len(found.images) == len({i for i in data["items"]["image"] if i >= 0})


def embedded(built: Path, **changes: float) -> tuple[dict, answers.Embedded]:
    benchmarks = layout.parse_benchmarks(BENCHMARKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(built)
        rows = cells.headline(scores.read_scores([Path(f"results/micro/{a}/scores.csv") for a in SKILL]), benchmarks)
        images = [Path("results/micro/benchmarks/micro_scene.tsv")]
        found = answers.embed(rows, benchmarks, images, answers.Limits(**changes))
    return json.loads(gzip.decompress(base64.b64decode(found.data))), found


def test_embedded_answers_are_those_of_the_sample_files(built: Path) -> None:
    data, found = embedded(built)
    texts, items, rows = data["texts"], data["items"], data["answers"]
    for at in range(0, len(rows["item"]), 37):
        item = rows["item"][at]
        arm, benchmark = data["arms"][rows["arm"][at]][0], data["benchmarks"][items["benchmark"][item]]
        lines = (built / f"results/micro/{arm}/0/eval/{benchmark}/samples.jsonl").read_text().splitlines()
        sample = next(s for s in map(json.loads, lines) if str(s["doc_id"]) == items["id"][item])
        assert texts[rows["text"][at]] == sample["resps"][0][0] and rows["right"][at] == sample["accuracy"]
        assert texts[items["question"][item]] == sample["doc"]["question"]
        assert texts[items["gold"][item]] == sample["target"]
        shown = items["image"][item] >= 0  # the page was given micro_scene's file alone
        assert shown == (benchmark == "micro_scene") and bool(sample["doc"].get("image_sha256")) >= shown
        if items["image"][item] >= 0:
            width, height, webp = found.images[items["image"][item]]
            given = np.asarray(picture(sample["doc_id"], 40).convert("RGB"), int)
            with Image.open(io.BytesIO(base64.b64decode(webp))) as image:
                assert (image.format, image.size) == ("WEBP", (width, height)) == ("WEBP", given.shape[1::-1])
                assert np.abs(np.asarray(image.convert("RGB"), int) - given).mean() < 12


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    one, two = (base64.b64decode(png(i)) for i in (3, 4))
    raw = {"good.png": one, "cut.png": two[:40], "text.png": b"no image"}
    for name, content in raw.items():
        (tmp_path / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in raw.items()}
    assert set(images.thumbnails([tmp_path], set(digests.values()), 20)) == {digests["good.png"]}
    assert images.thumbnails([tmp_path], {digests["good.png"]}, 20)[digests["good.png"]].width == 20
    with pytest.raises(UserError, match=r"gone\.tsv: no such benchmark file"):
        images.thumbnails([tmp_path / "gone.tsv"], set(), 20)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_a_json_block_never_ends_its_element_and_loses_nothing(value: object) -> None:
    block = str(json_block(value))
    assert not set(block) & set("<>&\u2028\u2029") and json.loads(block) == value


def test_packed_data_lose_nothing_and_are_the_same_every_time() -> None:
    value = {"a": ["</script>", "é\ud800", 1]}
    assert json.loads(gzip.decompress(base64.b64decode(packed(value)))) == value and packed(value) == packed(value)


def test_committed_readme_shows_what_its_records_say() -> None:
    """Every mean in the README's table is that of the values in docs/table1_records.csv, one hop away."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition(readme.BEGIN)[2].partition(readme.END)[0]
    assert "(docs/table1_records.csv)" in block
    records = pd.read_csv(ROOT / "docs/table1_records.csv")
    assert list(records.columns) == readme.RECORD_COLUMNS and records.notna().all(axis=None)
    names = list(dict.fromkeys(records.benchmark))
    columns = [(members, title) for _, title, members in layout.columns(layout.parse_benchmarks(names))]
    rows = [[c.strip() for c in line.strip("| ").split("|")] for line in block.splitlines() if line.startswith("|")]
    assert rows[0] == ["Arm", *(title for _, title in columns)]
    for title, *texts in rows[2 : 2 + records.arm.nunique()]:
        of = records[records.arm.map(layout.arm_title) == title]
        for (members, _), cell in zip(columns, texts, strict=True):
            value = of[of.benchmark.isin([b.name for b in members])].value.mean()
            assert float(cell.split(" ± ")[0]) == pytest.approx(100 * value, abs=0.0501), (title, cell)
    assert all(f"`{commit}`" in block for commit in set(records.commit))


def test_hostile_answers_are_text(results: Path) -> None:
    for name, more in (("micro_chain", ""), ("micro_most", "x" * 1_000_000)):
        write_eval(results / "fre/0/eval" / name, [HOSTILE + more] * 6)
    report = build(results)
    html = (report / "index.html").read_bytes().decode("utf-8")  # strict: a lone surrogate would fail
    shown = Page(html)
    assert "<script>alert" not in html and "onerror=alert(2)>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;␀\ufffd[U+202E]" in html  # a training sample
    data = unpacked(html)
    given = [t for t in data["texts"] if "alert(2)" in t]
    # a lone surrogate is gone before an answer is written (evals.generation.encodable)
    assert any(t.startswith("<script>alert(1)</script>␀?[U+202E]") for t in given)
    assert max(map(len, given)) < 4100 and any("more characters)" in t for t in given)
    kinds = [attrs.get("type") for tag, attrs in shown.tags if tag == "script"]
    assert kinds == ["application/json", "application/json", "text/plain", None]  # the last alone can run
    assert not any(name.startswith("on") for _, attrs in shown.tags for name in attrs)
    assert len(html) < 1_000_000
    assert not set(html) & {chr(c) for c in (*range(9), *range(11, 32), 127)}


def test_figures_and_page_do_with_other_arms(results: Path) -> None:
    """An arm that this module has never heard of, two arms only, no figures, no logs."""
    (results / "fre").rename(results / "candidate_x")
    for arm in ("baseline", "candidate_x"):
        scores.main(["--out", f"{arm}.csv", "--records", *records_of(results, arm)])
    benchmarks = ["--benchmarks", *BENCHMARKS[:2]]
    tables.main(["--out-dir", ".", "--scores", "baseline.csv", "candidate_x.csv", *benchmarks])
    plots.main(["arms", "--table", "table1.csv", "--out", "arms", *benchmarks])
    plots.main(["curves", "--out", "curves", "--steps"])
    assert "No arm of this profile was trained." in Path("curves.svg").read_text()
    page.main(
        [
            "--out",
            "index.html",
            "--table",
            "table1.csv",
            "--scores",
            "baseline.csv",
            "candidate_x.csv",
            "--manifests",
            "results/micro/baseline/0/manifest.json",
            *benchmarks,
        ]
    )
    text = Page(Path("index.html").read_text(encoding="utf-8")).text
    assert "candidate_x" in text and "control" not in text and "MM avg" not in text
    assert Path("contrasts.csv").read_text() == ",".join(cells.CONTRAST_COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.02, 0.06, "gains 4.0 points (95\u00a0% interval +2.0 to +6.0)"),
        (-0.06, -0.02, "loses 4.0 points (95\u00a0% interval −6.0 to −2.0)"),
        (-0.01, 0.02, "cannot be told from the baseline (+0.5 points, 95\u00a0% interval −1.0 to +2.0)"),
    ],
)
def test_summary_follows_the_numbers(built: Path, low: float, high: float, said: str) -> None:
    table = cells.read_table(built / "results/micro/report/table1.csv")
    for arms in (["fre"], ["random_reward"]):
        table.loc[table.arm.isin(arms), ["diff", "diff_low", "diff_high"]] = [(low + high) / 2, low, high]
    none = pd.DataFrame(columns=cells.CONTRAST_COLUMNS)
    benchmarks = layout.parse_benchmarks(BENCHMARKS)
    multimodal, text = summary.gains(table, benchmarks)
    (control,) = summary.control(table, benchmarks)
    assert summary.claim(none, benchmarks) == []
    assert f"FRE-Text {said}" in multimodal and f"FRE-Text {said}" in text
    assert control.startswith(f"The random-reward control {said} in the MM avg.")
    assert ("A reward that ignores the answer gains too" in control) == (low > 0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.02, 0.06, "is 4.0 points above MGT-only (direct RL) in the {} (95\u00a0% interval +2.0 to +6.0)."),
        (-0.06, -0.02, "is 4.0 points below MGT-only (direct RL) in the {} (95\u00a0% interval −6.0 to −2.0)."),
        (
            -0.02,
            0.01,
            "is not distinguishable from MGT-only (direct RL) in the {} (−0.5 points, 95\u00a0% interval −2.0 to +1.0).",
        ),
    ],
)
def test_claim_follows_the_numbers(built: Path, low: float, high: float, said: str) -> None:
    contrasts = cells.read_contrasts(built / "results/micro/report/contrasts.csv")
    claimed = (contrasts.against == "mgt_only") & (contrasts.column == "mm_avg")
    contrasts.loc[claimed, ["diff", "diff_low", "diff_high"]] = [(low + high) / 2, low, high]
    sentences = summary.claim(contrasts, layout.parse_benchmarks(BENCHMARKS))
    expected = f"Text-first against direct RL: Two-stage (FRE → MGT) {said.format('MM avg of 5 benchmarks')}"
    assert sentences == [expected]
    assert summary.claim(contrasts, layout.parse_benchmarks(BENCHMARKS[:2])) == []
    assert "spread over seeds" not in sentences[0]
    single = summary.claim(contrasts.assign(seeds="0|0"), layout.parse_benchmarks(BENCHMARKS))
    assert single[0].endswith("of each arm one run: the spread over seeds is not in it.")


# ------------------------------------------------------------------------------------------------ README


def update(path: Path, *more: str) -> None:
    manifests = sorted(map(str, Path("results/micro").glob("*/*/manifest.json")))
    files = [f"results/micro/{arm}/scores.csv" for arm in SKILL]
    table, records = "results/micro/report/table1", str(path.parent / "docs/records.csv")
    readme.main(
        [
            "--readme",
            str(path),
            "--table",
            table,
            "--records",
            records,
            "--scores",
            *files,
            "--manifests",
            *manifests,
            *more,
        ]
    )


def test_readme_sums_what_the_jobs_took(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("checkpoint.tsv", "train.tsv")]
    for path, seconds in zip(files, (200, 100), strict=True):
        path.write_text(f"s\tmax_rss\n{seconds}\t-\n", encoding="utf-8")
    assert readme.cost_line(files).endswith("of its 2 jobs (pretraining, training, evaluation), summed: 5 minutes.")
    assert readme.cost_line([]) == ""


def test_readme_shows_the_table_between_its_markers(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", encoding="utf-8")
    with pytest.raises(UserError, match="out of date"):
        update(path, "--check")
    update(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n{readme.BEGIN}\n") and text.endswith(f"{readme.END}\nafter\n")
    assert "old" not in text
    assert (built / "results/micro/report/table1.md").read_text(encoding="utf-8").strip() in text
    assert "Profile `micro`; seeds 0, 1, 2 per trained arm; n = 40 items per benchmark; trained at commit" in text
    assert "[The records behind every number](docs/records.csv)." in text
    records = pd.read_csv(tmp_path / "docs/records.csv")
    assert len(records) == (1 + 4 * 3) * len(NAMES) and set(records.commit) == {"0123abc"}
    assert set(records.checkpoint) == {f"{a}-{s}" for a in SKILL for s in ((0,) if a == "baseline" else (0, 1, 2))}
    stamp = path.stat().st_mtime_ns, path.stat().st_ino
    update(path)
    update(path, "--check")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == stamp


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        f"{readme.BEGIN} only one",
        f"{readme.END} {readme.BEGIN}",
        f"{readme.BEGIN}{readme.END}{readme.END}",
    ],
)
def test_readme_without_markers_is_refused_and_untouched(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(built)
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match=r"README\.md: needs the markers"):
        update(path)
    assert path.read_text() == text


def test_gains_of_single_runs_say_so(built: Path) -> None:
    table, benchmarks = cells.read_table(built / "results/micro/report/table1.csv"), layout.parse_benchmarks(BENCHMARKS)
    assert not any("one run" in sentence for sentence in summary.gains(table, benchmarks))
    assert "the spread over seeds is not in it" in summary.gains(table.assign(seeds="0"), benchmarks)[-1]
