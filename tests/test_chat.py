"""Contract: a row is read as it was meant, with all its pictures at their places, or it is refused with a reason; what an
editor adds to a file is no content. Cases 10, 18, 19 and 21, and others of their kind."""

import base64
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from evals import run
from evals.inputs import READERS
from evals.plan import Options, plan
from evals.protocols import read_system_prompt
from evals.scorers.predictions import PredictionRow, read_jsonl
from evals.training_texts import training_texts
from lmmr1 import train as train_module
from lmmr1.chat import BadRow, chat_messages, to_sample
from lmmr1.config import read_yaml
from lmmr1.data import data_sha256, parse_samples, read_samples
from lmmr1.exits import exit_code
from lmmr1.lines import lines_of
from lmmr1.sokoban import read_levels
from lmmr1.store import adopt, write_manifest
from lmmr1.types import UserError
from reproduce import hub
from reproduce.cli import check_prompts, cli
from reproduce.plan import Plan
from tests import benchmark_files
from tests.encodings import drawing, stored, turned
from tests.test_images import REFUSED

MARK = b"\xef\xbb\xbf"
CHAT = [{"role": "user", "content": "How many?"}]


def rows_file(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pictures(tmp_path):
    for name in ("a.png", "b.png", "with space.png"):
        (tmp_path / name).write_bytes(stored(drawing(len(name))))
    return tmp_path


def shown(sample) -> list[str]:
    """The prompt as texts and names of pictures, in order."""
    contents = [m["content"] for m in sample.messages]
    parts = [p for c in contents for p in ([{"type": "text", "text": c}] if isinstance(c, str) else c)]
    return [p["text"] if p["type"] == "text" else f"[{Path(p['image']).name}]" for p in parts]


# ------------------------------------------------------------------------------------------------- pictures of a row

IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "How many?"}
MEANT = {
    "part": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png"}, TEXT]}]}, ["[a.png]", "How many?"]),
    "column image": ({"messages": CHAT, "image": "a.png"}, ["[a.png]", "How many?"]),
    "column images": ({"messages": CHAT, "images": ["a.png", "b.png"]}, ["[a.png]", "[b.png]", "How many?"]),
    "column of objects": ({"messages": CHAT, "images": [{"path": "a.png", "bytes": None}]}, ["[a.png]", "How many?"]),
    "empty columns": ({"messages": CHAT, "images": [], "image": None}, ["How many?"]),
    "parts without files": (
        {"messages": [{"role": "user", "content": [IMAGE, TEXT, IMAGE]}], "images": ["b.png", "a.png"]},
        ["[b.png]", "How many?", "[a.png]"],
    ),
    "parts with null": (
        {"messages": [{"role": "user", "content": [IMAGE | {"image": None, "text": None}, TEXT]}], "image": "a.png"},
        ["[a.png]", "How many?"],
    ),
    "both name it": (
        {"messages": [{"role": "user", "content": [IMAGE | {"image": "./a.png"}, TEXT]}], "images": ["a.png"]},
        ["[a.png]", "How many?"],
    ),
    "marks": (
        {"messages": [{"role": "user", "content": "In <image> and\n<image>?"}], "images": ["b.png", "a.png"]},
        ["In ", "[b.png]", " and\n", "[a.png]", "?"],
    ),
    "marks in a part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "<image>\nHow many?"}]}], "image": "a.png"},
        ["[a.png]", "\nHow many?"],
    ),
    "two turns": (
        {"messages": [*CHAT, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And <image>?"}], "image": "a.png"},
        ["How many?", "2", "And ", "[a.png]", "?"],
    ),
    "under a system message": (
        {"messages": [{"role": "system", "content": "Think."}, *CHAT], "image": "a.png"},
        ["Think.", "[a.png]", "How many?"],
    ),
    "image_url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, TEXT]}]},
        ["[a.png]", "How many?"],
    ),
    "part with a path": ({"messages": [{"role": "user", "content": [IMAGE | {"path": "a.png"}, TEXT]}]}, ["[a.png]", "How many?"]),
    "parts without type": ({"messages": [{"role": "user", "content": [{"image": "a.png"}, {"text": "How many?"}]}]}, ["[a.png]", "How many?"]),
    "message as text": (
        {"message": json.dumps([{"role": "user", "content": [IMAGE | {"image": "a.png"}, TEXT]}])},
        ["[a.png]", "How many?"],
    ),
    "message as text, column": ({"message": str(CHAT), "image": "a.png"}, ["[a.png]", "How many?"]),
    "numbered marks of two": ({"messages": [{"role": "user", "content": "<image1> and <image 2>?"}], "images": ["a.png", "b.png"]}, ["[a.png]", "[b.png]", "<image1> and <image 2>?"]),
    "two columns that agree": ({"messages": CHAT, "image": "./a.png", "images": ["a.png"], "image_url": "https://example.org/x/a.png"}, ["[a.png]", "How many?"]),
    "column image_path": ({"messages": CHAT, "image_path": "a.png"}, ["[a.png]", "How many?"]),
    "a text with an empty picture": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png"}, TEXT | {"image": None}]}]}, ["[a.png]", "How many?"]),
    "two names of one file": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png", "image_url": {"url": "./a.png"}}, TEXT]}]}, ["[a.png]", "How many?"]),
    "numbered marks": ({"messages": [{"role": "user", "content": "In <image1>, how many?"}], "image": "a.png"}, ["[a.png]", "In <image1>, how many?"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_the_pictures_of_a_row_stand_where_they_are_meant(name, pictures):
    row, wanted = MEANT[name]
    (sample,) = read_samples(rows_file(pictures / "data.jsonl", row | {"answer": "2"}))
    assert shown(sample) == wanted
    assert [f"[{path.name}]" for path in sample.images] == [part for part in wanted if part.startswith("[")]
    # and what is prepared from it for the workflow is the same
    hub.write_prompts({"file": str(pictures / "data.jsonl")}, pictures / "out/p.jsonl", gold=False)
    (prepared,) = read_samples(pictures / "out/p.jsonl")
    assert shown(prepared) == wanted and all(path.is_file() for path in prepared.images)


NOT_MEANT = {
    "mark without picture": ({"messages": [{"role": "user", "content": "<image>\nHow many?"}]}, "image_marks"),
    "numbered mark without picture": ({"messages": [{"role": "user", "content": "In <image 1>?"}]}, "image_marks"),
    "more marks": ({"messages": [{"role": "user", "content": "<image> <image>"}], "image": "a.png"}, "image_marks"),
    "more pictures": ({"messages": [{"role": "user", "content": "<image>?"}], "images": ["a.png", "b.png"]}, "image_marks"),
    "the template's own mark": ({"messages": [{"role": "user", "content": "<|image_pad|>"}], "image": "a.png"}, "image_marks"),
    "part without file": ({"messages": [{"role": "user", "content": [IMAGE, TEXT]}]}, "image"),
    "more parts": ({"messages": [{"role": "user", "content": [IMAGE, IMAGE, TEXT]}], "image": "a.png"}, "image_columns"),
    "another picture": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png"}, TEXT]}], "image": "b.png"}, "image_columns"),
    "two columns": ({"messages": CHAT, "image": "a.png", "images": ["b.png"]}, "image_columns"),
    "one column has more": ({"messages": CHAT, "image": "a.png", "images": ["a.png", "b.png"]}, "image_columns"),
    "the same name elsewhere": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "x/a.png"}, TEXT]}], "image": "y/a.png"}, "image_columns"),
    "column image_url": ({"messages": CHAT, "image_url": "https://example.org/a.png"}, "image_url"),
    "two pictures in a part": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png", "image_url": "b.png"}, TEXT]}]}, "image_columns"),
    "a picture in a text": ({"messages": [{"role": "user", "content": [TEXT | {"image": "a.png"}]}]}, "bad_message"),
    "a question in a picture": ({"messages": [{"role": "user", "content": [IMAGE | {"image": "a.png", "text": "How many?"}]}]}, "bad_message"),
    "a part without type that is both": ({"messages": [{"role": "user", "content": [{"image": "a.png", "text": "How many?"}]}]}, "bad_message"),
    "a kind that is no text": ({"messages": [{"role": "user", "content": [{"type": ["image"], "image": "a.png"}]}]}, "bad_message"),
    "pictures beside the content": ({"messages": [{"role": "user", "content": "How many?", "images": ["a.png"]}]}, "image"),
    "video beside the messages": ({"messages": CHAT, "videos": ["a.mp4"]}, "bad_message"),
    "more numbered marks": ({"messages": [{"role": "user", "content": "<image1> <image2>"}], "image": "a.png"}, "image_marks"),
    "a mark of a second picture": ({"messages": [{"role": "user", "content": "In <image 2>?"}], "image": "a.png"}, "image_marks"),
    "marks from zero": ({"messages": [{"role": "user", "content": "<image_0> <image_1>"}], "image": "a.png"}, "image_marks"),
    "another model's mark": ({"messages": [{"role": "user", "content": "<|image_1|>\nHow many?"}]}, "image_marks"),
    "the template's mark of a video": ({"messages": [{"role": "user", "content": "<|video_pad|>"}]}, "image_marks"),
    "a list of lists for an answer": ({"messages": CHAT, "answer": [["2"]]}, "no_answer"),
    "an object for an answer": ({"messages": CHAT, "answer": {"value": 2}}, "no_answer"),
    "an answer that is no number": ({"messages": CHAT, "answer": float("nan")}, "no_answer"),
    "an empty list for an answer": ({"messages": CHAT, "answer": []}, "no_answer"),
    "web address": ({"messages": CHAT, "image": "https://example.org/a.png"}, "image_url"),
    "web address in a part": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}, TEXT]}]}, "image_url"),
    "picture in the row": ({"messages": CHAT, "image": "data:image/png;base64,AAAA"}, "image_url"),
    "bytes": ({"messages": CHAT, "images": [{"path": None, "bytes": "AAAA"}]}, "image"),
    "number": ({"messages": CHAT, "images": [3]}, "image"),
    "list of lists": ({"messages": CHAT, "images": [["a.png"]]}, "image"),
    "video": ({"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, TEXT]}]}, "bad_message"),
    "text that is none": ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "bad_message"),
    "no one asks": ({"messages": [{"role": "system", "content": "x"}], "image": "a.png"}, "bad_message"),
    "base64 for a name": ({"messages": CHAT, "image": "iVBORw0KGgo" * 400}, "image"),
    "missing": ({"messages": CHAT, "image": "c.png"}, "image"),
    "folder": ({"messages": CHAT, "image": "."}, "image"),
    "not a picture": ({"messages": CHAT, "image": "page.jpg"}, "image"),
    "cut off": ({"messages": CHAT, "image": "cut.jpg"}, "image"),
    "strip": ({"messages": CHAT, "image": "strip.png"}, "image_shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_MEANT)
def test_a_row_is_never_trained_on_without_its_picture(name, pictures):
    """Refused with file and line where it is trained on; dropped with a reason that the card counts where it is prepared."""
    for file, case in {"page.jpg": "web page", "cut.jpg": "jpeg, cut", "strip.png": "strip"}.items():
        (pictures / file).write_bytes(REFUSED[case][0])
    row, reason = NOT_MEANT[name]
    good = {"messages": CHAT, "answer": "2"}
    path = rows_file(pictures / "data.jsonl", good, {"answer": "2"} | row)
    with pytest.raises(BadRow, match=r"data\.jsonl, line 2: ") as error:
        read_samples(path)
    assert error.value.reason == reason and "\n" not in str(error.value)
    hub.write_prompts({"file": str(path)}, pictures / "out/p.jsonl", gold=False)
    card = json.loads((pictures / "out/p.card.json").read_text())
    assert (card["read"], card["rows"], card["dropped"]) == (2, 1, {reason: 1})
    assert len(card["dropped_examples"][reason]) == 1


@pytest.mark.parametrize(
    ("answer", "gold"), [(["3", "4"], "3, 4"), (["3"], "3"), ([3, 0.5], "3, 0.5"), (7, "7"), ("[3, 4]", "[3, 4]")]
)
def test_a_list_of_answers_is_one_answer(answer, gold, tmp_path):
    path = rows_file(tmp_path / "data.jsonl", {"messages": CHAT, "answer": answer})
    hub.write_prompts({"file": str(path)}, tmp_path / "out/p.jsonl", gold=True)
    assert [read_samples(p)[0].answer for p in (path, tmp_path / "out/p.jsonl")] == [gold, gold]


def test_parts_as_datasets_writes_them(pictures):
    """Every part gets every key, null where it had none; the template takes a key `image` for a picture."""
    datasets = pytest.importorskip("datasets")
    parts = [{"type": "image", "image": "a.png", "text": None}, {"type": "text", "image": None, "text": "How many?"}]
    rows = [{"messages": [{"role": "user", "content": parts}], "answer": "2"}]
    datasets.Dataset.from_list(rows).to_json(pictures / "data.jsonl")
    (sample,) = read_samples(pictures / "data.jsonl")
    assert shown(sample) == ["[a.png]", "How many?"] and len(sample.images) == 1
    assert [("image" in part) for part in sample.messages[0]["content"]] == [True, False]


def test_a_plain_question_has_its_pictures_at_its_marks(pictures):
    path = rows_file(
        pictures / "my.jsonl",
        {"question": "1+1?", "answer": "2"},
        {"question": "Here <image>, how many?", "image": "a.png", "answer": "3"},
    )
    hub.write_prompts({"file": str(path)}, pictures / "out/p.jsonl", gold=False)
    samples = read_samples(pictures / "out/p.jsonl")
    assert [shown(s) for s in samples] == [["1+1?"], ["Here ", "[a.png]", ", how many?"]]
    assert samples[0].messages == [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}]


def test_messages_that_were_good_stay_as_they_are():
    """The bytes of prepared prompts, and so the keys of what is trained on them, depend on it."""
    messages = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "image", "image": "a.png", "max_pixels": 9}, TEXT]},
    ]
    assert chat_messages({"messages": messages}, "here") == messages
    assert to_sample({"message": json.dumps(messages), "answer": 2}, "line 1", Path("d")).images == (Path("d/a.png"),)


