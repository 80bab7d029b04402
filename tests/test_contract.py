"""Contract: what is printed, what is registered, what is recorded and what is read name the same things.

Every check here is shown to notice the break that it is there for: a fault is planted on purpose, in the registry, in the
code or in a file, and must be found.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evals import judging, scoring
from evals.adapters import ADAPTERS
from evals.agents import football, sokoban
from evals.agents.baselines import player
from evals.generation import EvalModel
from evals.plan import Options, plan
from evals.protocols import find_protocol
from evals.registry import find
from evals.registry import registry as benchmarks
from evals.run import run_jobs
from evals.samples import FootballRow, SampleRow, SokobanRow, read_samples
from lmmr1.sokoban import Level
from lmmr1.types import Rollout, Sample, UserError
from reports.cells import load_cells
from reports.comparable import differences
from reports.folders import folder_scores
from reports.paper_cells import Measured, _cut_of
from reports.rules import rules
from reproduce.plan import ROOT
from reproduce.published import REGISTRY_FILE, Registry, load, registry
from tests import canned
from tests.benchmark_files import SEVEN, SUBJECTS, write_all

DATA = Path(os.environ.get("LMMR1_DATA", ROOT / "../shared/data"))
ROWS = {"baseline": "qwen", "trained": "mgt_geo"}
"""Role -> a printed row of that role."""


# ------------------------------------------------------------------- the published registry and that of benchmarks


def faults_of_names(published: Registry, known: dict) -> list[str]:
    """In what the printed columns differ from the benchmarks that are registered, and from the rows of their files."""
    found = []
    for table, of in published.tables.items():
        for name, spec in of.columns.items():
            if spec.benchmark is None:
                continue
            where = f"{table}.{name}"
            if spec.benchmark not in known:
                found.append(f"{where}: benchmark {spec.benchmark!r} is not registered")
            elif spec.protocol == "magebench":
                own = known[spec.benchmark].play["own"]
                found += [f"{where}: {spec.n} levels, {own} are played"] if own != spec.n else []
            else:
                found += [f"{where}: {fault}" for fault in faults_of_column(spec, known[spec.benchmark])]
    return found


def faults_of_column(spec, benchmark) -> list[str]:
    """Against the rows that the data set's adapter makes."""
    items = canned.prepared(benchmark, None).problems
    subsets = set(spec.subset)
    lost = sorted(subsets - {name for p in items for name in (p.category, *p.subsets)})
    chosen = [p for p in items if not subsets or subsets & {p.category, *p.subsets}]
    found = [f"subset {name!r} is in no row" for name in lost]
    if spec.n != len(chosen) or (not subsets and benchmark.n != spec.n):
        found.append(f"n {spec.n}, registered {benchmark.n}, rows {len(chosen)}")
    per_problem = len(chosen) / len({p.cluster or p.id for p in chosen}) if chosen else 0
    if per_problem != spec.per_problem:
        found.append(f"{spec.per_problem} items per problem, rows have {per_problem:g}")
    sizes = Counter(p.category for p in chosen)
    if spec.sizes and dict(zip(spec.subset, spec.sizes, strict=True)) != sizes:
        found.append(f"sizes {spec.sizes}, rows {dict(sizes)}")
    if spec.parts and spec.parts != len(sizes):
        found.append(f"{spec.parts} parts, rows have {len(sizes)}")
    return found


def test_what_is_printed_is_registered_under_the_same_name_and_size():
    assert faults_of_names(registry(), benchmarks()) == []


def test_the_subjects_of_the_canned_rows_are_the_released_ones():
    path = DATA / "mathvision/test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    found = Counter(json.loads(line)["subject"] for line in path.read_text(encoding="utf-8").splitlines())
    geometry = {name: n for name, n in SUBJECTS.items() if "geometry" in name}
    assert geometry == {name: found[name] for name in geometry} and sum(SUBJECTS.values()) == sum(found.values())


