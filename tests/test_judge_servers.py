"""Contract: judges of every kind. What a judge thinks is no verdict; a wrong address or name is found before answers are
paid for; a field that a server refuses is spared where it decides nothing."""

import socket

import pytest

from evals.judge import LEAST_THOUGHTS, Judge, Question, ReplyStore
from evals.judge_server import JudgeServer, base_url, check_reachable, judge_server, said, spoken
from evals.judging import score_all
from evals.problems import Problem
from evals.protocols import JudgeCall, find_protocol
from evals.registry import find
from evals.run import main
from lmmr1.types import UserError
from tests.benchmark_files import write_all
from tests.judge_server import judge_by_rule, serving
from tests.test_judge import run_paper

CALL = JudgeCall(temperature=0.6, max_tokens=8, tries=5, options=("0", "1"))
MODEL = find_protocol("paper").judge.model
VERDICT = {"0": 0.0, "1": 1.0}.get


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def judge(server, tmp_path):
    store = ReplyStore(tmp_path / "judge.sqlite")
    yield Judge(find_protocol("paper").judge, JudgeServer(server.url, timeout=5), store)
    store.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("files"))
    (folder / "system.txt").write_text("system prompt")
    return folder


# ------------------------------------------------------------------------------------- thoughts before the verdict

THINKING = {
    "marked": {"content": "<think>Is it 0 or 1?</think>1"},
    "with lines": {"content": "<think>\n0 or 1?\n</think>\n\n1\n"},
    "without the first mark": {"content": "0 or 1? </think> 1"},
    "twice": {"content": "<think>0</think><think>no: 1</think>1"},
    "another mark": {"content": "[THINK]0[/THINK]1"},
    "a third mark": {"content": "◁think▷0◁/think▷1"},
    "in a field": {"content": "1", "reasoning_content": "0 or 1?"},
    "in vLLM's new field": {"content": "1", "reasoning": "0"},
    "an empty thought": {"content": "<think></think>1", "reasoning_content": None},
    "parts": {"content": [{"type": "thinking", "thinking": "0"}, {"type": "text", "text": "1"}]},
    "a long thought": {"content": f"<think>{'0 or 1? ' * 5000}</think>1"},
    "none": {"content": "1"},
}


@pytest.mark.parametrize("kind", THINKING)
def test_the_verdict_is_read_after_the_thoughts(judge, server, kind):
    server.message = lambda prompt: THINKING[kind]
    assert judge.ask(Question("q", CALL), VERDICT) == 1.0
    assert judge.ask(Question("q", CALL), VERDICT) == 1.0 and len(server.requests) == 1, "and kept so"


CUT = {
    "marked": {"content": "<think>It may be 1"},
    "in a field": {"content": None, "reasoning_content": "It may be 1"},
    "in a field, with an empty text": {"content": "", "reasoning": "1"},
    "parts": {"content": [{"type": "text", "text": "<think>1"}]},
    "another mark": {"content": "[THINK] 1"},
}


@pytest.mark.parametrize("kind", CUT)
def test_thoughts_without_an_end_are_no_verdict_and_the_judge_is_refused(judge, server, kind):
    server.message = lambda prompt: CUT[kind]
    with pytest.raises(UserError, match=r"thinks, and is cut off at 8 tokens .* serve it so that it does not think"):
        judge.ask(Question("q", CALL), VERDICT)
    assert len(server.requests) == LEAST_THOUGHTS
    server.message = lambda prompt: {"content": "1"}
    again = Judge(judge.settings, judge.server, judge.store)
    assert again.ask(Question("q", CALL), VERDICT) == 1.0, "nothing of it was kept"


def test_one_long_thought_among_verdicts_is_unread_and_said(judge, server, capsys):
    server.message = lambda prompt: {"content": "<think>long" if prompt == "hard" else "1"}
    assert [judge.ask(Question(q, CALL), VERDICT) for q in ("a", "hard", "b")] == [1.0, None, 1.0]
    judge.require_readable()
    assert "1 of 3 questions got no reply that can be read; they count as wrong" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["paper", "vlmevalkit"])
