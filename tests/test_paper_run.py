"""The paper's run in small: eight benchmarks, five checkpoints, two protocols and a judge, from evals.run to the verdicts.

Real here: the checkpoints' architecture and decoding, both harnesses and the games, the tables in the tools' own formats,
the judge's HTTP, every command of the report. Not real: the checkpoints say one text each (tests/speakers.py), the judge
answers by a rule, and the tables hold dozens of problems, so both registries get their sizes and checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from evals import registry as benchmark_registry
from evals import run
from evals.agents import baselines
from evals.agents.sokoban_levels import published_mini
from evals.inputs import prepare
from evals.records import read_records
from evals.registry import find
from lmmr1.store import adopt, write_manifest
from reports import page, paper_tables, protocols, scores, tables
from reproduce import published
from reproduce.plan import Plan
from tests import benchmark_files as files
from tests.judge_server import judge_by_rule, serving
from tests.speakers import write_speaker

SAYS = {
    "baseline": r"\boxed{A}",
    "released": r"\boxed{B}",
    "fre": r"\boxed{C}",
    "mgt_only": r"\boxed{7}",
    "two_stage": r"\boxed{20}",
}
ARMS = list(SAYS)
BENCHMARKS = [*files.SEVEN, "sokoban_global"]
SUBJECTS = {"metric": 3}
ROOM = "#####\n#@$.#\n#####"


def write_data(folder: Path) -> Path:
    """The seven tables, large enough for an interval in every column, and MageBench's 20 levels as ids and rewards."""
    for name in ("math500", "gpqa", "sokoban_global"):
        (folder / name).mkdir(parents=True)
    files.math500(folder / "math500" / "test.jsonl", 12)
    files.gpqa(folder / "gpqa" / "gpqa_diamond.csv", 12)
    olympiad = [row | {"index": 10 * i + row["index"]} for i in range(3) for row in files.olympiadbench()]
    written = {
        "OlympiadBench_EN": olympiad,
        "MathVision": files.mathvision(4),
        "MathVerse_MINI": files.mathverse(8),
        "MMStar": files.mmstar((3, 2) * 9),
        "MathVista_MINI": files.mathvista(3),
    }
    for name, rows in written.items():
        files.table(folder / f"{name}.tsv", rows)
    rows = [{"id": number, "level": ROOM, "upper_reward": reward} for number, reward in published_mini().items()]
    (folder / "sokoban_global" / "mini.json").write_text(json.dumps(rows))
    (folder / "system.txt").write_text("A system prompt that stands in for the paper's.\n")
    return folder


def small_benchmarks(data: Path, workspace: Path) -> dict[str, benchmark_registry.Benchmark]:
    """The benchmark registry, pinned to the files in `data`."""
    known = benchmark_registry.load_registry()
    for name in files.SEVEN:
        there = [file for file in known[name].files if (data / file.path).is_file()]
        pinned = benchmark_registry.DataFile(
            path=there[0].path, md5=hashlib.md5((data / there[0].path).read_bytes()).hexdigest()
        )
        small = known[name].model_copy(update={"n": None, "files": (pinned,)})
        count = len(prepare(small, data, None, None, workspace).problems)
        known[name] = small.model_copy(update={"n": count})
    return known


def small_tables(data: Path, workspace: Path) -> published.Registry:
    """The published registry, with the sizes of the files in `data` and nothing else changed."""
    found = published.load()
    categories = {
        name: Counter(p.category for p in prepare(find(name), data, None, None, workspace).problems)
        for name in files.SEVEN
    }
    for table in found.tables.values():
        for name, spec in table.columns.items():
            if spec.benchmark in categories:
                of = categories[spec.benchmark]
                sizes = tuple(of[s] for s in spec.subset)
                size = {"n": sum(sizes) if spec.subset else of.total()}
                table.columns[name] = spec.model_copy(update=size | ({"sizes": sizes} if spec.sizes else {}))
    return found


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A folder as a finished run of profile `paper` leaves it, and the small registries in force."""
    root = tmp_path_factory.mktemp("paper")
    data = write_data(root / "data")
    with pytest.MonkeyPatch.context() as patch, serving() as judge:
        patch.chdir(root)
        judge.rule = choose
        small = small_benchmarks(data, root)
        patch.setattr(benchmark_registry, "registry", lambda: small)
        patch.setattr("evals.protocols.registry", lambda: small)
        in_force = small_tables(data, root)
        for module in ("reports.paper_tables", "reports.page", "reports.evidence_plots", "reports.gate"):
            patch.setattr(f"{module}.registry", lambda: in_force)
        for arm, text in SAYS.items():
            weights = write_speaker(root / "models" / arm, text)
            manifest = root / "results/paper" / arm / "0/manifest.json"
            manifest.parent.mkdir(parents=True)
            write_manifest(manifest, adopt(str(weights), arm))
        for protocol, folder in (("paper", "results/paper"), ("rule", "results/paper/protocols/rule")):
            for role, arms in (("baseline", ARMS[:1]), ("trained", ARMS[1:])):
                evaluate(protocol, role, arms, folder, data, judge.url)
        assert judge.requests, "the judge was asked"
        idle = ["--player", "idle", "--benchmarks", "sokoban_global", "--out", "results/paper/idle/0/eval"]
        assert baselines.main([*idle, "--data-root", str(data)]) == 0
        report(root)
        yield root, in_force


def choose(prompt: str) -> str:
    """A judge that knows boxes: the option in the response's box, J where none is there; else as `judge_by_rule`."""
    found = re.findall(r"boxed\{([a-j])\}", prompt)
    return (found[-1].upper() if found else "J") if "Your output:" in prompt else judge_by_rule(prompt)


