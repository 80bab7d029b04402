"""The experiment as data: which arms exist, what each needs and where each file lives.

Torch-free, so that building the workflow stays instant; every user error becomes one readable line.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from evals.registry import Benchmark, load_registry
from lmmr1 import NUMERICS
from lmmr1.config import Settings, TrackerName, TrainConfig, parse_settings, read_mapping
from lmmr1.types import UserError
from reproduce.evaluations import EvalSettings, Evaluations, Round, for_this_launch
from reproduce.profiles import JobKind, JobResources, Machine, merge, nearest, read_extended
from reproduce.recipes import Recipe, load_recipe

ROOT = Path(__file__).resolve().parent.parent
PLAYERS = ("idle", "chance", "expert")
TEXT_MIX = {"chain": 0.5, "table": 0.5}
PERCEPTION_MIX = {"count": 0.5, "most": 0.5}
IMAGE_REASONING_MIX = {"scene": 0.45, "legend": 0.275, "drawn": 0.275}


class Arm(Settings):
    """Either `checkpoint` (adopted) or `parent` and `stage` (trained)."""

    checkpoint: Literal["base", "candidate", "released"] | None = None
    parent: str | None = None
    stage: str | None = None
    title: str | None = None
    """What tables and plots call it; None: its name."""
    paper_row: str | None = None
    """Its row in the paper's tables (reproduce/published.yaml); the arm can be asked for by that name too."""


class HubData(Settings):
    """A data set in the authors' message format or in ours (lmmr1/data.py), on the Hub or in a local file."""

    repo: str | None = None
    """On the Hub; None: `file` and `images` are local paths."""
    file: str
    images: str | None = None
    """An archive of images, or (local) a folder; None: image paths are relative to the file, or there are none."""
    revision: str = "main"
    """Branch, tag or commit; the card beside the prompts names the commit that was fetched."""
    system_prompt_file: str | None = None
    """Text for rows that bring no system message of their own; the authors' rows do."""


class StageData(Settings):
    """What a stage trains on: per world, shares of text and image tasks or a data set; or levels, generated in both."""

    micro: dict[Literal["text", "images"], float] = {}
    paper: HubData | None = None
    levels: Literal["sokoban"] | None = None

    def of(self, world: str) -> Any:
        """The data of `world`; something false where the stage has none."""
        return self.levels or getattr(self, world)


class Stage(Settings):
    """Data, and differences from the profile's training settings."""

    data: StageData
    train: dict[str, Any] = {}


class MicroSettings(Settings):
    """Axes of the micro world."""

    items: int = Field(500, gt=0)
    levels: int = Field(100, gt=0)
    prompts: int = Field(2000, gt=0)
    perception_share: float = Field(0.45, ge=0, le=1)
    pretrain: dict[str, Any] = {}


def _listed(names: Any) -> Any:
    """`a,b` on a command line is a list."""
    return [n for n in names.split(",") if n != "none"] if isinstance(names, str) else names


