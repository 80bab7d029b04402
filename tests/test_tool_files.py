"""Contract: files of other tools as users have them. Links to the same results count once, escaped cells are unescaped,
lost answers and messages of failed requests are counted as what they are."""

import contextlib
import csv
import errno
import http.client
import io
import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path

import httpx2
import openai
import openpyxl
import pandas as pd
import pytest
import requests
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st

from evals.importers import read_answers
from evals.importers.failures import failure
from evals.importers.workbook import unescaped
from evals.scorers import stock
from lmmr1.exits import run_cli
from lmmr1.types import UserError
from reproduce import cli
from tests.test_importers import lm_eval_file, lm_eval_samples, lmms_eval_file, own_file

RUN = "T20250301_Gab12cd34"
LATER = "T20250402_Gab12cd34"
NAME = "toyvl_MMStar.xlsx"
GOLDS = "ABCDABCD"


@pytest.fixture(scope="module")
def dump():
    """VLMEvalKit's own writer."""
    import_module("evals.vlmevalkit")  # contains what importing vlmeval does
    return import_module("vlmeval.smp").dump


@pytest.fixture
def write(dump):
    """Writes a table of VLMEvalKit with these predictions, by its own code."""

    def write(file: Path, predictions) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"index": i, "question": f"Which mark has number {i}?", "A": "circle", "B": "square", "C": "star",
             "D": "cross", "answer": gold, "category": "marks", "l2_category": "shape", "prediction": text}
            for i, (gold, text) in enumerate(zip(GOLDS, predictions, strict=False))
        ]  # fmt: skip
        dump(pd.DataFrame(rows), str(file))
        return file

    return write


@pytest.fixture
def command(capsys, monkeypatch):
    """command(*arguments): what `lmmr1 audit` prints; without the scorers that live in other packages."""
    monkeypatch.setattr(stock, "stock_scorers", lambda *_: contextlib.nullcontext(([], [])))

    def command(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["lmmr1", "audit", *map(str, arguments), "--workers", "1"])
        with pytest.raises(SystemExit, match="0"):
            run_cli(cli.cli)
        return capsys.readouterr().out

    return command


@pytest.fixture
def audit(command):
    """audit(*paths): the JSON of `lmmr1 audit`, of its one benchmark."""

    def audit(*paths) -> dict:
        (found,) = json.loads(command(*paths, "--json")).values()
        return found

    return audit


# -------------------------------------------------------------------------------------------------- links (case 11)


def absolute_link(top, run):
    (top / NAME).symlink_to(run / NAME)


def hard_link(top, run):
    (top / NAME).hardlink_to(run / NAME)


def link_unpacked_as_text(top, run):
    (top / NAME).write_text(f"{RUN}/{NAME}")


LINKS = {
    "as VLMEvalKit": lambda top, run: (top / NAME).symlink_to(f"{RUN}/{NAME}"),
    "absolute": absolute_link,
    "hard link": hard_link,
    "a hard link elsewhere": lambda top, run: [
        (top.parent / "best").mkdir(),
        (top.parent / "best" / NAME).hardlink_to(run / NAME),
    ],
    "a text where there are no links": link_unpacked_as_text,
    "a text with a line end": lambda top, run: (top / NAME).write_text(f"./{RUN}/{NAME}\r\n"),
    "a copy": lambda top, run: shutil.copy(run / NAME, top / NAME),
    "a linked folder": lambda top, run: (top / "latest").symlink_to(run.name),
    "a loop": lambda top, run: (run / "up").symlink_to("../.."),
    "a link to all of it from within": lambda top, run: (run / "all").symlink_to(top.parents[1]),
    "a link to a link": lambda top, run: [(top / "x.xlsx").symlink_to(f"{RUN}/{NAME}"), (top / NAME).symlink_to("x.xlsx")],
    "a folder of links": lambda top, run: [(top.parent / "best").mkdir(), (top.parent / "best" / "a").symlink_to(run)],
}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_and_its_target_are_one_file(tmp_path, write, kind):
    top = tmp_path / "outputs" / "toyvl"
    file = write(top / RUN / NAME, GOLDS)
    LINKS[kind](top, top / RUN)
    for paths in ([tmp_path / "outputs"], [top, tmp_path / "outputs"], [file, top], [top, file]):
        answers = read_answers(paths)
        assert len(answers) == 8 and {(a.arm, a.run, a.source) for a in answers} == {("toyvl", RUN, str(file))}


