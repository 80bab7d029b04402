"""What is checked when the workflow starts, but not in a dry run, and what its jobs are told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lmmr1.tracking import VARIABLE, require_installed
from lmmr1.types import UserError
from reproduce.judge_service import VARIABLE as JUDGE
from reproduce.plan import ROOT, Plan


def require_ready(plan: Plan) -> None:
    """Refuse what cannot end well before anything is downloaded or computed: exits with code 2 and one line.

    An exception will not do: Snakemake would end with code 1.
    """
    try:
        require_installed(plan.profile.report_to)
        if plan.profile.world == "paper" and not plan.profile.force:
            # heavy: only where they have something to check
            from reproduce.budget.guard import require_fit
            from reproduce.doctor import require

            require_fit(plan)
            require(plan)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def tell_jobs(plan: Plan) -> None:
    """Hand launch-time settings to the jobs by the environment: they are no parameters of a rule and re-run nothing.

    What is left out on this machine is said here, where every start comes by, dry runs too.
    """
    if not Path.cwd().samefile(ROOT):  # `-s` from another folder: jobs run this clone's code, as the Snakefile does
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    if judge := plan.profile.eval.judge:
        os.environ[JUDGE] = judge.model_dump_json()
    for benchmark, why in plan.not_measured.items():
        print(f"{benchmark} is not measured: {why}", file=sys.stderr)
    if plan.profile.report_to:
        os.environ[VARIABLE] = ",".join(plan.profile.report_to)
