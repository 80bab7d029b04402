"""The judge of one evaluation, as a service of Snakemake's (reproduce/rules/judge.smk).

    python -m reproduce.judge_service --model MODEL FILE GPUS

The workflow says in $LMMR1_JUDGE where the judge is (reproduce/evaluations.py: JudgeSource, as JSON): a server that
runs already, or one to start here with `vllm serve`. FILE is there before this program is: the shell that starts it
writes who it is, since Snakemake waits 5 seconds for it and no longer. It tells more once the GPUs of the judge and of
the evaluation (GPUS) are held, all of them or none, so that no two evaluations wait for each other's; the evaluation
(reproduce/judge.py) reads it, takes no GPU itself, and waits until the server answers.

Snakemake ends the shell, and knows nothing of this program and of the server below: it ends with the shell, and with
Snakemake, whose shells outlive it when it is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lmmr1.config import Settings, parse_settings
from lmmr1.exits import run_cli
from lmmr1.files import write
from lmmr1.lines import from_json
from lmmr1.types import UserError
from reproduce import children, gpu
from reproduce.evaluations import JudgeSource, Serve

VARIABLE = "LMMR1_JUDGE"
WATCH_SECONDS = 0.5


class Service(Settings):
    """What the file of a service says."""

    pid: int
    """Of its shell, which lives as long as the service does."""
    workflow: int
    """Process of the Snakemake that started it."""
    log: str
    url: str | None = None
    """Of the server; None as long as the service waits for GPUs."""
    model: str = ""
    seconds: float = 0
    """Most time until the server answers; 0: it runs already, and is not waited for."""
    gpus: tuple[str, ...] = ()
    """Names of the evaluation's GPUs, held for it; none named: those that it sees."""

    @classmethod
    def read(cls, path: Path) -> Service:
        """Raises UserError where there is no such file, or it says something else."""
        try:
            values = from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(
                f"{path}: no file of a running judge ({e}); rule `judge` writes it, so start the workflow"
            ) from None
        found: Service = parse_settings(cls, values, str(path))
        return found


def source() -> JudgeSource:
    """Where the judge of this launch is. Raises UserError where the workflow names none."""
    found: JudgeSource = parse_settings(JudgeSource, json.loads(os.environ.get(VARIABLE) or "{}"), f"${VARIABLE}")
    if found.url is None and found.serve is None:
        raise UserError(f"${VARIABLE}: names no judge; give --config eval='{{judge: {{url: URL}}}}'")
    return found


def vllm() -> str:
    """The program `vllm`: on the path, or beside this Python. Raises UserError where there is none."""
    found = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError("eval.judge.serve: no program `vllm` here; pip install 'lmmr1[vllm]', or give eval.judge.url")
    return found


def _end_with(service: Service, path: Path) -> None:
    """Let this process be asked to end when its shell or its Snakemake is gone."""
    workflow = children.watched(service.workflow)
    children.end_on_signals(lambda: _clear_up(path, workflow))
    children.die_with_parent()

    def look(number: int, frame: object) -> None:
        if os.getppid() != service.pid or not workflow():
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS, WATCH_SECONDS)


def _clear_up(path: Path, workflow: Callable[[], bool]) -> None:
    """Leave a process that removes the file where Snakemake has not done so by its end.

    Snakemake wants to find it once its service has ended, and removes it. One that is interrupted or killed leaves it,
    and the next one would call it incomplete.
    """
    if os.fork():
        return
    os.setsid()
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # the locks of the GPUs are among them
    while path.exists() and workflow():
        time.sleep(WATCH_SECONDS)
    path.unlink(missing_ok=True)
    os._exit(0)


def _serve(serve: Serve, model: str, told: Service, path: Path, own: int) -> None:
    """Run the server until this process is asked to end. Raises UserError where the server ends by itself."""
    command = [vllm(), "serve", model, "--host", "127.0.0.1"]
    held = gpu.hold(serve.gpus + own)
    names, rest = held[: serve.gpus] or held, held[serve.gpus :]
    port = _free_port()
    process = children.start([*command, "--port", str(port), *serve.options], names)
    try:
        _tell(path, told, url=f"http://127.0.0.1:{port}/v1", model=model, seconds=serve.start_seconds, gpus=rest)
        code = process.wait()
    finally:
        children.stop(process)
    raise UserError(
        f"eval.judge.serve: `vllm serve {model}` ended with code {code}; its own message stands above in this log, and "
        "eval.judge.serve.options are given to it as they are"
    )


def _tell(path: Path, told: Service, **more: object) -> None:
    write(path, told.model_copy(update=more).model_dump_json())


def _free_port() -> int:
    """One that nobody listens on: several evaluations, each with its judge, share a machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_zero_threads() -> None:
    """The service counts no thread of Snakemake's; libraries would read the 0 that it sets for that as a number."""
    for name in [n for n, value in os.environ.items() if n.endswith("_NUM_THREADS") and value == "0"]:
        del os.environ[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m reproduce.judge_service --model MODEL FILE GPUS`: runs until it is asked to end."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.judge_service")
    parser.add_argument("--model", required=True, help="name of the judge")
    parser.add_argument("file", type=Path, help="what the evaluation reads")
    parser.add_argument("gpus", type=int, help="of the evaluation")
    args = parser.parse_args(arguments)
    told = Service.read(args.file)
    _end_with(told, args.file)
    _without_zero_threads()
    judge = source()
    if judge.serve:
        _serve(judge.serve, args.model, told, args.file, args.gpus)
    _tell(args.file, told, url=judge.url, model=args.model, gpus=gpu.hold(args.gpus))
    while True:
        signal.pause()


if __name__ == "__main__":
    run_cli(main)
