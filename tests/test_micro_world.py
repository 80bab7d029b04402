"""The micro world: problems, files, tokenizer, processor, model and the packed fast path of its pretraining."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmmr1.types import UserError
from reproduce import prepare
from reproduce.micro import build, packing, pretrain, world
from reproduce.micro.model import SPECIAL, TAGS, WORDS, FastTokenizer, ModelConfig, build_model, build_processor

IMAGE_TASKS = ("drawn", "legend", "scene", "count", "most")
SMALL = ModelConfig(hidden=64, layers=2, vision_hidden=32, seed=3)
ROOMS = {"sokoban_rooms": 30, "benchmark_rooms": 10}
SHORT = {"steps": 2, "tokens": 200, "variants": 2, "drawings": 1, "benchmark_n": 20, "model": SMALL, **ROOMS}


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that one step of pretraining made."""
    out = tmp_path_factory.mktemp("micro") / "base"
    cfg = pretrain.PretrainConfig(**SHORT)
    pretrain.pretrain(cfg, out, processes=1, log=lambda line: None)
    return out


def mixed(n, seed=0):
    return world.draw_mix(dict.fromkeys(world.TASKS, 1.0), n, seed)


# ------------------------------------------------------------------------------------------------------ problems


def compute(text):
    """Left to right, modulo 7: written apart from the generator."""
    numbers, ops = re.findall(r"\d", text), re.findall(r"[+-]", text)
    total = int(numbers[0])
    for op, number in zip(ops, numbers[1:], strict=True):
        total += int(number) if op == "+" else -int(number)
    return str(total % 7)


def solve(item):
    """The answer from the question's text and the cells alone."""
    seen = {w: " ".join(item.cells).split().count(w) for w in (*world.COLOURS, *world.SHAPES)}
    if item.task in ("chain", "fact"):
        return compute(item.question)
    if item.task == "drawn":
        return compute("".join(item.cells).rstrip("."))
    if item.task == "most":
        words = world.COLOURS if "colour" in item.question else world.SHAPES
        return max(words, key=seen.get)
    values = seen
    if item.task == "table":
        values = dict(re.findall(r"([a-z]+)(\d)", item.question))
    if item.task == "legend":
        values = {item.cells[i].split()[0]: item.cells[i + 3] for i in range(3)}
    asked = re.search(r"(?:value|count) ([^?=]*)", item.question).group(1)
    return compute(re.sub(r"[a-z]+", lambda m: str(values[m.group()]), asked))


@pytest.mark.parametrize("name", world.BENCHMARKS)
def test_benchmark_answers_agree_with_an_independent_evaluator(name):
    for item in world.draw_benchmark(name, 200, 1):
        assert solve(item) == item.answer
        assert item.worked
        for left, right in re.findall(r"(\d[+-]\d)=(\d)", item.worked):
            assert compute(left) == right
        if item.task not in ("count", "most"):
            assert item.worked.endswith(f"={item.answer}")


def test_training_answers_agree_with_an_independent_evaluator():
    assert all(solve(item) == item.answer for item in mixed(700))


def test_most_is_decided_by_one_cell():
    for item in world.draw_benchmark("micro_most", 100, 0):
        numbers = sorted(int(n) for n in re.findall(r"[a-z](\d)", item.worked))
        assert numbers[-1] == numbers[-2] + 1


@pytest.mark.parametrize("name", world.BENCHMARKS)
def test_benchmarks_are_distinct_and_of_the_test_split(name):
    keys = [world.key(item) for item in world.draw_benchmark(name, 500, 0)]
    assert len(set(keys)) == 500
    assert {world.split(k) for k in keys} == {"test"}


def test_training_mix_never_meets_a_benchmark():
    train = {world.key(item) for item in mixed(1400)}
    test = {world.key(item) for name in world.BENCHMARKS for item in world.draw_benchmark(name, 500, 0)}
    assert {world.split(k) for k in train} == {"train"}
    assert not train & test
    assert len(train) == 1400


def test_a_drawn_chain_lies_on_the_same_side_as_the_written_one():
    items = [world.drawn(random.Random(i), 3) for i in range(50)]
    written = ["".join(c for c in item.cells if c != world.BLANK) for item in items]
    assert all(
        world.split(world.key(item)) == world.split(f"chain|{text}=?|{text}")
        for item, text in zip(items, written, strict=True)
    )


