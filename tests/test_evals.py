"""Evaluation, end to end through both harnesses with an engine whose answers are known, and every bad input."""

import base64
import csv
import io
import json
import logging
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evals.generation import EvalModel, generate_all, greedy, load_model
from evals.images import write_once
from evals.inputs import mathvision_question, prepare
from evals.records import EvalRecord, Protocol, read_records, write_records
from evals.registry import find, load_registry, registry
from evals.run import Options, check_inputs, evaluate, identify, main, plan, run_jobs
from evals.samples import SampleRow, read_samples
from evals.scoring import score_response
from lmmr1.types import Rollout, Sample, UserError

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))

HOSTILE = [
    "\0null\0bytes\0",
    "x" * 1_000_000,
    "<script>alert(1)</script>",
    "tab\there\nnew\r\nline\rreturn",
    'quote " double "" and \'single\'',
    "NA",
    "007",
    "1e3",
    "=cmd|' /C calc'!A0",
    "",
    "lone \ud800 surrogate",
    "__import__('os').system('touch CANARY')",
    "<answer>__import__('os').system('touch CANARY')</answer>",
    "\\boxed{" * 5000,
    "<think>a</think><answer>" + "[" * 5000 + "</answer>",
]


class StubEngine:
    """Answers by the question's text; counts its calls."""

    def __init__(self, answers=None):
        self.answers, self.batches = answers or {}, []

    def generate(self, samples, sampling, num_generations, seed):
        self.batches.append(len(samples))
        return [(self._rollout(sample),) for sample in samples]

    def _rollout(self, sample):
        text = self.answers.get(text_of(sample), f"<think>t</think><answer>{text_of(sample)}</answer>")
        return Rollout(sample.id, (1, 2, 3), (0.0, 0.0, 0.0), text, "stop")


def text_of(sample: Sample) -> str:
    content = sample.messages[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def stub_model(answers=None) -> EvalModel:
    return EvalModel(StubEngine(answers), lambda s: json.dumps(s.messages), "stub/cpu", "float32", None, 50176)


def png(colour: int, size=(28, 28)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 20, 200 - colour)).save(buffer, format="PNG")
    return buffer.getvalue()


def jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tsv(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def text_rows(n=6):
    return [{"id": f"t{i}", "question": str(i), "answer": str(i % 4), "category": f"c{i % 2}"} for i in range(n)]


def image_rows(n=6):
    images = [base64.b64encode(png(i)).decode() for i in range(n)]
    return [
        {"index": i, "image": images[i], "question": f"q{i}", "answer": str(i % 3), "category": f"c{i % 2}"}
        for i in range(n)
    ]


def run_stub(folder: Path, name: str, model: EvalModel, out: Path, *, checkpoint="k1", batch_size=4, **inputs):
    options = Options.of(batch_size=batch_size, **{"benchmark_dir": folder} | inputs)
    return run_jobs(lambda: model, plan([name], folder, options), out, options, checkpoint)


def samples_of(out: Path, name: str) -> list[SampleRow]:
    return list(read_samples(out / name / "samples.jsonl"))


# ------------------------------------------------------------------------------------------------ records, registry


def a_protocol(**changes) -> Protocol:
    values = dict.fromkeys(Protocol.__dataclass_fields__, "x") | {"decoding": {"temperature": 0.0}, "min_pixels": None}
    return Protocol(**values | changes)


def test_records_survive_a_round_trip_and_bad_files_are_refused(tmp_path):
    records = [EvalRecord("b", subset, "accuracy", 0.5, 0.1, 4, "k", a_protocol(), "s.jsonl") for subset in "ab"]
    write_records(tmp_path / "deep" / "record.json", records)
    assert read_records(tmp_path / "deep" / "record.json") == records
    assert a_protocol().hash != a_protocol(scorer_version="y").hash
    (tmp_path / "bad.json").write_text('[{"benchmark"')
    for name in ("bad.json", "none.json"):
        with pytest.raises(UserError, match=name):
            read_records(tmp_path / name)


def test_registry_knows_its_benchmarks_and_refuses_everything_else(tmp_path):
    assert {"micro_chain", "micro_most", "math500", "mathvision_mini"} <= set(registry())
    with pytest.raises(UserError, match=r"'micro_chian' is not known; known: micro_chain, .*mathvision"):
        find("micro_chian")
    good = "harness: lm_eval, title: T, group: text, metric: accuracy, max_new_tokens: 8, prompt: none, source: micro"
    for bad in (good + ", judge: gpt", good.replace("lm_eval", "lmms"), good.replace("8", "0"), "a: [", "[1]"):
        (tmp_path / "r.yaml").write_text("b: {" + bad + "}")
        with pytest.raises(UserError, match=r"r\.yaml"):
            load_registry(tmp_path / "r.yaml")


def test_registry_and_command_line_import_nothing_heavy():
    heavy = "[m for m in ('torch', 'transformers', 'vlmeval', 'lm_eval') if m in sys.modules]"
    code = f"import sys, evals.registry, evals.records, evals.run, reproduce.prepare; sys.exit(', '.join({heavy}) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------- bad inputs

GOOD_LINE = b'{"id": "a", "question": "q", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no problems"),
        (b"\n\n", "no problems"),
        (GOOD_LINE + b'{"id": "b", "que', "line 2: not JSON"),
        (GOOD_LINE + GOOD_LINE.replace(b'"a"', b'"\xff"'), "line 2: not UTF-8"),
        (GOOD_LINE + b"[1]\n", "line 2: expected an object"),
        (GOOD_LINE + b'{"id": "b", "question": "q"}\n', "line 2: `answer`"),
        (GOOD_LINE + b'{"id": "b", "question": " ", "answer": "1"}\n', "line 2: `question`"),
        (GOOD_LINE + b'{"id": 7, "question": "q", "answer": "1"}\n', "line 2: `id`"),
        (GOOD_LINE + b"\n" + GOOD_LINE, "line 3: id 'a' stands twice"),
        (GOOD_LINE + b'{"id": "b", "question": "q", "answer": "1", "category": 3}\n', "line 2: `category`"),
    ],
)
def test_bad_text_files_are_refused_with_file_and_line(tmp_path, raw, message):
    (tmp_path / "micro_chain.jsonl").write_bytes(raw)
    with pytest.raises(UserError, match=rf"micro_chain\.jsonl.*{message}"):
        prepare(find("micro_chain"), None, tmp_path, None, tmp_path)


def broken_tsv(rows, **changes) -> bytes:
    rows[1] |= changes
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "line 1: column 'index' is missing"),
        (b"index\timage\tquestion\tanswer\n", "no problems"),
        (broken_tsv(image_rows(2))[:-12], r"line 3: (expected 5 cells|`answer`|not a TSV|`image`)"),
        (broken_tsv(image_rows(2), question='"') + b'"cut', "line 4: .*truncated"),
        (broken_tsv(image_rows(2)).replace(b"q1", b"\xff"), "line 3: not UTF-8"),
        (broken_tsv(image_rows(2), image="no base64!"), "line 3: `image` is not base64"),
        (broken_tsv(image_rows(2), image=base64.b64encode(b"text").decode()), "line 3: `image` is not a readable"),
        (
            broken_tsv(image_rows(2), image=base64.b64encode(png(1, (200, 200))[:-40]).decode()),
            "line 3: `image` is not",
        ),
        (broken_tsv(image_rows(2), index=0), "line 3: id '0' stands twice"),
    ],
)
def test_bad_tables_are_refused_with_file_and_line(tmp_path, raw, message):
    (tmp_path / "micro_drawn.tsv").write_bytes(raw)
    with pytest.raises(UserError, match=rf"micro_drawn\.tsv.*{message}"):
        prepare(find("micro_drawn"), None, tmp_path, None, tmp_path)


