"""One run as one archive: results, checkpoints and settings, which another machine can verify and report on again.

The first member, bundle.json, says what is in it: every file with its size and sha256. Reading trusts nothing: a member
that is not listed, is no plain file, leaves its folder or differs in one byte ends it, before anything is put in place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError
from rich.progress import track

from lmmr1 import NUMERICS
from lmmr1.config import Settings
from lmmr1.lines import from_json
from lmmr1.store import code_version, read_manifest, sha256_file
from lmmr1.types import UserError

INDEX = "bundle.json"
LARGEST_INDEX = 64 * 2**20
"""Bytes: a bundle.json is read whole, so its size is bounded."""
LEFT_OUT = (".partial", ".lock")


class Entry(Settings):
    """One file."""

    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Index(Settings):
    """What bundle.json holds."""

    format: int = Field(1, ge=1, le=1)
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Folder below results/."""
    code: str
    """Commit of the code that wrote the bundle."""
    numerics: int
    checkpoints: tuple[str, ...]
    """Folders below checkpoints/ that are in the bundle."""
    files: dict[str, Entry]


def write_bundle(results: Path, out: Path, weights: bool = True) -> Index:
    """Pack `results` (results/NAME) and the checkpoints that its manifests name into `out`, a .tar.gz.

    Models that lie elsewhere (on the Hub, in other folders) are named in the manifests, not packed.
    Raises UserError where the folder is no finished run, or `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another --out, or remove it")
    manifests = sorted(results.glob("*/*/manifest.json"))
    if results.parent.name != "results" or not manifests:
        raise UserError(f"{results}: no runs in it; give results/NAME, as the workflow wrote it")
    base = results.resolve().parents[1]
    adopted = {base / m.weights for m in map(read_manifest, manifests)}
    folders = sorted(f for f in adopted if f.is_dir() and f.parent.parent == base / "checkpoints")
    files = list(_plain(results.resolve()))
    for folder in folders if weights else ():
        beside = folder.parent / "manifest.json"
        files += [*_plain(folder), *([beside] if beside.is_file() else [])]
    entries = {
        f.relative_to(base).as_posix(): Entry(size=f.stat().st_size, sha256=sha256_file(f))
        for f in track(dict.fromkeys(files), "hashing", transient=True)
    }
    kept = tuple(f.parent.name for f in folders) if weights else ()
    index = Index(name=results.name, code=code_version(), numerics=NUMERICS, checkpoints=kept, files=entries)
    _write(index, base, out)
    return index


def _plain(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(LEFT_OUT):
            yield path


def _write(index: Index, base: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with tarfile.open(partial, "w:gz", compresslevel=6) as archive:
        text = json.dumps(index.model_dump(), indent=1, sort_keys=True).encode()
        head = tarfile.TarInfo(INDEX)
        head.size = len(text)
        archive.addfile(head, io.BytesIO(text))
        for name in track(index.files, "packing", transient=True):
            member = _anonymous(archive.gettarinfo(base / name, name))
            # a second name of a file (evaluation keeps one of its records) is packed as a file of its own
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", index.files[name].size
            with (base / name).open("rb") as file:
                archive.addfile(member, file)
    os.replace(partial, out)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose file it was is nobody's business; when it was made decides what the workflow makes again, and stays."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def verify_bundle(path: Path) -> Index:
    """Read a whole bundle and compare every file with its index. Raises UserError naming the first that differs."""
    for _ in _members(path, None):
        pass
    return read_index(path)


def unpack_bundle(path: Path, into: Path) -> Index:
    """Verify a bundle and put its files below `into`: results/NAME, which must not be there, and checkpoints/KEY.

    A checkpoint that is there already is left as it is. Raises UserError on anything that `verify_bundle` refuses; then
    nothing is put in place.
    """
    index = read_index(path)
    target = into / "results" / index.name
    if target.exists():
        raise UserError(f"{target}: is there already; move it away, or give another --into")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=into) as folder:
        for _ in _members(path, Path(folder)):
            pass
        for key in index.checkpoints:
            source, there = Path(folder) / "checkpoints" / key, into / "checkpoints" / key
            if source.is_dir() and not there.exists():
                there.parent.mkdir(exist_ok=True)
                os.replace(source, there)
        target.parent.mkdir(exist_ok=True)
        os.replace(Path(folder) / "results" / index.name, target)
    return index


def read_index(path: Path) -> Index:
    """The index of a bundle. Raises UserError where the file is no bundle, or was cut off before its index ends."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            return _index(archive, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError, EOFError) as e:
        raise UserError(f"{path}: not a bundle ({e}); get it again") from None


def _index(archive: tarfile.TarFile, path: Path) -> Index:
    head = archive.next()
    if head is None or head.name != INDEX or not head.isreg() or head.size > LARGEST_INDEX:
        raise UserError(f"{path}: not a bundle, its first member is not {INDEX}; make it with `lmmr1 bundle`")
    content = archive.extractfile(head)
    try:
        values: Any = from_json(content.read() if content else b"")
        return Index.model_validate(values)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: {INDEX} is not JSON ({e})") from None
    except ValidationError as e:
        error = e.errors()[0]
        raise UserError(f"{path}: {INDEX}, {'.'.join(map(str, error['loc']))}: {error['msg']}") from None


def _members(path: Path, into: Path | None) -> Iterator[str]:
    """Every listed file, compared with the index as it goes by, and written below `into` if that is given."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            index = _index(archive, path)
            left = dict(index.files)
            while (member := archive.next()) is not None:
                entry = left.pop(member.name, None)
                if entry is None or not member.isreg() or not _inside(member.name, index):
                    raise UserError(f"{path}: member {member.name!r} is not one of the bundle's files; do not use it")
                if member.size != entry.size:
                    raise UserError(f"{path}: {member.name} has {member.size} bytes, not {entry.size}; get it again")
                _copy(archive, member, entry, path, into)
                yield member.name
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError, EOFError) as e:
        raise UserError(f"{path}: damaged or cut off ({e}); get it again") from None
    if left:
        raise UserError(f"{path}: {len(left)} listed files are not in it, first {next(iter(left))}; get it again")


def _inside(name: str, index: Index) -> bool:
    parts = PurePosixPath(name).parts
    here = parts[:2] == ("results", index.name) or (
        parts[0] == "checkpoints" and parts[1:2] and parts[1] in index.checkpoints
    )
    return bool(here) and len(parts) > 2 and ".." not in parts and not name.startswith("/") and "\\" not in name


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry, path: Path, into: Path | None) -> None:
    """The digest of one member's bytes against its entry; the bytes go to `into`, with their time of change."""
    source, digest = archive.extractfile(member), hashlib.sha256()
    target = into / member.name if into else Path(os.devnull)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        while block := source.read(2**20) if source else b"":
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != entry.sha256:
        raise UserError(f"{path}: {member.name} is damaged (sha256 {digest.hexdigest():.16}); get it again")
    if into:
        os.utime(target, (member.mtime, member.mtime))
