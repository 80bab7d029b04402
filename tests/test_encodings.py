"""Contract: the same pictures in other encodings are the same pixels wherever a model meets them (training data, TRL,
lm-eval, VLMEvalKit, vLLM's input), and so get the same answers."""

import base64
import csv
import json
import sys

import pytest
import torch

from evals.generation import load_model
from evals.plan import Options, plan
from evals.run import run_jobs
from evals.samples import read_samples as read_answers
from lmmr1.config import SamplingConfig, TrainConfig
from lmmr1.data import read_samples
from lmmr1.policy import load_policy
from lmmr1.rollout import HFEngine
from lmmr1.vllm_engine import VLLMEngine
from tests import vllm_standin
from tests.encodings import ENCODINGS, drawing, pairs

PICTURES = [drawing(number) for number in range(20)]
QUESTION = "how many?"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with PLAIN/ENCODED files, training data `plain.jsonl` and `encoded.jsonl`, row by row the same pictures."""
    folder = tmp_path_factory.mktemp("encodings")
    rows = {"plain": [], "encoded": []}
    for number, (name, *two) in enumerate(pairs(PICTURES)):
        for side, raw in zip(rows, two, strict=True):
            (folder / f"{side}{number}").write_bytes(raw)
            content = [{"type": "image", "image": f"{side}{number}"}, {"type": "text", "text": QUESTION}]
            rows[side].append(
                {"id": f"{name} {number}", "messages": [{"role": "user", "content": content}], "answer": "1"}
            )
    for side, lines in rows.items():
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def samples(files):
    """(plain, encoded) samples."""
    return read_samples(files / "plain.jsonl"), read_samples(files / "encoded.jsonl")


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model))


def test_there_are_more_than_twelve():
    assert len(ENCODINGS) >= 12 and len(PICTURES) == 20
    assert len({raw for _, raw, _ in pairs(PICTURES)}) >= 2 * 20  # colour and grey; lossy ones besides


def test_training_sees_the_same_pixels_and_samples_the_same_answers(samples, policy):
    plain, encoded = (policy.encode(side, 256) for side in samples)
    assert all(torch.equal(plain[key], encoded[key]) for key in plain)
    sampling = SamplingConfig(max_completion_length=4)
    answers = [HFEngine(policy).generate(side[::4], sampling, 2, (0,)) for side in samples]
    assert answers[0] == answers[1]
    assert len({row.token_ids for group in answers[0] for row in group}) > 5


def test_trl_is_given_the_same_pixels(samples):
    trl_trainer = pytest.importorskip("lmmr1.trl_trainer")
    cfg = TrainConfig(max_steps=2, num_prompts=len(samples[0]) // 2, num_generations=2, trainer="trl")
    plain, encoded = (trl_trainer.dataset(cfg, side)[:] for side in samples)
    pixels = [[p["image"].tobytes() for row in side["prompt"] for m in row for p in m["content"] if p["type"] == "image"] for side in (plain, encoded)]  # fmt: skip
    assert pixels[0] == pixels[1] and len(pixels[0]) == len(samples[0])


def test_vllm_is_handed_the_same_pixels(samples, policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", vllm_standin.module())
    engine, given = VLLMEngine(policy, SamplingConfig(max_prompt_length=256)), []

    def generate(prompts, params, use_tqdm):
        given.append(
            [(p["prompt"], [(i.mode, i.size, i.tobytes()) for i in p["multi_modal_data"]["image"]]) for p in prompts]
        )
        return []

    monkeypatch.setattr(engine.llm, "generate", generate)
    for side in samples:
        with pytest.raises(ValueError, match="shorter"):  # no answers
            engine.generate(side, SamplingConfig(), 1, (0,))
    assert given[0] == given[1] and {len(images) for _, images in given[0]} == {1}


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model))


def answers(model, harness_file, benchmark, out):
    options = Options.of(batch_size=40, max_new_tokens=6, benchmark_dir=harness_file.parent)
    run_jobs(lambda: model, plan([benchmark], out, options), out, options, "tiny")
    return [(row.response, row.accuracy) for row in read_answers(out / benchmark / "samples.jsonl")]


def both(model, files, benchmark, write, tmp_path):
    """Answers to the plain and to the encoded pictures through one harness."""
    found = []
    for side in ("plain", "encoded"):
        folder = tmp_path / side
        (folder / "out").mkdir(parents=True)
        raws = [(files / f"{side}{i}").read_bytes() for i in range(len(PICTURES) * len(ENCODINGS))]
        found.append(answers(model, write(folder, raws), benchmark, folder / "out"))
    return found


def test_vlmevalkit_gets_the_same_answers(model, files, tmp_path):
    def write(folder, raws):
        with (folder / "micro_drawn.tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", "image", "question", "answer", "category"])
            for i, raw in enumerate(raws):
                writer.writerow([i, base64.b64encode(raw).decode(), QUESTION, "1", "c"])
        return folder / "micro_drawn.tsv"

    plain, encoded = both(model, files, "micro_drawn", write, tmp_path)
    assert plain == encoded and len({text for text, _ in plain}) > 3


def test_lm_eval_gets_the_same_answers(model, files, tmp_path):
    def write(folder, raws):
        rows = []
        for i, raw in enumerate(raws):
            (folder / str(i)).write_bytes(raw)
            rows.append({"id": str(i), "question": QUESTION, "answer": "1", "category": "c", "image": str(i)})
        (folder / "micro_chain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / "micro_chain.jsonl"

    plain, encoded = both(model, files, "micro_chain", write, tmp_path)
    assert plain == encoded and len({text for text, _ in plain}) > 3
