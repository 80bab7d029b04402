"""Metric rows to TensorBoard, Weights & Biases or Trackio, beside the local JSONL files, which are always written.

Where to report is a setting of the launch (TRL's `report_to`), not of the run: it cannot change a number, so it is no
part of a run's key and changing it trains nothing anew. A tracker that fails is dropped with one warning; training goes
on. Keys and addresses are the trackers' own business (WANDB_API_KEY and so on): nothing here reads or writes them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from lmmr1.config import TrackerName, TrainConfig
from lmmr1.types import UserError

VARIABLE = "LMMR1_REPORT_TO"
"""Names separated by commas; the workflow hands its setting to its jobs this way, which re-runs none of them."""
PROJECT = "lmmr1"
"""Where WANDB_PROJECT and TRACKIO_PROJECT name no other."""
MARKS = "reported.json"
"""In a run's folder: the last step that each tracker got, for those that cannot take a step back."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a tracker is told about a run."""

    key: str
    name: str
    folder: Path
    config: TrainConfig


class Tracker(Protocol):
    """One open connection; may raise anything of its own `errors`."""

    errors: tuple[type[Exception], ...]
    rewinds: bool
    """True where steps after a resume point are taken back, so that they are sent again."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one row."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Event files in RUN/tensorboard; steps beyond a resume point are purged, as TensorBoard reads them."""

    errors = (OSError, RuntimeError, ValueError)
    rewinds = True

    def __init__(self, run: Run, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar per metric."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """A run whose id is its key, so that a resumed one goes on; WANDB_MODE=offline keeps it in RUN/wandb."""

    rewinds = False

    def __init__(self, run: Run, start: int) -> None:
        import wandb

        self.errors = (wandb.errors.Error, OSError, RuntimeError, ValueError)
        # no console, no code, no git remote, no packages, no machine: metrics and settings only
        quiet = wandb.Settings(
            console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True,
            x_save_requirements=False, silent=True,
        )  # fmt: skip
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=run.key, name=run.name, resume="allow",
            dir=str(run.folder), config=run.config.model_dump(), settings=quiet,
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class Trackio:
    """A run named after its key in Trackio's local database (TRACKIO_DIR)."""

    errors = (OSError, RuntimeError, ValueError)
    rewinds = False

    def __init__(self, run: Run, start: int) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        settings = run.config.model_dump(mode="json")
        name = f"{run.name} {run.key}"
        quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.run = trackio.init(project, name=name, resume="allow", config=settings, **quiet)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Write what is queued."""
        self.run.finish()


KINDS: dict[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def parse_names(text: str | None, where: str = VARIABLE) -> tuple[str, ...]:
    """Tracker names separated by commas; `none` or nothing is none. Raises UserError for unknown ones."""
    names = tuple(dict.fromkeys(n.strip() for n in (text or "").split(",") if n.strip() not in ("", "none")))
    for name in names:
        if name not in KINDS:
            raise UserError(f"{where}: unknown tracker {name!r}; allowed: {', '.join(get_args(TrackerName))}, none")
    return names


def require_installed(names: Iterable[str]) -> None:
    """Raise UserError where a tracker's package is missing: before compute is spent, unlike any later failure."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to: {name} is not installed; pip install {name}, or leave it out")


@dataclass(frozen=True, slots=True)
class Reporting:
    """Where a run reports to besides its JSONL files; the default is nowhere."""

    names: tuple[str, ...] = ()
    folder: Path = Path()
    """For event files and the like, e.g. results/micro/fre/0."""

    def open(self, cfg: TrainConfig, key: str, start: int) -> Trackers:
        """The trackers of one run that continues after step `start`; use as a context manager."""
        return Trackers(self.names, Run(key, "/".join(self.folder.parts[-3:]) or key, self.folder, cfg), start)


NOWHERE = Reporting()


class Trackers(contextlib.AbstractContextManager["Trackers"]):
    """All trackers of one run; use as a context manager.

    `start` is the step that the run continues after: no tracker gets a step twice.
    """

    def __init__(self, names: Iterable[str], run: Run, start: int) -> None:
        self.marks = run.folder / MARKS
        self.live: dict[str, Any] = {}
        self.sent: dict[str, int] = _read_marks(self.marks) if start else {}
        for name in names:
            self._try(name, self._open, name, run, start)

    def _open(self, name: str, run: Run, start: int) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self.live[name] = KINDS[name](run, start)

    def log(self, step: int, *rows: Mapping[str, Any]) -> None:
        """Forward the numbers of these rows; `step` itself and what is not finite is left out."""
        metrics = {k: float(v) for row in rows for k, v in row.items() if k != "step" and _finite(v)}
        for name, tracker in list(self.live.items()):
            if tracker.rewinds or step > self.sent.get(name, 0):
                self._try(name, tracker.log, step, metrics)
                self.sent[name] = step
        if any(not tracker.rewinds for tracker in self.live.values()):
            self._try("marks", self._write_marks)

    def _write_marks(self) -> None:
        partial = self.marks.with_name(self.marks.name + ".partial")
        partial.write_text(json.dumps(self.sent), encoding="utf-8")
        os.replace(partial, self.marks)

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self.live.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, action: Any, *arguments: Any) -> None:
        errors = getattr(self.live.get(name), "errors", None) or _opening_errors(name)
        try:
            action(*arguments)
        except errors as e:
            self.live.pop(name, None)
            print(f"warning: {name} failed and gets no more metrics: {redacted(str(e))[:300]}", file=sys.stderr)


def _opening_errors(name: str) -> tuple[type[Exception], ...]:
    """What may go wrong before a tracker has said what its errors are."""
    own = (importlib.import_module("wandb").errors.Error,) if name == "wandb" else ()
    return (*own, OSError, RuntimeError, ValueError, TypeError, ImportError)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_marks(path: Path) -> dict[str, int]:
    try:
        return {str(k): int(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # at worst a tracker sees some steps twice


def redacted(text: str) -> str:
    """One line in which no value of an environment variable that is named like a secret is left."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", name, re.IGNORECASE) and len(value) >= 6:
            text = text.replace(value, "***")
    return " ".join(text.split())
