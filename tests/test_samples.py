"""Contract: a row of `samples.jsonl` comes back as it was written, whatever a model said; a line that is no row is
refused with file, line and field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.problems import Problem
from evals.samples import Doc, FootballRow, SampleRow, SokobanRow, line_of, parse, read_samples, write_samples
from evals.scoring import sample_row, score_response
from lmmr1.files import seal_folder
from lmmr1.types import Rollout, UserError


def joined(text: str) -> str:
    """Surrogates that stand as a pair are one character to JSON; lone ones stay."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXT = (
    st.text(st.one_of(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), st.characters()), max_size=12)
    .map(lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass"))
    .map(joined)
    .filter(lambda text: joined(text) == text)
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**12)
CELL = st.none() | st.booleans() | COUNT | NUMBER | TEXT
DOC = st.builds(
    Doc,
    id=TEXT,
    question=TEXT,
    category=TEXT,
    choices=st.lists(TEXT, max_size=3).map(tuple),
    image_sha256=TEXT,
    level=TEXT,
    cells=st.dictionaries(st.text("abc", max_size=3), CELL, max_size=3),
)
FIELDS = {
    "doc_id": COUNT | TEXT,
    "doc": DOC,
    "target": TEXT,
    "category": TEXT,
    "subsets": st.lists(TEXT, max_size=2).map(tuple),
    "cluster": TEXT,
    "prompt_hash": TEXT,
    "resps": st.lists(st.lists(TEXT, max_size=2).map(tuple), max_size=3).map(tuple),
    "filtered_resps": st.lists(TEXT, max_size=2).map(tuple),
    "accuracy": st.none() | st.floats(0, 1),
    "format": NUMBER,
    "note": TEXT,
    "length": COUNT,
    "finish": TEXT,
}
GAME = {"repeat": COUNT, "score": NUMBER, "dropped": COUNT}
SOKOBAN = GAME | {"best_reward": NUMBER, "upper_reward": NUMBER, "steps": COUNT}
FOOTBALL = GAME | {"parts": st.dictionaries(TEXT, NUMBER, max_size=3), "prompts_sha256": TEXT, "turns": COUNT}
FOOTBALL |= {"lost_turns": COUNT, "frames": COUNT, "failed": st.booleans()}
ROWS = st.one_of(
    st.builds(SampleRow, **FIELDS),
    st.builds(SokobanRow, **FIELDS, **SOKOBAN),
    st.builds(FootballRow, **FIELDS, **FOOTBALL),
)


def written(response: str = "<answer>2</answer>") -> dict:
    """A line by the writer of all harnesses, as plain data."""
    problem = Problem("p1", "1+1?", "B", "sums", choices=("1", "2"), cells={"unit": None, "precision": "2"})
    row = sample_row(
        3, problem, "h", Rollout("p1", (1, 2), (), response, "stop"), score_response(response, "B", ("1", "2"))
    )
    return json.loads(line_of(row))


# ----------------------------------------------------------------------------------------------------- there and back


@given(row=ROWS)
def test_a_row_comes_back_as_it_was_written(row):
    line = line_of(row)
    assert line.isascii() and line.isprintable(), "one line, whatever the text"
    back = parse(line, "x")
    assert back == row and type(back) is type(row)
    assert parse(line.encode("ascii"), "x") == row


@given(text=st.text(st.characters(categories=["Cs"]), max_size=6))
def test_pairs_of_surrogates_become_the_character_that_they_spell(text):
    row = SampleRow(doc_id=0, doc=Doc(id="a"), target="", resps=((text,),))
    back = parse(line_of(row), "x")
    assert back.response == joined(text) and line_of(parse(line_of(back), "x")) == line_of(back)


def test_files_of_rows_come_back_in_order(tmp_path):
    texts = ["a\u2028b\x85c\rd\ne\x00", "\ud800", "</script>", ""]
    rows = [SampleRow(doc_id=i, doc=Doc(id=str(i)), target=text, resps=((text,),)) for i, text in enumerate(texts)]
    write_samples(tmp_path / "samples.jsonl", rows)
    assert list(read_samples(tmp_path / "samples.jsonl")) == rows
    assert (tmp_path / "samples.jsonl").read_bytes().count(b"\n") == 4


def test_what_a_row_says_of_itself():
    row = SampleRow(doc_id=7, doc=Doc(id="a"), target="", resps=())
    assert (row.response, row.problem, row.accuracy) == ("", "item 7", None)
    assert row.model_copy(update={"cluster": "c"}).problem == "c"
    for metric in ("accuracy", "score", "length"):
        with pytest.raises(ValueError, match=f"item 'a' has no {metric}"):
            row.value(metric)


