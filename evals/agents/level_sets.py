"""Where an agent benchmark's levels come from: given files, or our own. What was found is part of the record.

Under --data-root a benchmark has a folder or file of its own name, or one of the files that the registry lists. Nothing
that a level file says is run here, and a file that is not there is never replaced by our own levels in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from evals.agents import football_levels, sokoban_levels
from evals.agents.football_levels import Scenario
from evals.inputs import check_pin
from evals.registry import Benchmark, DataFile
from lmmr1.files import verify
from lmmr1.lines import from_json, text_of_file
from lmmr1.sokoban import Level
from lmmr1.types import UserError

OWN_SOKOBAN = Path(__file__).with_name("sokoban_own.txt")
"""20 levels that our generator drew: small-v0, small-v1, v0, v1. Training excludes them where they are tested on."""

MINI = "MageBench mini"
"""Name of the level set that Table 3 prints scores for."""

SUFFIXES = {"sokoban": (".txt", ".json", ".jsonl"), "football": (".py", ".json", ".jsonl")}

T = TypeVar("T", sokoban_levels.Task, football_levels.Task)


@dataclass(frozen=True, slots=True)
class LevelSet(Generic[T]):
    """Levels and where they are from."""

    tasks: tuple[T, ...]
    name: str
    """For the record: file or folder, or which of our own."""
    sha256: str
    """16 hex digits over the levels that are played, in order."""
    pin: str = "none"
    """As in `evals.problems.Prepared.data_pin`."""


def sokoban_set(
    benchmark: Benchmark, data_root: Path | None, benchmark_dir: Path | None, limit: int | None, any_data: bool
) -> LevelSet[sokoban_levels.Task]:
    """The levels of a Sokoban benchmark with their upper rewards: published where known, else our solver's.

    Raises UserError for missing or bad files, and for levels without a solution.
    """
    paths, pin = _locate(benchmark, data_root, benchmark_dir)
    for path in paths:
        verify(path)
    if not paths:
        tasks = sokoban_levels.read_tasks(OWN_SOKOBAN, limit)
        return _level_set(tasks, f"own: {OWN_SOKOBAN.name}", sokoban_levels.levels_text)
    found = check_pin(benchmark, paths[0], paths[0].read_bytes(), pin, 0, any_data)
    tasks = []
    for path in paths:
        rest = None if limit is None else limit - len(tasks)
        if rest != 0:
            tasks += _named(path, len(paths), _sokoban_file(path, rest))
    name = MINI if _is_mini(tasks) else _name_of(paths, data_root or benchmark_dir)
    return replace(_level_set(tasks, name, sokoban_levels.levels_text), pin=found)


def football_set(
    benchmark: Benchmark, own: int, data_root: Path | None, limit: int | None
) -> LevelSet[football_levels.Task]:
    """The levels of a football benchmark. Raises UserError for missing or bad files."""
    paths, _ = _locate(benchmark, data_root, None)
    if not paths:
        tasks = football_levels.own_levels(own)
        return _level_set(tasks[:limit], f"own: {own} levels, seed 0", football_levels.levels_text)
    if paths[0].suffix == ".py":
        tasks = football_levels.read_levels(paths[0].parent)
    else:
        tasks = [task for path in paths for task in _named(path, len(paths), _football_file(path))]
    return _level_set(tasks[:limit], _name_of(paths, data_root), football_levels.levels_text)


def _level_set(tasks: Sequence[T], name: str, text: Callable[[Sequence[T]], str]) -> LevelSet[T]:
    return LevelSet(tuple(tasks), name, hashlib.sha256(text(tasks).encode()).hexdigest()[:16])


def _name_of(paths: Sequence[Path], root: Path | None) -> str:
    """The file, or the folder of several, as seen from the folder that was given."""
    path = paths[0] if len(paths) == 1 else paths[0].parent
    return str(path.relative_to(root)) if root and root in path.parents else path.name


def _named(path: Path, files: int, tasks: Sequence[T]) -> list[T]:
    """Ids are unique in a file; of several files they begin with the file's name."""
    return [replace(task, id=f"{path.stem}/{task.id}") for task in tasks] if files > 1 else list(tasks)


# ---------------------------------------------------------------------------------------------------------------- where