def test_a_run_with_a_judge_that_thinks_gives_the_same_scores(files, tmp_path, server, protocol):
    plain, _ = run_paper(files, tmp_path, server.url, out="plain", protocol=protocol)
    server.message = lambda prompt: {"content": f"<think>Is it 1, or (C)?</think>\n{judge_by_rule(prompt)}"}
    thought, _ = run_paper(files, tmp_path, server.url, out="thought", protocol=protocol)
    assert [(r.benchmark, r.subset, r.value) for r in plain] == [(r.benchmark, r.subset, r.value) for r in thought]
    assert any(r.value for r in plain)


def test_a_run_with_a_judge_that_is_cut_off_is_refused_before_a_score(files, tmp_path, server):
    server.message = lambda prompt: {"content": "<think>It is"}
    with pytest.raises(UserError, match="thinks, and is cut off"):
        run_paper(files, tmp_path, server.url, names=("mathverse",))
    assert not (tmp_path / "out/mathverse").exists()


def test_a_reply_about_thoughts_is_not_one(judge, server):
    server.rule = lambda prompt: "the tag <think> is on line 3"
    assert judge.ask(Question("q", CALL), str) == "the tag <think> is on line 3"
    assert spoken("a <think> b") == "a <think> b" and spoken("") == ""


def test_a_message_with_nothing_in_it():
    from types import SimpleNamespace

    assert said(SimpleNamespace(content=None)) == said(SimpleNamespace(content=[{"type": "image"}, 3])) == ""


# ------------------------------------------------------------------------------------------------ address and name


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/", "/v1/models", "/v1/completions"]
)
def test_an_address_is_understood_however_much_of_it_is_given(files, tmp_path, server, path):
    host = server.url.removesuffix("/v1")
    found = judge_server(host + path)
    assert found.url == server.url
    check_reachable(found, MODEL)
    records, _ = run_paper(files, tmp_path, found.url, names=("mmstar",), judge=found)
    assert records[0].value == pytest.approx(1 / 6)


@pytest.mark.parametrize(("url", "base"), [
    ("https://h/openai/v1/chat/completions", "https://h/openai/v1"), ("http://h:8000/api", "http://h:8000/api"),
    ("http://[::1]:8000/v1", "http://[::1]:8000/v1"), (" http://h/v1 ", "http://h/v1"),
])  # fmt: skip
def test_other_bases(url, base):
    assert base_url(url) == base


@pytest.mark.parametrize("url", ["localhost:8000/v1", "h/v1", "ftp://h/v1", "http://", "", "http://h/v1?key=1", "/v1"])
def test_no_address_is_one_line(url):
    with pytest.raises(UserError, match="expected http://HOST:PORT/v1"):
        judge_server(url)


def wrong_path(server):
    server.path = "/serve/v1"
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def wrong_path_of_a_server_that_lists(server):
    server.models = [MODEL]
    return f"{server.url}/api"


def another_model(server):
    server.models = ["Qwen/Qwen2.5-7B-Instruct"]
    return server.url


def unlisted_model(server):
    server.models = None
    server.refusal = lambda request: f"The model `{request['model']}` does not exist."
    return server.url


def no_api(server):
    server.models, server.body = None, b"<html>hello</html>"
    return server.url


def a_key_is_missing(server):
    server.models, server.status = None, lambda number: 401
    return server.url


def another_service(server):
    server.models, server.body = None, b'{"status": "ok"}'
    return server.url