@pytest.mark.parametrize(
    "named", ["file://{}/a.png", "file://localhost{}/a.png", "{}/a.png", "file://{}/with%20space.png", "file://a.png"]
)
def test_addresses_of_files(named, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    row = {"messages": CHAT, "image": named.format(pictures), "answer": "2"}
    (sample,) = read_samples(rows_file(pictures / "data.jsonl", row))
    hub.write_prompts({"file": "data.jsonl"}, pictures / "out/p.jsonl", gold=False)
    (prepared,) = read_samples(pictures / "out/p.jsonl")
    assert sample.images[0].resolve() == prepared.images[0].resolve() and sample.images[0].is_file()


# --------------------------------------------------------------------------------------- the authors' form, case 21


def authors_row(number: int, picture: str, answer: str = "$2$") -> dict:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": f"How many dots in picture {number}?"}]
    return {"message": json.dumps([{"role": "user", "content": content}]), "answer": answer}


FORMS = {
    "list": lambda rows: json.dumps(rows, indent=2),
    "list on one line": json.dumps,
    "list under a mark": lambda rows: "\ufeff" + json.dumps(rows),
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "lines, Windows": lambda rows: "\r\n".join(map(json.dumps, rows)) + "\r\n",
    "lines, old Mac": lambda rows: "\r".join(map(json.dumps, rows)),
    "blank lines": lambda rows: "\n\n" + " \n".join(map(json.dumps, rows)),
    "list of literals": lambda rows: json.dumps([r | {"message": str(json.loads(r["message"]))} for r in rows]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["file://../pictures/a.png", "file://{}/pictures/a.png", "a.png"])
def test_the_authors_own_list_is_read(form, where, tmp_path, monkeypatch):
    """Case 21: a list, `message` a text that holds JSON, `file://`, the answer between dollar signs."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "pictures/a.png").write_bytes(stored(drawing(1)))
    rows = [
        authors_row(i, where.format(tmp_path), answer)
        for i, answer in enumerate(("$2$", "$\\boxed{3}$", "$\\frac{1}{2}$"))
    ]
    (tmp_path / "raw.json").write_bytes(FORMS[form](rows).encode())
    hub.write_prompts(
        {"file": "../raw.json", "images": str(tmp_path / "pictures")}, Path("p.jsonl"), gold=form == "list"
    )
    assert [(s.answer, len(s.images)) for s in read_samples(Path("p.jsonl"))] == [(r["answer"], 1) for r in rows]
    assert json.loads(Path("p.card.json").read_text())["dropped"] == {}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[1, 2]", "line 1: expected an object, got list"),
        (b'[{"answer": "2"}, 7]', "row 1: `messages` must be"),
        (b'[{"messages": [{"role": "user", "content": "x"}], "answer": "2"}, 7]', "row 2: expected an object, got int"),
        (b'[\n {"answer": "2"},\n', "line 1: not JSON"),
        (b"[]", "line 1: expected an object, got list"),
    ],
)
def test_a_list_that_is_none_is_refused_at_its_row(raw, words, tmp_path):
    (tmp_path / "data.json").write_bytes(raw)
    with pytest.raises(UserError, match=r"data\.json, ") as error:
        read_samples(tmp_path / "data.json")
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------ marks and line ends, case 10

ROW = {"id": "a", "messages": CHAT, "answer": "2"}
PAIR = {"gold": "3", "response": "\\boxed{3}"}


def as_lines(*rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


LEVEL = b"; one\n#####\n#@$.#\n#####\n"
READ = {
    "training data": (as_lines(ROW), lambda p: len(read_samples(p))),
    "training texts": (as_lines(ROW), lambda p: [t.text for t in training_texts(p)]),
    "training texts, a list": (json.dumps([ROW]).encode(), lambda p: [t.text for t in training_texts(p)]),
    "predictions": (as_lines({"id": "1", "response": "r"}), lambda p: read_jsonl(p, PredictionRow)),
    "benchmark, JSONL": (as_lines({"id": "1"}), lambda p: [row for _, row in READERS[".jsonl"](p, p.read_bytes())]),
    "benchmark, JSON": (b'[{"id": "1"}]', lambda p: [row for _, row in READERS[".json"](p, p.read_bytes())]),
    "benchmark, TSV": (
        b"index\timage\tquestion\n1\tAA==\tq\n",
        lambda p: [row for _, row in READERS[".tsv"](p, p.read_bytes())],
    ),
    "benchmark, CSV": (
        b"Record ID,Question,Correct Answer\n1,q,a\n",
        lambda p: [row for _, row in READERS[".csv"](p, p.read_bytes())],
    ),
    "settings": (b"max_steps: 3\n", read_yaml),
    "system prompt": (b"Think first.\n", read_system_prompt),
    "levels": (LEVEL, lambda p: list(read_levels(p))),
}


@pytest.mark.parametrize("what", READ)
def test_a_byte_order_mark_is_no_content(what, tmp_path):
    raw, read = READ[what]
    (tmp_path / "plain").write_bytes(raw)
    (tmp_path / "marked").write_bytes(MARK + raw)
    (tmp_path / "windows").write_bytes(MARK + raw.replace(b"\n", b"\r\n"))
    assert str(read(tmp_path / "marked")).replace("marked", "plain") == str(read(tmp_path / "plain"))
    assert str(read(tmp_path / "windows")).replace("windows", "plain") == str(read(tmp_path / "plain"))


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(what, encoding, tmp_path):
    raw, read = READ[what]
    (tmp_path / "wide").write_bytes(raw.decode().encode(encoding))
    with pytest.raises(UserError, match=rf"wide: not UTF-8 but {encoding[:6].upper()}; save the file as UTF-8$"):
        read(tmp_path / "wide")


PAIRS = {
    "plain": as_lines(PAIR, PAIR),
    "mark": MARK + as_lines(PAIR, PAIR),
    "Windows": as_lines(PAIR, PAIR).replace(b"\n", b"\r\n"),
    "mark and Windows": MARK + as_lines(PAIR, PAIR).replace(b"\n", b"\r\n"),
    "old Mac": as_lines(PAIR, PAIR).replace(b"\n", b"\r"),
    "no last line end": as_lines(PAIR, PAIR)[:-1],
    "separators inside": as_lines(PAIR | {"response": "so\u2028it is\x85\u2029\x0b\\boxed{3}"}, PAIR),
    "a carriage return inside": as_lines(PAIR, PAIR | {"response": "so CR \\boxed{3}"}).replace(b"CR", b"\r"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_judged_whatever_an_editor_did_to_the_file(name, tmp_path):
    """Case 10."""
    (tmp_path / "pairs.jsonl").write_bytes(PAIRS[name])
    done = CliRunner().invoke(cli, ["verify", "--pairs", str(tmp_path / "pairs.jsonl"), "--json", "--workers", "1"])
    *verdicts, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.exit_code == 0 and [v["accuracy"] for v in verdicts] == [1, 1]
    assert last["summary"]["bad"] == 0


def test_only_line_feeds_end_lines():
    assert list(lines_of(b"a\x0bb\x0c\xe2\x80\xa8c\r\n\r\nd\re\n", "x")) == [
        (1, b"a\x0bb\x0c\xe2\x80\xa8c"),
        (3, b"d\re"),
    ]
    assert list(lines_of(b"a\rb\r", "x")) == [(1, b"a"), (2, b"b")]


def test_texts_keep_their_odd_separators(tmp_path):
    text = "one\u2028two\x85three\u2029four"
    (tmp_path / "data.jsonl").write_bytes(as_lines(ROW | {"messages": [{"role": "user", "content": text}]}))
    (sample,) = read_samples(tmp_path / "data.jsonl")
    assert sample.messages[0]["content"] == text


# ----------------------------------------------------------------------------------- before compute, cases 18 and 19


@pytest.fixture
def twelve(tmp_path):
    """Twelve rows with pictures; `twelve(raw)` makes `raw` the picture of the last."""

    def make(raw: bytes) -> Path:
        for i in range(12):
            (tmp_path / f"p{i}.jpg").write_bytes(stored(drawing(i), "JPEG"))
        (tmp_path / "p11.jpg").write_bytes(raw)
        rows = [{"messages": CHAT, "image": f"p{i}.jpg", "answer": "2"} for i in range(12)]
        return rows_file(tmp_path / "data.jsonl", *rows)

    return make


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_training_refuses_a_picture_before_a_model_is_loaded(
    name, dry, twelve, tiny_model, tmp_path, monkeypatch, capsys
):
    data = twelve(REFUSED[name][0])
    write_manifest(tmp_path / "base.json", adopt(str(tiny_model), "tiny"))
    (tmp_path / "cfg.yaml").write_bytes(MARK + yaml.safe_dump({"max_steps": 1}).encode())
    monkeypatch.setattr(train_module, "build", lambda *a: pytest.fail("a model was loaded"))
    args = ["--config", tmp_path / "cfg.yaml", "--parent", tmp_path / "base.json", "--prompts", data,
            "--checkpoints", tmp_path / "ck", "--out", tmp_path / "out"]  # fmt: skip
    assert exit_code(lambda: train_module.main([*map(str, args), *dry])) == 2
    said = capsys.readouterr().err
    assert f"{data}, line 12: image {tmp_path / 'p11.jpg'} cannot be read (" in said and REFUSED[name][1] in said
    assert not (tmp_path / "ck").exists() and not (tmp_path / "out").exists()


def benchmark_of(where: str, folder: Path, raw: bytes) -> tuple[str, Options, str]:
    """A benchmark whose third row has `raw` for a picture: its name, options that find it, what a message calls the row."""
    raws = [stored(drawing(0)), stored(drawing(1)), raw]
    cells = [base64.b64encode(each).decode() for each in raws]
    if where == "table":
        rows = [
            {"index": i, "image": cell, "question": "q", "answer": "1", "category": "c"} for i, cell in enumerate(cells)
        ]
        benchmark_files.table(folder / "micro_drawn.tsv", rows)
        return (
            "micro_drawn",
            Options.of(benchmark_dir=folder),
            "micro_drawn.tsv, line 4: `image` is not a readable image (",
        )
    if where == "data root":
        rows = [row | {"image": cell} for row, cell in zip(benchmark_files.mmstar(), cells, strict=False)]
        benchmark_files.table(folder / "MMStar.tsv", rows)
        return (
            "mmstar",
            Options.of(data_root=folder, any_data=True),
            "MMStar.tsv, line 4: `image` is not a readable image (",
        )
    for i, each in enumerate(raws):
        (folder / f"{i}.png").write_bytes(each)
    rows = [{"id": str(i), "question": "q", "answer": "1", "image": f"{i}.png"} for i in range(3)]
    rows_file(folder / "micro_chain.jsonl", *rows)
    said = f"micro_chain.jsonl, line 3: image {folder / '2.png'} is not a readable image ("
    return "micro_chain", Options.of(benchmark_dir=folder), said


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("where", ["table", "data root", "files"])
def test_evaluation_refuses_a_picture_before_a_model_is_loaded(name, where, tiny_model, tmp_path, monkeypatch):
    if name == "empty" and where != "files":
        pytest.skip("an empty cell is no picture")
    benchmark, options, said = benchmark_of(where, tmp_path, REFUSED[name][0])
    monkeypatch.setattr(run, "load_model", lambda *a: pytest.fail("a model was loaded"))
    for attempt in (
        lambda: run.evaluate(str(tiny_model), [benchmark], tmp_path / "out", options),
        lambda: run.check_inputs(str(tiny_model), [benchmark], options),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        assert said in str(error.value) and REFUSED[name][1] in str(error.value) and not (tmp_path / "out").exists()


def test_pictures_in_cells_as_tools_write_them(tmp_path):
    """Base64 broken into lines, or as an address of a web page."""
    text = base64.encodebytes(stored(drawing(2))).decode()
    cells = [text.replace("\n", ""), text, "data:image/png;base64," + text.replace("\n", "")]
    rows = [
        {"index": i, "image": cell, "question": "q", "answer": "1", "category": "c"} for i, cell in enumerate(cells)
    ]
    benchmark_files.table(tmp_path / "micro_drawn.tsv", rows)
    (job,) = plan(["micro_drawn"], tmp_path / "work", Options.of(benchmark_dir=tmp_path))
    assert len({p.image_sha256 for p in job.measurement.prepared.problems}) == 1


def test_a_dry_run_of_good_data_trains_nothing(twelve, tiny_model, tmp_path, monkeypatch, capsys):
    data = twelve(turned(drawing(1), 6, "JPEG"))
    write_manifest(tmp_path / "base.json", adopt(str(tiny_model), "tiny"))
    (tmp_path / "cfg.yaml").write_text("max_steps: 3\n")
    monkeypatch.setattr(train_module, "build", lambda *a: pytest.fail("a model was loaded"))
    args = ["--config", tmp_path / "cfg.yaml", "--parent", tmp_path / "base.json", "--prompts", data,
            "--checkpoints", tmp_path / "ck", "--out", tmp_path / "out", "--dry-run"]  # fmt: skip
    train_module.main(list(map(str, args)))
    assert "would train 3 steps on 12 prompts" in capsys.readouterr().out and not (tmp_path / "ck").exists()


def test_a_dry_run_of_the_workflow_reads_the_prompts_that_were_made(twelve, tmp_path, monkeypatch):
    smoke = Plan.load({"profile": "smoke"})
    monkeypatch.setattr("reproduce.plan.ROOT", tmp_path)
    check_prompts(smoke, "two_stage")  # nothing was made yet
    file = tmp_path / smoke.results("data", f"{smoke.arms['two_stage'].stage}.jsonl")
    file.parent.mkdir(parents=True)
    for path in (twelve(REFUSED["jpeg, cut"][0]), *tmp_path.glob("*.jpg")):
        path.rename(file.parent / path.name)
    (file.parent / "data.jsonl").rename(file)
    check_prompts(smoke, "fre")
    with pytest.raises(UserError, match=r"line 12: image .*p11\.jpg cannot be read"):
        check_prompts(smoke, "two_stage")


def test_of_several_processes_one_decodes(twelve, monkeypatch):
    """TRL's processes each read the rows; only the first looks at the images."""
    data = twelve(REFUSED["jpeg, cut"][0])
    monkeypatch.setenv("RANK", "1")
    assert len(train_module._checked(data)[0]) == 12
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="line 12"):
        train_module._checked(data)


def test_what_was_trained_on_is_known_without_decoding_and_missing_images_are_named(twelve, tmp_path):
    data = twelve(b"damaged since")
    assert len(data_sha256(data, parse_samples(data))) == 64
    (tmp_path / "p3.jpg").unlink()
    with pytest.raises(UserError, match=r"p3\.jpg cannot be read"):
        data_sha256(data, parse_samples(data))


def test_pictures_of_training_texts_are_found_beside_messages(pictures):
    rows = [
        {"messages": CHAT, "images": ["a.png"]},
        {"messages": [{"role": "user", "content": [IMAGE, TEXT]}], "image": "b.png"},
        {"question": "How many?", "image": f"file://{pictures}/a.png"},
    ]
    found = list(training_texts(rows_file(pictures / "t.jsonl", *rows)))
    assert [[p.name for p in t.images] for t in found] == [["a.png"], ["b.png"], ["a.png"]]
    assert all(Image.open(p).size for t in found for p in t.images)
