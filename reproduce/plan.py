"""The experiment as data: which arms exist, what each needs and where each file lives.

Torch-free, so that building the workflow stays instant; every user error becomes one readable line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from evals.registry import load_registry
from lmmr1 import NUMERICS
from lmmr1.config import Settings, TrainConfig, parse_settings
from lmmr1.types import UserError

ROOT = Path(__file__).resolve().parent.parent
TEXT_MIX = {"chain": 0.5, "table": 0.5}
PERCEPTION_MIX = {"count": 0.5, "most": 0.5}
IMAGE_REASONING_MIX = {"scene": 0.45, "legend": 0.275, "drawn": 0.275}


class Arm(Settings):
    """Either `checkpoint` (adopted) or `parent` and `stage` (trained)."""

    checkpoint: Literal["base", "candidate"] | None = None
    parent: str | None = None
    stage: str | None = None


class HubData(Settings):
    """A data set on the Hub in the authors' message format."""

    repo: str
    file: str
    images: str | None
    revision: str = "main"


class StageData(Settings):
    """What a stage trains on, per world: shares of text and image tasks, or a data set."""

    micro: dict[Literal["text", "images"], float]
    paper: HubData


class Stage(Settings):
    """Data, and differences from the profile's training settings."""

    data: StageData
    train: dict[str, Any] = {}


class MicroSettings(Settings):
    """Axes of the micro world."""

    items: int = Field(500, gt=0)
    prompts: int = Field(2000, gt=0)
    perception_share: float = Field(0.45, ge=0, le=1)
    pretrain: dict[str, Any] = {}


class EvalSettings(Settings):
    """How much is evaluated at once."""

    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(64, gt=0)
    engine: Literal["hf", "vllm"] = "hf"
    """What answers: our decode loop, or vLLM (docs/vllm.md)."""


class Profile(Settings):
    """Everything that a profile file (or an override) may say."""

    profile: str
    name: str = ""
    """Folder under results/; the profile's name unless given, so that a sweep does not overwrite the default run."""
    world: Literal["micro", "paper"]
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    benchmarks: tuple[str, ...] = Field(min_length=1)
    base_model: str | None = None
    candidate: str | None = None
    micro: MicroSettings = MicroSettings()
    train: dict[str, Any] = {}
    accelerate: str | None = None
    """A config file of accelerate, e.g. config/accelerate/ddp.yaml: each training runs on `processes` processes."""
    processes: int = Field(1, gt=0)
    eval: EvalSettings = EvalSettings()


