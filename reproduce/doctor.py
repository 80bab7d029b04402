"""What this machine can run, and how to mend what it cannot."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil
from huggingface_hub import try_to_load_from_cache

from evals.agents.football_gfootball import built_version, home
from lmmr1.checkpoint_files import examine_files
from lmmr1.types import UserError
from reproduce.judge import served_models
from reproduce.judge_service import vllm
from reproduce.plan import Plan
from reproduce.profiles import Machine

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    state: Literal["ok", "note", "missing"]
    what: str
    found: str
    fix: str = ""


def examine(plan: Plan) -> list[Finding]:
    """Check libraries, hardware, cluster, engines, weights and data against what a plan needs."""
    here = [*_software(), *_hardware(plan.profile.machine), *_executor(plan)]
    return [*here, *_sources(plan), *_engines(plan), *_judge(plan), *_folders(plan), _football()]


def require(plan: Plan) -> None:
    """Raises UserError where something is missing that the plan needs, with each fix; nothing where it was forced."""
    if plan.profile.force or plan.profile.world == "micro":
        return
    missing = [f"{f.what}: {f.found} ({f.fix})" for f in examine(plan) if f.state == "missing"]
    if missing:
        raise UserError(
            f"this machine cannot run profile {plan.profile.profile}: {'; '.join(missing)}. Nothing was started; "
            "--config force=true starts anyway"
        )


def _software() -> list[Finding]:
    python = platform.python_version()
    good = tuple(map(int, python.split(".")[:2])) >= (3, 11)
    findings = [
        Finding("ok" if good else "missing", "Python", python, "" if good else "install Python 3.11 and run make setup")
    ]
    for package in ("torch", "torchvision", "transformers", "lm-eval", "ms-vlmeval", "snakemake", "math-verify"):
        try:
            findings.append(Finding("ok", package, version(package)))
        except PackageNotFoundError:
            findings.append(Finding("missing", package, "not installed", "make setup"))
    return findings


def _hardware(machine: Machine) -> list[Finding]:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    memory, disk = psutil.virtual_memory().total / 1e9, shutil.disk_usage(".").free / 1e9
    return [
        Finding("ok", "CPU cores", f"{os.cpu_count()}, OMP_NUM_THREADS={threads}"),
        _amount("memory", memory, machine.memory_gb),
        _amount("free disk", disk, machine.disk_gb),
        _gpu(machine),
    ]


def _amount(what: str, found: float, needed: int) -> Finding:
    if found >= needed:
        return Finding("ok", what, f"{found:.0f} GB")
    return Finding("missing", what, f"{found:.0f} GB", f"{needed} GB are needed: another machine, or another profile")


def _gpu(machine: Machine) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("missing", "GPU", "torch is not installed", "make setup")
    import torch

    wanted = f"{machine.gpus} x CUDA GPU of {machine.gpu_memory_gb} GB"
    if not torch.cuda.is_available():
        if machine.gpus:
            return Finding("missing", "GPU", "none", f"{wanted} are needed: another machine, or another profile")
        return Finding("note", "GPU", "none", "not needed")
    count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory / 1e9
    found = f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB"
    if count < machine.gpus or memory < 0.95 * machine.gpu_memory_gb:
        return Finding("missing", "GPU", found, f"{wanted} are needed: another machine, or profile single_gpu")
    return Finding("ok", "GPU", found)


def _executor(plan: Plan) -> list[Finding]:
    """What hands jobs to a cluster, for a profile that does."""
    if plan.profile.executor == "local":
        return []
    found = {
        "SLURM plugin": (importlib.util.find_spec("snakemake_executor_plugin_slurm"), "pip install 'lmmr1[slurm]'"),
        "sbatch": (shutil.which("sbatch"), "start on a machine that submits to SLURM, or take profile paper"),
    }
    return [
        Finding("ok", what, "found") if there else Finding("missing", what, "not found", fix)
        for what, (there, fix) in found.items()
    ]


def _engines(plan: Plan) -> list[Finding]:
    """Optional libraries: missing where a run of the plan uses them, else worth a note."""
    configs = [plan.train_config(arm, plan.seeds[0]) for arm in plan.trained]
    answers = plan.profile.eval.engine == "vllm"
    fixes = {
        "vllm": ("rollouts and answers on GPUs", answers or any(c["engine"] == "vllm" for c in configs)),
        "peft": ("LoRA", any(c["lora"] for c in configs)),
        "trl": ("trainer: trl", any(c.get("trainer") == "trl" for c in configs)),
    }
    return [_library(name, use, needed) for name, (use, needed) in fixes.items()]


def _library(name: str, use: str, needed: bool) -> Finding:
    if importlib.util.find_spec(name):
        return Finding("ok", name, version(name))
    if needed:
        return Finding("missing", name, "not installed", f"pip install 'lmmr1[{name}]' (the profile uses it: {use})")
    return Finding("note", name, "not installed (optional)", f"{use}: pip install 'lmmr1[{name}]'")


def _sources(plan: Plan) -> list[Finding]:
    """The Hub, and every model and data file of the plan that must come from there or from this machine."""
    files = {id_: ("model", id_, "config.json") for id_ in plan.adopted_models}
    files |= {f"data of stage {s}": ("dataset", d.repo, d.file) for s, d in plan.data_sets.items()}
    reachable = _hub_reachable()
    hub = Finding("ok" if reachable else "note", "Hugging Face Hub", "reachable" if reachable else "not reachable")
    return [hub, *(_source(what, kind, repo, file, reachable) for what, (kind, repo, file) in files.items())]


def _source(what: str, kind: str, repo: str | None, file: str, reachable: bool) -> Finding:
    local = Path(file) if repo is None else Path(repo) / file
    if kind == "model" and (fault := _fault(Path(str(repo)))):
        return Finding("missing", what, "not whole", fault)
    if local.exists():
        return Finding("ok", what, "on this machine")
    if repo is None or not _HUB_ID.match(repo):
        return Finding("missing", what, f"{local}: no such file", "give the right path")
    if isinstance(try_to_load_from_cache(repo, file, repo_type=kind), str):
        return Finding("ok", what, "in the Hub's cache on this machine")
    if reachable:
        return Finding("ok", what, "to be fetched from the Hub")
    fix = f"hf download {repo} --repo-type {kind} where there is network, then set HF_HOME to that cache"
    return Finding("missing", what, "neither here nor reachable", fix)


def _fault(model: Path) -> str:
    """What is wrong with the files of a checkpoint that lies on this machine; empty where it does not."""
    try:
        if model.exists():
            examine_files(model)
    except UserError as error:
        return str(error)
    return ""


def _hub_reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


def _judge(plan: Plan) -> list[Finding]:
    """The judge that the plan's protocols ask: a server that answers, or a program that can serve one."""
    rounds, judge = plan.evaluations, plan.profile.eval.judge
    asking = [r for r in (rounds.main, *rounds.further) if rounds.judged(r)]
    if not asking:
        return []
    try:
        rounds.check_judge(plan.profile.machine, plan.profile.executor, plan.profile.resources.evaluate.gpus)
        if judge is None or judge.url is None:
            return [Finding("ok", "judge", f"{rounds.judge_of(asking[0])}, served by {vllm()}")]
        models, wanted = served_models(judge.url), {rounds.judge_of(r) for r in asking}
    except UserError as error:
        return [Finding("missing", "judge", "none", str(error))]
    if missing := wanted - set(models):
        fix = f"the protocol's judge is {', '.join(missing)}: serve it there under that name"
        return [Finding("missing", "judge", f"{judge.url} serves {', '.join(models) or 'nothing'}", fix)]
    return [Finding("ok", "judge", f"{', '.join(wanted)} at {judge.url}")]


def _folders(plan: Plan) -> list[Finding]:
    """Folders that the profile names: the benchmarks' files and the levels."""
    settings = plan.profile.eval
    named = {"eval.data_root": settings.data_root, "eval.levels": settings.levels}
    return [
        Finding("ok", key, path)
        if Path(path).is_dir()
        else Finding("missing", key, f"{path}: no such folder", f"give the right path, or leave {key} out")
        for key, path in named.items()
        if path
    ]


def _football() -> Finding:
    """The real football simulator, which lives in an environment of its own."""
    found = built_version()
    if found is None:
        return Finding("note", "gfootball", f"not built in {home()} (optional)", "make football (Debian, minutes)")
    return Finding("ok", "gfootball", f"{found} in {home()}")
