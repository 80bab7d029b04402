"""Copies of the project, a mutant in one of them, the named tests there, and what became of it."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from lmmr1.types import UserError
from mutants.listed import Mutant, mutated

T = TypeVar("T")
R = TypeVar("R")
Fate = Literal["killed", "timeout", "broken", "survived"]
PROVEN: tuple[Fate, ...] = ("killed", "timeout")

UNLOADED = re.compile(r"(?:failed on \w+ with \")?(?:\w+\.)*(?:Syntax|Indentation|Name|Import|ModuleNotFound)Error\b")
"""Errors of a fault that is no Python, or names what is not there: no test noticed anything."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant."""

    id: str
    fate: Fate
    """`killed`: a test failed; `timeout`: the tests did not end; `broken`: the code could not be loaded."""
    by: str
    """The test that noticed, or what happened instead."""
    seconds: float

    @property
    def proven(self) -> bool:
        """Whether the fault was noticed by what a test asserts."""
        return self.fate in PROVEN


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a pytest run."""

    node: str
    """File and name without parameters."""
    outcome: Literal["passed", "failed", "skipped"]
    message: str


class Copy:
    """A copy of the project in which one process at a time runs tests."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Copy what a clone of the working tree would have."""
        self.tree, self.folder = folder / "tree", folder
        self.process: subprocess.Popen[str] | None = None
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=root, capture_output=True, check=True
        )
        for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
            if (root / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, self.tree / name)

    def test(self, nodes: Sequence[str], timeout: float, *options: str) -> tuple[int | None, list[Case], str]:
        """Run tests: pytest's exit code, None where they did not end in time; their outcomes; the end of the output."""
        report = self.folder / "junit.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *options]
        command += ["--basetemp", str(self.folder / "tmp"), "--junitxml", str(report), *nodes]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {
            "PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1",
            "CI": "true",  # hypothesis draws the same examples every time
            "PYTHONDONTWRITEBYTECODE": "1",  # known by second and size: a mutant's could pass for the original's
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=self.tree, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return None, [], ""
        return self.process.returncode, list(_cases(report)), output[-2000:]

    def kill(self) -> None:
        """End the tests and whatever they started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

    def judge(self, mutant: Mutant, timeout: float) -> Result:
        """Put the fault in, run its tests, take it out."""
        file, began = self.tree / mutant.file, time.monotonic()
        before, after = file.read_text(encoding="utf-8"), mutated(mutant, self.tree)
        file.write_text(after, encoding="utf-8")
        try:
            code, cases, output = self.test(mutant.tests, timeout, "-x")
        finally:
            file.write_text(before, encoding="utf-8")
        return Result(mutant.id, *fate(mutant, code, cases, output), round(time.monotonic() - began, 2))


def fate(mutant: Mutant, code: int | None, cases: list[Case], output: str) -> tuple[Fate, str]:
    """What pytest's exit code (None: it did not end) and the tests' outcomes say about a mutant, and which test did."""
    if code is None:
        return "timeout", "the tests did not end"
    failed = next((case for case in cases if case.outcome == "failed"), None)
    if code == 0:
        return "survived", "no test failed"
    if code == 1 and failed and not UNLOADED.match(failed.message):
        return "killed", failed.node
    said = failed.message if failed else output
    return ("killed" if mutant.import_ok else "broken"), " ".join(said.split())[-300:]


def _cases(report: Path) -> Iterator[Case]:
    if not report.exists():
        return
    for case in ET.parse(report).iter("testcase"):
        node = f"{(case.get('classname') or '').replace('.', '/')}.py::{(case.get('name') or '').partition('[')[0]}"
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = case.find("skipped")
        if bad is not None:
            yield Case(node, "failed", f"{bad.get('message') or ''} {(bad.text or '')[-300:]}")
        elif skipped is not None:
            yield Case(node, "skipped", skipped.get("message") or "")
        else:
            yield Case(node, "passed", "")


class Copies:
    """As many copies as workers."""

    def __init__(self, root: Path, folder: Path, workers: int) -> None:
        self.all = [Copy(root, folder / str(i)) for i in range(workers)]

    def each(self, work: Callable[[Copy, T], R], items: Sequence[T]) -> Iterator[R]:
        """`work` on every item, each in a copy that is free; results as they come. The first error ends it."""
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in self.all:
            free.put(copy)

        def one(item: T) -> R:
            copy = free.get()
            try:
                return work(copy, item)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(len(self.all)) as pool:
            jobs = [pool.submit(one, item) for item in items]
            try:
                for job in as_completed(jobs):
                    yield job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for copy in self.all:
                    copy.kill()
                raise


@contextmanager
def copies(root: Path, workers: int) -> Iterator[Copies]:
    """Copies of the project, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lmmr1-mutants-", ignore_cleanup_errors=True) as folder:
        yield Copies(root, Path(folder), workers)


def require_passing(copies: Copies, mutants: Sequence[Mutant], timeout: float) -> None:
    """Run all named tests on the code as it is. Raises UserError for one that fails, is skipped or is not there."""
    nodes = sorted({node for mutant in mutants for node in mutant.tests})
    files: dict[str, list[str]] = {node.partition("::")[0]: [] for node in nodes}
    for node in nodes:
        files[node.partition("::")[0]].append(node)

    def check(copy: Copy, nodes: list[str]) -> None:
        code, cases, output = copy.test(nodes, timeout * len(nodes))
        for case in cases:
            if case.outcome == "failed":
                raise UserError(f"{case.node} fails without any mutant ({case.message:.200}); nothing can be proven")
        if code:
            raise UserError(f"pytest {' '.join(nodes)}: exit code {code} without any mutant: {output[-500:]}")
        if code is None:
            raise UserError(
                f"{nodes[0].partition('::')[0]}: its named tests do not end in {timeout * len(nodes):.0f} s"
            )
        passed = {case.node for case in cases if case.outcome == "passed"}
        for node in nodes:
            if node.partition("[")[0] not in passed:
                raise UserError(f"{node}: skipped here, so nothing can be proven; install what it needs (make setup)")

    for _ in copies.each(check, list(files.values())):
        pass
