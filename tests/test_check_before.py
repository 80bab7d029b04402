"""Contract: what `lmmr1 check --model` would refuse after the evaluation it refuses before: no torch, no model, no answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from evals.plan import Options, plan
from evals.problems import Problem
from evals.records import read_records
from evals.registry import DataFile, find
from evals.registry import registry as benchmarks
from evals.run import run_jobs
from lmmr1.types import UserError
from reports.verdicts import ONE_RUN
from reproduce import published
from reproduce.check_plan import Asked, against_folder, against_row
from reproduce.check_reference import settings_differences
from reproduce.cli import cli
from reproduce.plan import ROOT
from tests.benchmark_files import SEVEN, write_all
from tests.judge_server import serving
from tests.test_clusters import measure
from tests.test_evals import stub_model
from tests.test_judge import Answers

JUDGE = "http://127.0.0.1:9/v1"
"""Nothing answers there: a refusal asks nobody."""


@pytest.fixture
def exploding(tmp_path, tiny_model) -> Path:
    """A checkpoint folder that passes for one until it is loaded: its files are whole, its layers too few."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 9, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def problems(n: int, category: str = "") -> list[Problem]:
    return [Problem(str(i), "how much?", "1", category) for i in range(n)]


def right(n: int, seed: int = 0, skill: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < skill).astype(float)


def record_math(folder: Path, files: Path, **options: object) -> Path:
    """Records of the four problems of `files` as `lmmr1 eval --data-root FILES --any-data` would write them."""
    given = {"data_root": files, "any_data": True} | options
    return measure(folder, "math500", problems(4), np.array([1.0, 0, 1, 1]), **given)


REFUSED = {
    "another protocol": (["--against", "qwen", "--protocol", "rule"], ["math500: prompt: r1, printed: cot", "mathvista_mini: "]),
    "too few items": (["--against", "fre_text", "--limit", "5", "--judge-url", JUDGE], ["mathverse: n: 5, printed: 3940"]),
    "another prompt": (["--against", "qwen", "--prompt", "direct", "--judge-url", JUDGE], [f"{n}: prompt: direct, printed: cot" for n in SEVEN]),
    "another judge": (
        ["--against", "qwen", "--judge-url", JUDGE, "--judge-model", "o/Tiny", "--benchmarks", "math500,mathvista_mini"],
        ["mathvista_mini: judge: Tiny (extract 0), printed: Qwen2.5-14B-Instruct (extract 0)"],
    ),
    "no judge": (["--against", "qwen"], ["asks a judge about mathvision, mathverse, mmstar, mathvista_mini", "--judge-url"]),
    "another role": (["--against", "qwen", "--role", "trained", "--benchmarks", "olympiadbench"], ["prompt: paper, printed: cot"]),
    "other data than the paper's": (["--against", "qwen", "--benchmarks", "math500", "--data-root", "OTHER", "--any-data"], ["n: 5, printed: 500", "data: other data"]),
    "one item": (["--against", "qwen", "--limit", "1", "--allow-cross-protocol", "--judge-url", JUDGE], ["--limit 1: one item has no interval"]),
    "unknown row": (["--against", "nobody"], ["neither a folder nor a row of Table 1; rows: qwen"]),
    "unknown benchmark": (["--against", "qwen", "--benchmarks", "micro_chain"], ["row qwen has no value for it", "mathvista_mini"]),
    "another data file": (["--against", "REF", "--data-root", "OTHER"], ["math500: data_sha256: "]),
    "another limit": (["--against", "REF", "--data-root", "FILES", "--limit", "2"], ["n: 2, reference: 4"]),
    "another batch": (["--against", "REF", "--data-root", "FILES", "--batch-size", "3"], ["batch_size: 3, reference: 64"]),
    "another prompt than records": (["--against", "REF", "--data-root", "FILES", "--prompt", "r1"], ["prompt: r1, reference: cot"]),
    "another protocol than records": (["--against", "REF", "--data-root", "FILES", "--protocol", "vlmevalkit"], ["protocol: vlmevalkit, reference: paper"]),
    "a judged reference": (["--against", "JUDGED", "--data-root", "FILES"], ["asks a judge about mathvista_mini"]),
    "several prompts": (["--against", "MIXED", "--data-root", "FILES"], ["more than one prompt: gpqa_diamond r1, math500 direct"]),
    "damaged answers": (["--against", "DAMAGED", "--data-root", "FILES"], ["samples.jsonl"]),
}  # fmt: skip

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from reproduce.cli import cli
found = []
for args in json.loads(sys.stdin.read()):
    done = CliRunner().invoke(cli, args)
    heavy = [m for m in ("torch", "transformers", "vlmeval", "lm_eval") if m in sys.modules]
    found.append((type(done.exception).__name__, str(done.exception), heavy))