# ------------------------------------------------------------------------------------------------------------ refused


REQUIRED = ("doc_id", "doc", "target", "resps")
WRONG = {str: 1, int: "1", float: "0.5", list: "text", dict: [], type(None): []}


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(field):
    row = written()
    del row[field]
    with pytest.raises(UserError, match=rf"^f, line 9: `{field}`: Field required; run the evaluation again$"):
        parse(json.dumps(row), "f, line 9")


@pytest.mark.parametrize("field", sorted(written().keys() - {"kind"}))
def test_a_wrong_type_is_named(field):
    row = written()
    value = WRONG[type(row[field])] if field != "doc_id" else 1.5
    with pytest.raises(UserError, match=rf"f: `{field}`?.*\(got "):
        parse(json.dumps(row | {field: value}), "f")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "2"}, "`answer`: Extra inputs are not permitted (got '2')"),
        ({"evil\x1b[2J\n\ud800x": 1}, "unable to parse raw data as a unicode string (got 'evil\\x1b[2J"),
        ({"evil\x1b[2J\n": 1}, "`evil\\x1b[2J\\n`: Extra inputs are not permitted (got 1)"),
        ({"accuracy": float("nan")}, "`accuracy`: Input should be"),
        ({"accuracy": float("inf")}, "`accuracy`: Input should be"),
        ({"accuracy": 2}, "`accuracy`: Input should be less than or equal to 1 (got 2)"),
        ({"length": True}, "`length`: Input should be a valid integer (got True)"),
        ({"kind": "chess"}, "`kind`: no kind of sample (got 'chess'); expected answer, sokoban or football"),
        ({"kind": "football"}, "`repeat`: Field required"),
        ({"kind": []}, "`kind`: no kind of sample (got [])"),
        ({"score": 1.0}, "`score`: Extra inputs"),
        ({"resps": [["a", 1]]}, "`resps.0.1`: Input should be a valid string (got 1)"),
        ({"resps": ["a"]}, "`resps.0`: Input should be a valid tuple (got 'a')"),
        ({"doc": {"question": "q"}}, "`doc.id`: Field required"),
        ({"doc": {"id": "a", "hint": "h"}}, "`doc.hint`: Extra inputs"),
        ({"doc": {"id": "a", "cells": {"answer": float("nan")}}}, "`doc.cells.answer"),
        ({"doc": {"id": "a", "cells": {"answer": ["x"]}}}, "`doc.cells.answer"),
        ({"doc": {"id": "a", "choices": "AB"}}, "`doc.choices`: Input should be a valid tuple"),
    ],
)
def test_what_is_no_row_is_refused_with_field_and_value(change, said):
    with pytest.raises(UserError) as caught:
        parse(json.dumps(written() | change), "f, line 2")
    assert str(caught.value).startswith("f, line 2: ") and said in str(caught.value)
    assert str(caught.value).isprintable(), "nothing of the file reaches a terminal unescaped"


@pytest.mark.parametrize("line", ["", "{", "1" * 5000, "[" * 100_000, '"a', b"\xff\xfe\x00", "null", "[]", "3"])
def test_what_is_no_object_is_refused(line):
    with pytest.raises(UserError, match="^f: (not a sample|`the line`)"):
        parse(line, "f")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(field=st.sampled_from([*FIELDS, "kind", "score", "x"]), value=JSON, within=st.sampled_from(["", "doc", "cells"]))
def test_any_value_in_any_field_is_a_row_or_a_user_error(field, value, within):
    row = written()
    place = {"": row, "doc": row["doc"], "cells": row["doc"]["cells"]}[within]
    place[field] = value
    try:
        found = parse(json.dumps(row), "f")
    except UserError as e:
        assert str(e).startswith("f: ") and str(e).isprintable()
    else:
        assert parse(line_of(found), "f") == found


def test_the_line_of_a_file_is_named_and_so_is_a_damaged_file(tmp_path):
    path = tmp_path / "samples.jsonl"
    good = json.dumps(written())
    path.write_text(f"{good}\n{json.dumps(written() | {'length': None})}\n")
    rows = read_samples(path)
    assert next(rows).doc.id == "p1"
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2: `length`: .*\(got None\)"):
        next(rows)
    for content, said in ((good.encode() + b"\n\xff\n", "not UTF-8 text"), (b"\n", "line 1: not a sample")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"samples\.jsonl.*{said}"):
            list(read_samples(path))
    for missing, said in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=said):
            list(read_samples(missing))
    path.write_text(good + "\n")
    seal_folder(tmp_path, ())
    path.write_text(good.replace('"p1"', '"p2"') + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl: damaged"):
        list(read_samples(path))