def test_bad_real_data_is_refused_with_file_and_line(tmp_path):
    (tmp_path / "math500").mkdir()
    (tmp_path / "mathvision" / "images").mkdir(parents=True)
    math, vision = tmp_path / "math500" / "math500.json", tmp_path / "mathvision" / "testmini.jsonl"
    with pytest.raises(UserError, match=r"math500\.json: no such"):
        prepare(find("math500"), tmp_path, None, None, tmp_path)
    for raw, message in {
        '[\n{"problem":': "line 2: not JSON",
        "{}": "line 1: expected a JSON list",
        "[3]": "row 1",
    }.items():
        math.write_text(raw)
        with pytest.raises(UserError, match=rf"math500\.json, {message}"):
            prepare(find("math500"), tmp_path, None, None, tmp_path)
    row = {
        "id": "4",
        "question": "q\n<image1>",
        "options": [],
        "answer": "6",
        "subject": "counting",
        "image": "images/4.jpg",
    }
    jsonl(vision, [row])
    with pytest.raises(UserError, match=r"testmini\.jsonl, line 1: image .*4\.jpg cannot be read"):
        prepare(find("mathvision_mini"), tmp_path, None, None, tmp_path)
    (tmp_path / "mathvision" / "images" / "4.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"testmini\.jsonl, line 1: image .*4\.jpg is not a readable image"):
        prepare(find("mathvision_mini"), tmp_path, None, None, tmp_path)
    jsonl(vision, [row | {"options": "A"}])
    with pytest.raises(UserError, match=r"line 1: `options`"):
        prepare(find("mathvision_mini"), tmp_path, None, None, tmp_path)


def test_inputs_are_checked_before_the_model_is_loaded(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("evals.run.load_model", lambda *_: pytest.fail("loaded"))
    here = Options.of(benchmark_dir=tmp_path)
    for call in (
        lambda: evaluate(str(tiny_model), ["micro_chain"], tmp_path / "out", here),
        lambda: check_inputs(str(tiny_model), ["micro_chain"], here),
    ):
        with pytest.raises(UserError, match=r"micro_chain\.jsonl"):
            call()
    with pytest.raises(UserError, match="--benchmark-dir"):
        evaluate(str(tiny_model), ["micro_chain"], tmp_path / "out", Options.of())
    jsonl(tmp_path / "micro_chain.jsonl", text_rows())
    with pytest.raises(UserError, match="no such checkpoint folder"):
        evaluate("no/such/model", ["micro_chain"], tmp_path / "out", here)
    with pytest.raises(UserError, match="not a checkpoint folder"):
        evaluate(str(tmp_path), ["micro_chain"], tmp_path / "out", here)
    with pytest.raises(UserError, match="no commit of it found on the Hugging Face Hub"):
        check_inputs("no-such-owner/model", ["micro_chain"], here)
    for bad in ({"limit": 0}, {"max_new_tokens": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="at least 1"):
            Options.of(benchmark_dir=tmp_path, **bad)
    assert not (tmp_path / "out").exists()


def test_main_exits_with_2_and_a_message(tmp_path, capsys):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows())
    manifest = tmp_path / "m.json"
    base = ["--harness", "lm_eval", "--out", str(tmp_path / "out"), "--benchmark-dir", str(tmp_path), "--manifest"]
    for text, benchmark, message in [
        ("{", "micro_chain", "not a manifest"),
        ('{"key": 1, "weights": "w"}', "micro_chain", "must be a text"),
        ('{"key": "k", "weights": "gone"}', "micro_chain", "no folder here"),
        ('{"key": "k", "weights": "a/b"}', "micro_drawn", "runs on vlmevalkit"),
        ('{"key": "k", "weights": "a/b"}', "nope", "not known"),
    ]:
        manifest.write_text(text)
        assert main([*base, str(manifest), "--benchmarks", benchmark]) == 2
        assert message in capsys.readouterr().err
    assert main([*base, str(manifest), str(manifest), "--benchmarks", "micro_chain"]) == 2


def test_main_evaluates_every_manifest_and_prints_what_came_out(tmp_path, tiny_model, capsys):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(4))
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"key": "key-of-the-run", "weights": str(tiny_model)}))
    outs = [str(tmp_path / "one"), str(tmp_path / "two")]
    arguments = ["--harness", "lm_eval", "--manifest", str(manifest), str(manifest), "--out", *outs]
    arguments += ["--benchmarks", "micro_chain", "--benchmark-dir", str(tmp_path), "--max-new-tokens", "4"]
    assert main([*arguments, "--prompt", "cot", "--batch-size", "2"]) == 0
    assert capsys.readouterr().out.count("key-of-the-r micro_chain: accuracy 0.0000") == 2
    one, two = (read_records(Path(out) / "micro_chain" / "record.json") for out in outs)
    assert one == two and (one[0].protocol.prompt, one[0].protocol.batch_size) == ("cot", 2)