class Profile(Settings):
    """Everything that a profile file (or an override) may say."""

    profile: str
    name: str = Field("", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$")
    """Folder under results/; the profile's name unless given, so that a sweep does not overwrite the default run."""
    world: Literal["micro", "paper"]
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    benchmarks: tuple[str, ...] = Field(min_length=1)
    base_model: str | None = None
    candidate: str | None = None
    released_model: str | None = None
    """The authors' published checkpoint: measured here, it shows how far our harness is from theirs."""
    micro: MicroSettings = MicroSettings()
    recipe: str | None = None
    """A file of reproduce/recipes/, under `train`; None: `train` says everything."""
    train: dict[str, Any] = {}
    """Wins over the recipe: it says what the machine needs."""
    stages: dict[str, dict[str, Any]] = {}
    """{stage: its differences from `train` in this profile}, after those of reproduce/stages.yaml."""
    accelerate: str | None = None
    """A config file of accelerate, e.g. config/accelerate/ddp.yaml: each training runs on `processes` processes."""
    processes: int = Field(1, gt=0)
    data: dict[str, HubData] = {}
    """Other data for a stage: {stage: {file: PATH, images: PATH}}."""
    eval: EvalSettings = EvalSettings()
    executor: Literal["local", "slurm"] = "local"
    machine: Machine = Machine()
    resources: JobResources = JobResources()
    force: bool = False
    """Start although the machine lacks something that the profile needs."""
    report_to: Annotated[tuple[TrackerName, ...], BeforeValidator(_listed)] = ()
    """Trackers that get the training metrics too; no part of any run's key (lmmr1/tracking.py)."""


class Plan:
    """Profile, arms in order (with their ancestors), stages and benchmarks, checked against each other."""

    def __init__(
        self,
        profile: Profile,
        arms: dict[str, Arm],
        stages: dict[str, Stage],
        benchmarks: dict[str, Benchmark],
        recipe: Recipe | None = None,
    ) -> None:
        self.profile, self.arms, self.stages = profile, arms, stages
        self.recipe, self.name = recipe, profile.name or profile.profile
        self.not_measured = unbuilt(benchmarks)
        """{benchmark: why}: left out on this machine, and named in the tables."""
        self.benchmarks = {b: spec for b, spec in benchmarks.items() if b not in self.not_measured}
        if not self.benchmarks:
            raise UserError(f"config, key benchmarks: none can be measured: {'; '.join(self.not_measured.values())}")
        profile.eval.check_arms(arms)
        self._check_data()
        for arm in self.trained:
            self.train_config(arm, self.seeds[0])

    @classmethod
    def load(cls, config: dict[str, Any], root: Path = ROOT) -> Plan:
        """Merge the profile file with `config` and check everything. Raises UserError before anything is written."""
        name = str(config.get("profile", "micro"))
        file, arms, stages = Path(f"config/profiles/{name}.yaml"), load_arms(root), load_stages(root)
        written = read_extended(root, "profile", name)
        values = merge(written, config) | {"profile": name}
        if config.get("candidate"):
            values["arms"] = ["baseline", "candidate"]
        if values.get("recipe") != written.get("recipe") and not values.get("name"):
            values["name"] = f"{name}_{values.get('recipe')}"  # another recipe must not overwrite the profile's own run
        profile = parse_settings(Profile, values, f"{file} with overrides")
        wanted = dict.fromkeys(a for arm in profile.arms for a in lineage(arms, by_row(arms, arm)))
        for arm in wanted:
            _require(arms[arm].stage, stages, f"reproduce/arms.yaml, arm {arm}, key stage")
        if profile.accelerate and not (root / profile.accelerate).is_file():
            raise UserError(f"{file}, key accelerate: no such file {profile.accelerate}")
        if profile.processes > 1 and not profile.accelerate:
            raise UserError(f"{file}, key processes: {profile.processes} need a file in key accelerate")
        registry = load_registry()
        for benchmark in profile.benchmarks:
            _require(benchmark, registry, f"{file}, key benchmarks")
        recipe = _recipe(root, profile)
        return cls(profile, {a: arms[a] for a in wanted}, stages, {b: registry[b] for b in profile.benchmarks}, recipe)

    def _check_data(self) -> None:
        for key, named in (("data", self.profile.data), ("stages", self.profile.stages)):
            for stage in named:
                _require(stage, self.stages, f"config, key {key}")
        for stage in self.used_stages:
            if not self.stages[stage].data.of(self.profile.world) and stage not in self.profile.data:
                raise UserError(
                    f"reproduce/stages.yaml, stage {stage}: no data for world {self.profile.world}; give --config "
                    f"data='{{{stage}: {{file: PATH}}}}' or leave the arms that need it out of `arms`"
                )

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
    def adopted_models(self) -> list[str]:
        """Ids or paths of the checkpoints that the plan adopts."""
        specs = [json.loads(self.base_spec(str(self.arms[a].checkpoint))) for a in self.adopted]
        return [
            spec["adopt"] for spec in specs if spec.get("adopt")
        ]  # a profile that names no model is refused elsewhere

    @property
    def data_sets(self) -> dict[str, HubData]:
        """{stage: its data set} of the stages that train on one."""
        specs = {stage: json.loads(self.prompts_spec(stage)) for stage in self.used_stages}
        return {stage: HubData(**spec["hub"]) for stage, spec in specs.items() if "hub" in spec}

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

    @property
    def players(self) -> tuple[str, ...]:
        """Scripted players that the agent benchmarks are played by too; none without such benchmarks."""
        return PLAYERS if self.of_harness("agents") else ()

    def player_records(self, player: str) -> list[str]:
        """The record files of a scripted player, or of a wildcard."""
        return [self.results(player, "0", "eval", b, "record.json") for b in self.of_harness("agents")]

    def records(self, arms: Iterable[str]) -> list[str]:
        """The record files of all runs of `arms`."""
        return [r for a in arms for b in self.benchmarks for r in self.runs([a], "eval", b, "record.json")]

    def parent_manifest(self, arm: str, seed: str) -> str:
        """Manifest of the run that `arm` continues: of the same seed where the parent is trained too."""
        parent = str(self.arms[arm].parent)
        return self.results(parent, seed if self.arms[parent].stage else str(self.seeds[0]), "manifest.json")

    def train_config(self, arm: str, seed: int) -> dict[str, Any]:
        """The resolved settings of one run: recipe, profile, the stage's differences, the profile's own, the seed."""
        stage = str(self.arms[arm].stage)
        profile, recipe = self.profile, dict[str, Any]()
        where = f"config/profiles/{profile.profile}.yaml, key train, and reproduce/stages.yaml, stage {stage}"
        if self.recipe:
            recipe = self.recipe.settings(str(profile.recipe), arm)
            where = f"reproduce/recipes/{profile.recipe}.yaml, {where}"
        values: dict[str, Any] = {}
        for part in (
            recipe,
            profile.train,
            self.stages[stage].train,
            profile.stages.get(stage, {}),
            {"seed": int(seed)},
        ):
            values = merge(values, part)
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

    def benchmark_file(self, benchmark: str) -> list[str]:
        """The file of one benchmark, where a rule makes it."""
        spec = self.benchmarks[benchmark]
        return [self.results("benchmarks", spec.file_name)] if spec.source == "micro" else []

    @property
    def evaluations(self) -> Evaluations:
        """In which ways the arms are asked, and how."""
        seeds = {arm: self.seeds_of(arm) for arm in self.arms}
        roles = {a: "baseline" if arm.checkpoint == "base" else "trained" for a, arm in self.arms.items()}
        return Evaluations(self.profile.eval, self.benchmarks, seeds, roles, self.results)

    def check_judge(self) -> None:
        """Raises UserError where a protocol of the profile asks a judge that nothing names or that cannot be served."""
        profile = self.profile
        if not profile.force:
            self.evaluations.check_judge(profile.machine, profile.executor, profile.resources.evaluate.gpus)

    def check_checkpoints(self) -> None:
        """Raises UserError where a folder that the plan adopts holds no whole checkpoint; the Hub is not asked."""
        from lmmr1.checkpoint_files import examine_files

        for model in self.adopted_models:
            if Path(model).exists():
                examine_files(Path(model))

    def judge_file(self, round_: Round, arm: str) -> list[str]:
        """The file of the service that tells an arm's evaluation where its judge is; none where no service runs.

        A judge that runs elsewhere has one too: Snakemake keeps the inputs of a job, and no record may depend on where
        the judge is. On a cluster, and for jobs of one benchmark, there is no service: each would be a job of its own.
        """
        if self.profile.executor != "local" or self.profile.eval.jobs != "arm" or not self.evaluations.judged(round_):
            return []
        return [self.results(*round_.folder, arm, "judge.json")]

    @property
    def probed(self) -> list[str]:
        """Benchmarks that are compared with the training prompts, as far as their files are there."""
        return self.evaluations.prompted if self.used_stages else []

    def probe_arguments(self) -> list[str]:
        """Where `lmmr1 contamination` finds the files that no rule makes; no folder: where they were downloaded."""
        settings = self.profile.eval
        where = ["--data-root", settings.data_root] if settings.data_root else []
        return [*where, "--any-data"] if settings.any_data else where

    def after_downloads(self) -> list[str]:
        """What is there once the benchmarks that no rule makes were downloaded: records of the first arm."""
        fetched = [b for b in self.probed if self.benchmarks[b].source != "micro"]
        if not fetched or self.profile.eval.data_root:
            return []
        return [r for r in self.records(list(self.arms)[:1]) if r.split("/")[-2] in fetched]

    def timings(self) -> list[str]:
        """What Snakemake measured of the jobs that cost time: checkpoints, trainings, evaluations."""
        jobs = [f"{c}/checkpoint" for c in dict.fromkeys(str(self.arms[a].checkpoint) for a in self.adopted)]
        jobs += [f"{a}/{s}/train" for a in self.trained for s in self.seeds]
        if self.profile.eval.jobs == "benchmark":
            jobs += [f"{a}/{s}/{b}/evaluate" for a in self.arms for s in self.seeds_of(a) for b in self.benchmarks]
        else:
            jobs += [f"{a}/evaluate_arm" for a in self.arms]
        jobs += [f"{r.name}/{a}/evaluate_round" for r in self.evaluations.further for a in self.arms]
        return [self.results("timings", f"{job}.tsv") for job in jobs]

    def prompts_spec(self, stage: str) -> str:
        """What `reproduce.prepare prompts` needs, as JSON: the micro mix, or the data set on the Hub."""
        data, micro = self.stages[stage].data, self.profile.micro
        if own := self.profile.data.get(stage) or (data.paper if self.profile.world == "paper" else None):
            return json.dumps({"hub": own.model_dump(), **self._prompt_limits(stage)}, sort_keys=True)
        if data.levels:
            return json.dumps({data.levels: self.profile.world, "n": micro.prompts}, sort_keys=True)
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

    def _prompt_limits(self, stage: str) -> dict[str, Any]:
        """What a data set's rows must keep within: the tightest limits of the arms that train on it."""
        configs = [self.train_config(arm, self.seeds[0]) for arm in self.trained if self.arms[arm].stage == stage]
        pixels = {k: min((c[k] for c in configs if c[k]), default=None) for k in ("min_pixels", "max_pixels")}
        longest = min(c["sampling"]["max_prompt_length"] for c in configs)
        gold = all(c["reward"]["kind"] != "sokoban" for c in configs)
        return {"limits": {"max_prompt_length": longest, **pixels}, "gold": gold}

    def prompts_checkpoint(self, stage: str) -> list[str]:
        """The manifest whose processor measures a data set's prompts; none where the prompts are generated."""
        return [self.results("checkpoints", "base.json")] if "hub" in json.loads(self.prompts_spec(stage)) else []

    def base_spec(self, checkpoint: str) -> str:
        """What `reproduce.prepare checkpoint` needs, as JSON: pretraining settings, or a model to adopt."""
        if checkpoint == "candidate":
            if not self.profile.candidate:
                raise UserError(
                    "config, key candidate: arm candidate needs a checkpoint; give --config candidate=PATH_OR_HUB_ID"
                )
            return json.dumps({"adopt": self.profile.candidate})
        if checkpoint == "released":
            if not self.profile.released_model:
                raise UserError("config, key released_model: arm released needs the authors' checkpoint; give its id")
            return json.dumps({"adopt": self.profile.released_model})
        if self.profile.world == "micro":
            return json.dumps({"pretrain": self.profile.micro.pretrain, "numerics": NUMERICS}, sort_keys=True)
        return json.dumps({"adopt": self.profile.base_model})

    @property
    def recorded(self) -> str:
        """profile.json: the whole profile without what belongs to this launch alone."""
        left_out = {"force": True, "report_to": True, "eval": {"judge"}}
        values = self.profile.model_dump(mode="json", exclude=left_out)
        values["eval"]["judge"] = for_this_launch(self.profile.eval.judge)
        return json.dumps(values)

    def resources(self, kind: JobKind) -> dict[str, Any]:
        """What a job of this kind asks for, as keywords of Snakemake's `resources`."""
        return getattr(self.profile.resources, kind).for_snakemake()

    def threads(self, kind: JobKind) -> int:
        """Cores of a job of this kind."""
        return getattr(self.profile.resources, kind).threads

    @property
    def launcher(self) -> str:
        """What goes between `python -m` and the training module: nothing, or accelerate with its file."""
        if not self.profile.accelerate:
            return ""
        given = Path(self.profile.accelerate)
        file = given if given.is_file() else ROOT / given  # with `-s` from another folder
        options = f"--config_file {shlex.quote(str(file))} --num_processes {self.profile.processes}"
        return f"accelerate.commands.launch {options} -m "

    @property
    def report_code(self) -> str:
        """Hash of the report's source, so that an edited table or plot is made again, and nothing that costs time."""
        files = sorted(p for p in (ROOT / "reports").rglob("*") if p.suffix in (".py", ".css", ".js", ".jinja", ".rst"))
        return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]

    def code_of(self, folder: str, *names: str) -> str:
        """Hash of source files whose edit makes a job's result another one."""
        return hashlib.sha256(b"".join((ROOT / folder / name).read_bytes() for name in names)).hexdigest()[:12]

    @property
    def numerics(self) -> int:
        """Part of every training job's parameters, so that a bump trains anew."""
        return NUMERICS