@pytest.mark.parametrize(("column", "change", "fault"), [
    ("table1.mathvista", {"benchmark": "mathvista"}, "benchmark 'mathvista' is not registered"),
    ("table1.gpqa", {"n": 448}, "n 448, registered 198, rows 198"),
    ("table1.mathverse", {"per_problem": 1}, "1 items per problem, rows have 5"),
    ("table1.mmstar", {"parts": 6}, "6 parts, rows have 18"),
    ("table2.vo", {"subset": ["Vision only"]}, "subset 'Vision only' is in no row"),
    ("table2.metric", {"sizes": [500, 173, 449]}, r"sizes \(500, 173, 449\), rows"),
    ("tableA6.fine", {"subset": ["fine perception"]}, "subset 'fine perception' is in no row"),
    ("table3.sokoban_global", {"n": 182}, "182 levels, 20 are played"),
])  # fmt: skip
def test_a_printed_column_that_names_something_else_is_found(tmp_path, column, change, fault):
    values = yaml.safe_load(REGISTRY_FILE.read_text(encoding="utf-8"))
    table, name = column.split(".")
    values["tables"][table]["columns"][name] |= change
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    found = faults_of_names(load(tmp_path / "copy.yaml"), benchmarks())
    assert any(re.search(f"^{re.escape(column)}: {fault}", text) for text in found), found


def test_a_benchmark_that_is_renamed_here_is_found():
    renamed = {name.replace("mathvista_mini", "mathvista"): b for name, b in benchmarks().items()}
    assert faults_of_names(registry(), renamed) == ["table1.mathvista: benchmark 'mathvista_mini' is not registered"]


# ------------------------------------------------------------------------------------ prompts of rows and roles


def faults_of_prompts(published: Registry) -> list[str]:
    """Cells whose printed prompt is not the one in which protocol `paper` asks a model of that row's role."""
    protocol, found = find_protocol("paper"), []
    for cell in published.cells():
        known = benchmarks().get(cell.spec.benchmark or "")
        if known is None or known.group == "agents":
            continue
        role = "baseline" if cell.row == "qwen" else "trained"
        asked = protocol.half(known).prompt[role]
        if cell.protocol.get("prompt") != asked:
            found.append(f"{cell.id}: printed {cell.protocol.get('prompt')}, asked {asked}")
    return found


def test_every_row_is_printed_with_the_prompt_that_it_is_asked_in():
    assert faults_of_prompts(registry()) == []


def test_a_prompt_printed_for_the_wrong_row_is_found(tmp_path):
    values = yaml.safe_load(REGISTRY_FILE.read_text(encoding="utf-8"))
    del values["tables"]["table1"]["rows"]["qwen"]["role"]
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    found = faults_of_prompts(load(tmp_path / "copy.yaml"))
    assert "table1.qwen.mathverse: printed paper, asked cot" in found and not any("fre_text" in f for f in found)
    values["protocols"]["text"]["prompt"]["trained"] = "paper"
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    assert "table1.fre_text.math500: printed paper, asked cot" in faults_of_prompts(load(tmp_path / "copy.yaml"))


# ------------------------------------------------------------------------- records under the paper's protocol


def faults_of_records(folder: Path, row: str) -> list[str]:
    """In what the evaluations below `folder` are no measurement of the printed row, as the tables read them."""
    frame = folder_scores(folder, "x")
    measured, found = Measured(frame, load_cells(frame), registry()), []
    for table in ("table1", "table2"):
        for name, spec in registry().tables[table].columns.items():
            if spec.benchmark not in set(frame.benchmark) or row not in registry().tables[table].rows:
                continue
            part = measured.part("x", *_cut_of(spec))
            if part is None:
                found.append(f"{table}.{name}: {', '.join(spec.subset)} not in the records")
                continue
            cell = registry().cell(f"{table}.{row}.{name}")
            found += [f"{cell.id}: {text}" for text in differences(part.taken, cell, rules().must_match_score)]
            problems = len(set(part.design.clusters)) if part.design.clusters is not None else part.taken.n
            if part.taken.n != problems * spec.per_problem:
                found.append(f"{cell.id}: {part.taken.n} items of {problems} problems, printed {spec.per_problem} each")
    return found


def evaluated(folder: Path, benchmark: str, role: str = "baseline") -> Path:
    """Every other answer right, under the paper's protocol; planned anew, so that broken code is what runs."""
    canned._planned.cache_clear()
    canned._prepared.cache_clear()
    job = canned.planned(benchmark, "paper", role=role)
    out = canned.write_answers(folder, job, [i % 2 == 0 for i in range(job.n)])
    canned._planned.cache_clear()
    canned._prepared.cache_clear()
    return out


