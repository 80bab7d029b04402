"""The registry of published numbers: published.yaml, checked against a schema, and looked up by cell.

A cell is named `table.row.column`, e.g. `table1.fre_text.mathverse`; `table1.mathverse` is a column. Imports nothing
heavy. What the numbers say about each other is checked in reproduce/registry_audit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from evals.protocols import Role
from lmmr1.config import Settings, parse_settings, read_mapping
from lmmr1.types import UserError
from reproduce.plan import load_arms

REGISTRY_FILE = Path(__file__).with_name("published.yaml")


class Source(Settings):
    """Where a value was read."""

    title: str
    version: str | None
    """Version of the paper, or None for what others published."""


class Judge(Settings):
    """Who judged, and at which temperature each kind of question was asked."""

    model: str
    temperature: dict[Literal["extract", "compare", "option"], float] = Field(min_length=1)


class Protocol(Settings):
    """How a column was measured, as far as it is known; None is `not known`."""

    harness: str
    harness_version: str | None = None
    backend: str | None = None
    dtype: str | None = None
    prompt: dict[Role, str] | None = None
    """Prompt style of each role, as records name it."""
    prompt_text: str | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    levels: str | None = None
    """Level set of an agent benchmark, as records name it."""


class Column(Settings):
    """What one column of a table measures; the comments at the top of `published.yaml` explain the keys."""

    title: str
    group: str = ""
    benchmark: str | None = None
    subset: tuple[str, ...] = ()
    n: int | None = Field(None, gt=0)
    sizes: tuple[int, ...] = ()
    parts: int | None = Field(None, gt=1)
    """Number of parts of a macro average whose sizes are not known."""
    per_problem: int = Field(1, ge=1)
    """Items that share a problem, so that their answers are correlated."""
    aggregation: Literal["pooled", "macro", "reward", "mean of columns"] = "mean of columns"
    protocol: str | None = None
    judge: str | None = None
    """Name in `judges`; None: nobody is asked."""
    mean_of: tuple[str, ...] = ()
    same_as: str | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Column:
        if bool(self.mean_of) == (self.aggregation != "mean of columns"):
            raise ValueError("give either `mean_of` or `aggregation`")
        if not self.mean_of and not (self.n and self.benchmark and self.protocol):
            raise ValueError("a measured column needs `n`, `benchmark` and `protocol`")
        if self.sizes and sum(self.sizes) != self.n:
            raise ValueError(f"`sizes` sum to {sum(self.sizes)}, but `n` is {self.n}")
        return self


class Row(Settings):
    """A model's printed values, in the order of the table's columns."""

    title: str
    role: Role = "trained"
    values: tuple[float, ...]
    counts: tuple[int | None, ...] = ()


class Table(Settings):
    """A printed table."""

    title: str
    source: str
    where: str
    unit: Literal["percent", "points"]
    decimals: int = Field(ge=0, le=4)
    columns: dict[str, Column]
    sections: dict[str, str] = {}
    """Row before which a rule stands: heading under it (may be empty)."""
    rows: dict[str, Row]

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        width = len(self.columns)
        for name, row in self.rows.items():
            if len(row.values) != width or len(row.counts) not in (0, width):
                raise ValueError(f"row {name} has {len(row.values)} values, {len(row.counts)} counts; columns: {width}")
            if odd := [v for v in row.values if round(v, self.decimals) != v]:
                raise ValueError(f"row {name}: {odd[0]} has more than {self.decimals} decimals")
        for name, column in self.columns.items():
            if unknown := [m for m in column.mean_of if m not in self.columns]:
                raise ValueError(f"column {name}: mean_of names {unknown[0]!r}, which is no column of this table")
        return self


class Statement(Settings):
    """What the authors say elsewhere about cells: exactly one of `cell`, `minus`, `above`, `items`."""

    source: str
    text: str
    value: str | None = Field(None, pattern=r"^-?\d+(\.\d+)?$")
    """As printed: the number of decimals says how far it was rounded."""
    cell: str | None = None
    minus: tuple[str, str] | None = None
    above: tuple[str, str] | None = None
    items: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Statement:
        given = [k for k in ("cell", "minus", "above", "items") if getattr(self, k) is not None]
        if len(given) != 1 or (self.value is None) != (given == ["above"]):
            raise ValueError("give one of `cell`, `minus`, `items` with a `value`, or `above` without")
        return self


class Elsewhere(Settings):
    """A value that others published for the same checkpoint and benchmark."""

    row: str
    column: str
    value: str = Field(pattern=r"^\d+(\.\d+)?$")
    source: str


class Sokoban(Settings):
    """Upper rewards of MageBench's levels, and the cell with the score of a player who does not move."""

    cell: str
    uppers: dict[str, dict[float, int]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed value with everything that is known about it."""

    table: str
    row: str
    column: str
    value: float
    count: int | None
    spec: Column
    decimals: int
    unit: str
    source: str
    version: str | None
    protocol: dict[str, Any]
    """How it was measured, `prompt` being that of the row; what is not known is not in it."""
    judge: Judge | None
    conflicts: tuple[str, ...]
    """Other values that are published for it, and what is odd about its column."""

    @property
    def id(self) -> str:
        """`table.row.column`."""
        return f"{self.table}.{self.row}.{self.column}"

    @property
    def text(self) -> str:
        """The value as printed."""
        return f"{self.value:.{self.decimals}f}"

    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "id": self.id,
            "table": self.table,
            "row": self.row,
            "column": self.column,
            "value": self.value,
            "unit": self.unit,
            "n": self.spec.n,
            "count": self.count,
            "aggregation": self.spec.aggregation,
            "mean_of": list(self.spec.mean_of),
            "benchmark": self.spec.benchmark,
            "subset": list(self.spec.subset),
            "source": self.source,
            "version": self.version,
            "protocol": self.protocol,
            "judge": None if self.judge is None else self.judge.model_dump(),
            "conflicts": list(self.conflicts),
        }


class Registry(Settings):
    """The whole file; every name that one part uses is defined in another."""

    sources: dict[str, Source]
    protocols: dict[str, Protocol]
    judges: dict[str, Judge] = {}
    tables: dict[str, Table]
    statements: tuple[Statement, ...]
    elsewhere: tuple[Elsewhere, ...]
    sokoban: Sokoban
    arms: dict[str, str] = {}
    """Row of each of our arms, from reproduce/arms.yaml; the file itself adds what is no arm."""

    @model_validator(mode="after")
    def _names_exist(self) -> Registry:
        for name, table in self.tables.items():
            _known(table.source, self.sources, f"{name}.source")
            for key, column in table.columns.items():
                if column.protocol:
                    _known(column.protocol, self.protocols, f"{name}.{key}.protocol")
                if column.judge:
                    _known(column.judge, self.judges, f"{name}.{key}.judge")
                if column.same_as:
                    self.column(column.same_as)
        for said in (*self.statements, *self.elsewhere):
            _known(said.source, self.sources, "source")
        for said in self.statements:
            for cell in (said.cell, *(said.minus or ()), *(said.above or ())):
                if cell:
                    self._parts(cell)
            if said.items:
                self.column(said.items)
        for other in self.elsewhere:
            self.column(other.column)
        self._parts(self.sokoban.cell)
        rows = {row for table in self.tables.values() for row in table.rows}
        for row in self.arms.values():
            _known(row, rows, "arms")
        return self

    def column(self, name: str) -> Column:
        """The column `table.column`. Raises ValueError for an unknown name."""
        table, _, column = name.partition(".")
        _known(table, self.tables, name)
        _known(column, self.tables[table].columns, name)
        return self.tables[table].columns[column]

    def _parts(self, cell: str) -> tuple[str, str, str]:
        table, row, column = (*cell.split("."), "", "")[:3]
        self.column(f"{table}.{column}")
        _known(row, self.tables[table].rows, cell)
        return table, row, column

    def cell(self, name: str) -> Cell:
        """The cell `table.row.column`. Raises UserError for an unknown name."""
        try:
            table, row, column = self._parts(name)
        except ValueError as e:
            raise UserError(f"published cell {name!r}: {e}") from None
        of = self.tables[table]
        values, spec, source = of.rows[row], of.columns[column], self.sources[of.source]
        at = list(of.columns).index(column)
        return Cell(
            table=table,
            row=row,
            column=column,
            value=values.values[at],
            count=values.counts[at] if values.counts else None,
            spec=spec,
            decimals=of.decimals,
            unit=of.unit,
            source=f"{source.title}, {of.where}",
            version=source.version,
            protocol=self._protocol(spec, values.role),
            judge=self.judges[spec.judge] if spec.judge else None,
            conflicts=self._conflicts(name, f"{table}.{column}", row),
        )

    def _protocol(self, spec: Column, role: Role) -> dict[str, Any]:
        if spec.protocol is None:
            return {}
        known = self.protocols[spec.protocol].model_dump(exclude_none=True)
        return known | ({"prompt": known["prompt"][role]} if "prompt" in known else {})

    def cells(self) -> list[Cell]:
        """All cells, in printed order."""
        return [
            self.cell(f"{t}.{r}.{c}") for t, table in self.tables.items() for r in table.rows for c in table.columns
        ]

    def _conflicts(self, cell: str, column: str, row: str) -> tuple[str, ...]:
        said = [s for s in self.statements if s.cell == cell or s.items == column or cell in (s.minus or s.above or ())]
        stated = [f"{self.sources[s.source].title}: {s.text}" for s in said if s.source not in ("v1", "v2")]
        stated += [f"{self.sources[s.source].title}: {s.text}" for s in said if s.items or s.above]
        others = [o for o in self.elsewhere if (o.column, o.row) == (column, row)]
        return (*self.column(column).notes, *stated, *(f"{self.sources[o.source].title}: {o.value}" for o in others))


def _known(name: str, known: Any, where: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: unknown name {name!r}; known: {', '.join(known)}")


def load(path: Path = REGISTRY_FILE) -> Registry:
    """Read and check a registry. Raises UserError naming the file, the key and what is wrong."""
    values = read_mapping(path)
    rows = {name: arm.paper_row for name, arm in load_arms().items() if arm.paper_row}
    arms = values.get("arms", {})
    return parse_settings(Registry, values | {"arms": rows | arms if isinstance(arms, dict) else arms}, str(path))


@cache
def registry() -> Registry:
    """The registry of this package."""
    return load()
