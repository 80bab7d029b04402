"""What is fuzzed: each target takes bytes from outside and lets nothing but a UserError pass for a refusal."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from evals import importers, inputs, protocols, records, registry
from evals import samples as rows
from evals.agents import football_prompt, sokoban_prompt
from evals.generation import encodable
from evals.scorers import mathverse, mathvision, mathvista, olympiadbench, options
from evals.scorers.items import Item
from lmmr1 import config, data, sokoban, store
from lmmr1.rewards import response as answers
from lmmr1.rewards.options import named_option
from lmmr1.types import Manifest, UserError
from reports import rules, samples

Target = Callable[[bytes], Any]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def in_file(read: Callable[[Path], Any], name: str, content: bytes) -> bool:
    """Hand the bytes over as a file of that name; True where they were refused."""
    path = FOLDER / name
    path.write_bytes(content)
    return refused(lambda: read(path))


def refused(read: Callable[[], Any]) -> bool:
    """True where a UserError says what is wrong; any other error goes on."""
    try:
        read()
    except UserError:
        return True
    return False


def of_text(*readers: Callable[[str], Any]) -> Target:
    """Readers of model output: nothing may be refused, so not even a UserError may leave them."""

    def run(content: bytes) -> None:
        text = encodable(content.decode("utf-8", "surrogateescape"))
        for read in readers:
            read(text)

    return run


def benchmark_file(name: str, suffix: str) -> Target:
    """A benchmark's file, read as `lmmr1 eval --any-data` reads it."""
    benchmark = registry.find(name)
    file = next(f for f in benchmark.files if f.path.endswith(suffix)) if benchmark.files else None
    path = FOLDER / name / (file.path if file else benchmark.file_name)
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(content: bytes) -> bool:
        path.write_bytes(content)
        with tempfile.TemporaryDirectory(dir=FOLDER) as workspace:
            work = Path(workspace)
            return refused(lambda: inputs.prepare(benchmark, FOLDER / name, FOLDER / name, None, work, any_data=True))

    return run


def scorers(text: str) -> None:
    """Every rule on one response."""
    choice = Item("1", "B", ("3", "x + 1", "no"))
    free = Item("1", r"\frac{1}{2}", (), "Numerical", 2, "1e-2")
    for rule in (mathvision.official_on_response, mathverse.rule, mathvista.rule, options.match):
        rule(choice, text)
    for rule in (mathvision.official_on_response, mathverse.rule, mathvista.rule, olympiadbench.official):
        rule(free, text)


def actions(text: str) -> None:
    """Both games, every prompt form; what is taken for a move is one."""
    for form in get_args(sokoban_prompt.PromptForm):
        assert all(isinstance(a, sokoban.Action) for a in sokoban_prompt.parse(form, text).actions)
    for form in get_args(football_prompt.PromptForm):
        football_prompt.parse(form, text)


ROW = {"id": "1", "messages": [{"role": "user", "content": "2+2=?"}], "answer": "4"}
RELEASED = {"message": json.dumps([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]), "answer": "4"}
PICTURE = io.BytesIO()
Image.new("RGB", (2, 2)).save(PICTURE, "PNG")
(FOLDER / "a.png").write_bytes(PICTURE.getvalue())  # what RELEASED shows
TSV = "index\timage\tquestion\tanswer\tcategory\tchoices\n1\t{}\tHow many?\tB\tx\t['1', '2']\n"


def judge_replies(text: str) -> None:
    """Every rule on what a judge extracted."""
    for item in (Item("1", "B", ("3", "x + 1", "no")), Item("1", "2.5"), Item("1", "(1, 2]")):
        mathvision.official(item, text)
    for kind in ("text", "integer", "float", "list"):
        item = Item("1", "2.5", (), kind, 2)
        mathvista.official(item, text)
        mathvista.within_precision(item, text)
    mathvista.official(Item("1", "no", ("3", "x + 1", "no")), text)
    olympiadbench.within_tolerance(Item("1", "2.5", (), "Numerical", 0, "1e-1"), text)