def test_one_run_of_linked_results_in_the_audit(tmp_path, write, audit):
    write(tmp_path / "outputs" / "toyvl" / RUN / NAME, GOLDS)
    LINKS["as VLMEvalKit"](tmp_path / "outputs" / "toyvl", None)
    found = audit(tmp_path / "outputs")
    assert {cell["n"] for cell in found["cells"]} == {8} and found["arms"][0]["runs"] == [RUN]


@pytest.mark.parametrize("kind", ["as VLMEvalKit", "a text with a line end", "a copy"])
def test_a_link_alone_leads_to_the_run(tmp_path, write, kind):
    top = tmp_path / "outputs" / "toyvl"
    write(top / RUN / NAME, GOLDS)
    LINKS[kind](top, top / RUN)
    answers = read_answers([top / NAME])
    assert len(answers) == 8 and {a.run for a in answers} == {RUN}


def test_what_links_lead_to_elsewhere_is_read_once(tmp_path, write):
    write(tmp_path / "disk" / "toyvl" / RUN / NAME, GOLDS)
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "one").symlink_to(tmp_path / "disk" / "toyvl")
    (tmp_path / "mine" / "deep" / "two").symlink_to(tmp_path / "disk" / "toyvl" / RUN)
    answers = read_answers([tmp_path / "mine"])
    assert len(answers) == 8 and {a.run for a in answers} == {RUN}


def test_two_runs_stay_two_and_equal_ones_are_said_to_be(tmp_path, write, audit):
    top = tmp_path / "toyvl"
    write(top / RUN / NAME, GOLDS)
    write(top / LATER / NAME, "A" * 8)
    (top / NAME).symlink_to(f"{LATER}/{NAME}")
    found = audit(tmp_path)
    assert found["arms"][0]["runs"] == [RUN, LATER] and found["cells"][0]["n"] == 16
    assert not any("in common" in note for note in found["notes"])
    write(top / LATER / NAME, GOLDS)
    found = audit(tmp_path)
    assert found["arms"][0]["runs"] == [RUN, LATER]
    assert any(f"Runs {RUN} and {LATER} of toyvl have every answer in common" in note for note in found["notes"])


def test_a_link_to_nothing_is_named(tmp_path, write, capsys):
    top = tmp_path / "toyvl"
    write(top / RUN / NAME, GOLDS)
    (top / NAME).symlink_to(f"{LATER}/{NAME}")
    (top / "toyvl_MathVision.xlsx").write_text(f"{LATER}/toyvl_MathVision.xlsx")
    (top / "own.jsonl").symlink_to("own.jsonl")
    assert len(read_answers([tmp_path])) == 8
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is a link to ")[0] for line in said] == [
        f"note: {top / name}" for name in ("own.jsonl", NAME, "toyvl_MathVision.xlsx")
    ]
    with pytest.raises(UserError, match=f"{NAME}: a link to {LATER}/{NAME}, which is not there"):
        read_answers([top / NAME])


def test_own_results_that_share_a_disk_block_stay_two_seeds(tmp_path):
    """Deduplicating file systems and `cp -al` make hard links of equal files; the folder says whose they are."""
    first = own_file(tmp_path / "p" / "fre" / "0" / "eval" / "micro_chain", [("a", "2", "2")])
    second = tmp_path / "p" / "fre" / "1" / "eval" / "micro_chain" / "samples.jsonl"
    second.parent.mkdir(parents=True)
    second.hardlink_to(first)
    shutil.copy(first.with_name("record.json"), second.parent)
    assert [a.run for a in read_answers([tmp_path])] == ["0", "1"]


