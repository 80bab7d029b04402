"""The paper's seven benchmarks under the three protocols: real harnesses, files in each tool's own format, offline.

The files are generated (tests/benchmark_files.py), except MATH-500 and MathVision where the real data are at hand.
"""

import csv
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.adapters import ADAPTERS
from evals.aggregate import estimates, macro, mean
from evals.audit import audit
from evals.generation import prompt_sha256
from evals.importers import read_answers
from evals.inputs import prepare
from evals.judge_server import JudgeServer
from evals.lm_eval_harness import as_asked
from evals.option_order import option_order
from evals.problems import Problem
from evals.protocols import find_protocol, load_protocols, prompt_styles, read_system_prompt
from evals.records import read_records
from evals.registry import find, registry
from evals.run import Options, check_inputs, plan, run_jobs
from evals.samples import SampleRow
from evals.scorers import SCORERS
from evals.scoring import sample_row, score_response, score_responses
from lmmr1.types import Rollout, Sample, UserError
from tests.benchmark_files import SEVEN, gpqa, mmstar, olympiadbench, table, write_all
from tests.judge_server import serving
from tests.test_evals import samples_of, stub_model, text_of

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))
GOLDEN = Path(__file__).parent / "golden" / "prompts"
PROTOCOLS = ("rule", "paper", "vlmevalkit")
SYSTEM_PROMPT = "A system prompt that stands in for the paper's."


class Recorder:
    """Keeps the prompts; every answer is option B."""

    def __init__(self):
        self.samples: list[Sample] = []

    def generate(self, samples, sampling, num_generations, seed):
        self.samples += samples
        self.sampling = sampling
        text = "<think>a guess</think><answer>\\boxed{B}</answer> The answer is B."
        return [(Rollout(sample.id, (1, 2), (0.0, 0.0), text, "stop"),) for sample in samples]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = write_all(tmp_path_factory.mktemp("files"))
    (folder / "system.txt").write_text(SYSTEM_PROMPT + "\n")
    return folder


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def options_for(files: Path, server, protocol: str, **changes) -> Options:
    values = {"data_root": files, "any_data": True, "judge": JudgeServer(server.url), "batch_size": 1}
    return Options.of(protocol, **values | {"system_prompt_file": files / "system.txt"} | changes)


def run_one(tmp_path: Path, name: str, options: Options):
    """Records, rows, prompts in row order and the engine of one benchmark."""
    engine = Recorder()
    model = replace(stub_model(), engine=engine, render=lambda s: json.dumps(s.messages))
    jobs = plan([name], tmp_path, options)
    records = run_jobs(lambda: model, jobs, tmp_path / "out", options, "k")
    rows = samples_of(tmp_path / "out", jobs[0].name)
    assert len(rows) == len(engine.samples), "one answer per problem"
    return records, rows, engine


# --------------------------------------------------------------------------------------------------------- prompts


def own_texts(problem) -> list[str]:
    """Texts that are ours: the generated problem's and the prompt styles'."""
    cells = [v for v in problem.cells.values() if isinstance(v, str)]
    texts = [problem.question, SYSTEM_PROMPT, *problem.choices, *cells, *(p.text for p in prompt_styles().values())]
    lines = [line for text in texts for line in text.splitlines()]
    return sorted({text.strip() for text in [*texts, *lines] if len(text.strip()) > 3}, key=lambda t: (-len(t), t))


def outline(text: str, own: list[str]) -> list[str]:
    """`text` in pieces: ours as they stand, those that a harness made only as length and hash."""
    for piece in own:
        before, found, after = text.partition(piece)
        if found:
            return [*outline(before, own), piece, *outline(after, own)]
    if not text.strip():
        return [text] if text else []
    return [f"[{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}]"]


