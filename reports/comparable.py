"""May a measurement be held against a printed cell? Decided cell by cell, for the printed row, field by field.

Every difference is one line, `judge: none, printed: Qwen2.5-14B-Instruct (extract 0)`; none means that the two were
measured alike as far as the paper says how it measured. Which fields count: config/verdicts.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.records import Protocol
from lmmr1.types import UserError
from reproduce.published import Cell, Judge, Registry

NONE = "none"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a cell was computed from: a record's protocol and the items that were averaged."""

    protocol: Protocol
    n: int
    categories: int
    """Categories among the items."""


def differences(taken: Taken, cell: Cell, fields: tuple[str, ...]) -> list[str]:
    """In what a measurement differs from a printed cell, one text per field; a field that the paper does not state
    cannot differ. Raises UserError for a record whose judge is no mapping of settings."""
    found = []
    for field in fields:
        printed = PRINTED[field](cell)
        if printed is None:
            continue
        ours = MEASURED[field](taken)
        if ours != printed:
            found.append(f"{field}: {ours}, printed: {printed}")
    return found


def printed_cells(registry: Registry, row: str) -> dict[str, Cell]:
    """{benchmark: cell} of a row of Table 1, in its order. Raises UserError for an unknown row."""
    table = registry.tables["table1"]
    if row not in table.rows:
        raise UserError(f"{row!r} is neither a folder nor a row of Table 1; rows: {', '.join(table.rows)}")
    return {str(c.benchmark): registry.cell(f"table1.{row}.{name}") for name, c in table.columns.items() if c.benchmark}


def judge_text(judge: Judge | None) -> str:
    """A judge as differences show it: model without owner, then the temperature of each kind of question."""
    if judge is None:
        return NONE
    asked = ", ".join(f"{kind} {value:g}" for kind, value in sorted(judge.temperature.items()))
    return f"{judge.model.rpartition('/')[2]} ({asked})"


def recorded_judge(protocol: Protocol) -> Judge | None:
    """The judge that a record names. Raises UserError where it is not what `evals.judging.judge_record` writes."""
    judge = protocol.judge
    if judge is None:
        return None
    try:
        kinds = {k: float(v["temperature"]) for k, v in judge.items() if isinstance(v, Mapping)}
        return Judge(model=judge["model"], temperature=kinds)  # type: ignore[arg-type]
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(
            f"a record of {protocol.task} names its judge as {judge!r:.80}, not as settings with a model and a "
            f"temperature for each kind of question ({type(e).__name__}); run the evaluation again"
        ) from None


def prompt_change(taken: Taken, base: Taken) -> str:
    """`cot -> paper` where the two were asked in different words; empty where they were asked alike."""
    before, after = base.protocol.prompt, taken.protocol.prompt
    return "" if before == after else f"{before} -> {after}"


def _decoding(name: str) -> Callable[[Taken], Any]:
    return lambda taken: taken.protocol.decoding.get(name, NONE)


def _stated(name: str) -> Callable[[Cell], Any]:
    return lambda cell: cell.protocol.get(name)


def _aggregation(cell: Cell) -> str | None:
    """Values are averaged anew as the column was; that needs all of its categories."""
    parts = len(cell.spec.sizes) or cell.spec.parts
    return f"{parts} categories" if cell.spec.aggregation == "macro" and parts else None


MEASURED: dict[str, Callable[[Taken], Any]] = {
    "n": lambda taken: taken.n,
    "aggregation": lambda taken: f"{taken.categories} categories",
    "prompt": lambda taken: taken.protocol.prompt,
    "temperature": _decoding("temperature"),
    "max_new_tokens": _decoding("max_new_tokens"),
    "repetition_penalty": _decoding("repetition_penalty"),
    "judge": lambda taken: judge_text(recorded_judge(taken.protocol)),
    "max_pixels": lambda taken: taken.protocol.max_pixels,
    "harness": lambda taken: taken.protocol.harness,
    "levels": _decoding("levels"),
    "data": lambda taken: taken.protocol.data_pin if taken.protocol.data_pin == OTHER_DATA else PINNED,
}
"""Field -> what a measurement says of it."""

PINNED, OTHER_DATA = "as pinned", "other data"

PRINTED: dict[str, Callable[[Cell], Any]] = {
    "n": lambda cell: cell.spec.n,
    "aggregation": _aggregation,
    "prompt": _stated("prompt"),
    "temperature": _stated("temperature"),
    "max_new_tokens": _stated("max_new_tokens"),
    "repetition_penalty": _stated("repetition_penalty"),
    "judge": lambda cell: judge_text(cell.judge) if cell.protocol else None,
    "max_pixels": _stated("max_pixels"),
    "harness": _stated("harness"),
    "levels": _stated("levels"),
    "data": lambda cell: PINNED,
}
"""Field -> what the paper says of it; None: nothing."""
