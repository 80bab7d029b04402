"""Files that are there whole or not at all, and that tell when they were damaged.

A seal is a text in the format of `sha256sum`: `.NAME.sha256` beside a file, `SHA256SUMS` in a folder that appears by
renaming; `sha256sum -c` checks either by hand. Who reads a file verifies its seal first. A file without a seal (from
elsewhere, or older) is taken as it is. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lmmr1.types import UserError

SUMS = "SHA256SUMS"
KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Files that a checkpoint is loaded from: weights, configuration, tokenizer, chat template, image processor."""
TEMPLATES = "additional_chat_templates/*.jinja"
"""Further chat templates: the one place below the folder that is loaded from."""
NOTES = ("pretrain.json",)
"""Files of those kinds that only say how a checkpoint was made."""
LARGE = 256 << 20
"""Bytes from which a file of weights that was verified once is recognised by its size and time of change."""

FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}
"""What the user can do about an error of the file system."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def cannot_write(path: Path | str, error: OSError) -> UserError | None:
    """The error of the file system as one that names the file and the fix; None where no fix is known."""
    if error.errno not in FIXES:
        return None
    reason, fix = os.strerror(error.errno).lower(), FIXES[error.errno]
    return UserError(f"{path}: cannot be written, {reason}; {fix} and run the same command again")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, an error of the file system that the user can mend becomes a UserError that names `path`."""
    try:
        yield
    except OSError as e:
        if mendable := cannot_write(path, e):
            raise mendable from None
        raise


def write(path: Path, content: bytes | str, sealed: bool = False) -> None:
    """Write `path` (a text as UTF-8) under a temporary name, then rename: a reader never sees half a file.

    With `sealed` its checksum is written first. What a killed writer left is overwritten; of two writers one waits.
    Raises UserError where the file system refuses.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if sealed:
            _replace(seal_of(path), _line(hashlib.sha256(data).hexdigest(), path.name).encode())
        _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with _alone(partial) as file:
        file.truncate()
        file.write(data)
        file.flush()
        partial.replace(path)


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[IO[bytes]]:
    """`partial` opened by this writer only; another one may have renamed it away while this one waited."""
    while True:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(partial.stat(), os.fstat(file.fileno())):
                    yield file
                    return


# ------------------------------------------------------------------------------------------------------------- seals


def seal_of(path: Path) -> Path:
    """Where the seal of a file is."""
    return path.with_name(f".{path.name}.sha256")


def seal(path: Path, others: Iterable[Path] = ()) -> None:
    """Seal a finished file, and `others` below its folder that belong to it. Raises UserError as `write` does."""
    files = [path, *others]
    text = "".join(_line(sha256_file(file), file.relative_to(path.parent).as_posix()) for file in files)
    write(seal_of(path), text)


def seal_folder(folder: Path, leave_out: Iterable[str] = ()) -> None:
    """Write SHA256SUMS over the files of a folder that is not at its place yet, but hidden ones and those left out."""
    absent = {SUMS, *leave_out}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name not in absent)
    text = "".join(_line(sha256_file(file), file.relative_to(folder).as_posix()) for file in files)
    write(folder / SUMS, text)


def _line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"


def verify(path: Path, fix: str = "delete it and make it again") -> None:
    """Raise UserError, naming the damaged file, where `path` (or what was sealed with it) is not what was written."""
    if not path.name:
        return  # a folder's root: whoever reads it says what is wrong
    own = seal_of(path)
    listed = _sums(own, fix)
    if not listed:
        listed = {name: digest for name, digest in _sums(path.parent / SUMS, fix).items() if name == path.name}
        own = path.parent / SUMS
    _compare(path.parent, listed, own, fix)


def verify_folder(folder: Path, fix: str, skip: str = "") -> None:
    """The same for all files that a folder's SHA256SUMS lists, but those whose names end in `skip`."""
    listed = _sums(folder / SUMS, fix)
    _compare(folder, {n: d for n, d in listed.items() if not (skip and n.endswith(skip))}, folder / SUMS, fix)


