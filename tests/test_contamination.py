"""Contract: a problem that stands in the training data is found, one that does not is not; a model that knows a problem
completes it."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evals.completion import INSTRUCTION, complete, cut, judge_completion
from evals.contamination import COMMON, MIN_WORDS, overlaps
from evals.generation import EvalModel, load_model
from evals.inputs import prepare
from evals.problems import Problem
from evals.registry import find
from evals.training_texts import TrainingText, training_texts, words
from lmmr1.exits import run_cli
from lmmr1.types import Rollout, UserError
from reports.exposure import KINDS, read_exposure
from reports.layout import parse_benchmarks
from reproduce import cli
from reproduce.micro.build import write_benchmark, write_prompts
from reproduce.micro.world import draw_benchmark, render

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))
LONG = "A train leaves the old station at noon and drives 60 miles towards the town; when does it arrive there?"
SHORT = "What is 17 * 23 + 4?"


def problem(text: str, id: str = "p", **more) -> Problem:
    return Problem(id, text, "1", **more)


def overlap(problems, *texts: str, n: int = 13):
    (found,) = overlaps({"x": problems}, [TrainingText(f"row {i}", text) for i, text in enumerate(texts)], n)
    return found


# ------------------------------------------------------------------------------------------------------- overlap


def test_a_copy_is_found_whatever_its_case_and_marks():
    found = overlap([problem(LONG)], "nothing", f"Solve this: {LONG.upper().replace(';', ' ,')} Now!")
    assert (found.problems, found.checked, found.shared, found.whole, found.rate) == (1, 1, 1, 1, 1.0)
    assert (found.examples[0].training, found.examples[0].share) == ("row 1", 1.0)


def test_a_part_of_13_words_is_enough_and_12_are_not():
    tokens = LONG.split()
    assert overlap([problem(LONG)], " ".join(tokens[2:15])).shared == 1
    assert overlap([problem(LONG)], " ".join(tokens[2:14]) + " ...").shared == 0
    assert 0 < overlap([problem(LONG)], " ".join(tokens[2:15])).examples[0].share < 1


def test_a_short_problem_is_one_run_and_operators_tell_problems_apart():
    assert overlap([problem(SHORT)], "Tell me: what is 17*23+4 ?").whole == 1
    assert overlap([problem(SHORT)], "What is 17 * 23 - 4?").shared == 0
    tiny = overlap([problem("Find x.")], "Find x.")
    assert (tiny.problems, tiny.checked, tiny.shared, tiny.rate) == (1, 0, 0, 0.0)


def test_phrases_of_the_benchmark_are_no_evidence():
    hint = "Please answer the question and give the letter of the right option at the very end: "
    problems = [problem(hint + f"problem number {i} about item {i} and {i}", str(i)) for i in range(COMMON + 1)]
    found = overlap(problems, hint + "something else")
    assert (found.checked, found.shared) == (COMMON + 1, 0)
    assert overlap(problems[:COMMON], hint + "something else").shared == COMMON


def test_several_benchmarks_read_the_training_data_once():
    texts = iter([TrainingText("a", LONG), TrainingText("b", SHORT)])
    first, second = overlaps(
        {"one": [problem(LONG)], "two": [problem(SHORT), problem("Why is the sky so blue?", "q")]}, texts
    )
    assert (first.rate, second.rate) == (1.0, 0.5) and next(texts, None) is None


@given(st.lists(st.sampled_from(["red", "green", "blue", "one", "two"]), min_size=MIN_WORDS, max_size=30), st.text())
def test_a_problem_inside_any_text_is_found(tokens, around):
    text = " ".join(tokens)
    assert overlap([problem(text)], f"{around}\n. {text} .\n{around}").whole == 1


@pytest.fixture
def pictures(tmp_path):
    """Four different pictures of the micro world, and the first one as a JPEG of another size."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, (path, item) in enumerate(zip(paths, draw_benchmark("micro_scene", 4, 0), strict=True)):
        render(item, f"test-{i}").save(path)
    with Image.open(paths[0]) as image:
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(tmp_path / "again.jpg")
    return [*paths, tmp_path / "again.jpg"]


