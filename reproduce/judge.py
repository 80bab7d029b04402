"""Run an evaluation that asks a judge.

    python -m reproduce.judge [--service FILE] GPUS python -m evals.run ...

The evaluation gets the judge's address as `--judge-url`: with FILE that of the service which Snakemake runs beside this
job (reproduce/judge_service.py), once the judge answers and on the GPUs that the service holds for it; without, that of
the server in $LMMR1_JUDGE. An evaluation whose service is gone ends: its GPUs are held no longer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from evals.judge_server import base_url
from lmmr1.exits import run_cli
from lmmr1.types import UserError
from reproduce import children, gpu
from reproduce.judge_service import VARIABLE, Service, source

POLL_SECONDS = 0.5
ANSWER_SECONDS = 5.0

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""As evals/judge.py asks: without a proxy."""


def served_models(url: str) -> list[str]:
    """Names of the models that the server at `url` serves (GET /models of the OpenAI API).

    Raises UserError where no such server answers.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    try:
        request = urllib.request.Request(f"{base_url(url)}/models", headers={"Authorization": f"Bearer {key}"})
        with _DIRECT.open(request, timeout=ANSWER_SECONDS) as reply:
            return [str(model["id"]) for model in json.load(reply)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"eval.judge: no OpenAI-compatible server answers at {url} ({type(e).__name__}: {e}); start one, or give "
            "its address with --config eval='{judge: {url: http://HOST:8000/v1}}'"
        ) from None


def ready(path: Path, service: Service, runs: Callable[[], bool]) -> Service:
    """What the service says once it holds its GPUs and its server answers.

    The wait for GPUs has no end, the one for the server ends after its `seconds`. Raises UserError where the service is
    gone, or the server does not answer in time.
    """
    while service.url is None:
        _require(runs, service)
        time.sleep(POLL_SECONDS)
        service = Service.read(path)
    deadline = time.monotonic() + service.seconds
    while service.seconds and not _answers(service):
        _require(runs, service)
        if time.monotonic() > deadline:
            raise UserError(
                f"eval.judge.serve: `vllm serve {service.model}` did not answer for {service.seconds:.0f} s; see "
                f"{service.log}, or raise eval.judge.serve.start_seconds"
            )
        time.sleep(POLL_SECONDS)
    return service


def _answers(service: Service) -> bool:
    with contextlib.suppress(UserError):
        return service.model in served_models(str(service.url))
    return False


def _require(runs: Callable[[], bool], service: Service) -> None:
    """Raises UserError, with the service's last words, where it is gone."""
    if runs():
        return
    log = Path(service.log)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    raise UserError(f"the judge's service has ended; see {service.log}: {said[-1] if said else 'it is empty'}")


def beside(path: Path, command: Sequence[str]) -> int:
    """Run the evaluation on the service's GPUs and return its exit code. Raises UserError where the service ends."""
    service = Service.read(path)
    runs = children.watched(service.pid)
    service = ready(path, service, runs)
    process = children.start([*command, "--judge-url", str(service.url)], service.gpus)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            _require(runs, service)
    finally:
        if process.poll() is None:
            children.stop(process)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m reproduce.judge [--service FILE] GPUS COMMAND...`: exits as the command does."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.judge")
    parser.add_argument("--service", type=Path, help="file of the judge's service")
    parser.add_argument("gpus", type=int, help="of the evaluation, where no service holds them for it")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the evaluation")
    args = parser.parse_args(arguments)
    if args.service:
        children.end_on_signals()
        sys.exit(beside(args.service, args.command))
    url = source().url
    if url is None:
        raise UserError(f"${VARIABLE}: a judge is served to jobs of an arm on this machine alone; give eval.judge.url")
    gpu.become([*args.command, "--judge-url", url], args.gpus)


if __name__ == "__main__":
    run_cli(main)
