"""Ways in which a checkpoint can be broken or unusual, and what happens: the table of docs/checkpoints.md.

`python -m tests.checkpoint_cases docs/checkpoints.md` makes a model, breaks a copy of it in every way, loads it, and
writes what happened between the markers; tests/test_checkpoints.py does the same and compares.
"""

import json
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lmmr1.config import DecodingConfig
from lmmr1.packed import PackedEngine
from lmmr1.policy import load_policy
from lmmr1.store import Store
from lmmr1.types import Manifest, Sample, UserError
from reproduce.micro.model import CHAT_TEMPLATE, build_model, build_processor

BEGIN, END = "<!-- begin: tests/checkpoint_cases.py -->", "<!-- end: tests/checkpoint_cases.py -->"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDINGS, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.2.mlp.up_proj.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "7" + "\nsize 2061600\n"
QUESTION = Sample("q", [{"role": "user", "content": "find 3+4=?"}], (), "7")


def make_model(folder: Path) -> Path:
    """The micro world's model with random weights."""
    build_model().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------------ ways to break


def edit(name, **changes):
    """Change a JSON file; `a__b` is key b of the object a, and None takes the key away."""

    def go(folder):
        content = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *outer, key = path.split("__")
            at = content
            for part in outer:
                at = at[part]
            at.pop(key, None) if value is None else at.__setitem__(key, value)
        (folder / name).write_text(json.dumps(content))

    return go


def text(**changes):
    return edit("config.json", **{f"text_config__{key}": value for key, value in changes.items()})


