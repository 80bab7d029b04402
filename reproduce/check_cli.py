"""`lmmr1 check` and `lmmr1 compare`: a checkpoint or its records against others. Exit codes: see lmmr1/exits.py."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape

from lmmr1.types import UserError
from reproduce import eval_options

if TYPE_CHECKING:
    from reproduce.check_plan import Asked

console = Console()
Names = Annotated[Optional[str], typer.Option(help="Some of the benchmarks, separated by commas (default: all).")]  # noqa: UP045
CrossProtocol = Annotated[
    bool, typer.Option("--allow-cross-protocol", help="Compare what was measured differently, at your own risk.")
]
OptionalPath = Optional[Path]  # noqa: UP045  Typer reads it at run time


def check(
    model: Annotated[Optional[str], typer.Option(help="Checkpoint folder or Hub id: evaluated first.")] = None,  # noqa: UP045
    records: Annotated[OptionalPath, typer.Option(help="Folder with records, instead of a model.")] = None,
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Folder with records, or a row of the paper's Table 1 (default: the profile's baseline)."),
    ] = None,
    margin: Annotated[Optional[float], typer.Option(help="Points that may be lost (config/verdicts.yaml).")] = None,  # noqa: UP045
    benchmarks: Names = None,
    strict: Annotated[bool, typer.Option("--strict", help="An inconclusive benchmark fails too: exit code 4.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for check.json, junit.xml and a model's records.")] = Path("check"),
    profile: Annotated[str, typer.Option(help="Whose baseline is the default of --against.")] = "micro",
    protocol: eval_options.Protocol = None,
    role: eval_options.AskedRole = None,
    prompt: eval_options.Prompt = None,
    system_prompt_file: eval_options.SystemPromptFile = None,
    limit: eval_options.Limit = None,
    data_root: eval_options.DataRoot = None,
    levels: eval_options.Levels = None,
    any_data: eval_options.AnyData = False,
    benchmark_dir: Annotated[OptionalPath, typer.Option(help="Files of the micro benchmarks.")] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Prompts per batch (default: the reference's)."),
    ] = None,
    judge_url: eval_options.JudgeUrl = None,
    judge_model: eval_options.JudgeModel = None,
    cross_protocol: CrossProtocol = False,
) -> None:
    """Is a checkpoint worse than a reference? Exit code 0 passed, 3 regression, 4 inconclusive with --strict.

    How a model is evaluated is the reference's way where no option says otherwise: that of the records, or of the
    paper. What could not be compared afterwards is refused before anything is evaluated.
    """
    from reports.rules import require_margin
    from reproduce.check_plan import Asked

    if (model is None) == (records is None):
        raise UserError("give either --model, which is evaluated, or --records, which were evaluated before")
    reference = against or _default_reference(profile)
    asked = Asked(
        benchmarks=None if benchmarks is None else tuple(eval_options.benchmark_names(benchmarks)),
        protocol=protocol, prompt=prompt, role=role, system_prompt_file=system_prompt_file, limit=limit,
        batch_size=batch_size, data_root=data_root, levels=levels, benchmark_dir=benchmark_dir, any_data=any_data,
        judge_url=judge_url, judge_model=judge_model, cross_protocol=cross_protocol,
    )  # fmt: skip
    require_margin(margin)
    folder, names, left_out = _records_of(model, records, out / "records", reference, asked)
    from reports import gate

    code = gate.run([folder], reference, out, names, margin, strict, cross_protocol, left_out)
    console.print(f"written: {out / 'check.json'}, {out / 'junit.xml'}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def _records_of(
    model: str | None, records: Path | None, out: Path, reference: str, asked: Asked
) -> tuple[Path, list[str] | None, dict[str, str]]:
    """The records that are judged, on which benchmarks, and which were left out why: those given, or a model's."""
    if records is not None:
        asked.require_of_records()
        return records, None if asked.benchmarks is None else list(asked.benchmarks), {}
    return out, *_evaluate(str(model), out, reference, asked)


def _default_reference(profile: str) -> str:
    folder = Path("results") / profile / "baseline"
    if not folder.is_dir():
        raise UserError(f"{folder}: no baseline to hold it against; give --against FOLDER or a row, e.g. qwen")
    return str(folder)


