"""Contract: a checkpoint and training data laid out like the released ones go through the paths that the real ones will
take, and whatever is wrong with data or archives is dropped with its reason or refused, never trained on."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

import lmmr1.train as train_module
from evals.generation import generate_all, greedy, load_model
from lmmr1.checkpoint import load_processor
from lmmr1.data import read_samples
from lmmr1.policy import load_policy
from lmmr1.store import read_manifest
from lmmr1.types import Sample, UserError
from reproduce import hub, prepare
from reproduce.archives import Bounds, unpack
from reproduce.plan import Plan
from tests import real_checkpoint as real

SYSTEM = "Think in a think block. Put the result into an answer block, inside a box."


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """(folder, its weights by today's names)."""
    folder = tmp_path_factory.mktemp("hub") / "Qwen2.5-VL-3B-Instruct"
    return folder, real.write_checkpoint(folder)


@pytest.fixture(scope="session")
def policy(checkpoint):
    return load_policy(str(checkpoint[0]))


# -------------------------------------------------------------------------------------------- the checkpoint


def test_released_weight_names_in_two_shards_are_all_found(checkpoint, policy):
    state = policy.model.state_dict()
    assert state.keys() - {"lm_head.weight"} == checkpoint[1].keys()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in checkpoint[1].items())
    assert policy.head.data_ptr() == policy.model.model.language_model.embed_tokens.weight.data_ptr()  # tied


def test_the_flat_configuration_of_the_release_means_the_same_today(policy):
    text, vision = policy.model.config.get_text_config(), policy.model.config.vision_config
    assert text.rope_parameters["mrope_section"] == [16, 24, 24] and text.rope_parameters["rope_theta"] == 1e6
    assert (text.vocab_size, text.max_position_embeddings, text.rms_norm_eps) == (151_936, 128_000, 1e-6)
    assert text.hidden_size // text.num_attention_heads == 128 and policy.context == 128_000
    assert (vision.window_size, vision.patch_size, vision.tokens_per_second) == (112, 14, 2)


def test_special_tokens_stand_where_the_model_expects_them(policy):
    tokenizer = policy.processor.tokenizer
    assert len(tokenizer) == 151_665 and policy.head.size(0) == 151_936
    assert {t: tokenizer.convert_tokens_to_ids(t) for t in real.SPECIAL} == real.IDS
    config = policy.model.config
    assert config.image_token_id == real.IDS[policy.processor.image_token] == 151_655
    assert (policy.pad_id, policy.stop_ids) == (151_643, (151_643, 151_645))  # its generation config names both
    text = "a sum: $1+1=2$ <think>é 漢</think>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_is_read_from_the_checkpoint(policy):
    sample = Sample("a", [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "1+1=?"}], (), "2")
    rendered = policy.render(sample)
    assert (
        rendered
        == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert policy.encode([sample], 1000)["input_ids"][0, 0] == real.IDS["<|im_start|>"]


# -------------------------------------------------------------------------------------------- data as released


def picture(side=84, colour="white"):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def chat(text, *images):
    parts = [{"type": "image", "image": name} for name in images]
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": [*parts, {"type": "text", "text": text}]},
    ]


def released(text, answer, *images, **more):
    """A row of the authors' files: `message` is a string."""
    return json.dumps({"message": json.dumps(chat(text, *images)), "question": text, "answer": answer} | more)


