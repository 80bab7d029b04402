"""The command line `lmmr1`. Exit codes: see lmmr1/exits.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; see docs/runtimes.md

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from evals.audit_cli import audit
from evals.contamination_cli import contamination
from evals.protocols import DEFAULT_PROTOCOL
from evals.scorers.cli import score
from lmmr1 import __version__
from lmmr1.exits import run_cli
from lmmr1.types import UserError
from reproduce import eval_options
from reproduce.check_cli import check, compare
from reproduce.estimate_cli import estimate
from reproduce.publish_cli import publish
from reproduce.published_cli import published
from reproduce.recipes_cli import recipes
from reproduce.status_cli import status
from reproduce.trace_cli import bundle, trace

if TYPE_CHECKING:
    from reproduce.plan import Plan

cli = typer.Typer(
    name="lmmr1",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Reproduce and check LMM-R1: two-stage rule-based RL for a 3B vision-language model.\n\n"
    "Exit codes: 0 ok, 1 failure, 2 usage, config or data error, 3 regression, 4 inconclusive.",
    epilog="Start here: lmmr1 doctor; then make reproduce, or snakemake --cores all reproduce_all",
)
console = Console()
cli.add_typer(published, name="published")
cli.add_typer(bundle, name="bundle")
cli.command(epilog="Example: lmmr1 check --model PATH_OR_HUB_ID --against results/micro/baseline --margin 2")(check)
cli.command(epilog="Example: lmmr1 recipes --profile single_gpu")(recipes)
cli.command(epilog="Example: lmmr1 trace results/micro/report/table1.csv --cell two_stage:mm_avg")(trace)
cli.command(epilog="Example: lmmr1 compare results/micro/two_stage results/micro/mgt_only")(compare)
cli.command(epilog="Example: lmmr1 estimate --profile paper --gpu h100")(estimate)
cli.command(epilog="Example: lmmr1 publish results/micro/two_stage --seed 0")(publish)
cli.command(epilog="Example: lmmr1 status results/micro")(status)


@cli.command(epilog="Example: lmmr1 doctor --profile paper")
def doctor(
    profile: Annotated[str, typer.Option(help="Also say whether this machine can run the profile.")] = "micro",
) -> None:
    """What this machine can run: Python, torch, GPU, memory, Hub, optional engines; each problem with its fix."""
    from reproduce import doctor as checks
    from reproduce.plan import Plan

    findings = checks.examine(Plan.load({"profile": profile}))
    whole = partial(Column, overflow="fold")  # a name that is cut off cannot be looked for
    table = Table("", whole("what"), "found", whole("to do"), box=None, padding=(0, 1))
    for f in findings:
        table.add_row(
            {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]no[/]"}[f.state],
            f.what,
            f.found,
            escape(f.fix),
        )
    console.print(table)
    if any(f.state == "missing" for f in findings):
        raise UserError(f"this machine cannot run profile {profile}: see the lines marked `no`")


@cli.command(epilog="Example: lmmr1 train --arm fre --seed 0 --profile smoke")
def train(
    arm: Annotated[str, typer.Option(help="An arm of reproduce/arms.yaml; what it needs is made first.")],
    seed: Annotated[int, typer.Option(help="RL seed, one of the profile's.")] = 0,
    profile: Annotated[str, typer.Option(help="micro, smoke or paper.")] = "micro",
    cores: Annotated[str, typer.Option(help="Cores that Snakemake may use.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the jobs and what they would make.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start although it does not fit (lmmr1 estimate).")] = False,
    report_to: Annotated[str, typer.Option(help="tensorboard, wandb, trackio, separated by commas.")] = "none",
) -> None:
    """Train one arm (its parents first), resuming where an earlier attempt stopped."""
    from reproduce.plan import Plan

    plan = Plan.load({"profile": profile, "report_to": report_to})
    if arm not in plan.arms:
        raise UserError(f"--arm: unknown arm {arm!r} in profile {profile}; allowed: {', '.join(plan.arms)}")
    if seed not in plan.seeds_of(arm):
        raise UserError(
            f"--seed: {seed} is not a seed of arm {arm}; allowed: {', '.join(map(str, plan.seeds_of(arm)))}"
        )
    extra = [*(["force=true"] if force else []), *([f"report_to={report_to}"] if report_to != "none" else [])]
    if dry_run:
        check_prompts(plan, arm)
    snakemake([plan.results(arm, str(seed), "manifest.json")], profile, cores, dry_run, extra)


def check_prompts(plan: Plan, arm: str) -> None:
    """Read the prompts, images and all, of every stage that leads to `arm`, where they were made. Raises UserError."""
    from lmmr1.data import read_samples
    from reproduce.plan import ROOT, lineage

    for stage in filter(None, (plan.arms[name].stage for name in lineage(plan.arms, arm))):
        prompts = ROOT / plan.results("data", f"{stage}.jsonl")
        if prompts.is_file():
            read_samples(prompts)


@cli.command(
    name="eval",
    epilog="Example: lmmr1 eval --model Qwen/Qwen2.5-VL-3B-Instruct --benchmarks math500 --out out --limit 50",
)
def evaluate(
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id.")],
    benchmarks: Annotated[str, typer.Option(help="Names from evals/benchmarks.yaml, separated by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for records, per-sample files and the harness's own output.")],
    protocol: eval_options.Protocol = DEFAULT_PROTOCOL,
    role: eval_options.AskedRole = "trained",
    prompt: eval_options.Prompt = None,
    system_prompt_file: eval_options.SystemPromptFile = None,
    limit: eval_options.Limit = None,
    data_root: eval_options.DataRoot = None,
    levels: eval_options.Levels = None,
    any_data: eval_options.AnyData = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    engine: Annotated[str, typer.Option(help="What answers: hf, our decode loop, or vllm (docs/vllm.md).")] = "hf",
    workers: Annotated[str, typer.Option(help="Processes that answer; auto: one for each GPU or core.")] = "auto",
    max_new_tokens: Annotated[Optional[int], typer.Option(min=1, help="Instead of the protocol's limit.")] = None,  # noqa: UP045
    judge_url: eval_options.JudgeUrl = None,
    judge_model: eval_options.JudgeModel = None,
    judge_cache: Annotated[Optional[Path], typer.Option(help="File with its replies; default: in --out.")] = None,  # noqa: UP045
    judge_timeout: Annotated[Optional[float], typer.Option(min=1, help="Seconds for the first try of a reply.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check model, data and names; run nothing.")] = False,
) -> None:
    """Evaluate any checkpoint on real benchmarks: lm-eval, VLMEvalKit, or as a player of Sokoban and football."""
    from evals import plan, run
    from evals.judge_server import judge_server
    from evals.records import error_text

    names = eval_options.benchmark_names(benchmarks)
    options = plan.Options.of(
        protocol or DEFAULT_PROTOCOL,
        judge_model,
        role=role or "trained",
        prompt=prompt,
        system_prompt_file=system_prompt_file,
        limit=limit,
        batch_size=batch_size,
        engine=engine,
        workers=plan.worker_count(workers),
        max_new_tokens=max_new_tokens,
        data_root=data_root,
        levels=levels,
        any_data=any_data,
        judge=judge_server(judge_url, judge_timeout),
        judge_cache=judge_cache,
    )
    if dry_run:
        run.check_inputs(model, names, options)
        console.print(f"would evaluate {model} on {', '.join(names)} under protocol {protocol} and write {out}")
        return
    records = run.evaluate(model, names, out, options)
    table = Table("benchmark", "metric", "value", "stderr", "n", "protocol", box=None, padding=(0, 1))
    for r in records:
        if r.subset == "all":
            value = f"{100 * r.value:.2f}" + (" %" if r.metric == "accuracy" else "")  # a score is in points
            table.add_row(r.benchmark, r.metric, value, error_text(r), str(r.n), r.protocol.hash)
    console.print(table)


@cli.command(epilog="Example: lmmr1 verify --pairs answers.jsonl > verdicts.jsonl")
def verify(
    pairs: Annotated[Path, typer.Option(help='JSONL: {"gold": ..., "response": ...}, optionally "choices": [...].')],
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON too, as the last line.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the verdicts do not depend on it.")] = 2,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that one answer may take.")] = 5.0,
    compat: Annotated[str, typer.Option(help="none, or released: the authors' verifier with its faults.")] = "none",
) -> None:
    """Judge answers against golds: one JSON verdict per line, in order. Exit code 2 where a line could not be read."""
    from lmmr1.rewards.pairs import verify_file

    if compat not in ("none", "released"):
        raise UserError(f"--compat {compat!r}: give none or released")
    bad = verify_file(pairs, workers, deadline, "released" if compat == "released" else "lmmr1", as_json)
    if bad:
        raise UserError(f"{pairs}: {bad} bad {'line' if bad == 1 else 'lines'}, reported above; the rest was judged")


cli.command(epilog="Example: lmmr1 score --predictions DATA/mathvision/outputs/Gemini-Pro-CoT.jsonl --data-root DATA")(
    score
)
cli.command(epilog="Example: lmmr1 audit results/micro")(audit)
cli.command(epilog="Example: lmmr1 contamination --train train.jsonl --benchmarks math500 --data-root DATA")(
    contamination
)


@cli.command(epilog="Example: lmmr1 report --profile micro")
def report(
    profile: Annotated[str, typer.Option(help="micro, smoke or paper.")] = "micro",
    cores: Annotated[str, typer.Option(help="Cores that Snakemake may use.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the jobs and what they would make.")] = False,
) -> None:
    """Bring results/PROFILE/report/ up to date; whatever it needs and is missing is made first."""
    from reproduce.plan import Plan

    plan = Plan.load({"profile": profile})
    snakemake(["reproduce_all"], profile, cores, dry_run)
    if not dry_run:
        console.print(f"report: {plan.results('report', 'index.html')}", soft_wrap=True)


def snakemake(targets: list[str], profile: str, cores: str, dry_run: bool, config: Sequence[str] = ()) -> None:
    """Run the workflow in this environment, from the folder that holds the Snakefile. Raises typer.Exit on failure."""
    from reproduce.caches import environment
    from reproduce.plan import ROOT

    options = [
        "--cores",
        cores,
        "--config",
        f"profile={profile}",
        *config,
        "--rerun-incomplete",
        *(["--dry-run"] if dry_run else []),
    ]
    command = [sys.executable, "-m", "snakemake", *targets, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


@cli.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Options of every command."""
    if show:
        console.print(f"lmmr1 {__version__}")
        raise typer.Exit(0)


def app() -> None:
    """Entry point of the `lmmr1` script."""
    run_cli(cli)


if __name__ == "__main__":
    app()
