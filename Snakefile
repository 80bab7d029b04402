# One command for all arms: snakemake --cores all reproduce_all [--config profile=smoke|micro|paper|single_gpu|cluster|...]
import shlex
import sys
from pathlib import Path
from snakemake.utils import min_version

min_version("9.27")


def of_clone(file):
    """A file of this clone, also with `-s` from another folder: the results then lie there."""
    return file if Path(file).exists() else f"{workflow.basedir}/{file}"


configfile: of_clone("config/config.yaml")


from lmmr1.types import UserError
from reproduce.plan import Plan, alternatives
from reproduce.evaluations import HARNESSES, PROMPTED
from reproduce.start import require_ready, tell_jobs

try:
    plan = Plan.load(config)
    plan.check_judge()
    plan.check_checkpoints()
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

tell_jobs(plan)
RUN = plan.results("{arm}", "{seed}")
REPORT = plan.results("report")
PYTHON = f"OMP_NUM_THREADS=1 {shlex.quote(sys.executable)} -m"  # one thread per process: two busy ones on two cores are 3-8 times slower

SEAL = ' && cd "$(dirname {output})" && f="$(basename {output})" && sha256sum "$f" > ".$f.sha256"'  # lmmr1/files.py
# A job takes its GPUs itself, whether Snakemake counts them (--resources gpu=N) or not: reproduce/gpu.py
GPUS = plan.profile.resources.train.gpus
TRAIN = f"{PYTHON} {f'reproduce.gpu {GPUS} env {PYTHON} ' if GPUS else ''}{plan.launcher}lmmr1.train"
OWN_GPUS = plan.profile.resources.evaluate.gpus
EVALUATE = "{PYTHON} {params.through:q} {OWN_GPUS} env {PYTHON} evals.run {params.arguments:q} > {log} 2>&1"


def through(round_, benchmarks=None, service=()):
    """The module that runs an evaluation: on GPUs of its own and, where its protocol asks one, with a judge."""
    if plan.evaluations.judged(round_, benchmarks):
        return ["reproduce.judge", *(["--service", *service] if service else [])]
    return ["reproduce.gpu"]


wildcard_constraints:
    arm=alternatives(plan.arms),
    seed=r"\d+",
    stage=alternatives(plan.stages),
    benchmark=alternatives(plan.benchmarks),


localrules:
    reproduce_all,
    profile,
    resolve_config,
    adopt,


include: "reproduce/rules/data.smk"
include: "reproduce/rules/train.smk"
include: "reproduce/rules/judge.smk"


if plan.profile.eval.jobs == "arm":

    include: "reproduce/rules/eval.smk"

else:

    include: "reproduce/rules/eval_each.smk"


if plan.players:

    include: "reproduce/rules/players.smk"


include: "reproduce/rules/report.smk"


if plan.evaluations.further:

    include: "reproduce/rules/rounds.smk"


onstart:
    # not in a dry run, and not in the jobs' own processes: before anything is downloaded or computed
    require_ready(plan)


onerror:
    # an old page must not pass for the result of a run that failed; its data stay where they are
    shell(
        f"if [ -f {REPORT}/index.html ]; then mv {REPORT}/index.html {REPORT}/index.stale.html; fi"
    )


rule reproduce_all:
    default_target: True
    input:
        plan.results("profile.json"),
        # the edge files of every run are targets, so a crashed stage can never hide behind an old report
        plan.runs(plan.arms, "manifest.json"),
        plan.records(plan.arms),
        [
            r
            for way in plan.evaluations.further
            for arm in plan.arms
            for r in plan.evaluations.records(way, arm)
        ],
        [r for player in plan.players for r in plan.player_records(player)],
        [plan.results(arm, "scores.csv") for arm in plan.arms],
        f"{REPORT}/index.html",
        EVIDENCE,