GOOD = [
    released("What is 1+1?", r"$\boxed{2}$"),
    released("How long is AB?", r"\boxed{60}", "images/geo/1.jpg"),
    released("Which one?", r"\boxed{A}", "images/geo/2.jpg", "file:///data/old/place/geo/1.jpg"),
    json.dumps({"message": str(chat("a literal, not JSON")), "question": "q", "answer": "3"}),
]
BAD = {
    "no_answer": [released("gone", ""), released("null", None), json.dumps({"message": json.dumps(chat("x"))})],
    "bad_message": [
        json.dumps({"message": "[{'role': 'user', 'content': open('/etc/passwd')}]", "answer": "1"}),
        json.dumps({"message": "[", "answer": "1"}),
        json.dumps({"message": json.dumps([{"role": "user", "content": [1]}]), "answer": "1"}),
        json.dumps({"answer": "1"}),
    ],
    "image": [released("lost", "1", "images/geo/9.jpg"), released("torn", "1", "images/geo/torn.jpg")],
    "image_path": [released("out", "1", "../../../etc/passwd")],
    "image_marks": [released("<image> and <image>", "1", "images/geo/1.jpg"), released("forged <|image_pad|>", "1")],
    "too_long": [released("word " * 300, "1")],
    "duplicate": [GOOD[0], released("What is 1+1?", "3")],
    "gold_unparsable": [released("words", "$$")],
    "not_json": [GOOD[1][:40], "[" * 100_000],
    "not_an_object": ["[1]"],
}
NOT_UTF8 = released("bytes", "1").encode().replace(b"bytes", b"\xff\xfe")


@pytest.fixture
def files(tmp_path):
    """The raw file and the archive, good and bad rows mixed."""
    rows = [GOOD[0].encode(), b"", NOT_UTF8]
    rows += [row.encode() for bad in BAD.values() for row in bad]
    rows += [row.encode() for row in GOOD[1:]]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/mathv_message.jsonl").write_bytes(b"\r\n".join(rows))
    content = {"geo/1.jpg": picture(), "geo/2.jpg": picture(56, "red"), "geo/torn.jpg": picture()[:100]}
    write_archive(tmp_path / "raw/mathv_img.tar.gz", content)
    return tmp_path