def _locate(benchmark: Benchmark, data_root: Path | None, benchmark_dir: Path | None) -> tuple[list[Path], DataFile]:
    """Level files, none where our own are to be played, and the pin of the first. Raises UserError."""
    if benchmark.source == "micro":
        if benchmark_dir is None:
            raise UserError(f"benchmark {benchmark.name!r} is read from a file; say where it lies with --benchmark-dir")
        return [_there(benchmark_dir / benchmark.file_name)], DataFile(path=benchmark.file_name)
    if benchmark.source == "own" or data_root is None:
        return [], DataFile(path="")
    if found := _of_name(benchmark, data_root):
        return found, DataFile(path=found[0].name)
    for file in benchmark.files:
        if (data_root / file.path).is_file():
            return [data_root / file.path], file
    others = "".join(f", or {file.path}" for file in benchmark.files)
    raise UserError(
        f"{data_root}: no levels of {benchmark.name}; put them into {benchmark.name}/ "
        f"({', '.join(SUFFIXES[benchmark.dataset])}){others}, or leave --data-root out to play our own"
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such level file; make it with `python -m reproduce.prepare benchmark`")
    return path


def _of_name(benchmark: Benchmark, root: Path) -> list[Path]:
    """The level files of one kind in the folder of the benchmark's name, or the file of its name."""
    for suffix in SUFFIXES[benchmark.dataset]:
        files = sorted(p for p in (root / benchmark.name).glob(f"*{suffix}") if not p.name.startswith(("_", ".")))
        if files:
            return files
        if suffix != ".py" and (root / f"{benchmark.name}{suffix}").is_file():
            return [root / f"{benchmark.name}{suffix}"]
    return []


# ---------------------------------------------------------------------------------------------------------------- files


def _sokoban_file(path: Path, limit: int | None) -> list[sokoban_levels.Task]:
    """Boxoban text, or JSON rows: `id`, `level` (text or list of lines), perhaps `category`, `upper_reward`."""
    if path.suffix == ".txt":
        return sokoban_levels.read_tasks(path, limit)
    tasks = []
    for where, row in _rows(path)[:limit]:
        text = row.get("level")
        lines = "\n".join(text) if isinstance(text, list) and all(isinstance(line, str) for line in text) else text
        if not isinstance(lines, str):
            raise UserError(f"{where}: `level` must be a text or a list of lines (got {text!r:.60})")
        level = Level.parse(lines, where)
        tasks.append(_rewarded(row, level, where))
    return tasks


def _rewarded(row: dict[str, Any], level: Level, where: str) -> sokoban_levels.Task:
    """The task with its published upper reward where the row has one; our solver's else."""
    given = row.get("upper_reward")
    if given is None:
        task = sokoban_levels.solved_task(row["id"], level, where)
    elif isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 100:
        raise UserError(f"{where}: `upper_reward` must be a number of points above 0 (got {given!r:.40})")
    else:
        task = sokoban_levels.Task(row["id"], level, float(given), 0, sokoban_levels.kind_of(level))
    return replace(task, category=str(row.get("category") or task.category))


def _is_mini(tasks: Sequence[sokoban_levels.Task]) -> bool:
    """True where the levels are those of MageBench's mini set by number and by upper reward."""
    return {task.id: task.upper_reward for task in tasks} == sokoban_levels.published_mini()


_SCENARIO = TypeAdapter(Scenario)


def _football_file(path: Path) -> list[football_levels.Task]:
    """JSON rows with `id` and `level`: ball, left, right and perhaps difficulty (football_levels.Scenario)."""
    tasks = []
    for where, row in _rows(path):
        try:
            level = _SCENARIO.validate_python(row.get("level"))
        except ValidationError as e:
            error = e.errors()[0]
            raise UserError(f"{where}: `level`, {'.'.join(map(str, error['loc']))}: {error['msg']}") from None
        tasks.append(football_levels.Task(row["id"], str(row.get("category") or path.stem), level))
    return tasks


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a JSON list or of JSON lines, each with where it stands; ids are texts and unique."""
    try:
        text = text_of_file(path)
        rows = from_json(text) if path.suffix == ".json" else [from_json(x) for x in text.split("\n") if x.strip()]
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e}); expected levels, one object each") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no levels in it; expected a list of objects with `id` and `level`")
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, level {number}"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or row["id"] in found:
            raise UserError(f"{where}: expected an object whose `id` is a text of its own (got {row!r:.60})")
        found[row["id"]] = (where, row)
    return list(found.values())
