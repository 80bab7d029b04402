"""What `lmmr1 contamination` found, per benchmark, as the page shows it beside the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmmr1.types import UserError
from reports.files import read_json
from reports.layout import Benchmark, columns


def read_exposure(path: Path, benchmarks: list[Benchmark]) -> dict[str, Any]:
    """`rows`: (what, one text per column of Table 1, empty for an average or where nothing was measured), and `note`.

    Raises UserError where the file is missing or not what `lmmr1 contamination --out` writes.
    """
    result = read_json(path)
    try:
        cells, words = result["benchmarks"], result["words"]
        names = [name for name, _, _ in columns(benchmarks)]
        rows = [(what, [_text(cells.get(name, {}), kind) for name in names]) for kind, what in KINDS.items()]
        trained = sorted(Path(file).name for file in result["train"])
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{path}: not made by lmmr1 contamination ({type(e).__name__}: {e}); make it again") from None
    note = (
        f"Runs of {words} words that stand in {', '.join(trained)} and in a problem, phrases of the benchmark left out"
    )
    return {"rows": [row for row in rows if any(row[1])], "note": note if trained else ""}


KINDS = {"overlap": "of the problems in the training prompts, %", "completion": "completed word for word, %"}
"""Part of a benchmark's result: what its number says."""


def _text(cell: dict[str, Any], kind: str) -> str:
    found = cell.get(kind)
    if not found:
        return ""
    if kind == "overlap":
        return f"{100 * float(found['rate']):.1f} ({int(found['shared'])}/{int(found['checked'])})"
    return f"{100 * float(found['exact']):.1f}"