@pytest.mark.parametrize("role", ROWS)
def test_records_under_the_papers_protocol_can_be_held_against_the_paper(tmp_path, role):
    """All seven benchmarks, each column of Tables 1 and 2, the baseline and a trained arm."""
    for benchmark in SEVEN:
        job = canned.planned(benchmark, "paper", role=role)
        canned.write_answers(tmp_path, job, [i % 2 == 0 for i in range(job.n)])
    assert faults_of_records(tmp_path, ROWS[role]) == []
    other = ROWS["trained" if role == "baseline" else "baseline"]
    assert any("mathverse: prompt: " in fault for fault in faults_of_records(tmp_path, other))


@pytest.mark.parametrize("judge", [
    "Qwen2.5-14B-Instruct, temperature 0.6",
    {"model": "Qwen/Qwen2.5-14B-Instruct"},
    {"model": "Qwen/Qwen2.5-14B-Instruct", "extract": 0.0, "compare": 0.6},
])  # fmt: skip
def test_a_judge_stored_as_another_type_is_found(tmp_path, monkeypatch, judge):
    """The text that was once printed, and a mapping without the settings of each kind of question."""
    monkeypatch.setattr(judging, "judge_record", lambda protocol, benchmark: judge)
    evaluated(tmp_path, "mathverse")
    with pytest.raises(
        UserError, match=r"a record of mathverse names its judge as .*Qwen2\.5.*run the evaluation again"
    ):
        faults_of_records(tmp_path, "qwen")


def test_another_judge_is_a_difference(tmp_path):
    job = canned.planned("mathverse", "paper", role="baseline")
    settings = job.settings | {"judge": job.settings["judge"] | {"model": "Qwen/Qwen2.5-7B-Instruct"}}
    canned.write_answers(tmp_path, replace(job, settings=settings), [i % 2 == 0 for i in range(job.n)])
    found = faults_of_records(tmp_path, "qwen")
    assert any("table1.qwen.mathverse: judge: Qwen2.5-7B-Instruct (compare 0.6, extract 0)" in text for text in found)


def test_a_cluster_that_is_not_written_is_found(tmp_path, monkeypatch):
    real = ADAPTERS["mathverse"]
    monkeypatch.setitem(ADAPTERS, "mathverse", lambda row, where: {**real(row, where), "cluster": ""})
    evaluated(tmp_path, "mathverse")
    fault = "table1.qwen.mathverse: 3940 items of 3940 problems, printed 5 each"
    assert fault in faults_of_records(tmp_path, "qwen")


def test_a_cluster_that_the_samples_leave_out_is_found(tmp_path):
    folder = evaluated(tmp_path, "mathverse")
    assert faults_of_records(tmp_path, "qwen") == []
    canned.change_rows(folder, lambda row: row.pop("cluster"))
    assert any("3940 items of 3940 problems" in fault for fault in faults_of_records(tmp_path, "qwen"))


@pytest.mark.parametrize(("name", "lost", "fault"), [
    ("mmstar", "sub 7", r"table1\.qwen\.mmstar: aggregation: 17 categories, printed: 18 categories"),
    ("mathvision", "metric geometry - area", r"table2\.metric: .* not in the records"),
    ("mathverse", "Vision Only", r"table2\.vo: Vision Only not in the records"),
])  # fmt: skip
def test_a_sub_category_that_is_lost_is_found(tmp_path, monkeypatch, name, lost, fault):
    """The adapter gives its items to no category, or to another one."""
    dataset = benchmarks()[name].dataset
    real = ADAPTERS[dataset]

    def merged(row, where):
        fields = real(row, where)
        return {**fields, "category": {lost: "sub 8"}.get(fields["category"], fields["category"])}

    monkeypatch.setitem(ADAPTERS, dataset, merged)
    evaluated(tmp_path, name)
    found = faults_of_records(tmp_path, "qwen")
    assert any(re.search(fault, text) for text in found), found


# ----------------------------------------------------------------------- a stored row is what was asked and scored