class Plan:
    """Profile, arms in order (with their ancestors), stages and benchmarks, checked against each other."""

    def __init__(
        self, profile: Profile, arms: dict[str, Arm], stages: dict[str, Stage], benchmarks: dict[str, Any]
    ) -> None:
        self.profile, self.arms, self.stages, self.benchmarks = profile, arms, stages, benchmarks
        self.name = profile.name or profile.profile
        for arm in self.trained:
            self.train_config(arm, self.seeds[0])

    @classmethod
    def load(cls, config: dict[str, Any], root: Path = ROOT) -> Plan:
        """Merge the profile file with `config` and check everything. Raises UserError before anything is written."""
        name = str(config.get("profile", "micro"))
        known = sorted(p.stem for p in (root / "config/profiles").glob("*.yaml"))
        if name not in known:
            raise UserError(
                f"config, key profile: unknown profile {name!r}; allowed: {', '.join(known)}{_nearest(name, known)}"
            )
        file = root / f"config/profiles/{name}.yaml"
        values = merge(read_yaml(file), config) | {"profile": name}
        if config.get("candidate"):
            values["arms"] = ["baseline", "candidate"]
        profile = parse_settings(Profile, values, f"{file.relative_to(root)} with overrides")
        arms_file, stages_file = root / "reproduce/arms.yaml", root / "reproduce/stages.yaml"
        arms = {k: _arm(k, v, arms_file.relative_to(root)) for k, v in read_yaml(arms_file).items()}
        stages = {
            k: parse_settings(Stage, v, f"{stages_file.relative_to(root)}, stage {k}")
            for k, v in read_yaml(stages_file).items()
        }
        wanted = dict.fromkeys(a for arm in profile.arms for a in lineage(arms, arm))
        for arm in wanted:
            _require(arms[arm].stage, stages, f"reproduce/arms.yaml, arm {arm}, key stage")
        if profile.accelerate and not (root / profile.accelerate).is_file():
            raise UserError(f"{file.relative_to(root)}, key accelerate: no such file {profile.accelerate}")
        if profile.processes > 1 and not profile.accelerate:
            raise UserError(
                f"{file.relative_to(root)}, key processes: {profile.processes} need a file in key accelerate"
            )
        registry = load_registry()
        for benchmark in profile.benchmarks:
            _require(benchmark, registry, f"{file.relative_to(root)}, key benchmarks")
        return cls(profile, {a: arms[a] for a in wanted}, stages, {b: registry[b] for b in profile.benchmarks})

    @property
    def seeds(self) -> tuple[int, ...]:
        """RL seeds of trained arms."""
        return self.profile.seeds

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """All seeds for a trained arm; the first alone for an adopted one, which is the same for every seed."""
        return self.seeds if self.arms[arm].stage else self.seeds[:1]

    @property
    def trained(self) -> list[str]:
        """Arms with a stage."""
        return [a for a, arm in self.arms.items() if arm.stage]

    @property
    def adopted(self) -> list[str]:
        """Arms with a given checkpoint."""
        return [a for a, arm in self.arms.items() if arm.checkpoint]

    @property
    def used_stages(self) -> list[str]:
        """Stages that some arm trains."""
        return list(dict.fromkeys(str(self.arms[a].stage) for a in self.trained))

    def of_harness(self, harness: str) -> list[str]:
        """Benchmarks that `harness` runs."""
        return [b for b, spec in self.benchmarks.items() if spec.harness == harness]

    def results(self, *parts: str) -> str:
        """A path under this plan's results folder."""
        return "/".join(("results", self.name, *parts))

    def runs(self, arms: Iterable[str], *parts: str) -> list[str]:
        """One path per run of `arms`, with `parts` below the run's folder."""
        return [self.results(a, str(s), *parts) for a in arms for s in self.seeds_of(a)]

    def records(self, arms: Iterable[str]) -> list[str]:
        """The record files of all runs of `arms`."""
        return [r for a in arms for b in self.benchmarks for r in self.runs([a], "eval", b, "record.json")]

    def parent_manifest(self, arm: str, seed: str) -> str:
        """Manifest of the run that `arm` continues: of the same seed where the parent is trained too."""
        parent = str(self.arms[arm].parent)
        return self.results(parent, seed if self.arms[parent].stage else str(self.seeds[0]), "manifest.json")

    def train_config(self, arm: str, seed: int) -> dict[str, Any]:
        """The resolved settings of one run: profile, then the stage's differences, then the seed."""
        stage = str(self.arms[arm].stage)
        values = merge(merge(self.profile.train, self.stages[stage].train), {"seed": int(seed)})
        where = f"config/profiles/{self.profile.profile}.yaml, key train, and reproduce/stages.yaml, stage {stage}"
        return parse_settings(TrainConfig, values, where).model_dump()

    def train_config_json(self, arm: str, seed: int) -> str:
        """The same as JSON, which is YAML too: one line, and stable."""
        return json.dumps(self.train_config(arm, seed), sort_keys=True)

    def micro_benchmarks(self, harness: str) -> list[str]:
        """Benchmarks of `harness` whose file a rule makes; the others come from the Hub or the tool's download."""
        return [b for b in self.of_harness(harness) if self.benchmarks[b].source == "micro"]

    def benchmark_files(self, harness: str) -> list[str]:
        """The files of `micro_benchmarks`."""
        return [self.results("benchmarks", self.benchmarks[b].file_name) for b in self.micro_benchmarks(harness)]

    def eval_outputs(self, harness: str, seeds: Iterable[int]) -> list[str]:
        """Record files of one arm (a wildcard) under one harness; never empty, because a rule needs an output."""
        names = self.of_harness(harness) or [f"no_{harness}_benchmark"]
        return [self.results("{arm}", str(s), "eval", b, "record.json") for s in seeds for b in names]

    def eval_arguments(self, harness: str, arm: str) -> str:
        """Arguments of `python -m evals.run` for one arm: all its runs, all benchmarks of the harness."""
        settings = self.profile.eval
        values = {
            "manifest": self.runs([arm], "manifest.json"),
            "out": self.runs([arm], "eval"),
            "benchmarks": self.of_harness(harness),
            "benchmark-dir": [self.results("benchmarks")],
            "batch-size": [str(settings.batch_size)],
            "limit": [str(settings.limit)] if settings.limit else [],
            "engine": [settings.engine] if settings.engine != "hf" else [],
        }
        return " ".join(f"--{k} {' '.join(v)}" for k, v in values.items() if v)

    def timings(self) -> list[str]:
        """What Snakemake measured of the jobs that cost time: checkpoints, trainings, evaluations."""
        jobs = [f"{c}/checkpoint" for c in dict.fromkeys(str(self.arms[a].checkpoint) for a in self.adopted)]
        jobs += [f"{a}/{s}/train" for a in self.trained for s in self.seeds]
        jobs += [f"{a}/eval_{h}" for a in self.arms for h in ("lm_eval", "vlmevalkit") if self.of_harness(h)]
        return [self.results("timings", f"{job}.tsv") for job in jobs]

    def prompts_spec(self, stage: str) -> str:
        """What `reproduce.prepare prompts` needs, as JSON: the micro mix, or the data set on the Hub."""
        data, micro = self.stages[stage].data, self.profile.micro
        if self.profile.world == "paper":
            return json.dumps({"hub": data.paper.model_dump()}, sort_keys=True)
        reasoning = 1 - micro.perception_share
        images = {k: v * micro.perception_share for k, v in PERCEPTION_MIX.items()} | {
            k: v * reasoning for k, v in IMAGE_REASONING_MIX.items()
        }
        parts = {"text": TEXT_MIX, "images": images}
        mix = {
            task: share * weight
            for kind, share in data.micro.items()
            for task, weight in parts[kind].items()
            if share * weight
        }
        return json.dumps({"mix": mix, "n": micro.prompts}, sort_keys=True)

    def base_spec(self, checkpoint: str) -> str:
        """What `reproduce.prepare checkpoint` needs, as JSON: pretraining settings, or a model to adopt."""
        if checkpoint == "candidate":
            if not self.profile.candidate:
                raise UserError(
                    "config, key candidate: arm candidate needs a checkpoint; give --config candidate=PATH_OR_HUB_ID"
                )
            return json.dumps({"adopt": self.profile.candidate})
        if self.profile.world == "micro":
            return json.dumps({"pretrain": self.profile.micro.pretrain, "numerics": NUMERICS}, sort_keys=True)
        return json.dumps({"adopt": self.profile.base_model})

    @property
    def launcher(self) -> str:
        """What goes between `python -m` and the training module: nothing, or accelerate with its file."""
        if not self.profile.accelerate:
            return ""
        options = f"--config_file {self.profile.accelerate} --num_processes {self.profile.processes}"
        return f"accelerate.commands.launch {options} -m "

    @property
    def report_code(self) -> str:
        """Hash of the report's source, so that an edited table or plot is made again, and nothing that costs time."""
        files = sorted(p for p in (ROOT / "reports").rglob("*") if p.suffix in (".py", ".css", ".js", ".jinja", ".rst"))
        return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]

    @property
    def numerics(self) -> int:
        """Part of every training job's parameters, so that a bump trains anew."""
        return NUMERICS