def test_a_problem_with_a_picture_is_its_words_and_its_picture(pictures):
    first, second, third, fourth, again = pictures
    asked = "count red + blue in the picture = ?"
    problems = [problem(asked, "a", images=(first,)), problem(asked, "b", images=(second,)), problem(LONG, "c")]
    rows = [
        TrainingText("other picture", asked, (third,)),
        TrainingText("no picture", asked),
        TrainingText("other words", "which one is largest", (second,)),
    ]
    (found,) = overlaps({"x": problems}, rows)
    assert (found.shared, found.words_only, found.words_checked) == (0, 2, 2)
    assert (found.same_picture, found.near_picture, found.pictured, found.checked) == (1, 0, 2, 3)
    (found,) = overlaps({"x": problems}, [*rows, TrainingText("a copy", f"Now: {asked}", (fourth, again))])
    assert (found.shared, found.near, found.whole, found.words_only) == (1, 1, 1, 1)
    assert (found.same_picture, found.near_picture) == (1, 1)
    assert [(e.problem, e.training) for e in found.examples] == [("a", "a copy")]
    (found,) = overlaps({"x": problems}, [*rows, TrainingText("itself", asked, (second,))])
    assert (found.shared, found.near, found.examples[0].training) == (1, 0, "itself")
    with pytest.raises(UserError, match="none.png cannot be read"):
        overlaps({"x": problems}, [TrainingText("row", "", (first.with_name("none.png"),))])