print(json.dumps(found))
"""


@pytest.fixture
def references(tmp_path) -> dict[str, str]:
    files, other = write_all(tmp_path / "files"), write_all(tmp_path / "other")
    row = json.loads((other / "math500/test.jsonl").read_text().splitlines()[0]) | {"unique_id": "more"}
    with (other / "math500/test.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    record_math(tmp_path / "ref", files)
    given = {"data_root": files, "any_data": True}
    measure(tmp_path / "judged", "mathvista_mini", problems(4), np.ones(4), **given)
    record_math(tmp_path / "mixed", files, prompt="direct")
    measure(tmp_path / "mixed", "gpqa_diamond", problems(6), np.ones(6), prompt="r1", **given)
    samples = record_math(tmp_path / "damaged", files) / "math500/samples.jsonl"
    samples.chmod(0o644)
    samples.write_text(samples.read_text().replace('"accuracy": 1.0', '"accuracy": 0.0', 1))
    names = {
        "REF": "ref",
        "JUDGED": "judged",
        "MIXED": "mixed",
        "DAMAGED": "damaged",
        "FILES": "files",
        "OTHER": "other",
    }
    return {key: str(tmp_path / name) for key, name in names.items()}


def test_what_could_not_be_compared_is_refused_before_torch_and_model(references, exploding, tmp_path):
    """One process for all: at its end nothing heavy has been imported, and no folder of records begun."""
    out = ["--model", str(exploding), "--out", str(tmp_path / "out")]
    lines = [["check", *out, *[references.get(a, a) for a in args]] for args, _ in REFUSED.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(lines), cwd=ROOT, capture_output=True, text=True, check=True
    )
    for (name, (_, words)), (kind, text, heavy) in zip(REFUSED.items(), json.loads(done.stdout), strict=True):
        assert kind == "UserError" and all(word in text for word in words), (name, kind, text)
        assert not heavy, (name, heavy)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_exit_code_2(exploding, tmp_path):
    command = [sys.executable, "-m", "reproduce.cli", "check", "--model", str(exploding), "--against", "qwen"]
    done = subprocess.run(
        [*command, "--protocol", "rule", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert all(f"{name}: " in done.stderr for name in SEVEN), "all reasons are named"


def test_every_benchmark_of_a_row_is_planned_as_the_paper_measured_it(tmp_path):
    """mathvista_mini above all: under another name in one of the two registries it would be gone without a word."""
    system = tmp_path / "system.txt"
    system.write_text("think")
    for row, role, style in (("qwen", "baseline", "cot"), ("fre_text", "trained", "paper")):
        planned = against_row(row, Asked(judge_url=JUDGE, system_prompt_file=system))
        assert planned.benchmarks == list(SEVEN) and not planned.left_out
        assert (planned.options.protocol.name, planned.options.role) == ("paper", role)
        assert {style} == {planned.options.protocol.half(find("mathvista_mini")).prompt[role]}
    assert set(SEVEN) <= set(benchmarks())


def test_a_reference_is_asked_again_in_its_own_way(tmp_path):
    """Protocol, role or prompt, its text, judge, limit, tokens, batch and data: from the records."""
    files = write_all(tmp_path / "files")
    system = tmp_path / "system.txt"
    system.write_text("the paper's own words")
    given = {"data_root": files, "any_data": True, "system_prompt_file": system, "limit": 3, "batch_size": 7}
    folder = measure(tmp_path / "ref", "mathvista_mini", problems(3), np.array([1.0, 0, 1]), max_new_tokens=99, **given)
    measure(folder, "math500", problems(3), np.array([1.0, 0, 1]), max_new_tokens=99, **given)
    planned = against_folder(folder, Asked(data_root=files, judge_url=JUDGE), tmp_path)
    options = planned.options
    assert sorted(planned.benchmarks) == ["math500", "mathvista_mini"]
    assert (options.protocol.name, options.role, options.prompt) == ("paper", "trained", None)
    assert (options.limit, options.batch_size, options.max_new_tokens, options.any_data) == (3, 7, 99, True)
    assert options.system_prompt_file.read_text() == "the paper's own words"
    assert options.protocol.judge.model == "Qwen/Qwen2.5-14B-Instruct"
    trained = record_math(tmp_path / "trained", files, protocol="rule", training_prompt="as in training")
    planned = against_folder(trained, Asked(data_root=files), tmp_path)
    assert (planned.options.role, planned.options.training_prompt) == ("trained", "as in training")
    single = record_math(tmp_path / "single", files, prompt="direct")
    assert against_folder(single, Asked(data_root=files), tmp_path).options.prompt == "direct"


def test_a_micro_reference_with_games_is_asked_again_in_its_own_way(tmp_path):
    """The default of `lmmr1 check`: text, and agents whose prompt is a form, which no text benchmark knows."""
    lines = [json.dumps({"id": f"c{i}", "question": f"{i}+1=?", "answer": str(i + 1)}) + "\n" for i in range(4)]
    (tmp_path / "micro/benchmarks").mkdir(parents=True)
    (tmp_path / "micro/benchmarks/micro_chain.jsonl").write_text("".join(lines))
    options = Options.of(benchmark_dir=tmp_path / "micro/benchmarks", batch_size=32)
    names, folder = ["micro_chain", "micro_football"], tmp_path / "micro/baseline/0/eval"
    folder.mkdir(parents=True)
    jobs = plan(names, tmp_path, options)
    run_jobs(lambda: replace(stub_model(), engine=Answers("right")), jobs, folder, options, "reference")
    planned = against_folder(tmp_path / "micro/baseline", Asked(), tmp_path)
    assert planned.benchmarks == names and planned.options.benchmark_dir == options.benchmark_dir
    for job in plan(names, tmp_path, planned.options):
        planned.accept(job, stub_model())
    with pytest.raises(UserError, match=r"micro_football: decoding.max_new_tokens: 9, reference: 32"):
        planned.accept(plan(["micro_football"], tmp_path, replace(planned.options, max_new_tokens=9))[0], None)
    game = against_folder(tmp_path / "micro/baseline", Asked(benchmarks=("micro_football",)), tmp_path)
    assert game.options.prompt == "brief"


def test_words_that_the_protocol_chooses_for_a_role_are_no_difference(tmp_path):
    files = write_all(tmp_path / "files")
    given = {"data_root": files, "any_data": True}
    base = measure(tmp_path / "base", "olympiadbench", problems(4), np.array([1.0, 0, 1, 1]), role="baseline", **given)
    system = tmp_path / "system.txt"
    system.write_text("think")
    asked = Asked(data_root=files, role="trained", system_prompt_file=system)
    assert against_folder(base, asked, tmp_path).options.role == "trained"
    protocol = read_records(base / "olympiadbench/record.json")[0].protocol
    assert settings_differences({"prompt": "r1"}, protocol) == ["prompt: r1, reference: cot"]


# ------------------------------------------------------------------------------------------------ whole commands


@pytest.fixture
def small_paper(tmp_path, monkeypatch) -> Path:
    """The seven benchmarks' small files as if they were the pinned ones, and Table 1 as if it were printed for them."""
    files = write_all(tmp_path / "files")
    (files / "system.txt").write_text("think")
    changed, counts = dict(benchmarks()), {"math500": 4, "gpqa_diamond": 6, "olympiadbench": 4, "mathvision": 7, "mathverse": 10, "mmstar": 4, "mathvista_mini": 4}  # fmt: skip
    for name, n in counts.items():
        path = next(f.path for f in changed[name].files if (files / f.path).exists())
        md5 = hashlib.md5((files / path).read_bytes()).hexdigest()
        changed[name] = changed[name].model_copy(update={"n": n, "files": (DataFile(path=path, md5=md5),)})
    monkeypatch.setattr("evals.registry.registry", lambda: changed)
    values = yaml.safe_load(published.REGISTRY_FILE.read_text())
    for column in values["tables"]["table1"]["columns"].values():
        if column.get("benchmark"):
            column.update({"n": counts[column["benchmark"]]} | ({"parts": 2} if "parts" in column else {}))
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    small = published.load(tmp_path / "published.yaml")
    for where in ("reproduce.check_plan", "reports.gate"):
        monkeypatch.setattr(f"{where}.registry", lambda: small)
    return files