def test_a_pipe_is_not_waited_for(tmp_path, write):
    write(tmp_path / "toyvl" / NAME, GOLDS)
    os.mkfifo(tmp_path / "toyvl" / "samples.jsonl")
    assert len(read_answers([tmp_path])) == 8


# ------------------------------------------------------------------------------------ escaped and lost cells (case 12)

ESCAPED = ["B\r\n", "B\x0b", "line one\rline two", "_x000D_", "_x0041_", "a_x41_ and _x_", "\x00B", "B\ufffe"]


@pytest.mark.parametrize("text", ESCAPED)
def test_a_workbook_gives_back_the_text_that_was_written(tmp_path, write, text):
    """By VLMEvalKit's own writer, which escapes what XML cannot hold; XML makes one line end of two."""
    (answer,) = read_answers([write(tmp_path / NAME, [text])])
    assert answer.response == text


def test_the_text_of_the_report_is_read_as_b(tmp_path):
    """`_x000D_` before a line end, as Excel keeps a text with CR LF; written by openpyxl, which escapes nothing."""
    book = openpyxl.Workbook()
    for row in (["index", "question", "A", "B", "answer", "prediction"], [0, "q", "x", "y", "B", "B_x000D_\n"]):
        book.active.append(row)
    book.save(tmp_path / NAME)
    (answer,) = read_answers([tmp_path / NAME])
    assert answer.response == "B\r\n"


FORMULAS = [
    "= 5", "=2+2", "=1+1 so x", "{=4}", "==5", "=", "=\\frac{1}{2}", "=\\{1,2\\}", "=1\nso \\boxed{4}", "{=\\frac{1}{2}}",
    "=FILTER(a) {b}", "=LET(x)", "=_x000D_ a", "=a & b < c 'd' \"e\"", " =5", "=5 ", "+5", "-5", "@a", "http://example.org/ B",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_its_writer_took_for_a_formula_is_read_as_it_was_said(tmp_path, write, text):
    """xlsxwriter, which VLMEvalKit writes workbooks with, makes formulas of value 0 of them."""
    (answer,) = read_answers([write(tmp_path / NAME, [text])])
    assert answer.response == text


def test_verdicts_that_a_spreadsheet_computed_keep_their_values(tmp_path):
    with xlsxwriter.Workbook(tmp_path / NAME) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["index", "question", "A", "B", "answer", "prediction", "hit"])
        for number, hit in enumerate((1, 0), start=1):
            sheet.write_row(number, 0, [number, "q", "x", "y", "B", "=B"])
            sheet.write_formula(number, 6, f"=IF(F{number + 1}=E{number + 1},1,0)", value=hit)
    answers = read_answers([tmp_path / NAME])
    assert [(a.response, a.stored) for a in answers] == [("=B", {"stored:hit": True}), ("=B", {"stored:hit": False})]


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("rows", [(1, 2, 3), (2,)])
def test_cells_under_no_heading_are_named_with_their_line(tmp_path, write, suffix, by, rows):
    """pandas takes the first cells for names of the rows where all have one too many, and says nothing."""
    file = write(tmp_path / f"toyvl_MMStar.{suffix}", ["A", "line\none", "C"])
    lines = [row[:-1] if by < 0 and number in rows else [*row, "more"] if number in rows else row
             for number, row in enumerate(csv.reader(io.StringIO(file.read_text()), delimiter="\t" if suffix == "tsv" else ","))]  # fmt: skip
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter="\t" if suffix == "tsv" else ",", lineterminator="\n").writerows(lines)
    with pytest.raises(UserError, match=rf"{file}, line {rows[0] + 1}: {10 + by} cells under 10 headings"):
        read_answers([file])


