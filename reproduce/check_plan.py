"""What `lmmr1 check --model` will evaluate, and why not: decided before a model is loaded or torch is imported.

Whatever would be refused once the answers are there is refused here. What a harness or the model alone can tell (a
downloaded file's rows, the device) is asked again by `Planned.accept`, before the first answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.expected import Expected, expect, expect_job, instruction_of
from evals.generation import EvalModel
from evals.judge_server import judge_server
from evals.plan import DEFAULT_BATCH_SIZE, AnyJob, Options, require_judge_named
from evals.protocols import Role
from evals.registry import find
from lmmr1.types import UserError
from reports.comparable import Taken, differences, printed_cells
from reports.rules import rules
from reproduce.check_reference import read_reference
from reproduce.published import Cell, registry

Differ = Callable[[Expected], list[str]]
"""In what a record to be differs from what it will be held against."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says; None where it says nothing."""

    benchmarks: tuple[str, ...] | None = None
    protocol: str | None = None
    prompt: str | None = None
    role: Role | None = None
    system_prompt_file: Path | None = None
    limit: int | None = None
    batch_size: int | None = None
    data_root: Path | None = None
    levels: Path | None = None
    benchmark_dir: Path | None = None
    any_data: bool = False
    judge_url: str | None = None
    judge_model: str | None = None
    cross_protocol: bool = False

    def require_of_records(self) -> None:
        """Raises UserError for an option that says how a model is evaluated, where records are held against others."""
        about = ("protocol", "prompt", "role", "system_prompt_file", "limit", "batch_size", "data_root", "levels")
        for name in (*about, "benchmark_dir", "any_data", "judge_model"):
            if getattr(self, name):
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option}: says how a model is evaluated, and --records were; leave it out")

    def options(self, **defaults: Any) -> Options:
        """The evaluation's options: what was said, else `defaults`. Raises UserError for bad values."""
        said = {
            name: getattr(self, name)
            for name in ("prompt", "role", "system_prompt_file", "limit", "batch_size", "data_root", "levels")
        }
        given = defaults | {name: value for name, value in said.items() if value is not None}
        judge_model = self.judge_model or given.pop("judge_model", None)
        protocol = self.protocol or given.pop("protocol")
        given = {k: v for k, v in given.items() if k not in ("protocol", "judge_model")}
        given["any_data"] = self.any_data or given.get("any_data", False)
        given["benchmark_dir"] = self.benchmark_dir or given.get("benchmark_dir")
        if given.get("limit") == 1:
            raise UserError("--limit 1: one item has no interval, so no verdict; evaluate at least 2")
        return Options.of(protocol, judge_model, judge=judge_server(self.judge_url), **given)


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be evaluated, and how."""

    benchmarks: list[str]
    options: Options
    left_out: dict[str, str]
    """Benchmark of the reference that cannot be held against it -> why."""
    differ: Differ
    cross_protocol: bool

    def accept(self, job: AnyJob, model: EvalModel | None) -> None:
        """Raise UserError for a job whose record would be refused (see `evals.run.Accept`)."""
        if job.n < 2:
            raise UserError(f"{job.name}: {job.n} item has no interval, so no verdict; evaluate at least 2 (--limit)")
        if not self.cross_protocol and (texts := self.differ(expect_job(job, model))):
            raise UserError(refusal({job.name: texts}))


def refusal(found: dict[str, list[str]]) -> str:
    """The message for benchmarks that would differ from what they are held against."""
    texts = " | ".join(f"{name}: {'; '.join(texts)}" for name, texts in found.items())
    return (
        f"nothing was evaluated, as it could not be compared: {texts}; change the options, name other --benchmarks, "
        "or give --allow-cross-protocol to compare all the same"
    )


def against_row(row: str, asked: Asked) -> Planned:
    """The plan against a row of Table 1: the paper's protocol, and the row's role, unless others are asked for.

    Benchmarks that cannot be compared are left out where none were named; where they were, or where none is left,
    UserError says why for each.
    """
    printed = printed_cells(registry(), row)
    names = _named(asked.benchmarks, list(printed), f"row {row}")
    options = asked.options(
        protocol="paper", role=registry().tables["table1"].rows[row].role, batch_size=DEFAULT_BATCH_SIZE
    )
    fields = rules().must_match_score

    def differ(expected: Expected) -> list[str]:
        return known_differences(expected, printed[expected.benchmark.name], fields)

    found = {} if asked.cross_protocol else _differing(names, options, differ)
    if found and (asked.benchmarks or len(found) == len(names)):
        raise UserError(refusal(found))
    kept = [name for name in names if name not in found]
    benchmarks = [find(name) for name in kept]
    require_judge_named(benchmarks, options)
    for benchmark in benchmarks:
        instruction_of(benchmark, options)
    return Planned(kept, options, {n: "; ".join(t) for n, t in found.items()}, differ, asked.cross_protocol)


def against_folder(folder: Path, asked: Asked, workspace: Path) -> Planned:
    """The plan against records: evaluated as those were, unless something else is asked for and may be compared.

    workspace: gets the reference's own prompt as a file. Raises UserError for a bad reference, and with all reasons
    where anything would differ: of a reference, no benchmark is left out.
    """
    reference = read_reference(folder)
    names = _named(asked.benchmarks, list(reference.records), str(folder))
    options = asked.options(
        **reference.defaults(names, workspace, own_prompt=asked.prompt is None and asked.role is None)
    )

    require_judge_named([find(name) for name in names], options)
    found = {} if asked.cross_protocol else _differing(names, options, reference.differences, with_text=True)
    if found:
        raise UserError(refusal(found))
    reference.require_readable(names)
    return Planned(names, options, {}, reference.differences, asked.cross_protocol)


def _named(wanted: tuple[str, ...] | None, known: list[str], where: str) -> list[str]:
    """The benchmarks that were asked for, else all known ones. Raises UserError for one that is not known."""
    if lacking := [name for name in wanted or () if name not in known]:
        raise UserError(f"--benchmarks {lacking[0]}: {where} has no value for it; it has {', '.join(known)}")
    return list(dict.fromkeys(wanted or known))


def _differing(names: list[str], options: Options, differ: Differ, with_text: bool = False) -> dict[str, list[str]]:
    """Benchmark -> in what it would differ, of those that would."""
    found = {}
    for name in names:
        benchmark = find(name)
        expected = expect(benchmark, options)
        if with_text:
            expected = replace(expected, settings=expected.settings | instruction_of(benchmark, options))
        if texts := differ(expected):
            found[name] = texts
    return found


def known_differences(expected: Expected, cell: Cell, fields: tuple[str, ...]) -> list[str]:
    """`reports.comparable.differences` in the fields that are known by now."""
    unknown = {
        "n": expected.n is None,
        "aggregation": expected.categories is None,
        "max_pixels": "max_pixels" not in expected.settings,
    }
    taken = Taken(expected.protocol, expected.n or 0, expected.categories or 0)
    return differences(taken, cell, tuple(field for field in fields if not unknown.get(field)))