@pytest.fixture
def answering(exploding, monkeypatch) -> Answers:
    """What answers in the place of the checkpoint that cannot be loaded."""
    engine = Answers("So the answer is b.")
    monkeypatch.setattr("evals.run.load_model", lambda *args: replace(stub_model(), engine=engine))
    return engine


def check(exploding, *args: object):
    return CliRunner().invoke(cli, ["check", "--model", str(exploding), *[str(a) for a in args]])


CHEAP = ("math500", "olympiadbench", "mathvision", "mmstar", "mathvista_mini")
"""Of every kind: text, without a judge, with extraction, with options."""


def test_against_a_row_it_ends_with_a_verdict(small_paper, answering, exploding, tmp_path):
    with serving() as server:
        options = [
            "--data-root",
            small_paper,
            "--judge-url",
            server.url,
            "--system-prompt-file",
            small_paper / "system.txt",
        ]
        done = check(
            exploding, "--against", "mgt_geo", *options, "--benchmarks", ",".join(CHEAP), "--out", tmp_path / "out"
        )
        assert done.exit_code in (0, 3), (done.output, done.exception)
        assert server.requests and answering.count == 23
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert [row["benchmark"] for row in facts["rows"]] == [*CHEAP, "mean"]
    assert {row["verdict"] for row in facts["rows"]} <= {"passed", "regression", "inconclusive"} and not facts[
        "left_out"
    ]
    assert ONE_RUN in done.output and all(ONE_RUN in row["remarks"] for row in facts["rows"])
    record = read_records(tmp_path / "out/records/mathvision/record.json")[0]
    assert (record.protocol.prompt, record.protocol.protocol, record.protocol.instruction) == (
        "paper",
        "paper",
        "think",
    )


