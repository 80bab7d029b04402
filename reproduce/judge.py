"""Run an evaluation together with the judge that it asks.

    python -m reproduce.judge --model MODEL 1 python -m evals.run ...

The workflow says in $LMMR1_JUDGE where the judge is (reproduce/evaluations.py: JudgeSource, as JSON): a server that
runs already, or one to start here with `vllm serve`. The evaluation begins once the server answers, gets its address as
`--judge-url`, and the server is stopped when the evaluation ends, however it ends.

It is no service rule of Snakemake's: there all consumers of a service are one group, which begins when the last of
their checkpoints is trained, and is killed as a whole when the first of them fails (docs/paper_scale.md).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmmr1.config import parse_settings
from lmmr1.exits import run_cli
from lmmr1.types import UserError
from reproduce import gpu
from reproduce.evaluations import JudgeSource, Serve

VARIABLE = "LMMR1_JUDGE"
POLL_SECONDS = 0.5
STOP_SECONDS = 30.0
"""After which a server that was asked to end is killed."""
ANSWER_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): a signal for the child when its parent dies, even of SIGKILL."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""As evals/judge.py asks: without a proxy."""


def served_models(url: str) -> list[str]:
    """Names of the models that the server at `url` serves (GET /models of the OpenAI API).

    Raises UserError where no such server answers.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
        with _DIRECT.open(request, timeout=ANSWER_SECONDS) as reply:
            return [str(model["id"]) for model in json.load(reply)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"eval.judge: no OpenAI-compatible server answers at {url} ({type(e).__name__}: {e}); start one, or give "
            "its address with --config eval='{judge: {url: http://HOST:8000/v1}}'"
        ) from None


def vllm() -> str:
    """The program `vllm`: on the path, or beside this Python. Raises UserError where there is none."""
    found = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError("eval.judge.serve: no program `vllm` here; pip install 'lmmr1[vllm]', or give eval.judge.url")
    return found


@contextlib.contextmanager
def serving(serve: Serve, model: str, gpus: Sequence[str]) -> Iterator[str]:
    """The base URL of a server that answers for `model`; it is gone afterwards.

    gpus: names for CUDA_VISIBLE_DEVICES; none: those of this process. Raises UserError where the server ends, or does
    not answer in time.
    """
    port = _free_port()
    command = [vllm(), "serve", model, "--host", "127.0.0.1", "--port", str(port), *serve.options]
    process = _start(command, gpus, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        _wait_for(process, url, model, serve.start_seconds)
        yield url
    finally:
        _stop(process)


def _wait_for(process: subprocess.Popen[bytes], url: str, model: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise UserError(
                f"eval.judge.serve: `vllm serve {model}` ended with code {code} before it answered; its own message "
                "stands above in this log, and eval.judge.serve.options are given to it as they are"
            )
        with contextlib.suppress(UserError):
            if model in served_models(url):
                return
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"eval.judge.serve: `vllm serve {model}` did not answer for {seconds:.0f} s; see this log, or raise "
        "eval.judge.serve.start_seconds"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started: asked first, since it frees its GPU memory by itself."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _start(command: list[str], gpus: Sequence[str], start_new_session: bool = False) -> subprocess.Popen[bytes]:
    """A child that sees `gpus` (none named: those of this process) and does not outlive this process."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=start_new_session,
        close_fds=False,  # the locks of the GPUs stay held until the child is gone too
        preexec_fn=_die_with_parent,  # noqa: PLW1509  this process has one thread
    )


def _free_port() -> int:
    """One that nobody listens on: several evaluations, each with its judge, share a machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _evaluate(command: list[str], url: str, gpus: Sequence[str]) -> int:
    """Run the evaluation and return its exit code."""
    process = _start([*command, "--judge-url", url], gpus)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _ended(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m reproduce.judge --model MODEL GPUS COMMAND...`: exits as the command does."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.judge")
    parser.add_argument("--model", required=True, help="name of the judge")
    parser.add_argument("gpus", type=int, help="of the evaluation")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the evaluation")
    args = parser.parse_args(arguments)
    source = parse_settings(JudgeSource, json.loads(os.environ.get(VARIABLE) or "{}"), f"${VARIABLE}")
    if source.serve is None:
        if source.url is None:
            raise UserError(f"${VARIABLE}: names no judge; give --config eval='{{judge: {{url: URL}}}}'")
        gpu.become([*args.command, "--judge-url", source.url], args.gpus)
    signal.signal(signal.SIGTERM, _ended)
    # both at once: two evaluations that each hold a judge and wait for the other's GPU would wait for ever
    held = gpu.hold(source.serve.gpus + args.gpus)
    with serving(source.serve, args.model, held[: source.serve.gpus]) as url:
        code = _evaluate(args.command, url, held[source.serve.gpus :])
    sys.exit(code)


if __name__ == "__main__":
    run_cli(main)