# ---------------------------------------------------------------------------------------------------------- scoring


def test_one_response_is_judged_by_the_verifier():
    long_solution = "We compute! " * 1000 + "\\boxed{\\frac{3}{4}}"
    assert score_response(long_solution, "0.75").accuracy == 1.0
    assert score_response("<think>4</think><answer>3</answer>", "3").accuracy == 1.0
    assert score_response("<think>x</think><answer>4</answer>", "3").accuracy == 0.0


def test_choices_accept_letter_text_and_equal_value():
    choices = ["3/11", "8/11", "6/11", "3/5"]
    for response, right in {
        "<answer>D</answer>": 1,
        "<answer>3/5</answer>": 1,
        "\\boxed{0.6}": 1,
        "B": 0,
        "0.5": 0,
    }.items():
        assert score_response(response, "D", choices).accuracy == right


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_gets_a_score_and_is_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for choices in ((), ("x", "y")):
        assert score_response(text, "A", choices).accuracy == 0.0
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- generation


def test_batches_are_of_similar_length_and_answers_come_back_in_order():
    samples = [Sample(str(i), [{"role": "user", "content": "x" * (i * 7 % 50)}], (), "") for i in range(23)]
    model = stub_model()
    rollouts = generate_all(model, samples, greedy(8), batch_size=5)
    assert [r.sample_id for r in rollouts] == [s.id for s in samples]
    assert model.engine.batches == [5, 5, 5, 5, 3]
    model = stub_model()
    long = [replace(s, messages=[{"role": "user", "content": "x" * 2**18}]) for s in samples[:4]]
    generate_all(model, long, greedy(8), batch_size=4)
    assert model.engine.batches == [1, 1, 1, 1], "the token budget counts"


# -------------------------------------------------------------------------------------------------------- harnesses


def test_lm_eval_scores_what_the_engine_said(tmp_path):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(6))
    model = stub_model({"1": "no tags", "2": "<think>x</think><answer>2.0</answer>"})
    records = run_stub(tmp_path, "micro_chain", model, tmp_path / "out")
    # 0, 2 and 3 are right; 1 has no answer; 4 and 5 have the golds 0 and 1.
    assert [(r.subset, r.value, r.n) for r in records] == [("all", 0.5, 6), ("c0", 2 / 3, 3), ("c1", 1 / 3, 3)]
    assert records[0].stderr == pytest.approx((0.25 / 6) ** 0.5)
    rows = samples_of(tmp_path / "out", "micro_chain")
    assert [row.accuracy for row in rows] == [1, 0, 1, 1, 0, 0]
    assert [row.format for row in rows] == [1, 0, 1, 1, 1, 1]
    assert rows[2].filtered_resps == ("2.0",) and rows[2].response == "<think>x</think><answer>2.0</answer>"
    assert {(row.length, row.finish) for row in rows} == {(3, "stop")}
    results = json.loads((tmp_path / "out" / "micro_chain" / "lm_eval_results.json").read_text())
    assert results["results"]["micro_chain"]["accuracy,none"] == 0.5
    protocol = records[0].protocol
    assert (protocol.harness, protocol.prompt, protocol.judge, protocol.max_pixels) == ("lm_eval", "none", None, 50176)
    assert protocol.decoding == {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "max_new_tokens": 64}
    assert (protocol.protocol, protocol.batch_size, protocol.data_pin) == ("rule", 4, "none")
    assert json.loads((tmp_path / "out" / "timing.json").read_text())["micro_chain"]["samples"] == 6


