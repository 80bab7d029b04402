"""What an evaluation's record will say, as far as it is known before a harness is imported or a model loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.generation import EvalModel
from evals.inputs import survey
from evals.plan import AnyJob, Job, Options, agent_job, settings_of
from evals.protocols import choose_style
from evals.records import Protocol
from evals.registry import Benchmark

FROM_MODEL = ("backend", "dtype", "min_pixels", "max_pixels")
"""Fields of a protocol that are the loaded model's own."""

UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("task_version", "prompt_hash", "backend", "dtype", "scorer", "data_sha256"), ""
) | {"min_pixels": None, "max_pixels": None}
"""Stand for the fields of a protocol that are not known yet."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A record to be."""

    benchmark: Benchmark
    settings: dict[str, Any]
    """Fields of its protocol; those that are not known yet are not in it. A judge may lack the hash of its prompts."""
    n: int | None
    """Problems, or levels; None where the data are to be downloaded and nobody says how many there are."""
    categories: int | None
    """Categories among the problems, where known."""

    @property
    def protocol(self) -> Protocol:
        """The settings as a protocol, with a stand-in for each field that is not known."""
        return Protocol(**UNKNOWN | self.settings)


def expect(benchmark: Benchmark, options: Options) -> Expected:
    """What will be measured; a local data file is read, nothing is downloaded, and no prompt's text is looked for.

    Raises UserError for a bad prompt style or data file.
    """
    if benchmark.harness == "agents":
        return expect_job(agent_job(benchmark, options))
    style = choose_style(options.protocol, benchmark, options.prompt, options.role, options.training_prompt)
    settings = settings_of(benchmark, options, style)
    found = survey(benchmark, options.data_root, options.benchmark_dir, options.any_data)
    if found is None:
        n = benchmark.n if options.limit is None or benchmark.n is None else min(options.limit, benchmark.n)
        return Expected(benchmark, settings, n, None)
    kept = found.categories[: options.limit]
    data = {"data_sha256": found.data_sha256, "data_pin": found.data_pin}
    return Expected(benchmark, settings | data, len(kept), len(set(kept)))


def instruction_of(benchmark: Benchmark, options: Options) -> dict[str, str]:
    """The settings that hold the prompt style's text; none for an agent, whose form is its prompt.

    Raises UserError where the text cannot be read.
    """
    if benchmark.harness == "agents":
        return {}
    _, prompt = options.ask(benchmark)
    return {"instruction": prompt.text, "instruction_sha256": prompt.sha256}


def expect_job(job: AnyJob, model: EvalModel | None = None) -> Expected:
    """The same of a planned job, which knows all but the model, and with the model's own fields once it is loaded."""
    of_model = {} if model is None else {name: getattr(model, name) for name in FROM_MODEL}
    problems = job.measurement.prepared.problems if isinstance(job, Job) else ()
    return Expected(
        job.benchmark, job.settings | of_model, job.n, len({p.category for p in problems}) if problems else None
    )
