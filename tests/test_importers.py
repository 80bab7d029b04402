"""Contract: files of every harness, written by its own code where that is at hand, become the same rows; a broken file
is named with line and field."""

import csv
import json
import os
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.loggers import EvaluationTracker

from evals.agents import sokoban
from evals.agents.sokoban_levels import LevelSpec, generate
from evals.importers import read_answers
from evals.importers.lm_eval import options_in
from evals.importers.stored import StoredAnswer, accuracy_of, benchmark_name, gold_of
from evals.inputs import prepare
from evals.problems import Problem
from evals.registry import find
from evals.samples import Doc, SampleRow, read_samples, write_samples
from evals.scorers.items import Item
from evals.scorers.stock_worker import _lm_eval
from evals.scoring import sample_row, score_response, write_jsonl
from lmmr1.types import Rollout, UserError
from tests.benchmark_files import write_all

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))
TINY = LevelSpec(name="tiny", height=5, width=5, boxes=1, max_moves=12)
FORMULA = '=1+1 is $x_1$, "quoted"\nand\ta tab'


def own_file(
    folder: Path, rows: list[tuple[str, str, str]], choices=(), finish="stop", benchmark="micro_chain"
) -> Path:
    """(id, gold, response) as `samples.jsonl` with its record, by this suite's own writer."""
    folder.mkdir(parents=True)
    samples = []
    for number, (id, gold, response) in enumerate(rows):
        problem = Problem(id, f"question {id}", gold, "c", choices=tuple(choices))
        rollout = Rollout(id, (1, 2), (0.0, 0.0), response, finish)
        samples.append(sample_row(number, problem, f"hash-{id}", rollout, score_response(response, gold, choices)))
    write_samples(folder / "samples.jsonl", samples)
    (folder / "record.json").write_text(json.dumps([{"benchmark": benchmark}]))
    return folder / "samples.jsonl"


def lm_eval_samples(rows: list[tuple[str, str, str]], metric=None, **more) -> list[dict]:
    """(id, gold, response) as lm-eval's evaluator collects them for hendrycks_math500, scored by the task's own code."""
    score = _lm_eval("hendrycks_math").process_results
    return [
        {
            "doc_id": number, "doc": {"unique_id": id, "problem": f"p {id}", "solution": f"\\boxed{{{gold}}}", "answer": gold},
            "target": gold, "arguments": [(f"Problem: p {id}\nAnswer:", {"until": ["Problem:"], "do_sample": False})],
            "resps": [[response]], "filtered_resps": [response], "filter": "none", "metrics": ["exact_match"],
            "doc_hash": "d", "prompt_hash": f"hash-{id}", "target_hash": "t", 
            "exact_match": score({"solution": f"\\boxed{{{gold}}}"}, [response])["exact_match"] if metric is None else metric,
            **more,
        }
        for number, (id, gold, response) in enumerate(rows)
    ]  # fmt: skip


def lm_eval_file(folder: Path, model: str, samples: list[dict], task="hendrycks_math500") -> Path:
    """Written by lm-eval's own tracker."""
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = model
    tracker.date_id = "2026-11-20T10-11-12.345678"
    tracker.save_results_samples(task, samples)
    (file,) = (folder / model).glob("samples_*.jsonl")
    return file


def test_own_samples(tmp_path):
    own_file(
        tmp_path / "p" / "fre" / "3" / "eval" / "micro_chain", [("a", "2", "<answer>2</answer>"), ("b", "3", FORMULA)]
    )
    first, second = read_answers([tmp_path])
    file = tmp_path / "p/fre/3/eval/micro_chain/samples.jsonl"
    row = next(read_samples(file))
    assert first == StoredAnswer("micro_chain", "fre", "3", row, {"stored:accuracy": True}, str(file))
    assert first.item == Item("a", "2") and (row.prompt_hash, row.finish, row.category) == ("hash-a", "stop", "c")
    assert second.response == FORMULA and second.stored == {"stored:accuracy": False}