def test_vlmevalkit_scores_what_the_engine_said(tmp_path):
    tsv(tmp_path / "micro_drawn.tsv", image_rows(6))
    answers = {f"q{i}": f"<think>t</think><answer>{i}</answer>" for i in range(6)}
    model = stub_model(answers | {"q1": "no tags"})
    records = run_stub(tmp_path, "micro_drawn", model, tmp_path / "out")
    assert [(r.subset, r.value, r.n) for r in records] == [("all", 1 / 3, 6), ("c0", 2 / 3, 3), ("c1", 0.0, 3)]
    rows = samples_of(tmp_path / "out", "micro_drawn")
    assert [row.accuracy for row in rows] == [1, 0, 1, 0, 0, 0]
    assert len({row.prompt_hash for row in rows}) == 6
    assert model.engine.batches == [4, 2], "one pass in batches, nothing generated twice"
    files = {path.name for path in (tmp_path / "out" / "micro_drawn").iterdir()}
    assert {"model_micro_drawn.tsv", "model_micro_drawn_acc.csv", "record.json", "samples.jsonl"} <= files
    assert not any(name.endswith(".pkl") for name in files)
    assert records[0].protocol.harness == "vlmevalkit"


def test_equal_samples_files_and_relative_contents_in_two_runs(tmp_path):
    tsv(tmp_path / "micro_drawn.tsv", image_rows(4))
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(4))
    for name in ("micro_drawn", "micro_chain"):
        for out, batch_size in (("one", 1), ("two", 4)):
            (tmp_path / out).mkdir(exist_ok=True)
            run_stub(tmp_path, name, stub_model(), tmp_path / out, batch_size=batch_size)
        first, second = ((tmp_path / out / name / "samples.jsonl").read_bytes() for out in ("one", "two"))
        assert first == second and str(tmp_path).encode() not in first
        one, two = (read_records(tmp_path / out / name / "record.json") for out in ("one", "two"))
        assert [replace(r, protocol=replace(r.protocol, batch_size=4)) for r in one] == two


def test_done_work_is_not_repeated_and_other_work_is(tmp_path):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(6))
    out = tmp_path / "out"

    def calls(checkpoint="k1", **settings) -> int:
        model = stub_model()
        run_stub(tmp_path, "micro_chain", model, out, checkpoint=checkpoint, **settings)
        return sum(model.engine.batches)

    assert [calls(), calls(), calls(batch_size=2), calls()] == [6, 0, 6, 6], "the batch size is part of the protocol"
    assert [calls("k2"), calls("k2", limit=4), calls("k2", limit=4), calls("k2", limit=5)] == [6, 4, 0, 5]
    assert calls("k2", max_new_tokens=9) == 6
    jsonl(tmp_path / "micro_chain.jsonl", [*text_rows(5), text_rows(6)[5] | {"answer": "9"}])
    assert calls("k2", max_new_tokens=9) == 6, "other data"
    (out / "micro_chain" / "record.json").write_text("[")
    assert calls("k2", max_new_tokens=9) == 6
    assert sorted(p.name for p in out.iterdir()) == ["micro_chain", "timing.json"]