def evaluate(protocol: str, role: str, arms: list[str], folder: str, data: Path, url: str) -> None:
    names = BENCHMARKS if protocol == "paper" else list(files.SEVEN)
    out = [f"{folder}/{arm}/0/eval" for arm in arms]
    for path in out:
        Path(path).mkdir(parents=True, exist_ok=True)
    manifests = [f"results/paper/{arm}/0/manifest.json" for arm in arms]
    options = ["--protocol", protocol, "--role", role, "--data-root", str(data), "--judge-url", url]
    options += ["--system-prompt-file", str(data / "system.txt"), "--batch-size", "16"]
    assert run.main(["--manifest", *manifests, "--out", *out, "--benchmarks", *names, *options]) == 0


def report(root: Path) -> None:
    """The commands of the workflow's report."""
    for folder, arms in (("results/paper", [*ARMS, "idle"]), ("results/paper/protocols/rule", ARMS)):
        for arm in arms:
            records = sorted(map(str, Path(folder).glob(f"{arm}/0/eval/*/record.json")))
            scores.main(["--records", *records, "--out", f"{folder}/{arm}/scores.csv"])
    mine, other = ([f"{folder}/{arm}/scores.csv" for arm in ARMS] for folder in FOLDERS)
    out = "results/paper/report"
    tables.main(["--scores", *mine, "--benchmarks", *BENCHMARKS, "--out-dir", out])
    players = ["--players", "results/paper/idle/scores.csv"]
    lacking = ["--not-measured", "football_online=the simulator is not built here (make football)"]
    paper_tables.main(["--scores", *mine, *players, *lacking, "--benchmarks", *BENCHMARKS, "--out-dir", out])
    paper_tables.main(["--scores", *other, "--benchmarks", *files.SEVEN, "--out-dir", "exchanged"])
    protocols.main(
        ["--main", "paper", "--scores", *mine, "--others", *other, "--benchmarks", *BENCHMARKS, "--out-dir", out]
    )
    shown = [f"{out}/paper_table{i}.csv" for i in (1, 2, 3)]
    manifests = [f"results/paper/{arm}/0/manifest.json" for arm in ARMS]
    files_of_page = ["--table", f"{out}/table1.csv", "--contrasts", f"{out}/contrasts.csv", "--paper-tables", *shown]
    files_of_page += ["--protocols", f"{out}/protocols.csv", "--scores", *mine, *players, "--manifests", *manifests]
    page.main(["--out", f"{out}/index.html", *files_of_page, "--benchmarks", *BENCHMARKS])


FOLDERS = ("results/paper", "results/paper/protocols/rule")


def cells(root: Path, table: str, folder: str = "results/paper/report") -> pd.DataFrame:
    return paper_tables.read_cells(root / folder / f"paper_{table}.csv")