WRONG = [
    wrong_path,
    wrong_path_of_a_server_that_lists,
    another_model,
    unlisted_model,
    no_api,
    a_key_is_missing,
    another_service,
]


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_judge_is_exit_2_before_the_model_is_loaded(
    files, tmp_path, tiny_model, server, monkeypatch, capsys, kind
):
    monkeypatch.setattr("evals.run.load_model", lambda *_: pytest.fail("loaded"))
    url = kind(server)
    manifest = tmp_path / "m.json"
    manifest.write_text(f'{{"key": "k", "weights": "{tiny_model}"}}')
    arguments = [
        "--harness",
        "vlmevalkit",
        "--manifest",
        str(manifest),
        "--out",
        str(tmp_path / "out"),
        "--judge-url",
        url,
    ]
    arguments += ["--benchmarks", "mmstar", "--protocol", "paper", "--data-root", str(files), "--any-data"]
    assert main([*arguments, "--system-prompt-file", str(files / "system.txt")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: --judge-url http://127.0.0.1") and MODEL in said[0]
    assert len(server.requests) <= 1, "one token was asked for at most"


def test_a_right_judge_is_not_asked_anything_where_it_lists_its_models(server):
    for models in ([MODEL], ["other", MODEL], [f"{MODEL}:latest"]):
        server.models = models
        check_reachable(JudgeServer(server.url), MODEL)
    assert server.requests == []


@pytest.mark.parametrize("status", [200, 429, 500, 503])
def test_a_judge_that_lists_nothing_or_is_busy_may_be_right(server, status):
    server.models, server.status = None, lambda number: status
    check_reachable(JudgeServer(server.url), MODEL)
    assert len(server.requests) == 1 and server.requests[0]["max_tokens"] == 1


def test_nobody_there_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="no server answers there"):
            check_reachable(judge_server(f"http://127.0.0.1:{taken.getsockname()[1]}"), MODEL)


# --------------------------------------------------------------------------------------------------- strict servers

API = {"model", "messages", "temperature", "max_tokens", "seed"}
"""What the API's specification has of what we send."""


def extra_forbidden(request):
    extra = sorted(request.keys() - API)
    return f"body -> {extra[0]}: extra fields not permitted" if extra else ""


def unnamed_extra(request):
    return "Extra inputs are not permitted" if request.keys() - API else ""


def completion_tokens(request):
    if "max_tokens" in request:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
    return ""


def no_seed(request):
    return "Unrecognized request argument supplied: seed" if "seed" in request else ""


def old_vllm(request):
    return "structured_outputs: unknown field" if "structured_outputs" in request else ""


def all_of_it(request):
    bare = {name: value for name, value in request.items() if name != "max_completion_tokens"}
    return completion_tokens(request) or no_seed(request) or extra_forbidden(bare)


STRICT = [extra_forbidden, unnamed_extra, completion_tokens, no_seed, old_vllm, all_of_it]


@pytest.mark.parametrize("refusal", STRICT)
def test_a_strict_server_is_asked_as_it_wants(judge, server, refusal):
    server.refusal, server.rule = refusal, lambda prompt: "1"
    assert judge.ask(Question("q", CALL), VERDICT) == 1.0
    accepted = {name: value for name, value in server.requests[-1].items() if name != "path"}
    assert not refusal(accepted) and accepted["temperature"] == 0.6
    assert accepted.get("max_tokens", accepted.get("max_completion_tokens")) == 8
    sent = len(server.requests)
    assert judge.ask(Question("p", CALL), VERDICT) == 1.0 and len(server.requests) == sent + 1, (
        "it is known from then on"
    )
    check_reachable(JudgeServer(server.url), MODEL)


def test_no_field_is_null_and_none_is_unknown(judge, server):
    server.rule = lambda prompt: "1"
    judge.ask(Question("q", CALL.model_copy(update={"options": ()})), VERDICT)
    (request,) = server.requests
    assert request.keys() - {"path"} == API and None not in request.values()


@pytest.mark.parametrize("field", ["temperature", "messages", "model"])
def test_a_field_that_decides_is_named_and_not_spared(judge, server, field):
    server.refusal = lambda request: f"Unsupported value: '{field}' does not support 0.6 with this model."
    with pytest.raises(UserError, match=f"HTTP 400 .*'{field}' does not support 0.6"):
        judge.ask(Question("q", CALL), VERDICT)
    assert len(server.requests) == 1


def test_a_refusal_that_does_not_end_is_given_up(judge, server):
    server.refusal = lambda request: "seed, max_tokens, guided_choice, structured_outputs, max_completion_tokens: no"
    with pytest.raises(UserError, match="HTTP 400"):
        judge.ask(Question("q", CALL), VERDICT)
    assert len(server.requests) <= 3


def test_scores_do_not_depend_on_what_a_server_refuses(judge, server, tmp_path):
    problem = Problem("1", "q", "B", choices=("one", "2", "three"))
    free, _ = (score_all(find_protocol("paper"), find("mathvision"), [problem], ["(B)"], judge) for _ in range(2))
    server.refusal = all_of_it
    store = ReplyStore(tmp_path / "other.sqlite")
    strict = score_all(
        find_protocol("paper"), find("mathvision"), [problem], ["(B)"], Judge(judge.settings, judge.server, store)
    )
    assert free == strict
    store.close()
