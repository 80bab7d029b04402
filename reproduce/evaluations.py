"""How the arms are asked: protocols, prompt styles, the judge, and the arguments of every evaluation.

A round asks every arm in one way. The first protocol's round lies in the runs' own folders and is what tables are made
of; each further protocol, and each further prompt style, has a folder of its own and asks no agent benchmark again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evals.protocols import ProtocolSettings, Role, find_protocol, load_protocols, prompt_styles
from evals.registry import Benchmark
from lmmr1.config import Settings
from lmmr1.types import UserError
from reproduce.profiles import Machine, nearest

HARNESSES = ("lm_eval", "vlmevalkit", "agents")
PROMPTED = ("lm_eval", "vlmevalkit")
"""Harnesses whose questions a protocol or a prompt style changes: agents are asked in the words of their game."""


class Serve(Settings):
    """A judge that runs with `vllm serve` beside each evaluation, on GPUs of its own, and is gone when that ends."""

    model: str | None = None
    """What to serve, and what the records then name; None: the protocol's judge."""
    gpus: int = Field(1, ge=0)
    """Beside those of the evaluation; 0: on the same, where the options of both leave room."""
    options: tuple[str, ...] = ()
    """More arguments of `vllm serve`, e.g. [--max-model-len, "16384"]."""
    start_seconds: float = Field(3600, gt=0)
    """Most time until it answers; the first start fetches the weights."""


class JudgeSource(Settings):
    """Where the judge is: a server that runs already, or one that the workflow runs."""

    url: str | None = None
    """Base URL of an OpenAI-compatible server, e.g. http://HOST:8000/v1."""
    serve: Serve | None = None

    @model_validator(mode="after")
    def _one(self) -> JudgeSource:
        if self.url and self.serve:
            raise ValueError("give `url` or `serve`, not both")
        if self.url is not None and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError(f"`url` must be of the form http://HOST:PORT/v1 (got {self.url!r})")
        return self


