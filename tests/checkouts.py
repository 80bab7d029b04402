"""Copies of the checkout in which tests run the workflow for real."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from reproduce.plan import ROOT


def project_files() -> list[Path]:
    """The files that a clone of the working tree would have, relative to it: nothing that a run left there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def copy_checkout(folder: Path) -> None:
    """The files of the project without its tests."""
    for name in project_files():
        if name.parts[0] != "tests":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def snakemake(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder`; its own copy of the packages comes first on the path."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