def test_own_samples_outside_of_a_results_folder_and_with_options(tmp_path):
    file = own_file(tmp_path / "out" / "x", [("a", "B", "B")], ("cat", "dog"), "length", "mmstar")
    (answer,) = read_answers([file])
    assert (answer.arm, answer.run, answer.benchmark, answer.row.finish) == ("out", "", "mmstar", "length")
    assert answer.item == Item("a", "B", ("cat", "dog"))


def test_cells_of_a_data_set_reach_the_scorer(tmp_path):
    file = own_file(tmp_path / "out" / "olympiadbench", [("a", "2.5", "2.51")], benchmark="olympiadbench")
    (row,) = read_samples(file)
    cells = {"answer_type": "Numerical", "error": "1e-1", "precision": None}
    write_samples(file, [row.model_copy(update={"doc": row.doc.model_copy(update={"cells": cells})})])
    assert read_answers([file])[0].item == Item("a", "2.5", (), "Numerical", 0, "1e-1")


def test_lm_eval_samples_written_by_lm_eval(tmp_path):
    rows = [("test/1.json", "4", FORMULA), ("test/2.json", "\\frac{1}{2}", "\\boxed{\\frac{1}{2}}")]
    file = lm_eval_file(tmp_path, "org__model", lm_eval_samples(rows, metric=0))
    answers = read_answers([tmp_path])
    assert [a.response for a in answers] == [response for _, _, response in rows]
    row = SampleRow(
        doc_id=1, doc=Doc(id="test/2.json", question="p test/2.json"), target="\\frac{1}{2}", resps=((rows[1][2],),),
        prompt_hash="hash-test/2.json", accuracy=0.0,
    )  # fmt: skip
    run = "2026-11-20T10-11-12.345678"
    assert answers[1] == StoredAnswer("math500", "org__model", run, row, {"stored:exact_match": False}, str(file))


def test_lm_eval_filters_are_verdicts_of_one_answer(tmp_path):
    doc = {"doc": {"choices": ["x", "y"], "answer": "(B)"}, "target": "(B)"}
    rows = [
        lm_eval_samples([("q", "(B)", "so (B)")], metric=value, filter=name)[0] | doc
        for name, value in (("strict-match", 0.0), ("flexible-extract", 1.0))
    ]
    lm_eval_file(tmp_path, "m", rows, "gpqa_diamond_cot_zeroshot")
    (answer,) = read_answers([tmp_path])
    assert answer.benchmark == "gpqa_diamond" and answer.item == Item("0", "B", ("x", "y"))
    assert answer.stored == {"stored:exact_match[strict-match]": False, "stored:exact_match[flexible-extract]": True}
    assert answer.row.accuracy is None, "the filters differ"


def test_lm_eval_has_one_row_for_a_document_and_filter(tmp_path):
    rows = lm_eval_samples([("a", "2", "2"), ("a", "2", "3")], metric=0)
    file = lm_eval_file(tmp_path, "m", [row | {"doc_id": 5} for row in rows])
    with pytest.raises(UserError, match=rf"{file}, line 2: doc_id 5 stands twice under filter none"):
        read_answers([file])