def quantized(**settings):
    return edit("config.json", quantization_config=settings)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name, content):
    def go(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return go


def rewrite(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def tensors(change):
    """Let `change` have the weights' dictionary; what it returns, if anything, takes its place."""

    def go(folder):
        found = load_file(folder / WEIGHTS)
        save_file({k: v.contiguous() for k, v in (change(found) or found).items()}, folder / WEIGHTS, {"format": "pt"})

    return go


def put(name, make):
    """Set one tensor to what `make` makes of it."""
    return tensors(lambda w: w.__setitem__(name, make(w.get(name))))


def with_head(off):
    """An output matrix of its own, `off` the embeddings."""
    return tensors(lambda w: w.__setitem__(HEAD, w[EMBEDDINGS] + off))


def untied(folder):
    both(edit("config.json", tie_word_embeddings=False), text(tie_word_embeddings=False))(folder)


def poisoned(value):
    def make(tensor):
        tensor[0, 0] = value
        return tensor

    return make


def renamed(change):
    return tensors(lambda w: {change(name): tensor for name, tensor in w.items()})


def cast(dtype):
    return tensors(lambda w: {name: tensor.to(dtype) for name, tensor in w.items()})


def only(*names):
    """Nothing but empty files of these names."""

    def go(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        for name in names:
            write(name, b"x")(folder)

    return go


def both(*steps):
    return lambda folder: [step(folder) for step in steps]


def shard(change=lambda index, shards: None):
    """Cut the weights into two shards with an index, which `change` may spoil before they are written."""

    def go(folder):
        found = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        shards = {name: dict(list(found.items())[i::2]) for i, name in enumerate(names)}
        index = {"metadata": {}, "weight_map": {t: name for name in names for t in shards[name]}}
        change(index, shards)
        for name, part in shards.items():
            save_file(part, folder / name, {"format": "pt"})
        (folder / INDEX).write_text(json.dumps(index))

    return go


def adapter(base="owner/base", **more):
    content = {"peft_type": "LORA", "r": 8, **more} | ({"base_model_name_or_path": base} if base else {})
    return both(write("adapter_config.json", json.dumps(content)), lambda f: save_file({"a": torch.ones(1)}, f / "adapter_model.safetensors"))  # fmt: skip


def as_cache(folder):
    """The layout of the Hub's cache: a snapshot of links to blobs."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{i:040}")
        file.symlink_to(f"../blobs/{i:040}")


def into_cache(folder):
    inside = folder.parent / "inside"
    folder.rename(inside)
    (folder / "snapshots").mkdir(parents=True)
    inside.rename(folder / "snapshots/1234")


def a_file(folder):
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    shutil.rmtree(folder)
    (folder.parent / WEIGHTS).rename(folder)


def outer(folder):
    folder.rename(folder.parent / "inside")
    folder.mkdir()
    (folder.parent / "inside").rename(folder / "final")


def dead_link(name):
    return both(remove(name), lambda folder: (folder / name).symlink_to("../blobs/gone"))


def old_files(folder):
    """Template and image processor in the files of the releases of 2025."""
    remove("chat_template.jinja")(folder)
    write("chat_template.json", json.dumps({"chat_template": CHAT_TEMPLATE}))(folder)
    content = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    write("preprocessor_config.json", json.dumps(content))(folder)
    remove("processor_config.json")(folder)


def template(source):
    return write("chat_template.jinja", source)


def template_in_settings(value):
    return both(remove("chat_template.jinja"), edit("tokenizer_config.json", chat_template=value))


def more_tokens(folder):
    """A token that the tokenizer got after the model was made."""
    content = json.loads((folder / "tokenizer.json").read_text())
    last = content["added_tokens"][-1]
    content["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<tool>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def without_mark(folder):
    """A tokenizer without marks for images, as that of a text model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        rewrite(name, lambda data: data.replace(b"<|image_pad|>", b"<|other_pad|>"))(folder)


# -------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    """A row: what is done to a copy of a model, and where it loads, what of it was mended."""

    what: str
    make: Callable[[Path], object]
    works: str = ""
    """Said in the table where it loads; the answers are then those of the model that was not touched."""
    other: bool = False
    """The answers may be others: the weights are rounded."""


NOT_THERE = "nothing at the path"
TABLE = {
    "Folders": (
        Case(NOT_THERE, shutil.rmtree),
        Case("the path of a file", a_file),
        Case("an empty folder", only()),
        Case("a folder that holds the checkpoint's folder", outer),
        Case("the Hub's cache of a model instead of its snapshot", into_cache),
        Case("a snapshot in the Hub's cache: links to blobs", as_cache, "loads"),
        Case("a link to a blob that is gone", dead_link(WEIGHTS)),
        Case("a link of the tokenizer to a blob that is gone", dead_link("tokenizer.json")),
        Case("a folder that cannot be written", lambda folder: folder.chmod(0o555), "loads; nothing is written there"),
        Case("only the state of an optimizer", only("optimizer.pt", "scheduler.pt", "trainer_state.json")),
        Case("sharded state of FSDP", only("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp")),
        Case("state of DeepSpeed", only("global_step10/mp_rank_00_model_states.pt", "zero_to_fp32.py")),
        Case("a resume point of a training here", only("model.safetensors", "optimizer.safetensors", "state.json")),
    ),
    "config.json": (
        Case("missing", remove("config.json")),
        Case("cut off", rewrite("config.json", lambda data: data[:300])),
        Case("empty", write("config.json", "")),
        Case("with a byte-order mark", rewrite("config.json", lambda data: b"\xef\xbb\xbf" + data)),
        Case("in UTF-16", rewrite("config.json", lambda data: data.decode().encode("utf-16"))),
        Case("a list", write("config.json", "[]")),
        Case("a git LFS pointer", write("config.json", POINTER)),
        Case("of a text-only Qwen2", edit("config.json", model_type="qwen2")),
        Case("of a Llama", edit("config.json", model_type="llama", architectures=["LlamaForCausalLM"])),
        Case("of another vision-language model", edit("config.json", model_type="qwen3_vl")),
        Case("without model_type", edit("config.json", model_type=None)),
        Case("with a text for a number", text(hidden_size="wide")),
        Case("with sliding windows", text(layer_types=["sliding_attention"] * 3, use_sliding_window=True, sliding_window=64)),
        Case("with dropout", text(attention_dropout=0.1)),
        Case("with a temperature, as older releases had", edit("config.json", temperature=0.7), "loads; nothing is sampled by it"),
        Case("with a rope section for another width (mrope_section)", text(rope_parameters__mrope_section=[1, 1, 1])),
        Case("with a number of heads that the rope section does not fit", text(num_attention_heads=1, num_key_value_heads=1)),
        Case("with a vision tower whose windows hold nothing", edit("config.json", vision_config__window_size=0)),
        Case("with a number that is none (NaN)", text(rms_norm_eps=float("nan"))),
    ),
    "Weights": (
        Case("missing", remove(WEIGHTS)),
        Case("a git LFS pointer", write(WEIGHTS, POINTER)),
        Case("cut off", rewrite(WEIGHTS, lambda data: data[:1_000_000])),
        Case("cut off in the header", rewrite(WEIGHTS, lambda data: data[:100])),
        Case("empty", write(WEIGHTS, "")),
        Case("a header of impossible length", rewrite(WEIGHTS, lambda data: struct.pack("<Q", 2**40) + data[8:])),
        Case("a web page that was saved in their place", write(WEIGHTS, "<!doctype html><title>401</title>")),
        Case("with bytes after the end", rewrite(WEIGHTS, lambda data: data + b"\n")),
        Case("without any tensor", tensors(lambda w: w.clear())),
        Case("pickled: pytorch_model.bin", both(remove(WEIGHTS), write("pytorch_model.bin", "x"))),
        Case("pickled: consolidated.00.pth", both(remove(WEIGHTS), write("consolidated.00.pth", "x"))),
        Case("in GGUF", both(remove(WEIGHTS), write("model-Q4_K_M.gguf", "GGUF"))),
        Case("in two shards with an index", shard(), "loads"),
        Case("a shard is missing", both(shard(), remove("model-00002-of-00002.safetensors"))),
        Case("a shard is a pointer", both(shard(), write("model-00002-of-00002.safetensors", POINTER))),
        Case("the index names a tensor that no shard has", shard(lambda index, shards: [part.pop(LAYER, None) for part in shards.values()])),
        Case("the index names a file elsewhere", shard(lambda index, shards: index["weight_map"].update({EMBEDDINGS: "../other.safetensors"}))),
        Case("the index has no weight_map", shard(lambda index, shards: index.pop("weight_map"))),
        Case("a tensor stands in two shards", shard(lambda index, shards: [part.update({"twice": torch.ones(1)}) for part in shards.values()])),
        Case("shards without an index", both(shard(), remove(INDEX))),
        Case("one file and an index", both(lambda f: shutil.copy(f / WEIGHTS, f / "kept"), shard(), lambda f: (f / "kept").rename(f / WEIGHTS))),
    ),
    "Tensors": (
        Case("one is missing", tensors(lambda w: {k: v for k, v in w.items() if k != LAYER})),
        Case("one is too many", put("value_head.weight", lambda _: torch.ones(2, 96))),
        Case("rotary buffers of older releases", put("model.layers.0.self_attn.rotary_emb.inv_freq", lambda _: torch.ones(16)), "loads; they are computed anew"),
        Case("one has another shape", put(LAYER, lambda t: t[:100])),
        Case("one is transposed", put(LAYER, lambda t: t.T)),
        Case("one holds NaN", put(LAYER, poisoned(float("nan")))),
        Case("one holds infinity", put(EMBEDDINGS, poisoned(float("-inf")))),
        Case("all are zeros", tensors(lambda w: {name: 0 * tensor for name, tensor in w.items()})),
        Case("one is there under the names of two releases", put(LAYER.replace("model.", "model.language_model."), lambda _: torch.ones(192, 96))),
        Case("more tokens in config.json (vocab_size)", text(vocab_size=300)),
        Case("fewer tokens in config.json (vocab_size)", text(vocab_size=290)),
        Case("more layers in config.json", text(num_hidden_layers=4, layer_types=None)),
        Case("fewer layers in config.json", text(num_hidden_layers=2, layer_types=None)),
        Case("another width in config.json", text(intermediate_size=256)),
        Case("another vision tower in config.json", edit("config.json", vision_config__depth=2)),
        Case("names as transformers has them today, not as in the release", renamed(lambda n: n.replace("model.", "model.language_model.") if n.startswith("model.") else f"model.{n}"), "loads"),
        Case("names with `module.` before them", renamed(lambda n: f"module.{n}")),
        Case("names of an adapter that was not merged", renamed(lambda n: f"base_model.model.{n}")),
        Case("in bf16", cast(torch.bfloat16), "loads", other=True),
        Case("in fp16", cast(torch.float16), "loads", other=True),
        Case("in fp64", cast(torch.float64), "loads"),
        Case("in int8", put(LAYER, lambda t: (100 * t).to(torch.int8))),
        Case("in fp8 without its scales", put(LAYER, lambda t: t.to(torch.float8_e4m3fn))),
        Case("lm_head as a copy of tied embeddings", with_head(0), "loads"),
        Case("lm_head that differs from tied embeddings", with_head(1)),
        Case("untied in config.json, without lm_head", untied),
        Case("untied in config.json, with lm_head", both(untied, with_head(0)), "loads"),
    ),
    "Quantized": (
        Case("AWQ", quantized(quant_method="awq", bits=4, group_size=128, zero_point=True, version="gemm")),
        Case("GPTQ", quantized(quant_method="gptq", bits=4, group_size=128, desc_act=False)),
        Case("bitsandbytes, 4 bits", quantized(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")),
        Case("bitsandbytes, 8 bits, not named", quantized(load_in_8bit=True)),
        Case("fp8", quantized(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128])),
        Case("compressed-tensors", edit("config.json", compression_config={"quant_method": "compressed-tensors", "format": "pack-quantized"})),
        Case("said for the text layers alone", text(quantization_config={"quant_method": "torchao"})),
        Case("said for the vision tower alone", edit("config.json", vision_config__quantization_config={"quant_method": "awq"})),
        Case("packed tensors without a word in config.json", put("model.layers.0.mlp.up_proj.qweight", lambda _: torch.ones(12, 24, dtype=torch.int32))),
    ),
    "Adapters": (
        Case("an adapter alone", both(remove("config.json", "generation_config.json", "processor_config.json", WEIGHTS), adapter())),
        Case("an adapter with a config.json", both(remove(WEIGHTS), adapter())),
        Case("an adapter that names no base", both(remove("config.json", WEIGHTS), adapter(base=None))),
        Case("an adapter with fully trained embeddings", both(remove("config.json", WEIGHTS), adapter("base", modules_to_save=["embed_tokens"]))),
        Case("an adapter's pointer file", both(remove("config.json", WEIGHTS), adapter(), write("adapter_config.json", POINTER))),
        Case("an adapter beside whole weights", adapter()),
        Case("an adapter in a folder inside", both(write("adapter/adapter_config.json", "{}"), write("adapter/adapter_model.safetensors", "x")), "loads; it is not looked at"),
    ),
    "Tokenizer": (
        Case("missing", remove("tokenizer.json")),
        Case("its settings are missing", remove("tokenizer_config.json")),
        Case("its settings have a byte-order mark", rewrite("tokenizer_config.json", lambda data: b"\xef\xbb\xbf" + data)),
        Case("a git LFS pointer", write("tokenizer.json", POINTER)),
        Case("cut off", rewrite("tokenizer.json", lambda data: data[:5000])),
        Case("another kind of object", write("tokenizer.json", "{}")),
        Case("no pad token", edit("tokenizer_config.json", pad_token=None), "loads; pad token = end token"),
        Case("pad token null", rewrite("tokenizer_config.json", lambda data: data.replace(b'"<|endoftext|>",\n  "padding', b'null,\n  "padding')), "loads; pad token = end token"),
        Case("pad token = end token", edit("tokenizer_config.json", pad_token="<|im_end|>"), "loads"),
        Case("pad token in no file", edit("tokenizer_config.json", pad_token="[PAD]")),
        Case("no pad token in any configuration", both(edit("tokenizer_config.json", pad_token=None), edit("generation_config.json", pad_token_id=None), text(pad_token_id=None)), "loads; pad token = end token"),
        Case("padded on the right", edit("tokenizer_config.json", padding_side="right"), "loads; prompts are padded on the left"),
        Case("saved while it cut texts to 4 tokens", edit("tokenizer.json", truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}), "loads; nothing is cut"),
        Case("saved while it filled texts up to 64 tokens", edit("tokenizer.json", padding={"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}), "loads; nothing is filled up"),
        Case("with lengths in its settings", edit("tokenizer_config.json", max_length=4, truncation=True, stride=1, pad_to_multiple_of=64), "loads; nothing is cut or filled up"),
        Case("no end token", edit("tokenizer_config.json", eos_token=None)),
        Case("end token in no file", edit("tokenizer_config.json", eos_token="</s>")),
        Case("more tokens than the model has embeddings", more_tokens),
        Case("no mark for images", without_mark),
        Case("another number of the mark for images", edit("config.json", image_token_id=200)),
    ),
    "Chat template": (
        Case("missing", remove("chat_template.jinja")),
        Case("in tokenizer_config.json", template_in_settings(CHAT_TEMPLATE), "loads"),
        Case("one of several in tokenizer_config.json", template_in_settings([{"name": "default", "template": CHAT_TEMPLATE}, {"name": "tool_use", "template": "x"}]), "loads; `default` is used"),
        Case("several in tokenizer_config.json, none `default`", template_in_settings([{"name": "rag", "template": CHAT_TEMPLATE}])),
        Case("in chat_template.json", both(remove("chat_template.jinja"), write("chat_template.json", json.dumps({"chat_template": CHAT_TEMPLATE}))), "loads"),
        Case("empty", template("")),
        Case("empty in tokenizer_config.json", template_in_settings("")),
        Case("a git LFS pointer", template(POINTER)),
        Case("with a byte-order mark", rewrite("chat_template.jinja", lambda data: b"\xef\xbb\xbf" + data)),
        Case("not a template", template("{% for message in messages %}")),
        Case("that refuses everything", template("{{ raise_exception('only tools') }}")),
        Case("that divides by zero", template("{{ 1 / 0 }}")),
        Case("that calls itself without end", template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")),
        Case("of a text model", template("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | string + '<|im_end|>\n' }}{% endfor %}")),
        Case("that loses the question", template("{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}")),
        Case("that marks an image twice", template(CHAT_TEMPLATE.replace("<|image_pad|>", "<|image_pad|><|image_pad|>"))),
    ),
    "Image processor": (
        Case("missing", remove("processor_config.json")),
        Case("in the files of the releases of 2025", old_files, "loads"),
        Case("of another patch size", edit("processor_config.json", image_processor__patch_size=16)),
        Case("that merges other patches", edit("processor_config.json", image_processor__merge_size=1)),
        Case("of another model", edit("processor_config.json", processor_class="LlavaProcessor")),
        Case("of an unknown kind", edit("processor_config.json", image_processor__image_processor_type="NoSuchProcessor")),
        Case("with a mean of no colour", edit("processor_config.json", image_processor__image_mean=[])),
        Case("with a spread of zero", edit("processor_config.json", image_processor__image_std=[0, 0, 0])),
        Case("that resamples in an unknown way", edit("processor_config.json", image_processor__resample=99)),
        Case("that takes pictures as large as they are", edit("processor_config.json", image_processor__do_resize=False)),
        Case("that makes all pictures the same", edit("processor_config.json", image_processor__rescale_factor=1e-12)),
        Case("whose smallest area is above its largest", edit("processor_config.json", image_processor__size={"shortest_edge": 10**8, "longest_edge": 784})),
        Case("a git LFS pointer", write("processor_config.json", POINTER)),
    ),
    "generation_config.json": (
        Case("missing", remove("generation_config.json"), "loads; config.json names the end token"),
        Case("cut off", rewrite("generation_config.json", lambda data: data[:20])),
        Case("two end tokens", edit("generation_config.json", eos_token_id=[256, 257]), "loads; an answer ends at either"),
        Case("no end token", edit("generation_config.json", eos_token_id=None), "loads; an answer ends at the tokenizer's"),
        Case("an end token that the model has not", edit("generation_config.json", eos_token_id=[256, 151645])),
        Case("an end token that is `true`", edit("generation_config.json", eos_token_id=True)),
        Case("an end token by its text", edit("generation_config.json", eos_token_id="<|im_end|>")),
        Case("a temperature without sampling, which cannot be saved", edit("generation_config.json", temperature=0.7, top_p=0.8), "loads; mended, and a trained model is saved"),
        Case("beam search without beams, which cannot be saved", edit("generation_config.json", early_stopping=True, length_penalty=0.5), "loads; mended, and a trained model is saved"),
        Case("top_k without sampling, which cannot be saved", edit("generation_config.json", do_sample=None, top_k=1), "loads; mended, and a trained model is saved"),
        Case("a negative pad token, which cannot be saved", edit("generation_config.json", pad_token_id=-1), "loads; mended, and a trained model is saved"),
        Case("no new tokens allowed", edit("generation_config.json", max_new_tokens=0)),
    ),
}  # fmt: skip
CASES = {f"{group}: {case.what}": case for group, cases in TABLE.items() for case in cases}


# ------------------------------------------------------------------------------------------------------ what happens


def answer(policy):
    """Greedy tokens: what everything that was mended must not change."""
    limits = DecodingConfig(temperature=0, max_completion_length=8)
    ((rollout,),) = PackedEngine(policy).generate([QUESTION], limits, 1, (0,))
    return rollout.token_ids


def broken_copy(case: Case, model: Path, workspace: Path) -> Path:
    folder = workspace / "MODEL"
    shutil.copytree(model, folder)
    case.make(folder)
    return folder


def outcome(case: Case, folder: Path, expected) -> str:
    """What happens, as the table says it: the error's line, or that it loads and answers, and could be trained.

    Raises AssertionError where training and loading disagree, the error is no line, or the answers are others.
    """
    said, before = [], listing(folder)
    for load in (begin, load_policy):
        try:
            loaded = load(str(folder))
            said.append("")
        except UserError as e:
            said.append(str(e).replace(f"{folder.parent}/", ""))
    # one names tensors as the file does, the other as the model
    assert len({line.replace(".language_model.", ".") for line in said}) == 1, said
    assert listing(folder) == before
    if said[0]:
        assert "\n" not in said[0] and "MODEL" in said[0], said[0]
        return f"exit 2: `` {said[0]} ``"
    assert case.other or answer(loaded) == expected
    return case.works or "loads"


def begin(source: str) -> None:
    """What a training does first: examine the parent, rehearse saving."""
    with tempfile.TemporaryDirectory() as store:
        Store(Path(store), "run").begin(Manifest("k", source, "0" * 64, None, {}, None, 1, "c", {}, "cpu"))


def listing(folder: Path) -> list:
    return sorted((str(f), f.lstat().st_mtime_ns) for f in folder.rglob("*"))


def rows(model: Path) -> str:
    """The whole table."""
    expected, lines = answer(load_policy(str(model))), []
    for group, cases in TABLE.items():
        lines += [f"\n### {group}\n", "| broken or unusual | what happens |", "|---|---|"]
        for case in cases:
            with tempfile.TemporaryDirectory() as workspace:
                folder = broken_copy(case, model, Path(workspace))
                lines.append(row(case, outcome(case, folder, expected)))
    return "\n".join(lines) + "\n"


def row(case: Case, happens: str) -> str:
    return f"| {case.what} | {happens.replace('|', chr(92) + '|')} |"


def listed(page: str) -> dict[str, str]:
    """{case: row} of the table in a page."""
    inside, found, group = page.partition(BEGIN)[2].partition(END)[0], {}, ""
    for line in inside.splitlines():
        group = line.removeprefix("### ") if line.startswith("### ") else group
        if match := re.match(r"\| (.+?) \| (?:exit 2|loads)", line):
            found[f"{group}: {match[1]}"] = line
    return found


def main(path: str) -> None:
    """Write the table into a page."""
    page = Path(path)
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    with tempfile.TemporaryDirectory() as folder:
        table = rows(make_model(Path(folder) / "model"))
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
