"""Contract: a clone with spaces, quotes and other alphabets in its path, a HOME that cannot be written, a start from
another folder, no git and no UTF-8: it works or ends with one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import caches
from reproduce.plan import ROOT, Plan
from reproduce.start import tell_jobs
from tests import canned

ODD = "w dir/ünï o'k"
NOWHERE = "/proc/nowhere"
"""A folder that not even root can make."""
LMMR1 = "from reproduce.cli import app; app()"
TARGET = "results/smoke/benchmarks/micro_chain.jsonl"


def run(*command, cwd: Path, code: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with the code of a clone; of our own variables only what a user's shell has."""
    mine = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HOME", "XDG_CACHE_HOME", "GIT_DIR")}
    mine |= {"HOME": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)} | environment
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=mine, capture_output=True, check=False, timeout=300)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    )


def lmmr1(*arguments, cwd: Path, code: Path = ROOT, **environment: str):
    return run("-c", LMMR1, *map(str, arguments), cwd=cwd, code=code, **environment)


PACKAGES = ("lmmr1", "evals", "reports", "reproduce")


def copied(folder: Path, *names: str) -> Path:
    """A folder with files and folders of this clone."""
    folder.mkdir(parents=True)
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        more = {"ignore": shutil.ignore_patterns("__pycache__")} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, folder / name, **more)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone's files, without git, in a folder with an odd path."""
    return copied(tmp_path_factory.mktemp("odd") / ODD, "Snakefile", "config", *PACKAGES)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """Records in a folder with an odd name."""
    folder = tmp_path_factory.mktemp("records") / ODD
    canned.write_answers(folder, canned.planned("math500", n=4), [True, False, True, True])
    return folder


def jobs_of(output: str) -> list[str]:
    """Rules and counts of the table that Snakemake prints."""
    return sorted(
        " ".join(line.split()) for line in output.splitlines() if line[:1].isalpha() and line.split()[-1].isdecimal()
    )


