"""Contract: what the documentation tells a newcomer to type works as it stands, and every page and link is there.

The examples run in a copy of the checkout with a finished smoke run in it (tests/conftest.py).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.plan import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```bash\n(.*?)```", re.DOTALL)
EXAMPLES = {name: text for page in PAGES for name, text in EXAMPLE.findall(page.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def finished(smoke_run, tmp_path_factory):
    """A copy of the finished smoke run that the examples may change."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("docs") / "checkout", symlinks=True)


def bash(folder, script):
    """Run a block as a user in an activated environment would; any failing command fails it."""
    environment = os.environ | {
        "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin/lmmr1"  # the installed script would import the working tree's packages
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m reproduce.cli "$@"\n')
    command.chmod(0o755)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EXAMPLES if n != "start"])
def test_every_example_runs(finished, name):
    done = bash(finished, EXAMPLES[name])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short(name):
    assert len(EXAMPLES[name].strip().splitlines()) <= 20


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(finished):
    """Its code as one script: what Jupyter would run, without Jupyter."""
    cells = json.loads((ROOT / "docs/explore.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    (finished / "explore.py").write_text(code)
    done = bash(finished, "LMMR1_PROFILE=smoke python explore.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(not c.get("outputs") for c in cells), "outputs of somebody's run are not committed"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES], ids=lambda p: p.name)
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [p.name for p in PAGES if p.name not in navigation]


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    assert "group_norm" in page and "Raises" in page
    assert not re.search(r'(?:src|href)="https?://(?!arxiv|github)[^"]*\.(?:js|css|woff2?)"', page)