def test_what_a_row_cannot_be_compared_on_is_named_and_left_out(
    small_paper, answering, exploding, tmp_path, monkeypatch
):
    with (small_paper / "MMStar.tsv").open("a") as file:
        row = (small_paper / "MMStar.tsv").read_text().splitlines()[1].split("\t")
        file.write("\t".join(["77", *row[1:]]) + "\n")
    asked = Asked(data_root=small_paper, any_data=True, judge_url=JUDGE)
    assert list(against_row("qwen", asked).left_out) == ["mmstar"]
    named = replace(asked, benchmarks=("math500", "mmstar"))
    with pytest.raises(UserError, match=r"nothing was evaluated.* mmstar: n: 5, printed: 4; data: other data"):
        against_row("qwen", named)
    monkeypatch.setattr("reproduce.check_plan.printed_cells", lambda registry, row: {n: c for n, c in _cells(registry, row) if n in ("math500", "mmstar")})  # fmt: skip
    options = ["--data-root", small_paper, "--any-data", "--judge-url", JUDGE, "--out", tmp_path / "out"]
    done = check(exploding, "--against", "qwen", *options)
    assert done.exit_code in (0, 3), (done.output, done.exception)
    assert "left out: mmstar, n: 5, printed: 4; data: other data, printed: as pinned" in done.output
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert [row["benchmark"] for row in facts["rows"]] == ["math500"] and "n: 5" in facts["left_out"]["mmstar"]
    suite = ElementTree.parse(tmp_path / "out/junit.xml").getroot()
    assert suite.get("tests") == "2" and [
        c.find("skipped") is not None for c in suite if c.get("name") == "mmstar"
    ] == [True]
    assert not (tmp_path / "out/records/mmstar").exists()


def _cells(registry, row):
    from reports.comparable import printed_cells

    return printed_cells(registry, row).items()


def test_a_model_is_held_against_records_that_lmmr1_eval_wrote(
    small_paper, answering, exploding, tmp_path, monkeypatch
):
    options = Options.of("rule", data_root=small_paper, role="baseline", limit=3)
    jobs = plan(["math500", "mathvision"], tmp_path, options)
    reference = replace(stub_model(), engine=Answers(r"\boxed{2}"))
    run_jobs(lambda: reference, jobs, tmp_path / "ref", options, "reference")
    args = ["--against", tmp_path / "ref", "--data-root", small_paper, "--out"]
    done = check(exploding, *args, tmp_path / "out")
    assert done.exit_code in (0, 3), (done.output, done.exception)
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert [(row["benchmark"], row["n"]) for row in facts["rows"]] == [("math500", 3), ("mathvision", 3), ("mean", 6)]
    before = answering.count
    monkeypatch.setattr(
        "evals.run.load_model", lambda *args: replace(stub_model(), engine=answering, backend="other/cuda")
    )
    with pytest.raises(UserError, match="backend: other/cuda, reference: stub/cpu"):
        raise check(exploding, *args, tmp_path / "again").exception
    assert answering.count == before, "the model was loaded, but asked nothing"


