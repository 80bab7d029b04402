"""What a profile writes and downloads. Bytes throughout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reproduce.budget.facts import workload
from reproduce.budget.geometry import Geometry
from reproduce.budget.memory import Holding
from reproduce.plan import Plan

RESUME_POINTS = 3
"""Of one run at once: two are kept, and the next is written before the older goes (lmmr1/store.py)."""
RECORD_BYTES, TOKEN_BYTES = 1500, 4
"""Of one answer's record besides its text, and of a token of text: rounded from records of the micro world."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes by what they are; `unknown` names the data sets whose size is not known."""

    base_model: float
    checkpoints: float
    resume_points: float
    datasets: float
    benchmarks: float
    records: float
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Of what is known."""
        parts = (self.base_model, self.checkpoints, self.resume_points, self.datasets, self.benchmarks, self.records)
        return sum(parts)


def disk(plan: Plan, g: Geometry, held: Holding | None, answers: float, answer_tokens: float) -> Disk:
    """What a whole run of `plan` takes at its peak. answers: problems over all runs; held: of a trained arm."""
    adopted = 2 * g.parameters * len(plan.adopted) if plan.profile.world == "paper" else 4 * g.parameters
    runs = sum(len(plan.seeds_of(arm)) for arm in plan.trained)
    files, images, unknown = _training_files(plan)
    known = workload().disk
    sources = {b.source.partition(":")[2] for b in plan.benchmarks.values() if b.source.startswith("vlmevalkit")}
    unknown += [name for name in sorted(sources) if known.get(name) is None]
    moments = 12 * held.trainable if held else 0.0  # fp32 weights and moments of what is trained
    return Disk(
        base_model=adopted,
        checkpoints=4 * g.parameters * runs,
        resume_points=RESUME_POINTS * moments if runs else 0.0,
        datasets=2 * (files + images),  # the download, and what is made of it: checked rows, unpacked images
        benchmarks=float(sum(known.get(name) or 0 for name in sources)),
        records=answers * (RECORD_BYTES + TOKEN_BYTES * answer_tokens),
        unknown=tuple(unknown),
    )


def _training_files(plan: Plan) -> tuple[float, float, list[str]]:
    """Bytes of the rows and of the images that the used stages read, and the files whose size is not known."""
    known, names = workload().disk, {}
    for data in plan.data_sets.values():
        names |= {Path(data.file).name: "file"} | ({Path(data.images).name: "image"} if data.images else {})
    sizes = {kind: sum(known.get(n) or 0 for n, k in names.items() if k == kind) for kind in ("file", "image")}
    return float(sizes["file"]), float(sizes["image"]), [n for n in names if known.get(n) is None]
