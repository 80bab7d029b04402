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
        absent = result["not_checked"]
        rows = [(what, [_text(cells.get(name, {}), kind) for name in names]) for kind, what in KINDS.items()]
        left = [name for name in absent if name in names]
        trained = sorted(Path(file).name for file in result["train"])
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{path}: not made by lmmr1 contamination ({type(e).__name__}: {e}); make it again") from None
    notes = [NOTE.format(words=words, trained=", ".join(trained))] if trained else []
    notes += [f"Not checked, their files were not there: {', '.join(left)}"] if left else []
    return {"rows": [row for row in rows if any(row[1])], "note": ". ".join(notes)}


NOTE = (
    "Runs of {words} words that stand in {trained} and in a problem, phrases of the benchmark left out; a problem with "
    "a picture is in the training prompts where a row has its words and a copy of its picture"
)
KINDS = {
    "overlap": "of the problems in the training prompts, %",
    "words": "words alone there, beside another picture or none, %",
    "completion": "completed word for word, %",
}
"""Part of a benchmark's result: what its number says."""


def _text(cell: dict[str, Any], kind: str) -> str:
    overlap, completion = cell.get("overlap"), cell.get("completion")
    if kind == "completion":
        return f"{100 * float(completion['exact']):.1f}" if completion else ""
    if not overlap or (kind == "words" and not overlap["pictured"]):
        return ""
    keys = ("shared", "checked") if kind == "overlap" else ("words_only", "words_checked")
    found, of = (int(overlap[key]) for key in keys)
    return f"{100 * found / of:.1f} ({found}/{of})" if of else ""