# ------------------------------------------------------------------------------------------------ records and remarks


def test_records_that_the_row_does_not_have_are_named(tmp_path):
    folder = measure(tmp_path / "mine", "math500", problems(500), right(500), role="baseline")
    measure(folder, "gpqa_diamond", problems(198), right(198), max_new_tokens=64, role="baseline")
    measure(folder, "mathvision_mini", problems(304, "counting"), right(304), role="baseline")
    measure(folder, "mathvista_mini", problems(1000), right(1000), role="baseline")
    args = ["check", "--records", str(folder), "--against", "qwen", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code in (0, 3), (done.output, done.exception)
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert [row["benchmark"] for row in facts["rows"]] == ["math500", "mathvista_mini", "mean"]
    assert "max_new_tokens: 64, printed: 8192" in facts["left_out"]["gpqa_diamond"]
    assert "has no value for mathvision_mini" in facts["left_out"]["mathvision_mini"]
    assert "left out: gpqa_diamond" in done.output
    named = CliRunner().invoke(cli, [*args, "--benchmarks", "math500,gpqa_diamond"])
    assert isinstance(named.exception, UserError) and "gpqa_diamond: not measured as the printed" in str(
        named.exception
    )
    only = CliRunner().invoke(cli, [*args, "--benchmarks", "gpqa_diamond"])
    assert isinstance(only.exception, UserError)


def test_remarks_say_what_no_interval_holds(tmp_path):
    """One run, and arms that the protocol asks in different words: in the gate's three outputs and in both of compare."""
    base = measure(tmp_path / "base", "olympiadbench", problems(300), right(300), role="baseline")
    for seed in range(3):
        measure(tmp_path / f"arm/{seed}/eval", "olympiadbench", problems(300), right(300, seed), role="trained")
        measure(tmp_path / f"other/{seed}/eval", "olympiadbench", problems(300), right(300, seed), role="trained")
    change = "the difference includes the change of prompt cot -> paper"
    for second, expected in ((base, [change, ONE_RUN]), (tmp_path / "other", [])):
        folders = [str(tmp_path / "arm"), str(second)]
        (row,) = json.loads(CliRunner().invoke(cli, ["compare", *folders, "--json"]).output)["rows"]
        shown = [
            CliRunner().invoke(cli, ["compare", *folders]).output,
            CliRunner().invoke(cli, ["check", "--records", folders[0], "--against", folders[1], "--out", str(tmp_path / "o")]).output,
            (tmp_path / "o/junit.xml").read_text().replace("&gt;", ">"),
        ]  # fmt: skip
        (gated,) = json.loads((tmp_path / "o/check.json").read_text())["rows"]
        assert row["remarks"] == gated["remarks"] == expected
        for text in shown:
            assert [remark for remark in (change, ONE_RUN) if remark in text] == expected, text


def test_eval_and_check_take_the_same_options(monkeypatch, tmp_path):
    """`lmmr1 eval --role baseline` asks in the baseline's words; agents' levels have a folder of their own."""
    seen = []
    monkeypatch.setattr("evals.run.check_inputs", lambda model, names, options: seen.append(options))
    common = ["--protocol", "paper", "--role", "baseline", "--levels", str(tmp_path), "--limit", "3", "--any-data"]
    common += ["--judge-url", JUDGE, "--judge-model", "o/Tiny", "--prompt", "cot", "--data-root", str(tmp_path)]
    args = ["eval", "--model", "x", "--benchmarks", "math500", "--out", str(tmp_path / "o"), "--dry-run", *common]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, (done.output, done.exception)
    monkeypatch.setattr("reproduce.check_plan.against_row", lambda row, asked: seen.append(asked.options()) or 1 / 0)
    CliRunner().invoke(cli, ["check", "--model", "x", "--against", "qwen", *common])
    first, second = seen
    assert (first.role, first.levels, first.limit, first.prompt) == ("baseline", tmp_path, 3, "cot")
    assert replace(first, batch_size=second.batch_size, workers=second.workers) == second