def printed_and_measured(of: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Cells that the paper prints for rows that were measured."""
    return of[(of.kind == kind) & of.published.notna() & (of.arm != "")]


def test_every_printed_cell_of_a_measured_row_has_a_verdict(paper):
    root, _ = paper
    expected = {
        ("table1", "score"): 4 * 9,
        ("table1", "gain"): 3 * 9,
        ("table2", "score"): 4 * 11,
        ("table2", "gain"): 3 * 11,
    }
    for (table, kind), count in expected.items():
        found = printed_and_measured(cells(root, table), kind)
        assert len(found) == count and found.measured.notna().all(), found[found.measured.isna()]
        open_cells = found[found.verdict.isin(["", "not comparable"])]
        assert open_cells.empty, open_cells[["arm", "column", "reason"]].to_string()
    agents = printed_and_measured(cells(root, "table3"), "score")
    sokoban, football = (agents[agents.column == c] for c in ("sokoban_global", "football_online"))
    assert set(sokoban.arm) == {"baseline", "fre", "idle"} and not set(sokoban.verdict) & {"", "not comparable"}
    assert set(football.verdict) == {"not measured"} and football.reason.str.contains("make football").all()


def test_mathvista_and_both_averages_are_filled(paper):
    root, _ = paper
    found = cells(root, "table1").set_index(["kind", "arm", "column"])
    for arm in ARMS:
        for column in ("mathvista", "text_avg", "mm_avg"):
            assert pd.notna(found.loc[("score", arm, column)].measured), (arm, column)
    assert found.loc[("score", "fre", "mm_avg")].published == 39.35


def test_a_gain_that_includes_a_change_of_prompt_says_so(paper):
    root, _ = paper
    found = cells(root, "table1").set_index(["kind", "arm", "column"]).reason
    assert "both gains include the change of prompt cot -> paper" in found.loc[("gain", "fre", "mathvision")]
    assert "change of prompt" not in found.loc[("gain", "fre", "math500")], "text is asked alike"
    for kind in ("score", "gain"):
        assert (
            found.loc[kind][lambda r: r != ""]
            .str.contains("spread over seeds is not in it|no published|make football")
            .all()
        )


def test_exchanged_protocols_are_not_comparable_for_the_right_reason(paper):
    root, _ = paper
    found = cells(root, "table1", "exchanged")
    for kind in ("score", "gain"):
        judged = printed_and_measured(found, kind)
        assert set(judged.verdict) == {"not comparable"}
    reasons = found[found.kind == "score"].set_index(["arm", "column"]).reason
    assert reasons.loc[("fre", "mathvision")] == (
        "prompt: r1, printed: paper; judge: none, printed: Qwen2.5-14B-Instruct (extract 0)"
    )
    assert reasons.loc[("baseline", "math500")] == "prompt: r1, printed: cot"
    gains = found[found.kind == "gain"].set_index(["arm", "column"]).reason
    assert gains.loc[("fre", "mathverse")] == "prompt: r1, printed: paper; at the baseline prompt: r1, printed: cot"


def test_with_the_real_registry_the_number_of_problems_alone_forbids_a_comparison(paper, monkeypatch):
    """The tables are small: that is the true reason, and the only one."""
    root, _ = paper
    monkeypatch.chdir(root)
    monkeypatch.setattr(paper_tables, "registry", published.load)
    mine = [f"results/paper/{arm}/scores.csv" for arm in ARMS]
    paper_tables.main(["--scores", *mine, "--benchmarks", *BENCHMARKS, "--out-dir", "real"])
    found = printed_and_measured(cells(root, "table1", "real"), "score")
    assert set(found.verdict) == {"not comparable"}
    parts = found.reason.str.split("; ").explode()
    assert parts.str.contains(r"^(?:\w+ )?n: \d+, printed: \d+$").all(), parts.tolist()


def test_records_say_who_was_asked_what(paper):
    root, _ = paper
    prompts = {arm: read_records(root / f"results/paper/{arm}/0/eval/mathvision/record.json")[0] for arm in ARMS}
    assert {arm: r.protocol.prompt for arm, r in prompts.items()} == {"baseline": "cot"} | dict.fromkeys(
        ARMS[1:], "paper"
    )
    assert prompts["fre"].protocol.instruction == "A system prompt that stands in for the paper's."
    mmstar = read_records(root / "results/paper/fre/0/eval/mmstar/record.json")
    assert (
        mmstar[0].protocol.aggregation == "macro"
        and len({r.subset for r in mmstar if r.subset.startswith("sub ")}) == 18
    )


def test_gains_are_shown_under_both_protocols(paper):
    root, _ = paper
    found = protocols.read_table(root / "results/paper/report/protocols.csv").set_index(["arm", "protocol", "column"])
    here, there = (found.loc[("released", name, "mm_avg")] for name in ("paper", "rule"))
    assert there.change == pytest.approx(there.gain - here.gain, abs=1e-6) and there.word and not here.word
    assert (here.prompt, there.prompt) == ("paper", "r1")
    text = (root / "results/paper/report/index.html").read_text()
    assert 'id="protocol-gains"' in text and "both gains include the change of prompt" in text
    assert "Arms were asked in different words" in (root / "results/paper/report/table1.md").read_text()


def test_the_profile_measures_these_benchmarks(paper):
    plan = Plan.load({"profile": "paper"})
    assert set(plan.benchmarks) - {"football_online"} == set(BENCHMARKS)