def test_two_columns_of_one_name_and_a_quote_without_end_are_named(tmp_path):
    file = tmp_path / "toyvl_MMStar.tsv"
    file.write_text("index\tquestion\tanswer\tprediction\tprediction\n1\tq\tA\tA\tB\n")
    with pytest.raises(UserError, match="line 1: column `prediction` stands twice"):
        read_answers([file])
    file.write_text('index\tquestion\tanswer\tprediction\n0\tq\tA\tB\n1\tq\tA\t"B\n2\tq\tA\tC\n')
    with pytest.raises(UserError, match="line 3: not a table row"):
        read_answers([file])


def test_a_run_in_two_formats_counts_once_and_must_say_the_same(tmp_path, write):
    texts = ["A", "=B", "C\r\n", "", "_x000D_", "see\nD"]
    for suffix in ("xlsx", "tsv", "csv", "json"):
        write(tmp_path / f"toyvl_MMStar.{suffix}", texts)
    assert len(read_answers([tmp_path])) == 6
    write(tmp_path / "toyvl_MMStar.tsv", [*texts[:-1], "B"])
    with pytest.raises(UserError, match=r"toyvl_MMStar\.tsv beside it has other answers .* first of 1 at index 5"):
        read_answers([tmp_path])


@pytest.mark.parametrize("suffix", ["tsv", "csv", "json"])
def test_other_tables_escape_nothing(tmp_path, write, suffix):
    (answer,) = read_answers([write(tmp_path / f"toyvl_MMStar.{suffix}", ["B_x000D_"])])
    assert answer.response == "B_x000D_"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_xlsxwriter_escapes_is_unescaped(text):
    from xlsxwriter.xmlwriter import XMLwriter

    assert unescaped(XMLwriter._escape_control_characters(text)) == text.replace("\ufffe", "\ufffe")


def test_two_escaped_halves_are_one_character_and_one_half_is_none():
    assert unescaped("_xD83D__xDE00_") == "😀" and unescaped("_xD83D_").isprintable()


def test_lost_cells_are_counted_and_the_rest_is_judged(tmp_path, write, audit):
    long = "https://example.com/a " + "x" * 2100 + " B"
    with pytest.warns(UserWarning, match="2079"):
        write(tmp_path / "toyvl" / NAME, ["", "B\r\n", None, "nan", long, "B", "None", "D"])
    found = audit(tmp_path)
    (facts,) = found["arms"]
    assert (facts["answers"], facts["empty"], facts["failed_requests"]) == (8, 5, 0)
    right = {cell["scorer"]: cell["right"] for cell in found["cells"]}
    assert right["math_verify"] == right["option_match"] == 3
    assert any(note.startswith("5 of the 8 answers of toyvl are empty") for note in found["notes"])


@pytest.mark.parametrize("suffix", ["tsv", "csv", "json"])
def test_empty_cells_of_other_tables(tmp_path, write, suffix):
    answers = read_answers([write(tmp_path / f"toyvl_MMStar.{suffix}", ["", None, float("nan"), "None", "N/A"])])
    assert [a.empty for a in answers] == [True] * 4 + [False]


def test_a_server_that_said_nothing_to_lm_eval(tmp_path):
    """lm-eval writes null or an empty text; the row is counted, not refused."""
    rows = lm_eval_samples([("a", "2", ""), ("b", "2", "2")])
    lm_eval_file(tmp_path, "m", [rows[0] | {"resps": [[None]]}, rows[0] | {"doc_id": 7}, rows[1] | {"doc_id": 8}])
    assert [a.empty for a in read_answers([tmp_path])] == [True, True, False]


def test_a_wrong_answer_is_not_empty_and_an_empty_one_has_no_message(tmp_path, write):
    answers = read_answers([write(tmp_path / NAME, ["A", "", "Failed to obtain answer via API."])])
    assert [(a.empty, bool(a.failure)) for a in answers] == [(False, False), (True, False), (False, True)]