def test_key_ignores_the_opening_word_and_sees_the_cells():
    item = world.draw_benchmark("micro_count", 1, 0)[0]
    assert world.key(replace(item, phrase="solve")) == world.key(item)
    assert world.key(replace(item, cells=item.cells[::-1])) != world.key(item)


def test_all_questions_on_one_sheet_lie_on_one_side():
    empty = (world.BLANK,) * 6  # rare, and once the reason for a training problem on the test side
    for cells in (empty, world.scene_sheet(random.Random(0)), world.scene_sheet(random.Random(1))):
        items = [world.count(random.Random(i), cells) for i in range(12)]
        items += [world.scene(random.Random(i), 2, cells) for i in range(12)]
        assert len({world.split(world.key(item)) for item in items}) == 1
        assert len({world.sheet(item) for item in items}) == 1
    values = {"red": 1, "blue": 2, "green": 3}
    tables = [world.table(random.Random(i), 3, values) for i in range(12)]
    assert {world.sheet(item) for item in tables} == {"red1,blue2,green3"}


def test_mix_follows_the_weights_and_refuses_bad_ones():
    items = world.draw_mix({"chain": 3, "table": 1, "count": 0}, 101, 5)
    assert sum(item.task == "chain" for item in items) == 76
    assert sum(item.task == "count" for item in items) == 0
    for bad in ({"nothing": 1.0}, {"chain": 0.0}, {"chain": 2.0, "table": -1.0}):
        with pytest.raises(ValueError, match="weights"):
            world.draw_mix(bad, 3, 0)
    with pytest.raises(ValueError, match="unknown benchmark"):
        world.draw_benchmark("chain", 3, 0)


# ------------------------------------------------------------------------------------------------------- drawings