class Chooser:
    """Answers with an option's letter, with its text, or with the number in the question, by turns."""

    def generate(self, samples, sampling, num_generations, seed):
        return [(self._rollout(sample),) for sample in samples]

    def _rollout(self, sample: Sample) -> Rollout:
        content = sample.messages[-1]["content"]
        asked = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        options = re.findall(r"^\(?([A-D])[).:] ?(.+)$", asked, re.MULTILINE)
        turn = sum(asked.encode()) % 7
        numbers = re.findall(r"\d+", asked) or ["0"]
        said = options[turn % len(options)][turn // 4] if options else numbers[turn % len(numbers)]
        text = f"<think>t</think><answer>The answer is ({said}). \\boxed{{{said}}}</answer>"
        return Rollout(sample.id, (1, 2), (0.0, 0.0), text, "stop")


MODEL = EvalModel(Chooser(), lambda sample: json.dumps(sample.messages), "canned", "none", None, None)


def rescored(row: SampleRow) -> float:
    """What a stored row earns by its own text, target and options, or by its own level and moves."""
    if isinstance(row, SokobanRow):
        end = sokoban.play_answer(Level.parse(row.doc.level), "brief", row.response).end
        return sokoban.score(end.best_reward, row.upper_reward)
    if isinstance(row, FootballRow):
        return sum(row.parts.values()) if len(football.replay(row, seed=0)) == row.turns + 1 else -1.0
    if "," in row.note:  # a metric and a filter of lm-eval's own, which found a letter
        return float(row.filtered_resps[0].strip("()") == row.target.strip("()"))
    return scoring.score_response(row.response, row.target, row.doc.choices).accuracy


def faults_of_rows(rows: list[SampleRow]) -> list[str]:
    """Rows whose stored value is not what their stored content earns."""
    metric = "score" if isinstance(rows[0], SokobanRow | FootballRow) else "accuracy"
    found = [(row, rescored(row)) for row in rows]
    return [
        f"{row.doc.id}: {row.value(metric)}, again {again}"
        for row, again in found
        if row.value(metric) != pytest.approx(again)
    ]


STOCK = "lm_eval:gpqa_diamond_cot_zeroshot"
"""lm-eval's own task, which shuffles the options itself."""

HARNESSES = {
    "gpqa_diamond": "lm_eval", STOCK: "lm_eval", "micro_chain": "lm_eval", "mmstar": "vlmevalkit", "mathverse": "vlmevalkit",
    "micro_count": "vlmevalkit", "micro_sokoban": "agents", "micro_football": "agents",
}  # fmt: skip


@pytest.fixture(scope="module")
def run_rows(tmp_path_factory) -> dict[str, list[SampleRow]]:
    """Rows of a run of each harness, with answers of a stub that names options by letter and by text."""
    root = tmp_path_factory.mktemp("rows")
    from evals.agents.sokoban_levels import LevelSpec, generate, levels_text
    from reproduce.micro.build import write_benchmark

    write_all(root)
    (root / "micro_sokoban.txt").write_text(
        levels_text(generate(LevelSpec(name="tiny", height=5, width=5, boxes=1), 4, seed=0))
    )
    for name in ("micro_chain", "micro_count"):
        write_benchmark(name, 12, 0, root / benchmarks()[name].file_name)
    options = Options.of(data_root=root, benchmark_dir=root, any_data=True, limit=12)
    rows = {}
    for name, job in zip(HARNESSES, plan(list(HARNESSES), root, options), strict=True):
        model = player("chance", job) if HARNESSES[name] == "agents" else MODEL
        run_jobs(lambda model=model: model, [job], root / "out", options, "k")
        rows[name] = list(read_samples(root / "out" / job.name / "samples.jsonl"))
    return rows


@pytest.mark.parametrize("name", HARNESSES)
def test_a_stored_row_earns_again_what_it_earned(run_rows, name):
    rows = run_rows[name]
    assert find(name).harness == HARNESSES[name] and len(rows) >= 3
    assert faults_of_rows(rows) == []


def test_some_of_these_rows_are_right_and_some_name_an_options_text(run_rows):
    chosen = [row for name in ("gpqa_diamond", "mmstar", "mathverse") for row in run_rows[name] if row.doc.choices]
    texts = [row for row in chosen if any(f"{{{text}}}" in row.response for text in row.doc.choices)]
    assert {0.0, 1.0} <= {row.accuracy for row in chosen} and {0.0, 1.0} <= {row.accuracy for row in texts}


@pytest.mark.parametrize("name", ["gpqa_diamond", STOCK, "mmstar"])
def test_options_in_another_order_than_scored_are_found(run_rows, name):
    for change in (_options_backwards, _target_of_another_order)[name == STOCK :]:  # of STOCK the letter alone counts
        changed = [change(row) for row in run_rows[name]]
        assert faults_of_rows(changed), change.__name__


def _options_backwards(row: SampleRow) -> SampleRow:
    return row.model_copy(update={"doc": row.doc.model_copy(update={"choices": row.doc.choices[::-1]})})


def _target_of_another_order(row: SampleRow) -> SampleRow:
    return row.model_copy(update={"target": "ABCD"[3 - "ABCD".index(row.target.strip("()"))]})
