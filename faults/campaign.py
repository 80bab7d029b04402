"""The campaign: every fault in a tree of its own, the same command again, every byte compared with the reference."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from faults import judged
from faults.hashes import differences, hashes
from faults.jobs import Job, jobs
from faults.kinds import KINDS, Case, made_by, read_by
from faults.process import Outcome, can_mount, preload, run, small_disk
from lmmr1.files import verify
from lmmr1.types import UserError

CHECKOUT = Path(__file__).resolve().parents[1]
TREE = ("results", "checkpoints")

PLAN: dict[str, dict[str, int]] = {
    "pretraining": {"kill -9": 2, "full disk": 1, "read-only folder": 1, "bit flip": 1, "out of memory": 1},
    "prompts": {"kill -9": 5, "bit flip": 2},
    "benchmark files": {"kill -9": 5, "bit flip": 2},
    "training": {"kill -9": 11, "kill -9, then a bit flip": 4, "bit flip": 4, "truncated file": 2, "full disk": 2},
    "evaluation": {"kill -9": 14, "kill -9, then a bit flip": 5, "bit flip": 5, "truncated file": 3, "full disk": 3},
    "scripted players": {"kill -9": 3, "bit flip": 2},
    "scores": {"kill -9": 4, "bit flip": 2},
    "tables": {"kill -9": 5, "bit flip": 2},
    "plots": {"kill -9": 3},
    "page": {"kill -9": 4, "bit flip": 2},
    "check": {"kill -9": 4, "bit flip": 2},
}
"""Stage -> fault -> how many; of every fault that is not named, one (pretraining: none)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to inject."""

    number: int
    stage: str
    kind: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    stage: str
    kind: str
    job: str
    what: str
    """The fault in words."""
    outcome: str
    """`same bytes`, `clear stop`, or a word that means that something is wrong."""
    first: str
    """How the disturbed run ended."""
    line: str
    """The clear line, or what is wrong."""
    seconds: float
    """Of the run after it."""

    @property
    def good(self) -> bool:
        """Nothing lost, nothing silently wrong."""
        return self.outcome in ("same bytes", "clear stop")


def faults(seed: int, share: float = 1.0, stages: Iterable[str] = ()) -> list[Fault]:
    """The faults of a campaign in a random order; with a `share` below 1 a sample of them, of each stage some."""
    wanted = []
    for stage, counts in PLAN.items():
        others = {} if stage == "pretraining" else dict.fromkeys(KINDS, 1)
        others.pop("kill -9, then a bit flip", None)
        here = [(stage, kind) for kind, n in {**others, **counts}.items() for _ in range(n)]
        random.Random(f"{seed}-{stage}").shuffle(here)
        wanted += here[: max(1, round(share * len(here)))] if not stages or stage in stages else []
    if not stages or judged.STAGE in stages:
        here = [(judged.STAGE, kind) for kind in judged.KINDS]
        wanted += here[: max(1, round(share * len(here)))]
    random.Random(seed).shuffle(wanted)
    return [Fault(number, *fault) for number, fault in enumerate(wanted)]


class Campaign:
    """A finished run of the smoke profile, and trees beside it in which copies of it are broken."""

    def __init__(self, folder: Path, seed: int, reference: Path | None = None) -> None:
        """`reference`: a finished run of the smoke profile; without it one is made in `folder`."""
        self.folder, self.seed = folder.resolve(), seed
        self.reference = reference.resolve() if reference else self.folder / "reference"
        self.mountable = can_mount(self.folder / "mount")

    def make_reference(self, cores: int) -> None:
        """Run the smoke profile once, undisturbed. Raises RuntimeError where that fails."""
        self._link(self.reference)
        command = [sys.executable, "-m", "snakemake", "-s", str(CHECKOUT / "Snakefile"), "--cores", str(cores)]
        command += ["--rerun-incomplete", "--config", "profile=smoke", "--", "reproduce_all"]
        for target in ("reproduce_all", "check"):
            environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
            done = subprocess.run(
                [*command[:-1], target],
                cwd=self.reference,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode and target != "check":
                raise RuntimeError(f"the undisturbed run failed:\n{done.stderr[-3000:]}")

    def prepare(self) -> None:
        """Read the jobs, hash the reference, and measure every job once, undisturbed."""
        self.jobs = jobs(self.reference, CHECKOUT)
        self.expected = hashes([self.reference / name for name in TREE], self.reference)
        preload()

    def _link(self, tree: Path) -> None:
        """What commands read of the checkout itself."""
        tree.mkdir(parents=True, exist_ok=True)
        for name in ("config", "reproduce", "reports"):
            if not (tree / name).exists():
                (tree / name).symlink_to(CHECKOUT / name)

    def tree(self, folder: Path) -> None:
        """A copy of the reference."""
        self._link(folder)
        for name in TREE:
            shutil.copytree(self.reference / name, folder / name, symlinks=True)

    def undo(self, job: Job, folder: Path) -> None:
        """Remove all that a job made."""
        for path in made_by(job, folder):
            path.unlink()
        for path in sorted((p for name in TREE for p in (folder / name).rglob("*") if p.is_dir()), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()

    def wrong(self, folder: Path) -> list[str]:
        """What differs from the reference."""
        return differences(self.expected, hashes([folder / name for name in TREE], folder))

    def run_all(self, wanted: list[Fault], workers: int, results: Path) -> list[Result]:
        """Inject all faults, by as many processes as asked; each result is a line of the file `results`, too."""
        results.unlink(missing_ok=True)
        children = []
        for worker in range(workers):
            if pid := os.fork():
                children.append(pid)
                continue
            code = 1
            try:
                for fault in wanted[worker::workers]:
                    result = self.inject(fault)
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(result)) + "\n")
                    print(
                        f"{fault.number:4} {result.outcome:11} {result.stage}: {result.what} [{result.line}]",
                        flush=True,
                    )
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        if any(codes):
            raise RuntimeError("a worker of the campaign failed; its traceback is above")
        return [Result(**json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()]

    def inject(self, fault: Fault) -> Result:
        """One fault, from a fresh tree to the comparison."""
        for attempt in range(5):
            rng = random.Random(f"{self.seed}-{fault.number}-{fault.stage}-{fault.kind}-{attempt}")
            result = self._attempt(fault, rng, self.folder / f"tree-{fault.number}")
            if not result.what.endswith("too late"):
                break
        return result

    def _attempt(self, fault: Fault, rng: random.Random, folder: Path) -> Result:
        try:
            with small_disk(folder, self.mountable):
                if fault.stage == judged.STAGE:
                    return Result(fault.stage, fault.kind, **judged.inject(fault.kind, folder, self.reference))
                self.tree(folder)
                return self._inject(fault, rng, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.out").unlink(missing_ok=True)

    def _inject(self, fault: Fault, rng: random.Random, folder: Path) -> Result:
        job = rng.choice([job for job in self.jobs if job.stage == fault.stage])
        of_file = fault.kind in ("truncated file", "bit flip")
        finished = of_file and (not read_by(job, folder) or rng.random() < 0.3)
        if not finished:
            self.undo(job, folder)
        case = Case(job, folder, rng, self.cpu(job), self.mountable, finished)
        first, what = KINDS[fault.kind](case)
        again = run(job, folder)
        ended = _ending(first)
        facts = (fault.stage, fault.kind, job.name, what)
        if left := again.lingering + (first.lingering if first else 0):
            return Result(*facts, "left processes", ended, f"{left} processes did not end", again.seconds)
        if again.code not in _good_codes(job):
            return self._stopped(facts, case, first, again)
        damaged = _damaged(what)
        wrong = self.wrong(folder)
        if not finished and wrong == [f"different: {damaged}"] and noticed(folder / damaged):
            # the job does not read it, and did its work; its seal stops whoever does
            return Result(*facts, "clear stop", ended, f"unread, and its seal tells: {damaged}", again.seconds)
        return Result(*facts, "wrong" if wrong else "same bytes", ended, "; ".join(wrong[:4]), again.seconds)

    def _stopped(self, facts: tuple[str, str, str, str], case: Case, first: Outcome | None, again: Outcome) -> Result:
        """The second run did not end well: it must say so in one line, and end well once the file is whole again."""
        ended, line, damaged = _ending(first), again.line, _damaged(facts[3])
        if not line:
            return Result(*facts, "unclear stop", ended, again.text[-300:], again.seconds)
        if damaged not in line and str(Path(damaged).parent) not in line:
            return Result(*facts, "unclear stop", ended, f"does not name {damaged}: {line}", again.seconds)
        began = time.monotonic()
        if (self.reference / damaged).is_file():
            shutil.copyfile(self.reference / damaged, case.folder / damaged)
        else:
            (case.folder / damaged).unlink()
        mended = run(case.job, case.folder)
        seconds, wrong = time.monotonic() - began, self.wrong(case.folder)
        if mended.code not in _good_codes(case.job) or wrong:
            return Result(*facts, "not mended", ended, f"{line} -> {mended.text[-200:]} {wrong[:4]}", seconds)
        return Result(*facts, "clear stop", ended, line, seconds)

    def cpu(self, job: Job) -> float:
        """CPU seconds of an undisturbed run of a rule, measured once; the run must give the reference's bytes."""
        card = self.folder / f"cpu-{job.rule}.json"
        while True:
            try:
                return float(json.loads(card.read_text()))
            except (FileNotFoundError, ValueError):
                card.write_text(json.dumps(self._measure(job)))

    def _measure(self, job: Job) -> float:
        folder = self.folder / f"undisturbed-{job.rule}-{os.getpid()}"
        try:
            self.tree(folder)
            self.undo(job, folder)
            outcome, wrong = run(job, folder), self.wrong(folder)
            if outcome.code not in _good_codes(job) or wrong:
                raise RuntimeError(f"{job.name}, undisturbed: {outcome.text[-1000:]} {wrong[:5]}")
            return outcome.cpu
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def noticed(path: Path) -> bool:
    """Whether a seal tells that a file is damaged: its own, its folder's, or that of the prompts it is a picture of."""
    owner = path.parent.with_name(f"{path.parent.name.removeprefix('images_')}.jsonl")
    try:
        verify(path)
        verify(owner)
    except UserError:
        return True
    return False


def _damaged(what: str) -> str:
    """The file that a fault damaged, from its words; of another fault something that is no file."""
    return what.rpartition("then a bit of ")[2].partition(":")[0].partition(" cut from ")[0]


def _good_codes(job: Job) -> tuple[int, ...]:
    """The gate says by its code what it found, and does so undisturbed, too."""
    return (0, 3) if job.rule == "check" else (0,)


def _ending(outcome: Outcome | None) -> str:
    """How a disturbed run ended."""
    if outcome is None:
        return ""
    if outcome.code < 0:
        return "killed"
    if outcome.code == 0:
        return "done"
    return "one line" if outcome.line else "traceback"


def stages_of(results: Iterable[Result]) -> Iterator[str]:
    """Stages in the order of the workflow."""
    known = [*PLAN, judged.STAGE]
    return iter([stage for stage in known if stage in {r.stage for r in results}])
