"""Profiles: files that may build on another one, and what each kind of job asks of the machine.

A profile is one visible diff: `extends: paper` takes everything from config/profiles/paper.yaml, and every key that the
file gives itself is merged over it, mappings key by key. Recipes (reproduce/recipes.py) are read alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lmmr1.config import Settings, read_mapping
from lmmr1.types import UserError

EITHER = (("url", "serve"),)
"""Where the judge is (reproduce/evaluations.py): one of the two."""

Kind = Literal["profile", "recipe"]
FOLDERS: dict[Kind, str] = {"profile": "config/profiles", "recipe": "reproduce/recipes"}

JobKind = Literal["prompts", "benchmark", "checkpoint", "train", "evaluate", "report"]


class Resources(Settings):
    """What one job asks for. Snakemake's names, but `gpus`, which its SLURM plugin calls `gpu`."""

    threads: int = Field(1, gt=0)
    gpus: int = Field(0, ge=0)
    mem_mb: int = Field(4000, gt=0)
    """Main memory, megabytes."""
    runtime: int = Field(120, gt=0)
    """Minutes after which a cluster may end the job; training then resumes from its last resume point."""
    slurm_partition: str | None = None
    slurm_account: str | None = None

    def for_snakemake(self) -> dict[str, Any]:
        """The same as keywords of a rule's `resources`; the partition and account only where they are given."""
        asked = {"gpu": self.gpus, "mem_mb": self.mem_mb, "runtime": self.runtime}
        return asked | {k: v for k in ("slurm_partition", "slurm_account") if (v := getattr(self, k)) is not None}


class JobResources(Settings):
    """Per kind of job; every rule of the workflow is of one of these kinds."""

    prompts: Resources = Resources()
    benchmark: Resources = Resources()
    checkpoint: Resources = Resources()
    train: Resources = Resources()
    evaluate: Resources = Resources()
    report: Resources = Resources()


class Machine(Settings):
    """What the machine (or one node of the cluster) must have; `lmmr1 doctor` checks it."""

    gpus: int = Field(0, ge=0)
    gpu_memory_gb: int = Field(0, ge=0)
    """Memory of one GPU, GB (1e9), as the card is sold: a card that reports 5 % less is accepted."""
    memory_gb: int = Field(4, gt=0)
    disk_gb: int = Field(3, gt=0)


def read_extended(root: Path, kind: Kind, name: str, via: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of a file of `kind` merged over those that it extends; `extends` itself is gone.

    Raises UserError for an unknown name, a file that is no mapping, or a cycle.
    """
    folder = FOLDERS[kind]
    known = sorted(p.stem for p in (root / folder).glob("*.yaml"))
    if not known:
        raise UserError(f"{root / folder}: no such folder; the workflow runs in a clone (git clone, then make setup)")
    if name not in known:
        where = f"{folder}/{via[-1]}.yaml, key extends" if via else f"config, key {kind}"
        raise UserError(f"{where}: unknown {kind} {name!r}; allowed: {', '.join(known)}{nearest(name, known)}")
    if name in via:
        raise UserError(f"{folder}/{name}.yaml: {' -> '.join([*via, name])} is a cycle of `extends`")
    values = read_mapping(root / f"{folder}/{name}.yaml")
    base = values.pop("extends", None)
    return values if base is None else merge(read_extended(root, kind, str(base), (*via, name)), values)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, dictionaries merged key by key; neither is changed.

    Of two keys that exclude each other, the one that `over` gives takes the other's place.
    """
    taken = [k for pair in EITHER for k, other in (pair, pair[::-1]) if over.get(other) is not None and k not in over]
    return {k: v for k, v in base.items() if k not in taken} | {
        k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()
    }


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
