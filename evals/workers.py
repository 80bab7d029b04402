"""Several processes answer: each has the model, and a batch goes to whichever is free.

Batches are cut before anything is answered, so neither their number nor which of them answers changes a record.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from evals.generation import Engine, EvalModel
from lmmr1.config import SamplingConfig
from lmmr1.types import Rollout, Sample, UserError

SPARE = 2
"""Times the size of the weights that a process on a CPU may need: loading holds a part of them twice."""

IMPORTS = 2**30
"""Bytes that a process needs besides its model."""


class RemoteEngine:
    """The engine of another process."""

    def __init__(self, load: Callable[[], EvalModel], threads: int, device: str | None) -> None:
        """Start the process; `load` must be picklable. `device` is the only GPU that it sees."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Daemons end with this process, whatever ends it.
        self.process = context.Process(target=_serve, args=(theirs, load, threads, device), daemon=True)
        self.process.start()
        theirs.close()

    def reply(self) -> object:
        """What the process sends next. Raises what was raised there, and RuntimeError where the process ended."""
        try:
            result = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RuntimeError(f"a process that answers ended with exit code {self.process.exitcode}") from None
        if isinstance(result, Exception):
            raise result
        return result

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """As `Engine.generate`."""
        self._connection.send((list(samples), sampling, num_generations, seed))
        return self.reply()  # type: ignore[return-value]

    def close(self) -> None:
        """End the process; it sees that nobody asks any more."""
        self._connection.close()
        self.process.join()


class Fleet:
    """Engines as one that several threads may ask at once."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._free: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        for engine in engines:
            self._free.put(engine)

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """As `Engine.generate`, by an engine that is free, or the next that is."""
        engine = self._free.get()
        try:
            return engine.generate(samples, sampling, num_generations, seed)
        finally:
            self._free.put(engine)


@contextlib.contextmanager
def loaded(load: Callable[[], EvalModel], workers: int) -> Iterator[EvalModel]:
    """The model of `load`, in this process and `workers` - 1 others, which end with the block.

    On GPUs each process has one of its own. Raises what `load` raises, in whichever process.
    """
    if workers == 1:
        yield load()
        return
    import torch

    gpus, before = _gpus(), torch.get_num_threads()
    threads = max(1, cores() // workers)
    others: list[RemoteEngine] = []
    try:
        others += [RemoteEngine(load, threads, gpus[i % len(gpus)] if gpus else None) for i in range(1, workers)]
        torch.set_num_threads(threads)
        model = load()
        for other in others:
            other.reply()
        yield replace(model, engine=Fleet([model.engine, *others]), workers=workers)
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.close()


def _serve(connection: Connection, load: Callable[[], EvalModel], threads: int, device: str | None) -> None:
    """Load the model, say so, and answer until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            engine = load().engine
        except Exception as e:  # whatever it is, the process that asked raises it
            connection.send(_sendable(e))
            return
        connection.send(None)
        while True:
            request = connection.recv()
            try:
                result: object = engine.generate(*request)
            except Exception as e:
                result = _sendable(e)
            connection.send(result)


def _sendable(error: Exception) -> Exception:
    """The error as one that can be pickled; what the user can mend stays what it is."""
    return error if type(error) is UserError else RuntimeError(f"{type(error).__name__}: {error}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process sees."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(i) for i in range(torch.cuda.device_count())]


def as_many_as_fit(model: str, batches: int) -> int:
    """Processes for `--workers auto`: one for each GPU, or core as far as memory goes, and no more than `batches`."""
    if batches == 1:
        return 1
    import torch

    if torch.cuda.is_available():
        return max(1, min(torch.cuda.device_count(), batches))
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    # A Hub id: its size is not known before it is here, and no such model is small.
    room = _free_memory() // (SPARE * weights + IMPORTS) if weights else 1
    return max(1, min(cores(), batches, room))


def _free_memory() -> int:
    """Bytes of memory that nothing uses, or only to cache files."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