ARC = {"text": ["cat", "dog", "cow"], "label": ["A", "B", "C"]}
POSITIONS = {
    "positions": ([(1, ["a", "b"]), (0, ["1", "0"])], ["B", "A"]),
    "texts that look so": ([(1, ["2", "1"]), (0, ["1", "0"])], ["B", "B"]),
    "not all can be": ([("1", ["2", "1"]), ("2", ["2", "1"])], ["B", "A"]),
    "letters": ([("B", ["2", "1"]), ("(A)", ["2", "1"])], ["B", "A"]),
    "in an object": ([(2, ARC), (0, ARC)], ["C", "A"]),
    "letters of an object": ([("C", ARC), ("A", ARC)], ["C", "A"]),
    "without options": ([(1, None), (0, None)], ["1", "0"]),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_a_whole_number_is_the_position_of_an_option(tmp_path, case):
    """As lm-eval takes it; its writer makes a text of it."""
    targets, golds = POSITIONS[case]
    row = lm_eval_samples([("a", "2", "2")], metric=0)[0]
    rows = [
        row | {"doc_id": i, "target": target, "doc": {"choices": choices}}
        for i, (target, choices) in enumerate(targets)
    ]
    answers = read_answers([lm_eval_file(tmp_path, "m", rows)])
    assert [a.item.gold for a in answers] == golds


def test_a_list_of_golds(tmp_path, dump):
    """All of the answer in a data set's table, each accepted in lm-eval; written by the tools."""
    for suffix in ("xlsx", "tsv", "csv", "json"):
        table = pd.DataFrame(
            {"index": [1, 2], "question": ["q", "r"], "answer": [["3", "4"], "[3, 4]"], "prediction": "p"}
        )
        dump(table, str(tmp_path / f"m_MathVerse_MINI.{suffix}"))
        assert [a.item.gold for a in read_answers([tmp_path / f"m_MathVerse_MINI.{suffix}"])] == ["3, 4", "[3, 4]"]
    row = lm_eval_samples([("a", "2", "2")])[0]
    one = lm_eval_file(tmp_path / "one", "m", [row | {"target": ["3"]}])
    several = lm_eval_file(tmp_path / "several", "m", [row | {"target": ["3", "4"]}])
    olympiad = lm_eval_file(tmp_path / "olympiad", "m", [row | {"target": ["3", "4"]}], "olympiadbench")
    assert [read_answers([file])[0].item.gold for file in (one, olympiad)] == ["3", "3, 4"]
    with pytest.raises(UserError, match="line 1: `target` has 2 answers, of which lm-eval accepts each"):
        read_answers([several])


def lmms_eval_file(folder: Path, rows: list[dict], task="mmstar") -> Path:
    """As lmms-eval's tracker writes it: no document, `resps` only where a filter changed the response."""
    folder.mkdir(parents=True)
    file = folder / f"20261120_101112_samples_{task}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_lmms_eval_samples(tmp_path):
    prompt = "Which animal?\nOptions: A: cat, B: a small, old dog\nAnswer with the letter."
    rows = [
        {"doc_id": 0, "target": "B", "filtered_resps": "B. it is", "token_counts": [{"output_tokens": 4}],
         "doc_hash": "d", "input": prompt, "average": {"question": "q", "gt": "B", "score": 1.0}},
        {"doc_id": 1, "target": "3", "filtered_resps": ["3"], "resps": [["so 3"]], "doc_hash": "d", "input": ["How many?"],
         "exact_match": False, "llm_as_judge": {"scores": [True], "response": "3"}},
    ]  # fmt: skip
    file = lmms_eval_file(tmp_path / "model", rows)
    first, second = read_answers([tmp_path])
    row = SampleRow(
        doc_id=0, doc=Doc(id="0", question=prompt, choices=("cat", "a small, old dog")), target="B",
        resps=(("B. it is",),), accuracy=1.0, length=4,
    )  # fmt: skip
    assert first == StoredAnswer("mmstar", "model", "20261120_101112", row, {"stored:average": True}, str(file))
    assert (second.response, second.item) == ("so 3", Item("1", "3"))
    assert (second.row.doc.question, second.row.accuracy, second.row.length) == ("How many?", None, 0)
    assert second.stored == {"stored:exact_match": False, "stored:llm_as_judge": True}


@pytest.fixture(scope="module")
def dump():
    """VLMEvalKit's own writer."""
    import_module("evals.vlmevalkit")  # contains what importing vlmeval does
    return import_module("vlmeval.smp").dump


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small benchmark files with the tools' columns."""
    return write_all(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("suffix", ["xlsx", "tsv", "csv", "json"])
def test_vlmevalkit_tables_written_by_vlmevalkit(tmp_path, dump, suffix):
    folder = tmp_path / "Qwen2.5-VL-3B" / "T20261120_Gabcdef12"
    folder.mkdir(parents=True)
    table = pd.DataFrame(
        {"index": [0, 7], "question": ["q0", "q7"], "A": ["cat", "1"], "B": ["dog", "2"], "answer": ["B", "A"],
         "category": ["c", "c"], "l2-category": ["l", "l"], "prediction": ["B.", "NA"]}
    )  # fmt: skip
    dump(table, str(folder / f"Qwen2.5-VL-3B_MMStar.{suffix}"))
    dump(table.assign(hit=[1, 0], log=["", ""]), str(folder / f"Qwen2.5-VL-3B_MMStar_exact_matching_result.{suffix}"))
    dump(pd.DataFrame({"split": ["none"], "Overall": [0.5]}), str(folder / "Qwen2.5-VL-3B_MMStar_acc.csv"))
    first, second = read_answers([tmp_path])
    row = SampleRow(
        doc_id="0", doc=Doc(id="0", question="q0", category="l", choices=("cat", "dog")), target="B", category="l",
        subsets=("c",), resps=(("B.",),), accuracy=1.0,
    )  # fmt: skip
    source = ("mmstar", "Qwen2.5-VL-3B", "T20261120_Gabcdef12")
    stored = {"stored:hit[exact_matching_result]": True}
    assert first == StoredAnswer(*source, row, stored, str(folder / f"Qwen2.5-VL-3B_MMStar.{suffix}"))
    assert second.response == "NA" and second.item == Item("7", "A", ("1", "2"))


def test_vlmevalkit_columns_of_the_mathematical_data_sets(tmp_path, dump):
    common = {"question": "q", "prediction": "p"}
    tables = {
        "MathVista_MINI": {"index": "1", "answer": "7", "choices": "['5', '7']", "answer_option": "B",
                           "answer_type": "text", "precision": "", "question_type": "multi_choice"},
        "MathVerse_MINI_Vision_Only": {"index": "2", "answer": "40°", "problem_index": "17", "category": "x",
                                       "problem_version": "Vision Only"},
        "OlympiadBench_EN": {"index": "3", "final_answer": "['$2.5$']", "answer_type": "Numerical", "error": "1e-1",
                             "source": "OE_TO_maths_en_COMP"},
        "MathVision": {"index": "4", "id": "2774", "answer": "A", "choices": "['a,b', \"it's\"]"},
    }  # fmt: skip
    for dataset, row in tables.items():
        dump(pd.DataFrame([common | row]), str(tmp_path / f"m_x_{dataset}.xlsx"))
    found = {a.benchmark: a for a in read_answers([tmp_path])}
    assert {a.arm for a in found.values()} == {"m_x"}
    assert found["mathvista_mini"].item == Item("1", "B", ("5", "7"), "text")
    assert found["mathverse"].item == Item("2", "40°")
    assert found["olympiadbench"].item == Item("3", "$2.5$", (), "Numerical", 0, "1e-1")
    assert found["mathvision"].item == Item("2774", "A", ("a,b", "it's"))
    verse, olympiad = found["mathverse"].row, found["olympiadbench"].row
    assert (verse.cluster, verse.category, verse.accuracy) == ("17", "Vision Only", None), "nobody scored it"
    assert (olympiad.category, olympiad.subsets) == ("OE_TO_maths_en_COMP", ("text_only",))


def test_an_imported_table_groups_its_items_as_the_evaluation_of_the_same_table_does(tmp_path, files, dump):
    """Category, subsets, cluster, options and gold of VLMEvalKit's own tables: our problems against the importer's rows."""
    tables = {"mathverse": "MathVerse_MINI", "mmstar": "MMStar", "olympiadbench": "OlympiadBench_EN"}
    tables |= {"mathvision": "MathVision", "mathvista_mini": "MathVista_MINI"}
    for name, table in tables.items():
        folder = tmp_path / name
        folder.mkdir()
        problems = {p.id: p for p in prepare(find(name), files, None, None, folder, any_data=True).problems}
        rows = pd.read_csv(files / f"{table}.tsv", sep="\t", dtype=str, keep_default_na=False)
        dump(rows.drop(columns="image").assign(prediction="B"), str(folder / f"m_{table}.tsv"))
        found = {str(a.row.doc_id): a for a in read_answers([folder / f"m_{table}.tsv"])}
        assert problems.keys() <= found.keys() and problems
        for id, p in problems.items():
            row = found[id].row
            assert (row.category, row.subsets, row.cluster) == (p.category, p.subsets, p.cluster), (name, id)
            if name != "mathverse":  # whose options stand in the text of the question
                assert row.doc.choices == p.choices and (not p.choices or row.target == p.answer)
            assert isinstance(found[id].item, Item)


@given(gold=st.sampled_from(["A", "(B)", " B ", "5", "7", "x"]), choices=st.lists(st.sampled_from("57xA"), max_size=10))
def test_a_gold_is_the_letter_of_the_right_option_or_stays_what_it_is(gold, choices):
    found = gold_of(gold, choices)
    bare = gold.strip(" ()")
    if choices and bare in ("A", "B"):
        assert found == bare
    elif choices.count(gold) == 1:
        assert choices["ABCDEFGHIJ".index(found)] == gold
    else:
        assert found == gold


def test_an_answer_is_right_or_wrong_where_the_verdicts_of_its_file_agree():
    assert [accuracy_of(v) for v in ({}, {"a": True, "b": True}, {"a": False}, {"a": True, "b": False})] == [
        None, 1.0, 0.0, None,
    ]  # fmt: skip


def test_episodes_of_games_are_no_answers_to_score(tmp_path):
    folder = tmp_path / "out" / "micro_sokoban"
    rows = sokoban.run(
        sokoban.scripted(sokoban.idle), generate(TINY, 2, seed=0), sokoban.SokobanEval(), 4, tmp_path / "x"
    )
    own_file(tmp_path / "out" / "micro_chain", [("a", "2", "2")])
    folder.mkdir()
    write_samples(folder / "samples.jsonl", rows)
    assert [a.benchmark for a in read_answers([tmp_path / "out"])] == ["micro_chain"]
    with pytest.raises(UserError, match="no stored answers found"):
        read_answers([folder])


def test_the_harness_own_file_beside_our_samples_is_a_copy(tmp_path):
    folder = tmp_path / "out" / "micro_count"
    own_file(folder, [("a", "2", "2")], benchmark="micro_count")
    pd.DataFrame([{"index": "0", "question": "q", "answer": "2", "prediction": "2"}]).to_csv(
        folder / "model_micro_count.tsv", sep="\t", index=False, quoting=csv.QUOTE_ALL
    )
    assert len(read_answers([tmp_path])) == 1
    (answer,) = read_answers([folder / "model_micro_count.tsv"])
    assert (answer.arm, answer.benchmark) == ("model", "micro_count")


@pytest.mark.skipif(not (DATA / "mathvision" / "outputs").is_dir(), reason="no LMMR1_DATA/mathvision/outputs")
def test_released_mathvision_outputs():
    answers = read_answers([DATA / "mathvision" / "outputs"], DATA)
    right = [
        sum(a.stored["stored:correct"] for a in answers if a.arm == arm) for arm in sorted({a.arm for a in answers})
    ]
    assert len(answers) == 6080 and right == [436, 442]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("mathvision_testmini", "mathvision_mini"), ("MathVision", "mathvision"), ("mathverse_testmini_vision", "mathverse"),
        ("MMStar", "mmstar"), ("olympiadbench_test_en", "olympiadbench"), ("minerva_math500", "math500"),
        ("micro_scene", "micro_scene"), ("Other_Task", "other_task"),
    ],
)  # fmt: skip
def test_names_of_tasks(task, name):
    assert benchmark_name(task) == name