def test_a_failed_run_leaves_no_result(tmp_path):
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(3))
    model = stub_model()
    model.engine.generate = lambda *a: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        run_stub(tmp_path, "micro_chain", model, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["timing.json"]


@pytest.mark.parametrize("name", ["micro_chain", "micro_drawn"])
def test_hostile_answers_survive_the_harness(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = len(HOSTILE)
    rows = image_rows(n) if name == "micro_drawn" else text_rows(n)
    for i, row in enumerate(rows):
        row["question"] = f"h{i}"
    (tsv if name == "micro_drawn" else jsonl)(tmp_path / find(name).file_name, rows)
    run_stub(tmp_path, name, stub_model({f"h{i}": text for i, text in enumerate(HOSTILE)}), tmp_path / "out")
    found = [row.response for row in samples_of(tmp_path / "out", name)]
    assert found == [text.replace("\ud800", "?") for text in HOSTILE]
    assert not list(tmp_path.rglob("CANARY"))


def test_hostile_rows_are_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "[__import__('pathlib').Path('CANARY').touch()]"
    rows = image_rows(3)
    rows[0] |= {"index": evil, "question": evil, "answer": evil, "category": evil}
    rows[1] |= {"index": "007", "question": str(tmp_path), "answer": "NA"}
    rows[2] |= {"index": "1e3", "question": "{{ 7 * 7 }} https://example.org/a.png", "answer": "12.50"}
    tsv(tmp_path / "micro_drawn.tsv", rows)
    run_stub(tmp_path, "micro_drawn", stub_model(), tmp_path / "out")
    jsonl(tmp_path / "micro_chain.jsonl", [{**row, "id": str(row["index"])} for row in rows])
    run_stub(tmp_path, "micro_chain", stub_model(), tmp_path / "out")
    for name in ("micro_drawn", "micro_chain"):
        got = samples_of(tmp_path / "out", name)
        assert [r.doc.id for r in got] == [str(row["index"]) for row in rows]
        assert [r.doc.question for r in got] == [row["question"] for row in rows]
        assert [r.target for r in got] == [row["answer"] for row in rows]
        assert [r.filtered_resps[0] for r in got] == [row["question"] for row in rows]
    assert not list(tmp_path.rglob("CANARY"))


def test_importing_vlmevalkit_changes_nothing_in_the_process():
    context, handlers = ssl._create_default_https_context, list(logging.root.handlers)
    import evals.vlmevalkit

    assert ssl._create_default_https_context is context and logging.root.handlers == handlers
    with evals.vlmevalkit.environment(LMMR1_TEST="1", PATH=None):
        assert os.environ["LMMR1_TEST"] == "1" and "PATH" not in os.environ
    assert "LMMR1_TEST" not in os.environ and "PATH" in os.environ


def test_a_short_image_cell_names_another_row_and_a_file_is_written_once(tmp_path):
    rows = image_rows(3)
    rows[2]["image"] = "0"
    tsv(tmp_path / "micro_drawn.tsv", rows)
    problems = prepare(find("micro_drawn"), None, tmp_path, None, tmp_path).problems
    assert problems[2].images == problems[0].images != problems[1].images
    before = problems[0].images[0].stat().st_mtime_ns
    assert write_once(problems[0].images[0], b"other").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------- real model and data


@pytest.mark.parametrize("name", ["micro_chain", "micro_drawn"])
def test_batch_size_and_row_order_do_not_change_answers(tmp_path, tiny_model, name):
    rows = image_rows(9) if name == "micro_drawn" else text_rows(9)
    for i, row in enumerate(rows):
        row["question"] = f"find {i}+{i * i}" + " give" * (i % 4) + "=?"
    model, by_id = load_model(str(tiny_model)), []
    assert (model.backend, model.dtype, model.max_pixels) == ("PackedEngine/cpu", "float32", 64 * 28 * 28)
    for case, (order, batch_size) in enumerate([(1, 1), (1, 4), (-1, 9)]):
        folder = tmp_path / str(case)
        folder.mkdir()
        (tsv if name == "micro_drawn" else jsonl)(folder / find(name).file_name, rows[::order])
        run_stub(folder, name, model, folder / "out", batch_size=batch_size, max_new_tokens=12)
        by_id.append({row.doc.id: row.resps for row in samples_of(folder / "out", name)})
    assert by_id[0] == by_id[1] == by_id[2] and len(by_id[0]) == 9


def test_evaluate_one_model_on_both_harnesses(tmp_path, tiny_model):
    tsv(tmp_path / "micro_drawn.tsv", image_rows(5))
    jsonl(tmp_path / "micro_chain.jsonl", text_rows(5))
    names, out = ["micro_drawn", "micro_chain"], tmp_path / "out"
    options = Options.of(limit=3, benchmark_dir=tmp_path, batch_size=2, max_new_tokens=6)
    records = evaluate(str(tiny_model), names, out, options)
    assert [(r.benchmark, r.n) for r in records if r.subset == "all"] == [("micro_drawn", 3), ("micro_chain", 3)]
    assert {r.checkpoint for r in records} == {identify(str(tiny_model)).key}
    assert all(row.length <= 6 for name in names for row in samples_of(out, name))
    check_inputs(str(tiny_model), names, options)


@pytest.mark.skipif(not (DATA / "mathvision").is_dir(), reason="no LMMR1_DATA/mathvision: real data is not shipped")
def test_real_mathvision_goes_through_its_own_class(tmp_path):
    letters = {"A": "<think>t</think><answer>A</answer>"}
    prepared = prepare(find("mathvision_mini"), DATA, None, None, tmp_path)
    assert len(prepared.problems) == 304 and sum(bool(p.choices) for p in prepared.problems) == 190
    assert len({p.category for p in prepared.problems}) == 16
    free, choice = prepared.problems[0], next(p for p in prepared.problems if p.choices)
    assert free.question.startswith("Hint: ") and free.question.endswith("<image1>")
    assert choice.question.endswith("Choices:\n" + "\n".join(f"({a}) {a}" for a in "ABCDE"))
    model = stub_model({p.question: letters["A"] for p in prepared.problems})
    settings = {"data_root": DATA, "benchmark_dir": None, "limit": 40}
    records = run_stub(tmp_path, "mathvision_mini", model, tmp_path / "out", **settings)
    expected = sum(p.answer == "A" for p in prepared.problems[:40] if p.choices) / 40
    assert records[0].value == pytest.approx(expected) and records[0].n == 40
    assert records[0].protocol.prompt == "r1"


@pytest.mark.skipif(not (DATA / "mathvision" / "outputs").is_dir(), reason="no LMMR1_DATA/mathvision/outputs")
def test_rule_scores_agree_with_the_released_mathvision_labels():
    gold = {row["id"]: row for row in map(json.loads, (DATA / "mathvision" / "test.jsonl").open(encoding="utf-8"))}
    answers = (DATA / "mathvision" / "outputs" / "Gemini-Pro-CoT.jsonl").open(encoding="utf-8")
    same = []
    for row in [json.loads(line) for line in answers][::4]:
        problem = gold[row["id"]]
        score = score_response(row["response"], problem["answer"], problem["options"])
        same.append(bool(score.accuracy) == bool(row["correct"]))
    # The rest: units and values of options that the released labels do not accept.
    assert sum(same) / len(same) > 0.98


@pytest.mark.skipif(not (DATA / "math500").is_dir(), reason="no LMMR1_DATA/math500: real data is not shipped")
def test_real_math500_asks_for_a_box_and_reads_it(tmp_path):
    problems = prepare(find("math500"), DATA, None, None, tmp_path).problems
    assert len(problems) == 500 and {"algebra", "precalculus"} <= {p.category for p in problems}
    asked = {p.question: p.answer for p in problems[:20]}

    class Boxed(StubEngine):
        def _rollout(self, sample):
            text = text_of(sample)
            assert "\\boxed{}" in sample.messages[0]["content"]
            gold = asked[text]
            return Rollout(sample.id, (1,), (0.0,), f"Look! It is long. {'so ' * 900} \\boxed{{{gold}}}", "stop")

    model = replace(stub_model(), engine=Boxed())
    records = run_stub(tmp_path, "math500", model, tmp_path / "out", data_root=DATA, benchmark_dir=None, limit=20)
    assert records[0].value >= 0.95 and records[0].n == 20


def test_mathvision_questions_without_options_have_no_choices():
    assert "Choices" not in mathvision_question("How many?\n<image1>", [])
    assert mathvision_question("  ", ["a"]) == ""


def test_importing_vlmeval_leaves_gradients_on():
    """It switches them off for the whole process; a training that follows would fail."""
    import torch

    import evals.vlmevalkit

    assert torch.is_grad_enabled() and evals.vlmevalkit.MathVision
