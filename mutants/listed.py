"""The list of mutants as data, and the checks that keep it from going stale in silence."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from lmmr1.config import Settings, parse_settings, read_yaml
from lmmr1.types import UserError

LIST = Path(__file__).with_name("list.yaml")


class Mutant(Settings):
    """One fault: in `file` the text `old`, which stands there once, becomes `new`."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    file: str
    old: str = Field(min_length=1)
    new: str
    tests: tuple[Annotated[str, Field(pattern=r"^.+\.py::.+$")], ...] = Field(min_length=1)
    """Node ids, of which at least one must fail; a whole file proves too little about a fault."""
    why: str
    """What would go wrong unnoticed, in one line."""
    setting: str | None = None
    """The field of TrainConfig whose effect is broken, dotted."""
    gpu: bool = False
    """Only profiles for GPUs use the setting like this, so that no run on a CPU would show the fault."""
    import_ok: bool = False
    """True where the fault shows as soon as the module is imported, and that is the point."""

    @field_validator("file")
    @classmethod
    def _is_no_test(cls, file: str) -> str:
        if Path(file).parts[0] == "tests":
            raise ValueError("is a test, and a fault in a test would prove itself; name the code that it tests")
        return file

    def part(self, of: int) -> int:
        """Which of `of` parts, from 1, this mutant belongs to: by its id alone, so that other entries move nothing."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:8], 16) % of + 1


def read_list(path: Path = LIST) -> list[Mutant]:
    """Raises UserError, naming file and entry, for an unknown key, a bad value or an id that stands twice."""
    rows = read_yaml(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of entries with id, file, old, new, tests and why")
    mutants = [parse_settings(Mutant, row, f"{path}, {row.get('id', f'entry {i}')}") for i, row in enumerate(rows, 1)]
    for name, count in Counter(m.id for m in mutants).items():
        if count > 1:
            raise UserError(f"{path}: id {name!r} stands {count} times; ids must be unique")
    return mutants


def mutated(mutant: Mutant, root: Path) -> str:
    """The file's text with the fault in it. Raises UserError where `old` is not there once, or nothing changes."""
    try:
        text = (root / mutant.file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"mutant {mutant.id}: no file {mutant.file}; name the one that has the code now") from None
    count = text.count(mutant.old)
    if count != 1:
        raise UserError(
            f"mutant {mutant.id}: {mutant.file} has {count} times {mutant.old!r:.120}; write `old` anew, so that it "
            "stands there once"
        )
    if mutant.new == mutant.old:
        raise UserError(f"mutant {mutant.id}: `new` is `old`; nothing would change")
    return text.replace(mutant.old, mutant.new)