def lineage(arms: dict[str, Arm], name: str) -> list[str]:
    """Ancestors of `name`, root first, itself last. Raises UserError for unknown names and cycles."""
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        _require(current, arms, "key arms" if not chain else f"reproduce/arms.yaml, arm {chain[-1]}, key parent")
        if current in chain:
            raise UserError(
                f"reproduce/arms.yaml: {' -> '.join([*chain, current])} is a cycle; one of them needs a checkpoint"
            )
        chain.append(current)
        current = arms[current].parent
    return chain[::-1]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, dictionaries merged key by key; neither is changed."""
    return base | {
        k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()
    }


def alternatives(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly `names`; none matches nothing (an empty join matches everything)."""
    return "|".join(map(re.escape, names)) or "(?!)"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UserError, naming the file, where it is missing or something else."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(e).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def _arm(name: str, values: dict[str, Any], file: Path) -> Arm:
    arm = parse_settings(Arm, values, f"{file}, arm {name}")
    if (arm.checkpoint is not None) == (arm.parent is not None and arm.stage is not None) or (arm.parent is None) != (
        arm.stage is None
    ):
        raise UserError(f"{file}, arm {name}: give either `checkpoint` or `parent` and `stage`, not both or neither")
    return arm


def _require(name: str | None, known: Iterable[str], where: str) -> None:
    if name is not None and name not in known:
        raise UserError(f"{where}: unknown name {name!r}; allowed: {', '.join(known)}{_nearest(name, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