# ------------------------------------------------------------------------------------- messages of failures (case 13)

FAILED = [
    "Failed to obtain answer via API.", "Failed to obtain answer via API. ", "404 Failed to obtain answer via API. <Response [404]>",
    "Failed to obtain answer", "Fail to obtain answer via API.", "Failed to obtain answer via bailingMM API.",
    "Failed to obtain answer BlueLM API. ", "failed to obtain answer via api", "Failed to obtain answer via API: 500",
    "Failed to obtain answer: <class 'RuntimeError'> CUDA out of memory. Tried to allocate 2.00 GiB",
    "Failed to obtain answer via API.HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /",
    "Failed to obtain answer via API.Error code: 400 - {'error': {'message': 'too long'}}",
    "Error code: 429 - {'error': {'message': 'Rate limit reached'}}", "openai.BadRequestError: Error code: 400",
    "Request timed out.", "Connection error.", '{"error": {"message": "The model `x` does not exist."}}',
    '{"object": "error", "message": "max_tokens is too large", "code": 400}', "502 Bad Gateway", "Internal Server Error",
    "<html>\n<head><title>504 Gateway Time-out</title></head></html>", "HTTP 503", "[API ERROR] overloaded",
    "Error: Request timed out.", "Error: 429 Too Many Requests", "Request failed with status code 400", "Read timed out.", "[Error: 429]",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure", "Failed to call API", "Timeout",
    "Error 500", "Gateway Timeout", "[ERROR] 503 Service Unavailable", "Unable to connect to the server", "RateLimitError", "Overloaded",
    "Traceback (most recent call last):\n  File ...", "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host)",
]  # fmt: skip
SAID = [
    "", "A", "404", "500 m", "502", "The answer is 404.", "Failed to obtain answer via API. The answer is B.",
    "The log says: Failed to obtain answer via API. So (B).", "Failed to obtain answer via API. B",
    "I failed to obtain an answer.", "Failed to obtain answers by hand, so by algebra: \\boxed{5}", "Error: no such triangle",
    "The request timed out at 5, so x = 5", '{"answer": 5}', '{"error": 0, "choices": ["A"]}', "TypeError", "Errors are 5 %.",
    "Connection between A and B", "Internal angles sum to 180", "HTTP stands for a protocol", "<html> is a tag, answer: A",
    "HTTP 404 means that a page is missing", "429 Too Many Requests is option B", "Timeout is the name of the event", "A timeout",
    "Error 500 is what the server sends", "Request failed with status code 400, which is option C", "Read timed out is B", "Errors",
    "Failed to call API designers", "Error", "Error 5", "Error: 5", "Error bars are 5", "Error: the model says B", "500",
    "Failed to reach the server room", "Request timeout is 30 seconds", "Error code: 404 means not found", "Overloaded operators are B",
    "Bad Request is option A", "Unable to access the model's weights: B", "An exception: 7", "Failed to obtain answer via API." + " x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("text", FAILED)
def test_a_message_of_a_failed_request(text):
    assert failure(text) == " ".join(text.split())


def _raised(call) -> str:
    with pytest.raises(Exception) as error:
        call()
    return str(error.value)


def test_what_clients_say_of_a_request_that_failed():
    """In their own words: of a port where no one listens, of a status, of a wait without end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        url, request = f"http://{host}", httpx2.Request("POST", f"http://{host}")
        client = openai.OpenAI(api_key="x", base_url=url, max_retries=0)
        refused = requests.Response()
        refused.status_code, refused.reason, refused.url = 429, "Too Many Requests", url
        said = [
            str(openai.APITimeoutError(request=request)), _raised(client.models.list),
            str(client._make_status_error_from_response(httpx2.Response(429, request=request, json={"error": "slow"}))),
            _raised(httpx2.Response(503, request=request).raise_for_status), _raised(lambda: httpx2.get(url)),
            _raised(refused.raise_for_status), _raised(lambda: requests.get(url, timeout=9)),
            str(requests.ConnectionError(("Connection aborted.", http.client.RemoteDisconnected("Remote end closed connection")))),
            str(urllib.error.HTTPError(url, 503, "Service Unavailable", http.client.HTTPMessage(), None)),
            _raised(lambda: urllib.request.urlopen(url)), str(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))),
        ]  # fmt: skip
    for text in said:
        for before in ("", "Error: ", "[ERROR] ", "Failed to obtain answer via API. "):
            assert failure(before + text), before + text
        assert not failure(f"It printed: {text}") and not failure(f"{text} So the answer is B.")


@pytest.mark.parametrize("text", SAID)
def test_what_a_model_can_have_said(text):
    assert failure(text) == ""


def test_every_message_of_vlmevalkit_is_known():
    """Those in the source of the installed tool, as it writes them."""
    import re

    root = Path(import_module("importlib.util").find_spec("vlmeval").origin).parent
    sources = [
        p.read_text(encoding="utf-8", errors="replace")
        for p in sorted(root.glob("*.py")) + sorted(root.glob("api/*.py"))
    ]
    found = {
        m[1] for source in sources for m in re.finditer(r"(?:fail_msg|FAIL_MSG)\s*=\s*['\"]([^'\"]+)['\"]", source)
    }
    assert len(found) > 4 and all(map(failure, found)), found


def test_failed_requests_are_counted_and_named_and_no_scorer_pays_for_them(tmp_path, write, audit):
    texts = [
        "A",
        "B",
        "Failed to obtain answer via API. ",
        "D",
        "A",
        "Failed to obtain answer via API. ",
        "C",
        "502 Bad Gateway",
    ]
    write(tmp_path / "toyvl" / NAME, texts)
    found = audit(tmp_path)
    (facts,) = found["arms"]
    assert (facts["answers"], facts["empty"], facts["failed_requests"]) == (8, 0, 3)
    cells = {cell["scorer"]: cell for cell in found["cells"]}
    assert cells["math_verify"]["right"] == 5 and cells["math_verify"]["no_answer"] == 3
    (note,) = [note for note in found["notes"] if "request that failed" in note]
    assert note.startswith("3 of the 8 answers of toyvl") and "Failed to obtain answer via API." in note


def test_a_message_is_never_right_by_chance(tmp_path, audit):
    rows = [("a", "503", "Failed to obtain answer via API: 503"), ("b", "503", "503")]
    lm_eval_file(tmp_path, "m", lm_eval_samples(rows, metric=0))
    found = audit(tmp_path)
    assert next(cell["right"] for cell in found["cells"] if cell["scorer"] == "math_verify") == 1


def test_messages_in_files_of_every_tool_and_never_in_our_own(tmp_path):
    text = "Failed to obtain answer via API."
    lmms_eval_file(
        tmp_path / "lmms", [{"doc_id": 0, "target": "B", "filtered_resps": text, "doc_hash": "d", "input": "q"}]
    )
    lm_eval_file(tmp_path, "m", lm_eval_samples([("a", "2", text)]))
    own_file(tmp_path / "out" / "micro_chain", [("a", "2", text)])
    failed = {a.benchmark: bool(a.failure) for a in read_answers([tmp_path])}
    assert failed == {"mmstar": True, "math500": True, "micro_chain": False}, (
        "our harness writes no message: the model said it"
    )


def test_the_table_tells_empty_failed_and_wrong_apart(tmp_path, write, command):
    write(tmp_path / "toyvl" / NAME, ["A", "", "A", "Failed to obtain answer via API."])
    lines = command(tmp_path).splitlines()
    assert "empty  no reply  right %" in lines[1]
    assert lines[2].split() == ["toyvl", "math_verify", "-", "1", "1", "25.00", "50.00"]
