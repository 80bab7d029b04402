"""Answers of an evaluation that did not end, whatever ended it: the next attempt takes them up.

Every batch is appended to a journal before anything else is done with it, one line a batch, with the line's sha256: a
damaged line is named, dropped, and answered again. A run that is killed loses
the batch that it was working on, and no more; since batches are cut before anything is answered, the next attempt
makes the missing ones as the first would have, and its records are the same to the byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from evals.generation import EvalModel, prompt_sha256
from lmmr1.config import SamplingConfig
from lmmr1.files import write, writing
from lmmr1.types import Rollout, Sample


class KeptEngine:
    """An engine that remembers what it answered, and answers no prompt twice; several threads may ask it."""

    def __init__(self, model: EvalModel, identity: str, journal: Path) -> None:
        """`identity` names the weights and everything else that an answer depends on besides prompt and sampling."""
        self.model, self.identity, self.journal = model, identity, journal
        self.answers = _read(journal)
        self._lock = threading.Lock()

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """As `Engine.generate`. A greedy answer is kept by its prompt, whatever else is asked with it; drawn answers
        depend on their whole batch and on the seed, so they are kept and taken up batch by batch."""
        if sampling.temperature > 0 or num_generations > 1:
            return self._drawn(samples, sampling, num_generations, seed)
        keys = [self._key(sample, sampling) for sample in samples]
        with self._lock:
            missing = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in self.answers}
        if missing:
            groups = self.model.engine.generate(list(missing.values()), sampling, num_generations, seed)
            new = {key: rollout for key, (rollout,) in zip(missing, groups, strict=True)}
            with self._lock:
                self._keep(new)
                self.answers |= new
        return [(replace(self.answers[key], sample_id=sample.id),) for key, sample in zip(keys, samples, strict=True)]

    def _drawn(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        prompts = "\n".join(self._key(sample, sampling) for sample in samples)
        batch = hashlib.sha256(f"{seed} {num_generations}\n{prompts}".encode()).hexdigest()
        keys = [[f"{batch}-{i}-{k}" for k in range(num_generations)] for i in range(len(samples))]
        if any(key not in self.answers for row in keys for key in row):
            groups = self.model.engine.generate(samples, sampling, num_generations, seed)
            pairs = [zip(row, group, strict=True) for row, group in zip(keys, groups, strict=True)]
            new = {key: rollout for row in pairs for key, rollout in row}
            self._keep(new)
            self.answers |= new
        found = [tuple(self.answers[key] for key in row) for row in keys]
        return [tuple(replace(r, sample_id=s.id) for r in row) for s, row in zip(samples, found, strict=True)]

    def _key(self, sample: Sample, sampling: SamplingConfig) -> str:
        images = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sample.images)
        how = f"{self.identity}\n{sampling.model_dump_json()}\n{prompt_sha256(self.model.render(sample), images)}"
        return hashlib.sha256(how.encode()).hexdigest()

    def _keep(self, answers: dict[str, Rollout]) -> None:
        line = json.dumps({key: asdict(rollout) for key, rollout in answers.items()})
        with writing(self.journal), self.journal.open("a", encoding="ascii") as file:
            file.write(f"{_sum(line.encode())} {line}\n")
            file.flush()
            os.fsync(file.fileno())


def _read(journal: Path) -> dict[str, Rollout]:
    """The answers of a journal. Lines that are not as they were written, or were cut off, are cut out."""
    answers: dict[str, Rollout] = {}
    with contextlib.suppress(FileNotFoundError):
        raw = journal.read_bytes()
        lines = raw.split(b"\n")
        kept = [line for line in lines[:-1] if line[:16] == _sum(line[17:]).encode()]
        for line in kept:
            answers |= {key: _rollout(row) for key, row in json.loads(line[17:]).items()}
        if damaged := len(lines) - 1 - len(kept):
            print(f"{journal}: {damaged} of {len(lines) - 1} lines are damaged and answered again", flush=True)
        whole = b"".join(line + b"\n" for line in kept)
        if whole != raw:
            write(journal, whole)
    return answers


def _sum(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _rollout(row: dict[str, object]) -> Rollout:
    return Rollout(**(row | {"token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])}))  # type: ignore[arg-type]


@contextlib.contextmanager
def keeping(model: EvalModel, journal: Path, identity: str) -> Iterator[EvalModel]:
    """`model` with an engine that starts from the answers in `journal`; the journal goes where the block succeeds."""
    yield replace(model, engine=KeptEngine(model, identity, journal))
    journal.unlink(missing_ok=True)