def load_arms(root: Path = ROOT) -> dict[str, Arm]:
    """reproduce/arms.yaml, in order. Raises UserError for an unknown key or an arm that is neither kind."""
    file = root / "reproduce/arms.yaml"
    return {k: _arm(k, v, file.relative_to(root)) for k, v in read_mapping(file).items()}


def load_stages(root: Path = ROOT) -> dict[str, Stage]:
    """reproduce/stages.yaml. Raises UserError for an unknown key or a bad value."""
    file = root / "reproduce/stages.yaml"
    return {k: parse_settings(Stage, v, f"{file.relative_to(root)}, stage {k}") for k, v in read_mapping(file).items()}


def unbuilt(benchmarks: dict[str, Benchmark]) -> dict[str, str]:
    """{benchmark: why} of those that need a simulator which this machine does not have."""
    real = [b for b, spec in benchmarks.items() if spec.play.get("simulator") == "gfootball"]
    if not real:
        return {}
    from evals.agents.football_gfootball import built_version  # reads pictures: only where one may be played

    if built_version() is not None:
        return {}
    return dict.fromkeys(real, "the football simulator is not built on this machine (make football)")


def by_row(arms: dict[str, Arm], name: str) -> str:
    """The arm of that name, or the trained arm that the paper's tables call so; an unknown name as it is."""
    rows = {arm.paper_row: key for key, arm in arms.items() if arm.stage}
    return name if name in arms else rows.get(name, name)


def _recipe(root: Path, profile: Profile) -> Recipe | None:
    if profile.recipe is None:
        return None
    if profile.world == "micro":
        raise UserError(
            f"config, key recipe: {profile.recipe} is for the 3B model, and profile {profile.profile} trains the micro "
            "one; its settings are those under `train`"
        )
    return load_recipe(root, profile.recipe)


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


def alternatives(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly `names`; none matches nothing (an empty join matches everything)."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _arm(name: str, values: dict[str, Any], file: Path) -> Arm:
    arm = parse_settings(Arm, values, f"{file}, arm {name}")
    if (arm.checkpoint is not None) == (arm.parent is not None and arm.stage is not None) or (arm.parent is None) != (
        arm.stage is None
    ):
        raise UserError(f"{file}, arm {name}: give either `checkpoint` or `parent` and `stage`, not both or neither")
    return arm


def _require(name: str | None, known: Iterable[str], where: str) -> None:
    if name is not None and name not in known:
        raise UserError(f"{where}: unknown name {name!r}; allowed: {', '.join(known)}{nearest(name, known)}")
