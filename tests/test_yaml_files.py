"""Contract: every YAML file of the project is of a known kind, and its kind's own loader accepts it."""

from pathlib import Path

import pytest
import yaml

from lmmr1.types import UserError
from mutants.listed import read_list
from reproduce.plan import ROOT, Plan, load_arms, load_stages
from reproduce.recipes import load_recipe
from tests.checkouts import project_files


def plan_of(path):
    return Plan.load(yaml.safe_load(path.read_text()))


def verdicts(path):
    from reports.rules import load_rules

    return load_rules(path)


def report_limits(path):
    from reports.answers import load_limits

    return load_limits(path)


def benchmarks(path):
    from evals.registry import load_registry

    return load_registry(path)


def protocols(path):
    from evals.protocols import load_protocols

    return load_protocols(path)


def task(path):
    """lm-eval's own class, with the name that a run adds."""
    from lm_eval.api.task import TaskConfig

    return TaskConfig(**{"task": path.stem} | yaml.safe_load(path.read_text()))


def published(path):
    from reproduce.published import load

    return load(path)


def execution(path):
    """Snakemake's own parser, which refuses an unknown option."""
    from snakemake.cli import get_argument_parser

    return get_argument_parser(profiles=[str(path.parent)]).parse_args([])


def accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(path))


def budget(path):
    """What `lmmr1 estimate` computes with; one loader per file."""
    from reproduce.budget import facts

    return getattr(facts, path.stem)()


def site(path):
    """MkDocs's own loader, with its plugins."""
    from mkdocs.config import load_config

    return load_config(str(path))


KINDS = {
    "config/config.yaml": plan_of,
    "config/profiles/*.yaml": lambda path: Plan.load({"profile": path.stem}),
    "config/report.yaml": report_limits,
    "config/verdicts.yaml": verdicts,
    "config/accelerate/*.yaml": accelerate,
    "evals/benchmarks.yaml": benchmarks,
    "evals/protocols.yaml": protocols,
    "evals/tasks/*.yaml": task,
    "executors/*/config.yaml": execution,
    "executors/*/experiment.yaml": plan_of,
    "mkdocs.yml": site,
    "mutants/list.yaml": read_list,
    "reproduce/budget/*.yaml": budget,
    "reproduce/arms.yaml": lambda path: load_arms(),
    "reproduce/stages.yaml": lambda path: load_stages(),
    "reproduce/published.yaml": published,
    "reproduce/recipes/*.yaml": lambda path: load_recipe(ROOT, path.stem),
}
FILES = sorted(path for path in project_files() if path.suffix in (".yaml", ".yml"))


def kinds(path):
    return [pattern for pattern in KINDS if path.match(pattern) and len(path.parts) == len(Path(pattern).parts)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_yaml_file_is_of_one_known_kind_and_loads(path):
    found = kinds(path)
    assert len(found) == 1, f"{path}: no kind of YAML file that the project knows; add its loader to KINDS"
    assert KINDS[found[0]](ROOT / path) is not None


def test_there_are_files_of_the_kinds_that_matter():
    assert {"config/profiles/*.yaml", "reproduce/recipes/*.yaml", "executors/*/config.yaml"} <= {
        kind for path in FILES for kind in kinds(path)
    }


def test_an_unknown_file_has_no_kind():
    assert not kinds(Path("config/other.yaml")) and not kinds(Path("config/profiles/deep/paper.yaml"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("config/verdicts.yaml", "margn: 2.0"),
        ("config/report.yaml", "max_answer: 1"),
        ("evals/benchmarks.yaml", "a: {harness: lm_eval}"),
        ("reproduce/published.yaml", "tables: 1"),
        ("config/config.yaml", "profil: micro"),
    ],
)
def test_a_loader_refuses_what_is_wrong(kind, text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError):
        KINDS[kind](tmp_path / "x.yaml")


def test_snakemake_refuses_an_unknown_option_of_an_execution_profile(tmp_path):
    (tmp_path / "config.yaml").write_text("no-such-option: 1\n")
    with pytest.raises(SystemExit):
        execution(tmp_path / "config.yaml")