def test_drawings_are_a_function_of_item_and_seed():
    for item in mixed(40):
        image = world.render(item, 4)
        if item.task in world.TEXT_TASKS:
            assert image is None
            continue
        assert image.size == (28 * item.cols, 28 * (len(item.cells) // item.cols))
        assert image.tobytes() == world.render(item, 4).tobytes()
        assert image.tobytes() == world.render(replace(item, phrase="solve"), 4).tobytes()
        assert image.tobytes() != world.render(item, 5).tobytes()


def test_classes_look_different():
    average = {
        name: np.mean([world.render_cell(name, i).astype(float) for i in range(24)], axis=0) for name in world.CLASSES
    }
    names = list(average)
    gaps = [np.abs(average[a] - average[b]).max() for i, a in enumerate(names) for b in names[:i]]
    assert min(gaps) > 20


# ---------------------------------------------------------------------------------------------------------- files


def test_text_benchmark_file(tmp_path):
    build.write_benchmark("micro_table", 30, 0, tmp_path / "t.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    items = world.draw_benchmark("micro_table", 30, 0)
    assert [(r["question"], r["answer"]) for r in rows] == [(i.text, i.answer) for i in items]
    assert len({r["id"] for r in rows}) == 30
    assert {r["question"].split()[0] for r in rows} == set(world.PHRASES)
    assert {r["category"] for r in rows} == {"2 terms", "3 terms"}


def test_image_benchmark_file_holds_the_rendered_images(tmp_path):
    csv.field_size_limit(10**7)
    build.write_benchmark("micro_legend", 8, 2, tmp_path / "l.tsv")
    rows = list(csv.DictReader((tmp_path / "l.tsv").open(), delimiter="\t"))
    assert list(rows[0]) == ["index", "image", "question", "answer", "category"]
    for i, (row, item) in enumerate(zip(rows, world.draw_benchmark("micro_legend", 8, 2), strict=True)):
        image = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        assert len(row["image"]) > 64
        assert image.tobytes() == world.render(item, f"test-2-{i}").tobytes()
        assert (row["question"], row["answer"]) == (item.text, item.answer)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_are_the_same_byte_for_byte(tmp_path):
    weights = {"chain": 1.0, "drawn": 1.0, "scene": 1.0}
    for name in ("a", "b"):
        build.write_prompts(weights, 12, 3, tmp_path / name / "mgt.jsonl")
        build.write_benchmark("micro_count", 5, 1, tmp_path / name / "count.tsv")
        build.write_benchmark("micro_chain", 5, 1, tmp_path / name / "chain.jsonl")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not [name for name in tree(tmp_path) if name.endswith(".tmp")]
    build.write_prompts(weights, 12, 4, tmp_path / "c" / "mgt.jsonl")
    assert tree(tmp_path / "c")["mgt.jsonl"] != tree(tmp_path / "a")["mgt.jsonl"]


def test_prompts_and_their_card(tmp_path):
    build.write_prompts({"table": 1.0, "most": 2.0}, 30, 0, tmp_path / "mix.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "mix.jsonl").read_text().splitlines()]
    for row in rows:
        content = row["messages"][0]["content"]
        assert [part["type"] for part in content] == (["image", "text"] if row["source"] == "most" else ["text"])
        if row["source"] == "most":
            assert Image.open(tmp_path / content[0]["image"]).size == (140, 56)
    card = json.loads((tmp_path / "mix.card.json").read_text())
    assert card["counts"] == {"most": 20, "table": 10}
    assert (card["distinct_keys"], card["overlap_with_benchmarks"]) == (30, 0)


def test_a_card_would_show_an_overlap():
    items = world.draw_benchmark("micro_scene", 3, 77)
    assert build.prompts_card(items, {"scene": 1.0}, 0)["overlap_with_benchmarks"] == 3


# ---------------------------------------------------------------------------------------- tokenizer and processor

PIECES = st.sampled_from([*SPECIAL, *TAGS, *WORDS, " ", "\n", "\r\n", "A\u030a", "\u212b", "Ġ", "Ċ"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text() | PIECES, max_size=6).map("".join))
def test_any_text_survives_the_tokenizer(processor, text):
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_tags_and_words_survive_skip_special_tokens(processor):
    tokenizer = processor.tokenizer
    ids = tokenizer("<think>3+5=1</think><answer>red</answer><|im_end|>")["input_ids"]
    assert len(ids) == 11
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>3+5=1</think><answer>red</answer>"


def test_fast_tokenizer_agrees_and_texts_are_short(processor):
    fast = FastTokenizer(processor.tokenizer)
    for item in mixed(210):
        reply = pretrain.completion(item, "worked")
        content = [{"type": "image"}] * bool(item.cells) + [{"type": "text", "text": item.text}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for text in (prompt, reply):
            assert list(fast(text)) == processor.tokenizer(text)["input_ids"]
        assert len(fast(prompt)) + len(item.cells) < 40
        assert len(fast(reply)) < 48


def test_chat_template(processor):
    content = [{"type": "image"}, {"type": "text", "text": "solve image=?"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>solve image=?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert processor.apply_chat_template([{"role": "user", "content": "hi"}]) == "<|im_start|>user\nhi<|im_end|>\n"


# ----------------------------------------------------------------------------------------------- model, pretraining


def test_saved_folder_loads_and_generates(folder):
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    item = world.draw_benchmark("micro_most", 1, 0)[0]
    content = [{"type": "image", "image": world.render(item, 0)}, {"type": "text", "text": item.text}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == len(item.cells)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] <= inputs["input_ids"].shape[1] + 3
    tokenizer, generation = processor.tokenizer, model.generation_config
    assert tokenizer.convert_ids_to_tokens(generation.eos_token_id) == "<|im_end|>" == tokenizer.eos_token
    assert tokenizer.convert_ids_to_tokens(generation.pad_token_id) == "<|endoftext|>" == tokenizer.pad_token
    assert "video_processor" in json.loads((folder / "processor_config.json").read_text())
    decomposed = "e\u0301"
    assert tokenizer.decode(tokenizer(decomposed)["input_ids"]) == decomposed


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def reference_logits(model, processor, item, image, reply):
    """The logits that predict the reply, by the real processor and the model's own forward."""
    content = [{"type": "image"}] * bool(item.cells) + [{"type": "text", "text": item.text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt + reply], images=[image] if image else None, return_tensors="pt")
    start = inputs["input_ids"].shape[1] - len(processor.tokenizer(reply)["input_ids"])
    return model(**inputs).logits[0, start - 1 : -1]


def packed_group(model, fast, item, image, drawings):
    """The same prompt as a group with three branches; its cells are appended to `drawings`."""
    if image:
        pixels, size = np.asarray(image), world.CELL
        for k in range(len(item.cells)):
            y, x = k // item.cols * size, k % item.cols * size
            drawings.append(pixels[y : y + size, x : x + size])
    rows = iter(range(len(drawings) - len(item.cells), len(drawings)))
    start = fast("<|im_start|>user\n" + ("<|vision_start|>" if item.cells else ""))
    group = packing.prefix(start, item, model.config.image_token_id, lambda name: next(rows))
    ask = fast(("<|vision_end|>" if item.cells else "") + f"{item.text}<|im_end|>\n<|im_start|>assistant\n")
    for style in ("worked", "direct", "untagged"):
        reply = fast(pretrain.completion(item, style))
        group.branches.append((ask + reply, range(len(ask), len(ask) + len(reply)), 0))
    return group


@torch.no_grad()
def test_packed_logits_equal_the_standard_forward(processor):
    model = build_model(SMALL).eval()
    fast, drawings, groups, expected = FastTokenizer(processor.tokenizer), [], [], []
    for task in world.TASKS:
        item = world.draw_benchmark(f"micro_{task}", 1, 9)[0]
        image = png(world.render(item, 9)) if item.cells else None
        groups.append(packed_group(model, fast, item, image, drawings))
        replies = [pretrain.completion(item, style) for style in ("worked", "direct", "untagged")]
        expected += [reference_logits(model, processor, item, image, reply) for reply in replies]
    batch = packing.pack([groups[:3], groups[3:]], model.config.text_config.pad_token_id)
    features = packing.cell_features(model, torch.from_numpy(np.array(drawings)))
    got = packing.loss_logits(model, features, batch)
    assert batch.mask.shape[0] == 2
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_first_fit_keeps_every_group_within_the_rows():
    sizes = [30, 90, 60, 100, 10]
    rows = packing.first_fit(groups_of(sizes), 100)
    assert sorted(len(g) for row in rows for g in row) == sorted(sizes)
    assert max(sum(map(len, row)) for row in rows) <= 100


def groups_of(sizes):
    return [packing.Group([0] * n, [(0, 0, 0)] * n, [], n) for n in sizes]


def padded(rows):
    return len(rows) * max(sum(map(len, row)) for row in rows)


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([300, 100, 100, 100], [[300], [100, 100, 100]]),  # one long row makes all long: fill them
        ([96] * 8, [[96]] * 8),  # nothing is padded either way: short rows, for attention's sake
        ([100, 60, 60], [[100], [60, 60]]),  # 20 tokens of padding cost less than the attention of one row of 220
        ([400], [[400]]),  # longer than every length tried
    ],
)
def test_the_cheapest_rows_of_some_groups(sizes, rows):
    assert [[len(group) for group in row] for row in packing.cheapest_fit(groups_of(sizes))] == rows


def test_the_cheapest_rows_hold_every_group_once_and_pad_less_than_rows_of_one_length():
    rng, fixed, chosen = random.Random(4), 0, 0
    for _ in range(50):
        sizes = [rng.randint(20, 300) for _ in range(rng.randint(4, 20))]
        rows = packing.cheapest_fit(groups_of(sizes))
        assert sorted(len(g) for row in rows for g in row) == sorted(sizes)
        chosen += padded(rows)
        fixed += padded(packing.first_fit(groups_of(sizes), 192))
    assert chosen < fixed


@pytest.mark.parametrize("depth", [1, 2])
def test_cell_features_equal_the_tower_with_gradients(depth):
    model = build_model(replace(SMALL, vision_depth=depth))
    cells = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 28, 28, 3), dtype=np.uint8))
    tower = model.model.visual

    def features_and_gradients(features):
        features.square().sum().backward()
        gradients = [p.grad.clone() for p in tower.parameters()]
        model.zero_grad()
        return [features.detach(), *gradients]

    ours = features_and_gradients(packing.cell_features(model, cells))
    grid = torch.tensor([[1, 2, 2 * len(cells)]])
    theirs = features_and_gradients(tower(packing.patches(cells), grid_thw=grid).pooler_output)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_pretraining_is_reproducible_and_records_its_keys(folder, tmp_path):
    card = json.loads((folder / "pretrain.json").read_text())
    assert (card["keys_in_test_split"], card["overlap_with_benchmarks"]) == (0, 0)
    assert card["distinct_keys"] > 20
    assert [row["step"] for row in card["loss"]] == [2]
    cfg = pretrain.PretrainConfig(**SHORT)
    pretrain.pretrain(cfg, tmp_path / "again", processes=1, log=lambda line: None)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_stream_uses_training_problems_only(processor):
    cfg = pretrain.PretrainConfig(tokens=20_000, **ROOMS)
    stream = pretrain.Stream(cfg, 0, FastTokenizer(processor.tokenizer), 0)
    for phase in range(3):
        stream.groups(phase)
    tasks = {name.split("|")[0] for name in stream.keys}
    assert tasks == {"fact", "read", "sokoban", *world.TASKS}
    assert {world.split(name) for name in stream.keys} == {"train"}


def test_drills_train_on_results_and_looked_up_values_only(processor):
    fast = FastTokenizer(processor.tokenizer)
    stream = pretrain.Stream(pretrain.PretrainConfig(**ROOMS), 0, fast, 0)
    for group in [stream.drill() for _ in range(5)] + [stream.pair_drill() for _ in range(30)]:
        text = processor.tokenizer.decode(group.ids)
        for ids, places, kind in group.branches:
            row = processor.tokenizer.decode(ids)
            trained = [processor.tokenizer.decode([ids[k]]) for k in places]
            if pretrain.KINDS[kind] == "drill":
                assert trained == [compute(fact.partition("=")[0]) for fact in row.split(",")]
            else:
                assert trained == re.findall(r"[a-z](\d)", row)
            if pretrain.KINDS[kind] == "table pairs":
                assert all(pair in text for pair in row.split(","))


def test_far_shapes_are_for_counting_and_comparing():
    for item in mixed(280):
        assert any(c in world.FAR for c in item.cells) == (item.task in ("count", "most"))


def test_opening_word_and_image_factor_set_the_share_of_worked_answers(processor):
    def worked(task, phrase, factor):
        cfg = pretrain.PretrainConfig(image_worked_factor=factor, p_untagged=0.0, **ROOMS)
        stream = pretrain.Stream(cfg, 0, FastTokenizer(processor.tokenizer), 0)
        item = replace(world.draw_mix({task: 1.0}, 1, 0)[0], phrase=phrase)
        return np.mean([stream.style(item, 2) == "worked" for _ in range(600)])

    assert worked("chain", "give", 0.5) + 0.2 < worked("chain", "derive", 0.5)
    assert abs(worked("drawn", "derive", 0.5) - worked("chain", "derive", 0.5) / 2) < 0.08
    assert worked("drawn", "derive", 0.0) == 0


def test_averager_gives_every_rank_the_mean():
    buffer, barrier, results = torch.zeros(2, 2, 3), threading.Barrier(2), {}

    def rank_main(rank):
        average = pretrain.Averager(buffer, barrier, rank)
        parameter, seen = torch.nn.Parameter(torch.zeros(3)), []
        for step in range(3):
            parameter.grad = torch.full((3,), float(10 * step + rank))
            average([parameter])
            seen.append(parameter.grad.tolist())
        results[rank] = seen

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert results[0] == results[1] == [[0.5] * 3, [10.5] * 3, [20.5] * 3]


# ------------------------------------------------------------------------------------------ two processes, one killed


@pytest.fixture
def together(tmp_path):
    """Pretraining by two processes that never ends: the process of rank 0 and its helper, both at work."""
    small = ["--steps", "1000000", "--tokens", "200", "--variants", "2", "--drawings", "1", "--log-every", "1"]
    command = [sys.executable, "-m", "reproduce.micro.pretrain", "--out", str(tmp_path / "base"), *small]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline().startswith("1/")
        children = psutil.Process(process.pid).children()
        yield process, next(c for c in children if any("spawn_main" in word for word in c.cmdline()))
        process.kill()


def test_the_helper_of_a_killed_pretraining_ends_at_once(together):
    """It used to wait at the barrier for ten minutes."""
    process, helper = together
    process.kill()
    process.wait()
    assert not psutil.wait_procs([helper], timeout=120)[1]


def test_pretraining_whose_helper_is_killed_stops_with_one_line(together):
    process, helper = together
    helper.kill()
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "exit code -9" in line and "run the same command again" in line and "Traceback" not in errors


def test_a_damaged_base_is_named_and_not_adopted(folder, tmp_path):
    spec = {"pretrain": {"steps": 2}, "numerics": 1}
    cfg = dataclasses.asdict(pretrain.PretrainConfig(steps=2))
    facts = json.dumps({"pretrain": cfg, "numerics": 1}, sort_keys=True)
    base = tmp_path / hashlib.sha256(facts.encode()).hexdigest()[:16] / "final"
    shutil.copytree(folder, base)
    prepare.checkpoint(spec, tmp_path, tmp_path / "base.json")
    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged, .*delete .* and run the same command again"):
        prepare.checkpoint(spec, tmp_path, tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()