class EvalSettings(Settings):
    """What is asked, in which ways, by what, and how much at once."""

    protocols: tuple[str, ...] = Field(("rule",), min_length=1)
    """Names of evals/protocols.yaml; tables and verdicts are of the first."""
    judge: JudgeSource | None = None
    """Of a protocol that asks one. Where it is stands in no record and runs nothing again."""
    arm_prompts: dict[str, str] = {}
    """{arm: prompt style} instead of the protocol's."""
    data_root: str | None = None
    """Folder with the benchmarks' files (docs/protocols.md); None: they are downloaded."""
    any_data: bool = False
    """Measure on files that are not the pinned ones too; the records say so."""
    levels: str | None = None
    """Folder with the agent benchmarks' levels (docs/sokoban.md, docs/football.md); None: our own levels."""
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(64, gt=0)
    engine: Literal["hf", "vllm"] = "hf"
    """What answers: our decode loop, or vLLM (docs/vllm.md)."""
    jobs: Literal["arm", "benchmark"] = "arm"
    """One process per arm (models that load slower than they answer), or per run and benchmark (a cluster)."""
    prompts: tuple[Literal["none", "direct", "cot", "r1"], ...] = ()
    """Prompt styles under which every arm is evaluated besides, for the table of arms and styles."""

    @field_validator("protocols", mode="after")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = load_protocols()[1]
        for name in names:
            if name not in known:
                raise ValueError(f"unknown protocol {name!r}; allowed: {', '.join(known)}{nearest(name, known)}")
        if len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names)}: a protocol stands here twice")
        return names

    @field_validator("data_root", "levels", mode="after")
    @classmethod
    def _no_wildcards(cls, path: str | None) -> str | None:
        if path and re.search(r"[{}]", path):
            raise ValueError(f"{path!r} holds a brace, which Snakemake takes for a wildcard; rename or link the folder")
        return path

    def check_arms(self, arms: Iterable[str]) -> None:
        """Raises UserError where `arm_prompts` names an arm that is not in the plan, or no prompt style."""
        for names, known in ((self.arm_prompts, arms), (self.arm_prompts.values(), prompt_styles())):
            for name in names:
                if name not in known:
                    allowed = f"{', '.join(known)}{nearest(name, known)}"
                    raise UserError(f"config, key eval.arm_prompts: unknown name {name!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Round:
    """Every arm asked in one way."""

    protocol: str
    style: str | None = None
    """A prompt style instead of the protocol's."""
    folder: tuple[str, ...] = ()
    """Below results/NAME; the first protocol's round lies in the runs' own folders."""

    @property
    def name(self) -> str:
        """For paths and messages."""
        return "/".join(self.folder)


@dataclass(frozen=True)
class Evaluations:
    """The rounds of a plan and the command lines that run them."""

    settings: EvalSettings
    benchmarks: dict[str, Benchmark]
    seeds: dict[str, tuple[int, ...]]
    """By arm: the runs that are evaluated."""
    roles: dict[str, Role]
    """By arm: which of a protocol's prompts it gets."""
    results: Callable[..., str]
    """(parts) -> path below results/NAME."""

    @property
    def main(self) -> Round:
        """The round that tables are made of."""
        return Round(self.settings.protocols[0])

    @property
    def prompted(self) -> list[str]:
        """Benchmarks that a further round asks."""
        return [b for b, spec in self.benchmarks.items() if spec.harness in PROMPTED]

    @property
    def protocols(self) -> list[Round]:
        """The rounds of the further protocols."""
        return [Round(p, None, ("protocols", p)) for p in self.settings.protocols[1:] if self.prompted]

    @property
    def styles(self) -> list[Round]:
        """The rounds of the further prompt styles, under the first protocol."""
        return [Round(self.main.protocol, s, ("prompts", s)) for s in self.settings.prompts if self.prompted]

    @property
    def further(self) -> list[Round]:
        """Every round but the main one."""
        return [*self.protocols, *self.styles]

    def further_round(self, kind: str, key: str) -> Round:
        """The further round whose folder is `kind`/`key`."""
        return next(r for r in self.further if r.folder == (kind, key))

    def asked(self, round_: Round) -> list[str]:
        """The benchmarks of a round."""
        return self.prompted if round_.folder else list(self.benchmarks)

    def folder(self, round_: Round, arm: str, seed: int | str) -> str:
        """Where a round's records of a run lie, a folder for each benchmark."""
        return self.results(*round_.folder, arm, str(seed), "eval")

    def records(self, round_: Round, arm: str) -> list[str]:
        """The record files of all runs of an arm."""
        return [f"{self.folder(round_, arm, s)}/{b}/record.json" for b in self.asked(round_) for s in self.seeds[arm]]

    def outputs(self, seeds: Iterable[int]) -> list[str]:
        """The record files of the main round of one arm (a wildcard)."""
        return [self.results("{arm}", str(s), "eval", b, "record.json") for s in seeds for b in self.benchmarks]

    def further_outputs(self, seeds: Iterable[int]) -> list[str]:
        """The same of a further round (wildcards kind and key)."""
        return [
            self.results("{kind}", "{key}", "{arm}", str(s), "eval", b, "record.json")
            for s in seeds
            for b in self.prompted
        ]

    def scores(self, rounds: Iterable[Round]) -> list[str]:
        """The scores of every arm in these rounds."""
        return [self.results(*r.folder, arm, "scores.csv") for r in rounds for arm in self.seeds]

    def arguments(
        self, round_: Round, arm: str, seeds: Iterable[int | str] | None = None, benchmarks: list[str] | None = None
    ) -> list[str]:
        """Arguments of `python -m evals.run`: by default all runs of an arm and all benchmarks of the round."""
        runs = list(self.seeds[arm] if seeds is None else seeds)
        settings, asked = self.settings, benchmarks or self.asked(round_)
        style = round_.style or settings.arm_prompts.get(arm)
        plays = any(self.benchmarks[b].harness == "agents" for b in asked)
        model = self._served_model(round_)
        values: dict[str, list[str]] = {
            "manifest": [self.results(arm, str(s), "manifest.json") for s in runs],
            "out": [self.folder(round_, arm, s) for s in runs],
            "benchmarks": asked,
            "benchmark-dir": [self.results("benchmarks")],
            "protocol": [round_.protocol],
            "role": [self.roles[arm]],
            "prompt": [style] if style else [],
            "judge-model": [model] if model and self.judged(round_, asked) else [],
            "data-root": [settings.data_root] if settings.data_root else [],
            "levels": [settings.levels] if settings.levels and plays else [],
            "batch-size": [str(settings.batch_size)],
            "limit": [str(settings.limit)] if settings.limit else [],
            "engine": [settings.engine] if settings.engine != "hf" else [],
        }
        given = [word for key, words in values.items() if words for word in (f"--{key}", *words)]
        return [*given, "--any-data"] if settings.any_data else given

    def play_arguments(self, player: str) -> list[str]:
        """Arguments of `python -m evals.agents.baselines` for one player: what the arms play, as they play it."""
        settings = self.settings
        played = [b for b, spec in self.benchmarks.items() if spec.harness == "agents"]
        values = ["--player", player, "--benchmarks", *played, "--benchmark-dir", self.results("benchmarks")]
        values += ["--batch-size", str(settings.batch_size), "--out", self.results(player, "0", "eval")]
        values += ["--limit", str(settings.limit)] if settings.limit else []
        return [*values, "--data-root", settings.levels] if settings.levels else values

    # ----------------------------------------------------------------------------------------------------- the judge

    def judged(self, round_: Round, benchmarks: Iterable[str] | None = None) -> list[str]:
        """The benchmarks (of the round, or those given) that the round's protocol asks a judge about."""
        protocol = find_protocol(round_.protocol)
        asked = self.asked(round_) if benchmarks is None else benchmarks
        return [b for b in asked if protocol.judged(self.benchmarks[b])]

    def judge_of(self, round_: Round) -> str:
        """The model that judges a round. Raises UserError where its protocol has none."""
        protocol: ProtocolSettings = find_protocol(round_.protocol)
        if protocol.judge is None:
            raise UserError(f"evals/protocols.yaml: protocol {round_.protocol!r} has no judge")
        return self._served_model(round_) or protocol.judge.model

    def _served_model(self, round_: Round) -> str | None:
        """A judge model of the profile's own: it is another measurement, and the records must name it."""
        serve = self.settings.judge.serve if self.settings.judge else None
        return serve.model if serve else None

    @property
    def judge_gpus(self) -> int:
        """GPUs that a judge of the workflow's own takes, beside those of the evaluation."""
        return self.settings.judge.serve.gpus if self.settings.judge and self.settings.judge.serve else 0

    def unjudged(self) -> dict[str, list[str]]:
        """{protocol: benchmarks that it asks a judge about}, where the profile names no judge."""
        judge = self.settings.judge
        if judge and (judge.url or judge.serve):
            return {}
        found = {r.protocol: self.judged(r) for r in (self.main, *self.further)}
        return {protocol: names for protocol, names in found.items() if names}

    def check_judge(self, machine: Machine, executor: str, own_gpus: int) -> None:
        """Raises UserError where a protocol asks a judge that is not given, or that cannot be served so."""
        give = "--config eval='{judge: {url: http://HOST:8000/v1}}'"
        for protocol, names in self.unjudged().items():
            raise UserError(
                f"config, key eval.judge: protocol {protocol} asks a judge about {', '.join(names)}; give {give}, or "
                "measure without one: --config eval='{protocols: [rule]}'"
            )
        serve = self.settings.judge.serve if self.settings.judge else None
        if serve is None or not any(self.judged(r) for r in (self.main, *self.further)):
            return
        if executor != "local" or self.settings.jobs != "arm":
            raise UserError(
                f"config, key eval.judge.serve: with executor {executor} and eval.jobs {self.settings.jobs} every job "
                f"would load a judge of its own; start one server and give {give}"
            )
        if serve.gpus and serve.gpus + own_gpus > machine.gpus:
            raise UserError(
                f"config, key eval.judge.serve: the judge's {serve.gpus} and the evaluation's {own_gpus} GPUs are more "
                f"than the machine's {machine.gpus}; give {give} of a server elsewhere, or serve on the same GPU: "
                "eval='{judge: {serve: {gpus: 0, options: [--gpu-memory-utilization, \"0.4\"]}}}'"
            )


def for_this_launch(judge: JudgeSource | None) -> dict[str, Any] | None:
    """The judge as profile.json keeps it: the model alone, which decides what is measured; where it runs does not."""
    model = judge.serve.model if judge and judge.serve else None
    return {"serve": {"model": model}} if model else None
