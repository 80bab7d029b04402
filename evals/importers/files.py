"""The files under a path, each once: links to the same results are the same results."""

from __future__ import annotations

import filecmp
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from lmmr1.types import UserError

RUN = re.compile(r"T\d{8}[_-]\w+")
"""VLMEvalKit's folder of one run, below the folder of the model."""

OWN = "samples.jsonl"

LONGEST_LINK = 4096
"""Bytes of a path, so of a file that stands for a link."""


def files_once(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a path (a file, or a folder and what it links to) by name, without hidden ones.

    A file that has several names is given under one without links, if there is one, and of those in the folder of a
    run. A link to nothing is passed over, and standard error says so.

    suffixes: of the files that are looked at.

    Raises UserError for a path that is not there, and for a folder that cannot be read.
    """
    if not path.exists():
        lost = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file or folder"
        raise UserError(f"{path}: {lost}; give files with stored answers, or folders of them")
    named = [path] if path.is_file() else [file for file in _walk(path) if file.suffix in suffixes and _is_file(file)]
    found: list[Path] = []
    seen: set[object] = set()
    for file in sorted(named, key=lambda file: (_through_link(file, path), not _run_of(file), file)):
        target = _target(file)
        if not target.is_file():
            print(f"note: {file} is a link to {target}, which is not there: passed over", file=sys.stderr)
        elif not seen & (same := identity(target)):
            seen |= same
            found.append(file if file.samefile(target) else target)
    return sorted(found)


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder. Folders that links lead to come last, each once; one that holds the root is not entered."""
    queue, entered, own = [root], set(), Path(os.path.realpath(root))
    for start in queue:
        for folder, names, files in os.walk(start, onerror=_unreadable):
            real = os.path.realpath(folder)
            again = real in entered or (start is not root and own.is_relative_to(real))
            entered.add(real)
            names[:] = [] if again else sorted(name for name in names if not name.startswith("."))
            queue += [link for name in names if (link := Path(folder, name)).is_symlink()]
            yield from () if again else (Path(folder, name) for name in files if not name.startswith("."))


def _is_file(file: Path) -> bool:
    return file.is_file() or file.is_symlink()  # a link to nothing is to be named; a pipe has no end


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


def _through_link(file: Path, root: Path) -> bool:
    return os.path.realpath(file) != str(Path(os.path.realpath(root)) / file.relative_to(root)) or _target(file) != file


def _run_of(file: Path) -> bool:
    return any(RUN.fullmatch(part) for part in file.parts[:-1])


def _target(file: Path) -> Path:
    """Where a link leads, or what stands for one: git and zip may leave a text file, and others the file's copy."""
    if file.is_symlink():
        return Path(os.path.realpath(file))
    return _unpacked_link(file) or _copied_run(file) or file


def _unpacked_link(file: Path) -> Path | None:
    """The path that is all that a file holds."""
    text = file.read_bytes().decode("utf-8", "replace").strip() if file.stat().st_size <= LONGEST_LINK else ""
    is_path = Path(text).suffix == file.suffix and not set(text) & set('\n\t\0{,"')
    return Path(os.path.normpath(file.parent / text)) if is_path else None


def _copied_run(file: Path) -> Path | None:
    """The same file in the folder of a run beside it: VLMEvalKit links to it from there."""
    runs = (folder / file.name for folder in sorted(file.parent.iterdir()) if RUN.fullmatch(folder.name))
    return next((other for other in runs if other.is_file() and filecmp.cmp(file, other, shallow=False)), None)


def identity(file: Path) -> set[object]:
    """What two names of one file share. Of hard links, too, but for `samples.jsonl`: its folder says whose it is."""
    found = file.stat()
    path: set[object] = {os.path.realpath(file)}
    return path if file.name == OWN else path | {(found.st_dev, found.st_ino, file.name)}