def test_beside_its_picture_few_words_and_phrases_tell_a_problem(pictures):
    """A text of less than six words, or one that every problem has, says nothing alone."""
    few = [problem("Find x.", "a", images=(pictures[0],))]
    (found,) = overlaps({"x": few}, [TrainingText("row", "Please find x", (pictures[0],))])
    assert (found.checked, found.shared, found.words_checked) == (1, 1, 0)
    (found,) = overlaps({"x": few}, [TrainingText("row", "Find y", (pictures[0],))])
    assert (found.shared, found.same_picture) == (0, 1)
    phrase = "give the number of all red ones in it"
    many = [problem(phrase, str(i), images=(pictures[i % 2],)) for i in range(COMMON + 2)]
    (found,) = overlaps({"x": many}, [TrainingText("row", phrase, (pictures[0],))])
    assert (found.shared, found.words_only, found.words_checked) == (len(many) // 2, 0, 0)


def test_the_micro_world_asks_the_same_words_of_other_pictures(tmp_path):
    """Its tests are no training prompts; a picture and question moved there are found, as they are or stored again."""
    write_benchmark("micro_scene", 60, 0, tmp_path / "micro_scene.tsv")
    write_prompts({"scene": 1.0}, 120, 0, tmp_path / "train.jsonl")
    problems = prepare(find("micro_scene"), None, tmp_path, None, tmp_path).problems
    texts = list(training_texts(tmp_path / "train.jsonl"))
    (found,) = overlaps({"micro_scene": problems}, texts)
    assert (found.shared, found.same_picture, found.near_picture, found.checked) == (0, 0, 0, 60)
    assert found.words_only > 5
    moved = [TrainingText("moved", problem.question, problem.images) for problem in problems[:7]]
    (found,) = overlaps({"micro_scene": problems}, [*texts, *moved])
    assert (found.shared, found.whole, found.same_picture) == (7, 7, 7)


def test_too_short_runs_are_refused():
    with pytest.raises(UserError, match="--words 3"):
        overlap([problem(LONG)], LONG, n=3)


# ---------------------------------------------------------------------------------------------------- training files


def test_training_files_of_every_form(tmp_path):
    content = [{"type": "image", "image": "i.png"}, {"type": "text", "text": "look"}]
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": content}]
    rows = [
        {"messages": messages}, {"message": json.dumps(messages)}, {"message": repr(messages)}, {"problem": "p"},
        {"question": "q"}, {"messages": [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "no"}]},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.jsonl", "a.json"):
        found = list(training_texts(tmp_path / name))
        assert [text.text for text in found] == ["look", "look", "look", "p", "q", "plain"]
        assert found[0] == TrainingText(f"{name}, row 1", "look", (tmp_path / "i.png",))
    plain = [{"question": "q", "image": "a.png"}, {"question": "q", "images": ["a.png", "b.png"]}, {"question": "q"}]
    (tmp_path / "b.json").write_text(json.dumps(plain))
    names = [[image.name for image in text.images] for text in training_texts(tmp_path / "b.json")]
    assert names == [["a.png"], ["a.png", "b.png"], []]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "q"}\n{"quest', "not JSON"),
        ("[1]", "row 1: expected an object"),
        ('{"answer": "1"}', "row 1: no prompt; expected `messages` or one of question"),
        ('{"messages": [{"role": "user"}]}', "row 1: `messages` must be chat messages"),
        ('{"question": "q", "image": {"bytes": ""}}', "row 1: an image must be the name of a file"),
        ('{"message": "__import__(1)"}', "row 1: `message` is neither JSON nor a literal"),
        (None, "cannot be read"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_bad_training_file_is_named(tmp_path, text, said):
    file = tmp_path / "train.jsonl"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        list(training_texts(file))
    assert "train.jsonl" in str(caught.value) and said in str(caught.value)


# ------------------------------------------------------------------------------------------------------ completion


class Knowing:
    """An engine that knows some problems by heart and says `no idea` to the others."""

    def __init__(self, known: list[str]) -> None:
        self.rests = {INSTRUCTION.format(start=start): rest for start, rest in (cut(text, 0.6) for text in known)}

    def generate(self, samples, sampling, num_generations, seed):
        texts = [self.rests.get(sample.messages[-1]["content"], "no idea") + " and so on" for sample in samples]
        return [(Rollout(s.id, (1,), (0.0,), text, "length"),) for s, text in zip(samples, texts, strict=True)]


def test_known_problems_are_completed_and_others_are_not():
    model = EvalModel(Knowing([LONG]), lambda s: "", "stub", "float32", None, None)
    found = complete(model, "x", [problem(LONG, "known"), problem(SHORT, "unknown"), problem("One", "uncut")])
    assert (found.problems, found.exact, [row.exact for row in found.rows]) == (2, 0.5, [True, False])
    assert found.rows[0].rouge_l == 1 and found.rows[1].rouge_l == 0 and found.rouge_l == 0.5


def test_a_continuation_is_compared_over_as_many_words_as_were_expected():
    assert judge_completion("p", "x + 2 apples", "X + 2 apples. Then more").exact
    near = judge_completion("p", "a b c d", "a x c d e f")
    assert not near.exact and near.rouge_l == pytest.approx(0.75) and near.got == "a x c d"
    assert judge_completion("p", "a b", "").rouge_l == 0


@given(st.text(max_size=200))
def test_cutting_loses_no_word(text):
    start, rest = cut(text, 0.6)
    assert words(start) + words(rest) == words(f"{start} {rest}")
    assert (start + rest).split() == [] or "".join((start + rest).split()) == "".join(text.split())


def test_a_real_model_is_asked_through_its_engine(tiny_model):
    found = complete(
        load_model(str(tiny_model)), "x", [problem("give 3-3+0+1=? find 2+5-2=?"), problem("give count green ?", "b")]
    )
    assert found.problems == 2 and 0 <= found.rouge_l <= 1 and found.exact == 0


def test_nothing_to_complete_is_an_error():
    with pytest.raises(UserError, match="no problem can be cut in two"):
        complete(EvalModel(Knowing([]), lambda s: "", "stub", "float32", None, None), "x", [problem("One")])


# ------------------------------------------------------------------------------------------------------- command


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lmmr1", "contamination", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_cli(cli.cli)
    return caught.value.code or 0


def test_the_command_writes_rates_per_benchmark(tmp_path, capsys, monkeypatch, tiny_model):
    rows = [{"id": f"b{i}", "question": f"give {i}+{i}-3+1=?", "answer": "1", "category": "c"} for i in range(4)]
    (tmp_path / "micro_chain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"question": "Do: give 2+2-3+1=? now"}) + "\n")
    arguments = [
        "--train",
        str(train),
        "--benchmarks",
        "micro_chain",
        "--benchmark-dir",
        str(tmp_path),
        "--model",
        str(tiny_model),
    ]
    assert run(monkeypatch, *arguments, "--out", str(tmp_path / "c.json")) == 0
    said = capsys.readouterr().out
    assert "micro_chain b2 = train.jsonl, row 1, 100 %: give 2 + 2 - 3 + 1 =" in said
    result = json.loads((tmp_path / "c.json").read_text())
    cell = result["benchmarks"]["micro_chain"]
    assert cell["overlap"]["rate"] == 0.25 and cell["overlap"]["whole"] == 1 and cell["completion"]["problems"] == 4
    assert result["train"] == {str(train): hashlib.sha256(train.read_bytes()).hexdigest()[:16]}
    assert run(monkeypatch, *arguments, "--json") == 0 and json.loads(capsys.readouterr().out) == result


def test_benchmarks_whose_files_are_not_there_are_named_and_block_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    write_benchmark("micro_chain", 6, 0, tmp_path / "micro_chain.jsonl")
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": LONG}) + "\n")
    names = "micro_chain,micro_count,mathvista_mini,gpqa_diamond"
    arguments = ["--train", str(tmp_path / "train.jsonl"), "--benchmarks", names, "--benchmark-dir", str(tmp_path)]
    assert run(monkeypatch, *arguments, "--if-there", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["benchmarks"]) == {"micro_chain"}
    assert result["not_checked"]["micro_count"] == "no file micro_count.tsv"
    assert result["not_checked"]["mathvista_mini"] == "no file MathVista_MINI.tsv"
    assert "Idavidrein/gpqa" in result["not_checked"]["gpqa_diamond"]
    shown = ["--data-root", str(tmp_path), "--out", str(tmp_path / "c.json"), "--if-there"]
    assert run(monkeypatch, *arguments, *shown) == 0
    assert "gpqa_diamond: not checked, no file gpqa_diamond.csv" in capsys.readouterr().out
    rows = read_exposure(tmp_path / "c.json", parse_benchmarks(["micro_chain", "micro_count"]))
    assert rows["rows"] == [(KINDS["overlap"], ["0.0 (0/6)", "", *[""] * (len(rows["rows"][0][1]) - 2)])]
    assert rows["note"].endswith("Not checked, their files were not there: micro_count")
    assert run(monkeypatch, *arguments) == 2  # without --if-there it is an error
    (tmp_path / "MathVista_MINI.tsv").write_text("index\timage\tquestion\n")
    assert run(monkeypatch, *arguments, *shown) == 2  # a damaged file is there
    assert "MathVista_MINI.tsv" in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "math500").is_dir(), reason="no LMMR1_DATA/math500")
def test_real_problems_leak_into_themselves_and_hardly_into_grade_school(capsys, monkeypatch):
    def rate(train: str) -> float:
        assert (
            run(
                monkeypatch, "--train", str(DATA / train), "--benchmarks", "math500", "--data-root", str(DATA), "--json"
            )
            == 0
        )
        return json.loads(capsys.readouterr().out)["benchmarks"]["math500"]["overlap"]["rate"]

    assert rate("math500/math500.json") == 1.0 and rate("gsm8k/train.jsonl") < 0.02


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmarks", "math500"], "give --train FILE, --model CHECKPOINT, or both"),
        (["--benchmarks", "maths", "--train", "t.jsonl"], "benchmark 'maths' is not known"),
        (["--benchmarks", " ", "--train", "t.jsonl"], "--benchmarks: give at least one name"),
        (["--benchmarks", "math500", "--train", "t", "--out", "no/where.json"], "--out: there is no folder no"),
    ],
)
def test_bad_arguments(capsys, monkeypatch, arguments, said):
    assert run(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err