PROTOCOL = records.Protocol(
    *("lm_eval", "0.4", "t", "1", "none", "0" * 16, {"temperature": 0.0}, "HFEngine/cpu", "float32", None, 50176, None),
    *("s", "1", "mean", "0" * 16),
)
RECORD = {
    "benchmark": "b",
    "subset": "all",
    "metric": "accuracy",
    "value": 0.5,
    "stderr": 0.1,
    "n": 4,
    "checkpoint": "k",
}
MANIFEST = Manifest("k", "w", "s", None, {"max_steps": 3}, None, 1, "c", {"torch": "2"}, "cpu")
ABOUT = {"doc_id": 0, "doc": rows.Doc(id="1", choices=("a", "b"), cells={"precision": None}), "target": "B"}
ANSWER = rows.SampleRow(**ABOUT, resps=(("\ud800 B",),), filtered_resps=("B",), accuracy=1.0, finish="stop")
EPISODE = rows.SokobanRow(
    **ABOUT, resps=(("up",),), repeat=0, score=99.5, best_reward=9.5, upper_reward=10.0, steps=3, dropped=0
)
OWN_ROWS = b"".join(rows.line_of(row).encode("ascii") + b"\n" for row in (ANSWER, EPISODE))
TARGETS: dict[str, Target] = {
    "data_rows": partial(in_file, data.read_samples, "rows.jsonl"),
    "training_config": partial(in_file, config.load_train_config, "config.yaml"),
    "arms": partial(in_file, config.read_mapping, "arms.yaml"),
    "registry": partial(in_file, registry.load_registry, "benchmarks.yaml"),
    "verdict_rules": partial(in_file, rules.load_rules, "verdicts.yaml"),
    "samples": partial(in_file, lambda path: list(rows.read_samples(path)), "samples.jsonl"),
    "own_answers": partial(in_file, lambda path: importers.read_answers([path]), "samples.jsonl"),
    "predictions_jsonl": partial(in_file, lambda path: importers.read_answers([path]), "samples_mmlu_2026.jsonl"),
    "predictions_tsv": partial(in_file, lambda path: importers.read_answers([path]), "model_MMStar.tsv"),
    "benchmark_jsonl": benchmark_file("math500", "test.jsonl"),
    "benchmark_csv": benchmark_file("gpqa_diamond", "csv"),
    "benchmark_tsv": benchmark_file("mathvision_mini", "tsv"),
    "records": partial(in_file, records.read_records, "record.json"),
    "manifest": partial(in_file, store.read_manifest, "manifest.json"),
    "levels": partial(in_file, sokoban.read_levels, "levels.txt"),
    "system_prompt": partial(in_file, protocols.read_system_prompt, "prompt.txt"),
    "answers": of_text(answers.has_format, answers.has_strict_format, answers.extract_answer, answers.final_answer),
    "scorers": of_text(scorers, lambda text: named_option(text, ("1", "x"))),
    "judge_replies": of_text(judge_replies),
    "actions": of_text(actions),
    "page_text": of_text(samples.clean),
}
"""Name -> what is run on the bytes."""

SEEDS: dict[str, list[bytes]] = {
    "data_rows": [json.dumps(ROW).encode() + b"\n", json.dumps(RELEASED).encode()],
    "training_config": [b"max_steps: 3\nloss: {beta: 0.1}\nreward: {kind: rule}\n"],
    "arms": [b"baseline: {checkpoint: base}\nfre: {parent: baseline, stage: fre}\n"],
    "registry": [
        b"mine:\n  harness: lm_eval\n  title: M\n  group: text\n  metric: accuracy\n  max_new_tokens: 3\n  source: micro\n"
    ],
    "verdict_rules": [b"margin: 2.0\nmargins: {gpqa_diamond: 5}\ncorrection: holm\n"],
    "samples": [OWN_ROWS],
    "own_answers": [OWN_ROWS.partition(b"\n")[0]],
    "predictions_jsonl": [
        b'{"doc_id": 0, "doc": {"problem": "p", "answer": "4"}, "target": "4", "resps": [["4"]], "filtered_resps": ["4"]}\n'
    ],
    "predictions_tsv": [b"index\tquestion\tA\tB\tanswer\tprediction\tcategory\n1\tq\tx\ty\tB\tB\tc\n"],
    "benchmark_jsonl": [b'{"problem": "p", "answer": "4", "unique_id": "test/algebra/1.json", "solution": "4"}\n'],
    "benchmark_csv": [
        b"Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\nr,q,a,b,c,d,P\n"
    ],
    "benchmark_tsv": [TSV.format(base64.b64encode(PICTURE.getvalue()).decode()).encode()],
    "records": [json.dumps([RECORD | {"samples": "samples.jsonl", "protocol": asdict(PROTOCOL)}]).encode()],
    "manifest": [json.dumps(asdict(MANIFEST)).encode()],
    "levels": [b"; 0\n#####\n#@$.#\n#####\n", b"; 1\n####\n#@ #\n#$.#\n####\n"],
    "system_prompt": [b"You are", b'{"message": "[{\\"role\\": \\"system\\", \\"content\\": \\"x\\"}]"}\n'],
    "answers": [b"<think>a</think><answer>$\\boxed{\\frac{1}{2}}$</answer>", b"The answer is (B)."],
    "scorers": [b"The answer is $\\frac{1}{2}$", b"\\boxed{(1,2]} or \\sqrt{2}x+1, 3 cm", b"(B) x + 1"],
    "judge_replies": [b"2.50", b"[1, 2.5]", b"Extracted Answer: 3"],
    "actions": [
        b"<answer>Left, Up</answer>",
        b"### Actions\nLeft,Right",
        b"# action\naction_idle",
        b"<answer>shot</answer>",
    ],
    "page_text": ["a\u202eb\x00".encode()],
}
"""Name -> whole inputs to start from: a parser that refused them would be fuzzed no deeper than its first check."""