def _evaluate(model: str, out: Path, reference: str, asked: Asked) -> tuple[list[str], dict[str, str]]:
    """Evaluate a model as the reference was measured: the benchmarks, and those left out with the reason.

    Raises UserError before anything is loaded where the outcome could not be compared.
    """
    from evals import run
    from reproduce.check_plan import against_folder, against_row

    with tempfile.TemporaryDirectory(prefix="lmmr1-check-") as workspace:
        folder = Path(reference)
        plan = against_folder(folder, asked, Path(workspace)) if folder.is_dir() else against_row(reference, asked)
        for name, reason in plan.left_out.items():
            console.print(f"left out: {name}, {reason}", soft_wrap=True, highlight=False, markup=False)
        run.evaluate(model, plan.benchmarks, out, plan.options, accept=plan.accept)
    return plan.benchmarks, plan.left_out


def compare(
    first: Annotated[Path, typer.Argument(help="Folder with records: of `lmmr1 eval`, of an arm or of one run.")],
    second: Annotated[Path, typer.Argument(help="The same for what it is compared against.")],
    benchmarks: Names = None,
    cross_protocol: CrossProtocol = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """FIRST minus SECOND per benchmark, paired by item, with interval, p-value and a verdict; exit code 0."""
    from reports.compare import compare_folders, verdicts_of
    from reports.rules import rules

    names = None if benchmarks is None else eval_options.benchmark_names(benchmarks)
    found = compare_folders(first, second, names, cross_protocol)
    facts = [_facts(d, v) for d, v in zip(found, verdicts_of(found, rules()), strict=True)]
    if as_json:
        typer.echo(json.dumps({"rules": rules().model_dump(), "rows": facts}, indent=1))
        return
    for line in _lines(facts):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(rules().text(), soft_wrap=True, highlight=False)


def _lines(facts: list[dict[str, Any]]) -> list[str]:
    """The table as text, then what would decide each inconclusive cell, and what no interval holds."""
    from reports.compare import remark_lines
    from reports.statistics import ends_text

    head = f"{'benchmark':<16}{'first':>7}{'second':>8}{'diff':>8}  {'95 % interval':<17}{'p':>8}{'differ':>8}{'n':>7}"
    head += "  verdict"
    lines, notes = [head], []
    for f in facts:
        p = "" if f["p"] is None else f"{f['p']:.2g}"
        differ = "" if f["discordance"] is None else f"{f['discordance']:.1f} %"
        lines.append(
            f"{f['benchmark']:<16}{f['first']:>7.1f}{f['second']:>8.1f}{f['difference']:>+8.1f}  "
            f"{ends_text(f['low'], f['high']):<17}{p:>8}{differ:>8}{f['n']:>7}  {f['verdict']}"
        )
        if f["bootstrap"]:
            notes.append("{benchmark}: over resampled problems [{:+.1f}, {:+.1f}]".format(*f["bootstrap"], **f))
        if f["verdict"] == "inconclusive":
            notes.append(f"{f['benchmark']}: {f['reason']}")
    notes += remark_lines({f["benchmark"]: f["remarks"] for f in facts})
    return [escape(line) for line in (*lines, *notes)]


def _facts(d: Any, verdict: Any) -> dict[str, Any]:
    """A difference with its verdict as plain values, in points; p is adjusted for the family."""
    from reports.compare import known

    pairs = d.interval.pairs
    return {
        "benchmark": d.column,
        "n": d.n,
        "seeds": list(d.seeds),
        "first": 100 * d.first,
        "second": 100 * d.second,
        "difference": 100 * d.interval.mean,
        "low": known(100 * d.interval.low),
        "high": known(100 * d.interval.high),
        "p": known(verdict.p),
        "p_unadjusted": known(d.interval.p),
        "discordance": None if pairs is None else 100 * pairs.rate,
        "bootstrap": None if d.bootstrap is None else [100 * v for v in d.bootstrap],
        "verdict": verdict.word,
        "reason": verdict.reason,
        "remarks": d.remarks,
    }
