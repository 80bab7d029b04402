"""What a name on the Hugging Face Hub stands for now: a commit, which is what is recorded, loaded and hashed.

huggingface_hub is imported where it is used: who names no model on the Hub does not wait for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from lmmr1.files import KINDS
from lmmr1.types import UserError


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name, with or without @REVISION."""
    return name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/"))


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@REVISION` as its two parts; None where no revision is asked for."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def resolve(repository: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model") -> str:
    """The commit that a branch, a tag or nothing (the newest) stands for; where the Hub is not reached, the cached one.

    Raises UserError where it cannot be determined.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return HfApi().resolve_revision(repository, repo_type=kind, revision=revision).resolved
    except (OSError, ValueError, RevisionResolutionError) as e:
        raise _not_found(repository, revision, "no commit of it found on", e) from None


def snapshot(repository: str, commit: str) -> Path:
    """The folder of a model's files at a commit, in the Hub's cache, fetched if need be.

    Raises UserError where they cannot be had, or the cache holds a part of them only.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=commit, allow_patterns=[f"*{kind}" for kind in KINDS], ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as e:
        raise _not_found(repository, commit, "its files cannot be had from", e) from None
    require_whole(Path(folder), f"{repository}@{commit}")
    return Path(folder)


def cached_snapshot(repository: str, commit: str) -> Path | None:
    """The same where it lies in the cache, without asking the Hub; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=commit)
    return Path(config).parent if isinstance(config, str) else None


def require_whole(folder: Path, name: str) -> None:
    """Raise UserError where shards of the weights are missing: a cache that another program filled may lack some."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    wanted = sorted({"config.json"} | shards)
    if missing := [file for file in wanted if not (folder / file).is_file()]:
        raise UserError(f"{name}: {missing[0]} is not in the Hub's cache ({folder}); connect to the network once")


def _not_found(repository: str, revision: str | None, what: str, error: Exception) -> UserError:
    name = f"{repository}@{revision}" if revision else repository
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{name}: {what} the Hugging Face Hub ({reason}); check name and revision, connect to the network "
        "(and log in, where it asks for it), or give a folder"
    )
