"""Archives of images from elsewhere, unpacked as what they may be: hostile."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lmmr1.types import UserError


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an archive of training images never needs more of."""

    members: int = 2_000_000
    member_bytes: int = 256 * 2**20
    ratio: int = 50
    """Bytes unpacked per byte of the archive: photographs and drawings give 1 to 5."""
    floor_bytes: int = 2**30
    """Bytes that any archive may unpack to, whatever its own size."""


def unpack(archive: Path, folder: Path, bounds: Bounds = Bounds()) -> None:
    """Unpack the plain files of a tar archive below `folder`; an unpacked folder of the same archive is kept.

    Raises UserError, naming the member, for an absolute path or one that leaves the folder, a link, a device, a
    member or a sum that is too large, and an archive that is damaged. Nothing is then left behind.
    """
    facts = {"archive": archive.name, "bytes": archive.stat().st_size}
    marker = folder.with_name(folder.name + ".unpacked.json")
    if folder.is_dir() and marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == facts:
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _extract(archive, partial, bounds)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise UserError(f"{archive}: not unpacked, {' '.join(str(e).split()) or type(e).__name__}") from None
    else:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        marker.write_text(json.dumps(facts), encoding="utf-8")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: Path, folder: Path, bounds: Bounds) -> None:
    left = max(bounds.floor_bytes, bounds.ratio * archive.stat().st_size)
    with tarfile.open(archive, "r|*") as tar:  # a stream: each member is judged before the next is looked for
        for number, member in enumerate(tar, start=1):
            left -= member.size
            reason = _refusal(member, bounds, left, number)
            if reason:
                raise UserError(f"{archive}: not unpacked, member {member.name[:200]!r} {reason}")
            if member.isdir():
                continue
            target = folder.joinpath(*PurePosixPath(member.name).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is None:
                raise UserError(f"{archive}: not unpacked, member {member.name[:200]!r} has no content")
            with content, target.open("xb") as file:  # never over a file that is there, and with our own permissions
                shutil.copyfileobj(content, file)


def _refusal(member: tarfile.TarInfo, bounds: Bounds, left: int, number: int) -> str:
    """Why a member is not unpacked; empty for a plain file or folder in its place and within bounds."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        return "is a link, a device or another thing that is no plain file"
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name or not path.parts:
        return "has a path that leads out of the folder"
    if member.size > bounds.member_bytes:
        return f"has {member.size} bytes, more than {bounds.member_bytes}"
    if left < 0:
        return "makes the archive unpack to more bytes than images of its size do"
    if number > bounds.members:
        return f"is one of more than {bounds.members}"
    return ""