def _compare(folder: Path, listed: dict[str, str], sums: Path, fix: str) -> None:
    for name, digest in listed.items():
        try:
            found = sha256_file(folder / name)
        except FileNotFoundError:
            raise UserError(f"{folder / name}: missing, but listed in {sums}; {fix}") from None
        if found != digest:
            raise UserError(f"{folder / name}: damaged, its sha256 is not the one in {sums}; {fix}")


def _sums(path: Path, fix: str) -> dict[str, str]:
    """{name: digest} of a seal; empty where there is none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged, not a list of checksums; {fix}") from None
    pairs = [line.partition("  ") for line in lines]
    if not pairs or any(len(digest) != 64 or not name for digest, _, name in pairs):
        raise UserError(f"{path}: damaged, not a list of checksums; {fix}")
    return {name: digest for digest, _, name in pairs}


# ----------------------------------------------------------------------------------------------------------- weights


def sha256_weights(folder: Path, digests: dict[str, str] | None = None) -> str:
    """Hex sha256 over names and contents of all that a checkpoint is loaded from: weights, tokenizer, chat template,
    configuration. Raises UserError where there are no weights.

    digests: known sha256 by file name; the others are computed.
    """
    return _overall(_digests(folder, digests or {}))


def are_weights(folder: Path, expected: str, digests: dict[str, str] | None = None) -> bool:
    """Whether `expected`, the weights_sha256 of a manifest, is that of `folder`. Raises UserError as `sha256_weights`.

    Manifests of before the digest covered the tokenizer and the rest name the safetensors files alone; they count.
    """
    found = _digests(folder, digests or {})
    alone = {name: digest for name, digest in found.items() if name.endswith(".safetensors")}
    return expected in (_overall(found), _overall(alone))


def _digests(folder: Path, known: dict[str, str]) -> dict[str, str]:
    """{name: sha256} of the files of a checkpoint, by name."""
    files = sorted(f for f in folder.glob("[!.]*") if f.suffix in KINDS and f.name not in NOTES and f.is_file())
    files += sorted(folder.glob(TEMPLATES))
    if not any(f.suffix == ".safetensors" for f in files):
        raise UserError(f"{folder}: not a checkpoint folder, it holds no .safetensors file")
    return {f.relative_to(folder).as_posix(): known.get(f.name) or sha256_file(f) for f in files}


def _overall(digests: dict[str, str]) -> str:
    return hashlib.sha256("".join(name + digest for name, digest in digests.items()).encode()).hexdigest()


def verify_weights(folder: Path, expected: str, fix: str) -> None:
    """Raise UserError, naming folder and fix, where the checkpoint is not the `expected` one or a file is damaged.

    Files of at least LARGE bytes are read once: `.verified.json` in the folder keeps their sha256 with size and time.
    """
    verify_folder(folder, fix, skip=".safetensors")
    if not are_weights(folder, expected, _verified(folder)):
        raise UserError(
            f"{folder}: the weights are damaged, or tokenizer, template or configuration were changed: "
            f"their sha256 is not the one in the manifest; {fix}"
        )


def _verified(folder: Path) -> dict[str, str]:
    """sha256 of the large files, read again only where size or time of change moved."""
    files = [f for f in sorted(folder.glob("*.safetensors")) if f.stat().st_size >= LARGE]
    if not files:
        return {}
    card = folder / ".verified.json"
    try:
        known = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    found: dict[str, list[Any]] = {}
    for file in files:
        stamp = [file.stat().st_size, file.stat().st_mtime_ns]
        entry = known.get(file.name) if isinstance(known, dict) else None
        found[file.name] = (
            entry if isinstance(entry, list) and len(entry) == 3 and entry[:2] == stamp else [*stamp, sha256_file(file)]
        )
    if found != known:
        with contextlib.suppress(UserError, OSError):  # a folder of another user is read again every time
            write(card, json.dumps(found, indent=1) + "\n")
    return {name: str(entry[2]) for name, entry in found.items()}