def image_hash(sample: Sample) -> str:
    """As `Problem.image_sha256`."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sample.images]
    return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16] * bool(
        digests
    )


def snapshot(sample: Sample, problem) -> list[dict]:
    """Roles, places of images and texts of one prompt."""
    images = iter(sample.images)
    parts = []
    for message in sample.messages:
        content = message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        own = own_texts(problem)
        parts += [
            {"role": message["role"], "image": hashlib.sha256(next(images).read_bytes()).hexdigest()[:12]}
            if part["type"] == "image"
            else {"role": message["role"], "text": outline(part["text"], own)}
            for part in content
        ]
    return parts


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", SEVEN)
def test_prompts_are_the_committed_ones(tmp_path, files, server, name, protocol):
    """To accept a change on purpose: LMMR1_UPDATE_GOLDEN=1 pytest tests/test_benchmarks.py, then read the difference."""
    options = options_for(files, server, protocol)
    records, rows, engine = run_one(tmp_path, name, options)
    problems = {p.id: p for p in plan([name], tmp_path, options)[0].measurement.prepared.problems}
    row_of = {row.prompt_hash: row.doc.id for row in rows}
    found = {}
    for sample in engine.samples:  # batches go by length: each prompt's row is the one with its hash
        id = row_of[prompt_sha256(json.dumps(sample.messages), image_hash(sample))]
        found[id] = snapshot(sample, problems[id])
    snapshots = {"prompt": records[0].protocol.prompt, "items": {row.doc.id: found[row.doc.id] for row in rows}}
    path = GOLDEN / protocol / f"{name}.json"
    if os.environ.get("LMMR1_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(snapshots, indent=1) + "\n", encoding="utf-8")
    assert snapshots == json.loads(path.read_text(encoding="utf-8"))


def test_styles_and_decoding_follow_the_protocol(tmp_path, files, server):
    records, _, engine = run_one(tmp_path, "math500", options_for(files, server, "paper"))
    assert records[0].protocol.decoding == {
        "temperature": 0.0,
        "top_p": 1.0,
        "repetition_penalty": 1.05,
        "max_new_tokens": 8192,
    }
    assert (engine.sampling.repetition_penalty, engine.sampling.max_completion_length) == (1.05, 8192)
    hashes = {records[0].protocol.hash}
    for style in ("direct", "cot", "r1", "none"):
        (tmp_path / style).mkdir()
        records, _, engine = run_one(tmp_path / style, "mathverse", options_for(files, server, "rule", prompt=style))
        text, place = prompt_styles()[style].text, prompt_styles()[style].place
        last = engine.samples[0].messages[-1]["content"][-1]["text"]
        assert (place == "end") == (last.endswith(f"\n\n{text}") and bool(text))
        assert (engine.samples[0].messages[0]["role"] == "system") == (style == "r1")
        assert records[0].protocol.prompt == style
        hashes.add(records[0].protocol.hash)
    assert len(hashes) == 5, "another style is another protocol"


def test_the_papers_system_prompt_is_read_from_a_file_or_from_training_data(tmp_path):
    rows = [{"message": str([{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "q"}])}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompt.txt").write_text(SYSTEM_PROMPT)
    assert read_system_prompt(tmp_path / "data.jsonl") == read_system_prompt(tmp_path / "prompt.txt") == SYSTEM_PROMPT
    parts = [{"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPT}]}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"message": json.dumps(parts)}))
    assert read_system_prompt(tmp_path / "data.jsonl") == SYSTEM_PROMPT
    (tmp_path / "user.jsonl").write_text(json.dumps({"message": "[{'role': 'user', 'content': 'q'}]"}))
    (tmp_path / "code.jsonl").write_text(json.dumps({"message": "[__import__('os').system('touch CANARY')]"}))
    (tmp_path / "empty.txt").write_text(" ")
    for bad in ("none.txt", "user.jsonl", "code.jsonl", "empty.txt"):
        with pytest.raises(UserError, match=bad):
            read_system_prompt(tmp_path / bad)
    with pytest.raises(UserError, match="--system-prompt-file"):
        plan_with = Options.of("paper", data_root=write_all(tmp_path / "files"), any_data=True)
        plan(["olympiadbench"], tmp_path, plan_with)


def test_protocol_files_are_checked(tmp_path):
    prompts, protocols = load_protocols()
    assert set(protocols) == set(PROTOCOLS) and {"none", "direct", "cot", "r1", "paper", "training"} == set(prompts)
    assert protocols["rule"].judge is None and prompts["paper"].text == ""
    with pytest.raises(UserError, match="'ruel' is not known; known: rule, paper, vlmevalkit"):
        find_protocol("ruel")
    text = (Path(__file__).parent.parent / "evals" / "protocols.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("prompt: cot", "prompt: poem"),
        ("trained: paper", "trained: poem"),
        ("scoring: rule", "scoring: luck"),
        ("tries: 5", "tires: 5"),
    ):
        (tmp_path / "p.yaml").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=r"p\.yaml"):
            load_protocols(tmp_path / "p.yaml")


# ----------------------------------------------------------------------------------------------------------- scores


def test_olympiadbench_keeps_open_english_problems_with_and_without_images(tmp_path, files, server):
    records, rows, engine = run_one(tmp_path, "olympiadbench", options_for(files, server, "rule"))
    by_subset = {r.subset: r.n for r in records}
    assert by_subset == {"all": 4, "multimodal": 2, "text_only": 2} | {row.category: 1 for row in rows}
    assert sorted(len(sample.images) for sample in engine.samples) == [0, 0, 1, 2], "no placeholder pictures"
    assert {row.doc.id: row.target for row in rows} == {"1": "3,4", "2": "3", "3": "4", "4": "5"}


def test_mathvision_groups_of_table_2(tmp_path, files, server):
    records, rows, _ = run_one(tmp_path, "mathvision", options_for(files, server, "rule"))
    value = {r.subset: r.value for r in records}
    accuracy = {row.category: row.accuracy for row in rows}
    metric = [accuracy[f"metric geometry - {part}"] for part in ("angle", "area", "length")]
    assert value["metric geometry"] == pytest.approx(sum(metric) / 3)
    four = [
        accuracy["analytic geometry"],
        accuracy["combinatorial geometry"],
        sum(metric) / 3,
        accuracy["solid geometry"],
    ]
    assert value["geometry"] == pytest.approx(sum(four) / 4)


def test_mmstar_has_both_averages_and_the_protocol_says_which_is_the_headline(tmp_path, files, server):
    for protocol, headline in (("rule", "micro"), ("paper", "macro")):
        (tmp_path / protocol).mkdir()
        records, rows, _ = run_one(tmp_path / protocol, "mmstar", options_for(files, server, protocol))
        value = {r.subset: r.value for r in records}
        assert [row.accuracy for row in rows] == [0, 1, 0, 0], "every answer is B"
        assert (value["micro"], value["macro"]) == (pytest.approx(1 / 4), pytest.approx((1 / 3 + 0) / 2))
        assert value["all"] == value[headline]
        assert records[0].protocol.aggregation == {"micro": "mean", "macro": "macro"}[headline]
        assert {"coarse perception", "math", "sub 0", "sub 1"} <= set(value)


def test_mathverse_has_five_versions_of_each_problem(tmp_path, files, server):
    records, rows, _ = run_one(tmp_path, "mathverse", options_for(files, server, "rule"))
    assert {r.subset: r.n for r in records} == {"all": 10} | dict.fromkeys({row.category for row in rows}, 2)
    assert len({row.category for row in rows}) == 5
    # B is right for the five versions of one problem and wrong for those of the other: two observations, not ten.
    assert records[0].value == 0.5 and records[0].stderr == pytest.approx((0.25 / 2) ** 0.5)


def scored(number: int, right: bool, **more) -> SampleRow:
    """A row by the writer of all harnesses."""
    problem = Problem(str(number), "q", "2", **more)
    response = "2" if right else "3"
    return sample_row(number, problem, "", Rollout("x", (), (), response, "stop"), score_response(response, "2", ()))


def test_estimates_equal_the_textbook():
    rows = [scored(i, right=i % 3 == 0, category="ab"[i % 2]) for i in range(12)]
    one = mean(rows, "accuracy")
    assert (one.value, one.n) == (pytest.approx(1 / 3), 12) and one.stderr == pytest.approx((1 / 3 * 2 / 3 / 12) ** 0.5)
    both = macro([one, one])
    assert (both.value, both.n, both.stderr) == (one.value, 24, pytest.approx(one.stderr / 2**0.5))
    reserved = [scored(i, right=True, category="all", subsets=("macro",)) for i in range(12)]
    assert set(estimates(reserved, "accuracy", find("micro_chain"), "mean")) == {"all"}, "names that would shadow ours"


def test_stock_tasks_of_lm_eval_can_be_selected_and_misjudge_boxes(tmp_path, files, server):
    class Boxed(Recorder):
        def generate(self, samples, *rest):
            groups = super().generate(samples, *rest)
            return [(replace(r, text="So $x$ is \\boxed{0}, $2$. Problem: another"),) for (r,) in groups]

    options = options_for(files, server, "rule")
    for name, scorer, right in (
        ("math500", "lmmr1.rewards", 0.25),
        ("lm_eval:hendrycks_math500", "hendrycks_math500", 0),
    ):
        engine = Boxed()
        jobs = plan([name], tmp_path, options)
        run = run_jobs(lambda: replace(stub_model(), engine=engine), jobs, tmp_path / "out", options, "k")  # noqa: B023
        assert scorer in run[0].protocol.scorer and run[0].value == right
    assert samples_of(tmp_path / "out", "lm_eval_hendrycks_math500")[0].note == "exact_match,none"
    with pytest.raises(UserError, match="lm_eval:hendrycks_math500, lm_eval:gpqa_diamond_cot_zeroshot"):
        find("lm_eval:gsm8k")


class Knowing(Recorder):
    """Knows GPQA's generated questions: names the letter that the right number has in the prompt, or the one behind it
    in every fourth question."""

    def generate(self, samples, *rest):
        return [
            (replace(r, text=self._text(s)),) for s, (r,) in zip(samples, super().generate(samples, *rest), strict=True)
        ]

    def _text(self, sample):
        asked = text_of(sample)
        number = int(re.search(r"is (\d+) times", asked)[1])
        shown = dict(re.findall(r"^\((.)\) (\d+)$", asked, re.MULTILINE))
        right = next(letter for letter, text in shown.items() if int(text) == 10 * number)
        return f"The answer is ({right if number % 4 else chr(ord('A') + (ord(right) - ord('A') + 1) % 4)})."


@pytest.mark.parametrize(
    ("name", "protocol"), [("lm_eval:gpqa_diamond_cot_zeroshot", "rule"), ("gpqa_diamond", "vlmevalkit")]
)
def test_options_in_another_order_are_stored_as_lm_eval_asked_and_scored_them(tmp_path, server, name, protocol):
    """lm-eval shuffles the options itself, so its letters are not those of our order."""
    (tmp_path / "gpqa").mkdir()
    gpqa(tmp_path / "gpqa" / "gpqa_diamond.csv", 40)
    engine, options = Knowing(), options_for(tmp_path, server, protocol)
    jobs = plan([name], tmp_path, options)
    (headline, *_) = run_jobs(lambda: replace(stub_model(), engine=engine), jobs, tmp_path / "base", options, "k")
    rows = samples_of(tmp_path / "base", jobs[0].name)
    assert headline.value == 0.75, "lm-eval's own metric"
    verdicts = score_responses([(row.response, row.target, row.doc.choices) for row in rows])
    assert [verdict.accuracy for verdict in verdicts] == [row.accuracy for row in rows]
    asked = {int(sample.id): text_of(sample) for sample in engine.samples}
    for row in rows:
        shown = [f"({letter}) {text}" for letter, text in zip("ABCD", row.doc.choices, strict=True)]
        assert "\n".join(shown) in asked[row.doc_id]
    own = {p.id: p for p in prepare(find("gpqa_diamond"), tmp_path, None, None, tmp_path, any_data=True).problems}
    assert any(own[row.doc.id].choices != row.doc.choices for row in rows), "else nothing is tested"
    answers = read_answers([tmp_path / "base"])
    assert sum(mark.correct for mark in SCORERS["option_match"].judge([(a.item, a.response) for a in answers])) == 30
    if protocol == "rule":  # once is enough: it starts lm-eval in a process of its own
        ((result, _),) = audit(answers, workers=1)
        right = {cell.scorer: cell.right for cell in result.cells}
        assert {right[name] for name in ("stored:accuracy", "math_verify", "lm_eval_gpqa_flexible")} == {30}


def test_a_stock_gold_that_is_no_option_is_refused():
    problem = Problem("1", "q", "A", choices=("x", "y"))
    with pytest.raises(RuntimeError, match=r"sample 0 has options .* gold '\(C\)' is none of them"):
        as_asked([problem], [{"doc_id": 0, "doc": {"choices": ["y", "x"]}, "target": "(C)"}])


def test_gpqa_option_order_depends_on_the_item_and_the_seed_only(tmp_path, files):
    def orders(path: Path) -> dict:
        folder = path.parent.parent
        problems = prepare(find("gpqa_diamond"), folder, None, None, tmp_path, any_data=True).problems
        return {p.id: (p.choices, p.answer) for p in problems}

    for name in ("all", "fewer", "reversed"):
        (tmp_path / name / "gpqa").mkdir(parents=True)
    everything = orders(gpqa(tmp_path / "all" / "gpqa" / "gpqa_diamond.csv", 12))
    fewer = orders(gpqa(tmp_path / "fewer" / "gpqa" / "gpqa_diamond.csv", 5))
    assert orders(gpqa(tmp_path / "reversed" / "gpqa" / "gpqa_diamond.csv", 12, reverse=True)) == everything
    assert fewer == {id: everything[id] for id in fewer}
    assert len({answer for _, answer in everything.values()}) > 1, "not always the same place"
    for id, (choices, answer) in everything.items():
        assert choices["ABCD".index(answer)] == str(10 * int(id.removeprefix("rec")))
    assert len({option_order("rec1", 4, seed) for seed in range(50)}) > 10


# ------------------------------------------------------------------------------------------------------------ files


def test_a_different_or_missing_file_is_refused_with_expected_and_actual(tmp_path, files):
    for name in SEVEN:
        with pytest.raises(UserError, match=r"(md5|sha256) is \w+, expected \w+|it holds \d+ problems, expected \d+"):
            prepare(find(name), files, None, None, tmp_path)
        assert prepare(find(name), files, None, None, tmp_path, any_data=True).data_pin == "other data"
        with pytest.raises(UserError, match="no such file"):
            prepare(find(name), tmp_path / "empty", None, None, tmp_path)


def test_a_different_download_is_refused_and_neither_replaced_nor_fetched_again(tmp_path, files, monkeypatch):
    monkeypatch.setenv("LMUData", str(files))
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *_: pytest.fail("downloaded"))
    before = (files / "MMStar.tsv").read_bytes()
    with pytest.raises(UserError, match="md5 is .*, expected e1ecd2140806c1b1bbf54b43372efb9e"):
        prepare(find("mmstar"), None, None, None, tmp_path)
    assert (files / "MMStar.tsv").read_bytes() == before
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="cannot be downloaded"):
        prepare(find("mmstar"), None, None, None, tmp_path)


def test_the_registry_pins_what_vlmevalkit_pins():
    from evals import vlmevalkit

    classes = (vlmevalkit.MathVision, vlmevalkit.MathVerse, vlmevalkit.MathVista, vlmevalkit.OlympiadBench)
    pinned = {name: md5 for kind in classes for name, md5 in kind.DATASET_MD5.items()}
    pinned["MMStar"] = vlmevalkit.ImageMCQDataset.DATASET_MD5["MMStar"]
    ours = {file.path: file.md5 for b in registry().values() for file in b.files if file.path.endswith(".tsv")}
    assert len(ours) == 6 and all(pinned[path.removesuffix(".tsv")] == md5 for path, md5 in ours.items())
    assert {b.dataset for b in registry().values() if b.harness != "agents"} == set(ADAPTERS)


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("MMStar", "l2_category", "", "l2_category"),
        ("OlympiadBench_EN", "final_answer", "__import__('os')", "final_answer"),
        ("OlympiadBench_EN", "error", "1e-1;2", "line 2: .*`error` must hold numbers"),
        ("MathVista_MINI", "choices", "['a'", "choices"),
        ("MathVista_MINI", "answer_option", "Z", "answer_option"),
        ("MathVerse_MINI", "image", "", "has no image"),
        ("OlympiadBench_EN", "image", "", "has no image"),
    ],
)
def test_bad_cells_are_refused(tmp_path, name, column, value, message):
    folder = write_all(tmp_path / "files")
    with (folder / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows[-1 if name.startswith("MathVista") else 0][column] = value
    table(folder / f"{name}.tsv", rows)
    (benchmark,) = [b.name for b in registry().values() if any(f.path == f"{name}.tsv" for f in b.files)]
    with pytest.raises(UserError, match=message):
        prepare(find(benchmark), folder, None, None, tmp_path, any_data=True)


def test_hostile_cells_are_data(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "[__import__('pathlib').Path('CANARY').touch()]"
    folder = write_all(tmp_path / "files")
    (folder / "system.txt").write_text("s")
    rows = mmstar()
    rows[0] |= {"question": evil, "A": evil, "l2_category": evil}
    table(folder / "MMStar.tsv", rows)
    more = olympiadbench()
    more[0] |= {"question": evil, "unit": evil, "context": evil, "final_answer": str([evil])}
    table(folder / "OlympiadBench_EN.tsv", more)
    for protocol in PROTOCOLS:
        (tmp_path / protocol).mkdir()
        for name in ("mmstar", "olympiadbench"):
            run_one(tmp_path / protocol, name, options_for(folder, server, protocol))
    assert not list(tmp_path.rglob("CANARY"))


# ------------------------------------------------------------------------------------------------------- real model


@pytest.mark.skipif(not (DATA / "mathvision").is_dir(), reason="no LMMR1_DATA: real data is not shipped")
def test_the_command_runs_all_seven_offline_with_a_real_model(tmp_path, tiny_model, files):
    from reproduce.cli import cli

    root = tmp_path / "data"
    root.mkdir()
    for path in files.iterdir():
        if path.name != "math500":
            (root / path.name).symlink_to(path)
    for name in ("math500", "mathvision"):
        (root / name).symlink_to((DATA / name).resolve())
    names = ["mathvision_mini" if name == "mathvision" else name for name in SEVEN]
    arguments = ["eval", "--model", str(tiny_model), "--benchmarks", ",".join(names), "--out", str(tmp_path / "out")]
    arguments += ["--data-root", str(root), "--any-data", "--limit", "3", "--max-new-tokens", "6", "--batch-size", "3"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and all(name in done.output for name in names)
    pins = {name: read_records(tmp_path / "out" / name / "record.json")[0].protocol.data_pin for name in names}
    assert pins["math500"].startswith("sha256 02e2") and pins["mathvision_mini"].startswith("sha256 449e")
    assert {pin for name, pin in pins.items() if name not in ("math500", "mathvision_mini")} == {"other data"}
    for name in names:
        rows = samples_of(tmp_path / "out", name)
        assert len(rows) == 3 and all(row.length <= 6 for row in rows)


def test_judged_protocols_need_a_judge(tmp_path, files, tiny_model):
    for protocol in ("paper", "vlmevalkit"):
        with pytest.raises(UserError, match=rf"protocol '{protocol}' asks a judge about mmstar.*--judge-url"):
            plan(["mmstar"], tmp_path, Options.of(protocol, data_root=files, any_data=True))
    options = Options.of(
        "paper", data_root=files, any_data=True, judge=JudgeServer("http://127.0.0.1:9/v1"), prompt="r1"
    )
    with pytest.raises(UserError, match="no server answers there"):
        check_inputs(str(tiny_model), ["mmstar"], options)