def write_archive(path, content, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return path


def source(files, **more):
    return {
        "repo": None,
        "file": str(files / "raw/mathv_message.jsonl"),
        "images": str(files / "raw/mathv_img.tar.gz"),
        "revision": "main",
    } | more


def test_every_bad_row_is_dropped_for_its_reason_and_the_good_ones_are_kept(files, policy):
    out = files / "data/mgt.jsonl"
    hub.write_prompts(source(files), out, hub.PromptCheck(policy.processor, 400))
    samples, card = read_samples(out), json.loads((files / "data/mgt.card.json").read_text())
    assert [s.answer for s in samples] == [r"$\boxed{2}$", r"\boxed{60}", r"\boxed{A}", "3"]
    assert card["dropped"] == {reason: len(rows) for reason, rows in BAD.items()} | {"not_utf8": 1}
    assert card["rows"] == 4 and card["read"] == 4 + 1 + sum(map(len, BAD.values()))
    assert all(1 <= len(card["dropped_examples"][reason]) <= 3 for reason in card["dropped"])
    assert [len(s.images) for s in samples] == [0, 1, 2, 0]
    assert all(p.is_file() and files / "data/images_mgt" in p.resolve().parents for s in samples for p in s.images)
    assert card["system_prompts"][0]["rows"] == 4 and card["system_prompts"][0]["characters"] == len(SYSTEM)
    assert not [p for p in (files / "data").iterdir() if p.name.endswith(".partial")]


def test_the_length_of_a_prompt_is_the_one_that_training_sees(files, policy):
    hub.write_prompts(source(files), files / "data/mgt.jsonl", hub.PromptCheck(policy.processor, 400))
    samples = read_samples(files / "data/mgt.jsonl")
    lengths = policy.encode(samples, 400)["attention_mask"].sum(1).tolist()
    card = json.loads((files / "data/mgt.card.json").read_text())
    check = hub.PromptCheck(policy.processor, 400)
    assert [check.length(s, "here") for s in samples] == lengths and card["prompt_tokens"]["max"] == max(lengths)


def test_large_images_count_with_the_area_that_training_scales_them_to(checkpoint, tmp_path):
    (tmp_path / "big.jpg").write_bytes(picture(2800))
    sample = Sample("a", chat("x", "big.jpg"), (tmp_path / "big.jpg",), "1")
    whole, capped = (
        hub.PromptCheck(load_processor(str(checkpoint[0]), None, None, cap), 10**6) for cap in (None, 501_760)
    )
    assert whole.length(sample, "") - capped.length(sample, "") == 100 * 100 - 25 * 25


def test_plain_questions_are_a_data_set_too(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    rows = [
        {"question": "1+1=?", "answer": 2},
        {"question": "see", "answer": "3", "image": "a.jpg"},
        {"question": "both", "answer": "4", "images": ["a.jpg", str(tmp_path / "a.jpg")]},
        {"answer": "5"},
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "system.txt").write_text(SYSTEM)
    given = {
        "repo": None,
        "file": str(tmp_path / "my.jsonl"),
        "images": None,
        "system_prompt_file": str(tmp_path / "system.txt"),
    }
    hub.write_prompts(given, tmp_path / "out/fre.jsonl")
    samples = read_samples(tmp_path / "out/fre.jsonl")
    assert [(s.answer, len(s.images)) for s in samples] == [("2", 0), ("3", 1), ("4", 2)]
    assert all(s.messages[0] == {"role": "system", "content": SYSTEM} for s in samples)


def test_a_set_without_a_usable_row_is_an_error_with_reasons(tmp_path):
    (tmp_path / "my.jsonl").write_text('{"question": "x"}\n[1]\n')
    with pytest.raises(UserError, match=r"no usable row; dropped: .*no_answer.*not_an_object"):
        hub.write_prompts({"repo": None, "file": str(tmp_path / "my.jsonl"), "images": None}, tmp_path / "o.jsonl")
    with pytest.raises(UserError, match=r"no\.jsonl: no such data file"):
        hub.write_prompts({"repo": None, "file": "no.jsonl", "images": None}, tmp_path / "o.jsonl")


def test_own_data_of_any_stage_are_given_on_the_command_line():
    plan = Plan.load({"profile": "single_gpu", "arms": ["fre"], "data": {"fre": {"file": "my.jsonl"}}})
    spec = json.loads(plan.prompts_spec("fre"))
    assert spec["hub"]["file"] == "my.jsonl" and spec["hub"]["repo"] is None
    assert spec["limits"] == {"max_prompt_length": 4096, "min_pixels": None, "max_pixels": 501_760} and spec["gold"]
    micro = Plan.load({"profile": "micro", "data": {"fre": {"file": "my.jsonl"}}})
    assert json.loads(micro.prompts_spec("fre"))["limits"]["max_prompt_length"] == 256
    assert micro.prompts_checkpoint("fre") and not micro.prompts_checkpoint("mgt")
    with pytest.raises(UserError, match="key data: unknown name 'fer'.*did you mean fre"):
        Plan.load({"profile": "micro", "data": {"fer": {"file": "my.jsonl"}}})


# -------------------------------------------------------------------------------------------- archives


def member(name, kind=tarfile.REGTYPE, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


HOSTILE = {
    "path escape": (member("../escaped.jpg"), "leads out of the folder"),
    "hidden escape": (member("geo/../../escaped.jpg"), "leads out of the folder"),
    "absolute path": (member("/absent/escaped.jpg"), "leads out of the folder"),
    "windows path": (member("geo\\..\\..\\escaped.jpg"), "leads out of the folder"),
    "symlink": (member("geo/link.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (member("geo/hard.jpg", tarfile.LNKTYPE, "geo/1.jpg"), "is a link"),
    "device": (member("geo/null", tarfile.CHRTYPE), "is a link, a device"),
    "pipe": (member("geo/pipe", tarfile.FIFOTYPE), "is a link, a device"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(case, tmp_path):
    bad, words = HOSTILE[case]
    archive = write_archive(tmp_path / "a.tar.gz", {"geo/1.jpg": picture()}, bad)
    with pytest.raises(UserError) as error:
        unpack(archive, tmp_path / "data/images")
    assert str(archive) in str(error.value) and words in str(error.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "data"]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(member_bytes=50_000), "has 100000 bytes, more than 50000"),
        (Bounds(floor_bytes=150_000, ratio=1), "unpack to more bytes"),
        (Bounds(members=2), "more than 2"),
    ],
)
def test_an_archive_that_unpacks_to_too_much_is_refused(bounds, words, tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", {f"{i}.jpg": bytes(100_000) for i in range(3)})
    with pytest.raises(UserError, match=words):
        unpack(archive, tmp_path / "images", bounds)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_damaged_archive_is_named(cut, tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", {"1.jpg": bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.tar\.gz: not unpacked"):
        unpack(archive, tmp_path / "images")


def test_an_archive_is_unpacked_once_and_another_one_again(tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", {"geo/1.jpg": picture()})
    unpack(archive, tmp_path / "images")
    kept = (tmp_path / "images/geo/1.jpg").stat()
    unpack(archive, tmp_path / "images")
    assert (tmp_path / "images/geo/1.jpg").stat().st_mtime_ns == kept.st_mtime_ns
    assert kept.st_mode & 0o111 == 0
    write_archive(archive, {"geo/1.jpg": picture(), "geo/2.jpg": picture(56)})
    unpack(archive, tmp_path / "images")
    assert sorted(p.name for p in (tmp_path / "images/geo").iterdir()) == ["1.jpg", "2.jpg"]


# -------------------------------------------------------------------------------------------- end to end


def test_adopt_prepare_train_and_evaluate_through_the_workflows_own_commands(files, checkpoint, monkeypatch):
    """What the rules checkpoint, prompts, resolve_config and train call, with the settings of profile single_gpu."""
    monkeypatch.chdir(files)
    scale = {
        "engine": "hf",
        "gradient_checkpointing": False,
        "max_steps": 1,
        "num_prompts": 2,
        "num_generations": 4,
        "num_minibatches": 2,
        "reward": {"kind": "random"},  # random weights never answer right, and equal rewards teach nothing
        "sampling": {"max_completion_length": 6, "max_prompt_length": 400},
    }
    plan = Plan.load({"profile": "single_gpu", "arms": ["mgt_only"], "base_model": str(checkpoint[0]), "train": scale, "data": {"mgt": {k: v for k, v in source(files).items() if k != "revision"}}})  # fmt: skip
    prepare.main(["checkpoint", "--spec", plan.base_spec("base"), "--out", "base.json"])
    prepare.main(["prompts", "--spec", plan.prompts_spec("mgt"), "--checkpoint", "base.json", "--out", "mgt.jsonl"])
    (files / "config.yaml").write_text(plan.train_config_json("mgt_only", 0))
    train_module.main(["--config", "config.yaml", "--parent", "base.json", "--prompts", "mgt.jsonl", "--out", "out"])
    step = json.loads((files / "out/steps.jsonl").read_text().splitlines()[0])
    assert step["step"] == 1 and step["kl"] >= 0 and all(isinstance(v, (int, float)) for v in step.values())
    trained = read_manifest(files / "out/manifest.json")
    model = load_model(trained.weights)
    rollouts = generate_all(model, read_samples(files / "mgt.jsonl"), greedy(4, 1.05), 4)
    assert len(rollouts) == 4 and model.max_pixels == 12_845_056  # the cap of training is not baked into the checkpoint
    after = load_policy(trained.weights).model.state_dict()
    assert not any(
        torch.equal(after[n], t.float())
        for n, t in checkpoint[1].items()
        if n.endswith("q_proj.weight") and "visual" not in n
    )
    assert all(torch.equal(after[n], t.float()) for n, t in checkpoint[1].items() if "visual" in n)  # frozen
