"""An OpenAI-compatible chat server on localhost that judges by a rule, for tests: it proves the way, not a judge."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def judge_by_rule(prompt: str) -> str:
    """Extraction: what follows the last `answer is` or stands in the last box. Comparison: equal texts are 1."""
    pair = re.search(r"\[Standard Answer\]: (.*)\n\s*\[Model_answer\] : (.*)\n\s*Judgement:\Z", prompt)
    if pair:
        return str(int(pair[1].strip() == pair[2].strip()))
    if "Your output:" in prompt:
        found = re.findall(r"answer is ([a-z])\b", prompt)
        return found[-1].upper() if found else "Z"
    found = re.findall(r"\\boxed\{([^}]*)\}", prompt) or re.findall(
        r"answer is ([\w.()/-]+?)\.?(?=\s|Extracted|')", prompt
    )
    return found[-1] if found else "none"


class Server(ThreadingHTTPServer):
    """Counts and keeps the requests; `rule` makes the replies, `status`, `late` and `body` make it fail."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.models: list[str] | None = []
        """What GET /v1/models lists; None: it is not there."""
        self.requests: list[dict] = []
        self.rule: Callable[[str], str] = judge_by_rule
        self.status: Callable[[int], int] = lambda number: 200
        self.late: Callable[[str], float] = lambda prompt: 0.0
        """Seconds before the reply to a prompt."""
        self.body: bytes | None = None
        """Sent instead of every reply."""
        self.message: Callable[[str], dict] = lambda prompt: {"content": self.rule(prompt)}
        """The message of the reply to a prompt."""
        self.refusal: Callable[[dict], str] = lambda request: ""
        """What is wrong with a request, sent with status 400."""
        self.path = "/v1"
        """Where the API is."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        models = self.server.models
        body = json.dumps({"object": "list", "data": [{"id": m, "object": "model"} for m in models or []]}).encode()
        self.send_response(200 if self.path == f"{self.server.path}/models" and models is not None else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request | {"path": self.path})
        status = self.server.status(len(self.server.requests))
        refusal = self.server.refusal(request)
        status = 404 if self.path != f"{self.server.path}/chat/completions" else 400 if refusal else status
        prompt = request["messages"][-1]["content"]
        time.sleep(self.server.late(prompt))
        message = {"role": "assistant"} | (self.server.message(prompt) if status == 200 else {})
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        body = json.dumps(reply if status == 200 else {"error": {"message": refusal or "refused"}}).encode()
        body = self.server.body or body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
