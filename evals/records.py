"""EvalRecord: one number with the protocol that made it. JSON in, JSON out; imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmmr1.files import verify, write
from lmmr1.lines import from_json
from lmmr1.types import UserError


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything about a measurement but the checkpoint. Two records with different hashes are not comparable."""

    harness: str
    harness_version: str
    task: str
    task_version: str
    prompt: str
    """Name of the prompt style; `none` sends the question alone."""
    prompt_hash: str
    """sha256 (16 hex digits) over all rendered prompts in order."""
    decoding: dict[str, Any]
    """temperature, top_p, repetition_penalty, max_new_tokens; of agents environment, levels and how they are played."""
    backend: str
    dtype: str
    min_pixels: int | None
    max_pixels: int | None
    judge: dict[str, Any] | None
    """Model, seed, settings of each call and the hash of its prompt; None where no judge is asked."""
    scorer: str
    scorer_version: str
    aggregation: str
    """How subset `all` is formed: `mean` over problems, `macro`, the mean over categories, or `reward`, the mean over
    an agent's levels and repeats."""
    data_sha256: str
    """sha256 (16 hex digits) of the benchmark file that was read."""
    data_pin: str = "none"
    """The pin that the file was checked against, `none`, or `other data` where it differs from the pinned one."""
    protocol: str = "rule"
    """Name in protocols.yaml."""
    instruction_sha256: str = ""
    """sha256 (16 hex digits) of the prompt style's own text and place."""
    instruction: str = ""
    """The text itself, so that another checkpoint can be asked in the same words."""
    images: str = "harness"
    """Where images stand in the prompt."""
    batch_size: int = 1
    """Most prompts in a batch: on a GPU greedy answers can depend on it."""

    @property
    def settings_hash(self) -> str:
        """`hash` of what does not belong to the prompt: the same for all that one protocol asks in several styles."""
        return replace(self, prompt="", prompt_hash="", instruction="", instruction_sha256="").hash

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """A value with its standard error and what it was measured on: a share in [0, 1], or points of an agent / 100."""

    benchmark: str
    subset: str
    """`all`, `macro`, `micro`, or the name of a category, subset or group."""
    metric: str
    value: float
    stderr: float | None
    """None where one problem stands behind the value: nothing is known of the spread."""
    n: int
    checkpoint: str
    """Key of the manifest, or a hash of the weights for a model given by path."""
    protocol: Protocol
    samples: str
    """File with the per-sample records, relative to the record file."""


def error_text(record: EvalRecord, unknown: str = "-") -> str:
    """The standard error in percent; `unknown` where it is not known, nor says anything as all answers are alike."""
    return f"{100 * record.stderr:.2f}" if record.stderr else unknown


def write_records(path: Path, records: list[EvalRecord]) -> None:
    """Write `path` as JSON: a list of records, each with its protocol and protocol hash. Atomic (rename)."""
    rows = [{**asdict(r), "protocol_hash": r.protocol.hash} for r in records]
    write(path, json.dumps(rows, indent=1, sort_keys=True) + "\n")


def find_records(folder: Path) -> list[Path]:
    """All record files below a folder, sorted. Raises UserError where there is none."""
    paths = sorted(folder.rglob("record.json"))
    if not paths:
        found = "no such folder" if not folder.is_dir() else "no record.json below it"
        raise UserError(f"{folder}: {found}; give a folder that `lmmr1 eval --out` or the workflow wrote")
    return paths


def read_records(path: Path) -> list[EvalRecord]:
    """Read what `write_records` wrote. Raises UserError on a missing, damaged or malformed file."""
    verify(path, f"delete {path.parent} and run the evaluation again")
    try:
        rows = from_json(path.read_text(encoding="utf-8"))
        return [
            EvalRecord(
                **{k: v for k, v in row.items() if k != "protocol_hash"} | {"protocol": Protocol(**row["protocol"])}
            )
            for row in rows
        ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such record file; run the evaluation first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not a record file ({e}); delete it and run the evaluation again") from None