@pytest.fixture(scope="module")
def planned() -> list[str]:
    done = run(
        "-m", "snakemake", "-n", "-F", "--quiet", "rules", "--nolock", "--config", "profile=smoke", cwd=ROOT, code=ROOT,
        HOME=os.environ.get("HOME", "/"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return jobs_of(done.stdout + done.stderr)


@pytest.mark.parametrize("where", ["in it", "from another folder"])
def test_the_same_jobs_and_one_that_really_runs(clone, planned, tmp_path, where):
    cwd = clone if where == "in it" else tmp_path / "ö 'elsewhere'"
    cwd.mkdir(exist_ok=True)
    file = [] if where == "in it" else ["-s", str(clone / "Snakefile")]
    same = {"cwd": cwd, "code": clone if where == "in it" else Path("/")}
    dry = run("-m", "snakemake", "-n", "-F", "--quiet", "rules", *file, "--config", "profile=smoke", **same)
    assert dry.returncode == 0, dry.stderr[-2000:]
    assert len(planned) > 15 and jobs_of(dry.stdout + dry.stderr) == planned
    done = run("-m", "snakemake", "--cores", "1", *file, "--config", "profile=smoke", "--", TARGET, **same)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((cwd / TARGET).read_text().splitlines()) > 2


def test_jobs_of_another_folder_run_this_clones_code(monkeypatch, tmp_path):
    """Behind what the user has put on the path; in the clone itself nothing is set."""
    monkeypatch.setenv("PYTHONPATH", "mine")
    plan = Plan.load({"profile": "smoke"})
    monkeypatch.chdir(ROOT)
    tell_jobs(plan)
    assert os.environ["PYTHONPATH"] == "mine"
    monkeypatch.chdir(tmp_path)
    tell_jobs(plan)
    assert os.environ["PYTHONPATH"] == f"mine:{ROOT}"


# ---------------------------------------------------------------------------------------------------- HOME and caches


@pytest.mark.parametrize("home", [NOWHERE, "/proc/version", "/dev/null"])
def test_where_home_cannot_be_written_snakemake_gets_another_folder(monkeypatch, tmp_path, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = Path(caches.environment()["XDG_CACHE_HOME"])
    assert not found.is_relative_to(home) and found.parent.is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ö"))
    assert caches.environment()["XDG_CACHE_HOME"] == str(tmp_path / "ö"), "one that can be written stays"
    monkeypatch.setenv("XDG_CACHE_HOME", f"{home}/cache")
    assert caches.environment()["XDG_CACHE_HOME"] == str(found)


def test_where_home_can_be_written_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert caches.environment() == dict(os.environ)
    monkeypatch.delenv("HOME")
    assert caches.environment() == dict(os.environ) or "XDG_CACHE_HOME" in caches.environment()


@pytest.mark.parametrize("home", [NOWHERE, "/dev/null"])
def test_the_workflow_starts_without_a_home(clone, home):
    done = lmmr1("train", "--arm", "fre", "--profile", "smoke", "--dry-run", cwd=clone, code=clone, HOME=home)
    assert done.returncode == 0 and "train" in done.stdout + done.stderr, done.stderr[-2000:]


PLACES = [
    {"HOME": NOWHERE}, {"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "HF_HOME": NOWHERE, "MPLCONFIGDIR": NOWHERE},
    {"HOME": "/dev/null", "TMPDIR": "/nowhere"}, {"LANG": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"},
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_commands_in_odd_surroundings(records, tmp_path, place):
    """`compare` imports the reports, which import pandas and scipy; the printed rows hold more than ASCII."""
    shown = lmmr1("published", "show", "table1", cwd=tmp_path, **place)
    assert shown.returncode == 0 and "63.40" in shown.stdout, shown.stderr[-2000:]
    if "PYTHONUTF8" not in place:  # without UTF-8 Python cannot name the folder
        done = lmmr1("compare", records, records, cwd=tmp_path, **place)
        assert (done.returncode, done.stderr) == (0, "") and "math500" in done.stdout


# ----------------------------------------------------------------------------------------------- git, and no clone


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The packages alone, as `pip install` leaves them."""
    return copied(tmp_path_factory.mktemp("site") / "packages", *PACKAGES)


@pytest.mark.parametrize("arguments", [
    ("train", "--arm", "fre", "--profile", "smoke", "--dry-run"), ("doctor", "--profile", "smoke"), ("status",),
    ("estimate", "--profile", "smoke"),
], ids=lambda arguments: arguments[0])  # fmt: skip
def test_what_needs_a_clone_says_so_in_one_line(installed, tmp_path, arguments):
    done = lmmr1(*arguments, cwd=tmp_path, code=installed)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the workflow runs in a clone" in done.stderr


def test_what_needs_no_clone_works_without_one(installed, tmp_path):
    (tmp_path / "pärs.jsonl").write_text(json.dumps({"gold": "2", "response": "\\boxed{2}"}))
    done = lmmr1("verify", "--pairs", "pärs.jsonl", "--workers", "1", cwd=tmp_path, code=installed, HOME=NOWHERE)
    assert done.returncode == 0 and json.loads(done.stdout)["accuracy"] == 1
    assert "git" not in done.stderr and "fatal" not in done.stderr


CODE_VERSION = "from lmmr1.store import code_version; print(code_version())"


@pytest.mark.parametrize("kind", ["no clone", "no git", "another owner's"])
def test_without_git_the_commit_is_unknown_and_nothing_is_said(installed, tmp_path, kind):
    code, environment = installed, {}
    if kind == "no git":
        environment["PATH"] = str(tmp_path)
    elif kind == "another owner's":
        (code / ".git").write_text(f"gitdir: {tmp_path / 'nowhere'}\n")  # git refuses it, as one of another user
    done = run("-c", CODE_VERSION, cwd=tmp_path, code=code, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unknown\n", "")


def test_lm_eval_asks_git_nothing(monkeypatch, tmp_path):
    """Outside of a clone git complains on standard error, past every redirection."""
    from lm_eval import evaluator

    from evals.lm_eval_harness import _without_env_info

    own = evaluator.get_git_commit_hash
    with _without_env_info():
        assert evaluator.get_git_commit_hash() is None and evaluator.add_env_info({}) is None
    assert evaluator.get_git_commit_hash is own


# -------------------------------------------------------------------------------------------------------- no pairs


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\r\n", b"   \n\t\n", b"\r"])
def test_a_file_without_pairs_is_exit_2(tmp_path, content):
    file = tmp_path / "päirs o'k.jsonl"
    file.write_bytes(content)
    done = lmmr1("verify", "--pairs", file, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {file}: no pairs in it")