def test_options_are_the_last_list_in_a_prompt():
    assert options_in("Example\nA. x\nB. y\n\nReal one\nA. 1\nB. 2\nC. 3\nAnswer:") == ["1", "2", "3"]
    assert options_in("No options here") == []


# ----------------------------------------------------------------------------------------------------- bad files


def broken(tmp_path: Path, case: str) -> Path:
    own = tmp_path / "out" / "b"
    if case == "truncated":
        file = own_file(own, [("a", "2", "2"), ("b", "3", "3")])
        file.write_text(file.read_text()[:-40])
    elif case == "own without responses":
        file = own_file(own, [("a", "2", "2")])
        write_jsonl(file, [{k: v for k, v in json.loads(file.read_text()).items() if k != "resps"}])
    elif case == "own first line":
        file = own_file(own, [("a", "2", "2")])
        file.write_text(file.read_text()[:-40])
    elif case == "nested":
        file = lm_eval_file(tmp_path, "m", lm_eval_samples([("a", "2", "2")]))
        file.write_text("[" * 100_000)
    elif case in ("nested table", "long number in a table"):
        file = tmp_path / "m_MMStar.json"
        file.write_text("[" * 100_000 if case == "nested table" else '[{"index": ' + "1" * 5000 + "}]")
    elif case == "long number":
        file = lm_eval_file(tmp_path, "m", lm_eval_samples([("a", "2", "2")]))
        file.write_text(file.read_text().replace('"doc_id": 0', '"doc_id": ' + "1" * 5000))
    elif case == "log-likelihood":
        row = lm_eval_samples([("a", "2", "2")])[0] | {"resps": [[[-1.5, False]]]}
        file = lm_eval_file(tmp_path, "m", [row])
    elif case == "lm-eval without target":
        file = lm_eval_file(tmp_path, "m", lm_eval_samples([("a", "2", "2")]))
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "target"}))
    elif case == "table without index":
        file = tmp_path / "m_MMStar.csv"
        pd.DataFrame([{"question": "q", "answer": "A", "prediction": "A"}]).to_csv(file, index=False)
    elif case == "no workbook":
        file = tmp_path / "m_MMStar.xlsx"
        file.write_bytes(b"not a workbook")
    elif case == "choices":
        file = tmp_path / "m_MathVision.csv"
        row = {"index": "0", "question": "q", "answer": "A", "prediction": "A", "choices": "__import__('os').getcwd()"}
        pd.DataFrame([row]).to_csv(file, index=False)
    elif case == "unnamed table":
        file = tmp_path / "answers.csv"
        pd.DataFrame([{"index": "0", "question": "q", "answer": "2", "prediction": "2"}]).to_csv(file, index=False)
    else:
        file = tmp_path / "notes.jsonl"
        file.write_text('{"text": "nothing of ours"}\n')
    return file


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("truncated", "samples.jsonl, line 2: not a sample (Expecting"),
        ("own without responses", "line 1: `resps`: Field required; run the evaluation again"),
        ("own first line", "samples.jsonl, line 1: not a sample (Expecting"),
        ("nested", "line 1: not JSON (nested too deeply"),
        ("nested table", "m_MMStar.json: cannot be read as a table (nested too deeply"),
        ("long number in a table", "m_MMStar.json: cannot be read as a table (Exceeds the limit (4300 digits)"),
        ("long number", "line 1: not JSON (Exceeds the limit (4300 digits)"),
        ("log-likelihood", "line 1: no response text"),
        ("lm-eval without target", "line 1: field `target` is missing; expected a row as lm-eval writes it"),
        ("table without index", "m_MMStar.csv: column `index` is missing"),
        ("no workbook", "m_MMStar.xlsx: cannot be read as a table"),
        ("choices", "m_MathVision.csv, row 2: `choices` must be a list of texts"),
        ("unnamed table", "answers.csv: cannot tell the model from the data set"),
        ("nothing", "notes.jsonl: no stored answers found"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, case, said):
    file = broken(tmp_path, case)
    with pytest.raises(UserError) as caught:
        read_answers([file])
    assert str(file) in str(caught.value) and said in str(caught.value)


def test_a_missing_folder_and_missing_problems(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_answers([tmp_path / "nowhere"])
    (tmp_path / "M.jsonl").write_text('{"id": "1", "response": "2"}\n')
    with pytest.raises(UserError, match="--data-root"):
        read_answers([tmp_path])


def test_the_same_run_twice_is_refused(tmp_path):
    for name in ("x", "y"):
        own_file(tmp_path / "out" / name, [("a", "2", "2")])
    with pytest.raises(UserError, match="give only one of the two files"):
        read_answers([tmp_path])
