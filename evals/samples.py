"""SampleRow: one answered item. All three harnesses and the importers make it; whatever reads answers reads it.

On disk it is a line of `samples.jsonl`, in lm-eval's field names. Nothing else knows a sample's keys by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lmmr1.files import verify, write
from lmmr1.types import UserError


class _Frozen(BaseModel):
    """No field that is not declared, no text for a number, no infinity; nothing changes after it was made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Doc(_Frozen):
    """What was asked, as the harness asked it."""

    id: str
    """The item's name in the benchmark."""
    question: str = ""
    category: str = ""
    choices: tuple[str, ...] = ()
    """Texts of the options A, B, ... in the order in which they were shown and scored."""
    image_sha256: str = ""
    """16 hex digits over the bytes of all images; empty without one."""
    level: str = ""
    """The level of a game, as text."""
    cells: dict[str, str | int | float | bool | None] = {}
    """Further columns of the data set that a scorer reads; an empty cell is None."""


class SampleRow(_Frozen):
    """One answer of one run to one item."""

    kind: Literal["answer"] = "answer"
    doc_id: int | str
    """Position in the benchmark's file; of an imported answer what its harness calls the item."""
    doc: Doc
    target: str
    """The right answer; of a choice the letter of the right option."""
    category: str = ""
    """The stratum of a macro average, e.g. one of MM-Star's 18 sub-categories."""
    subsets: tuple[str, ...] = ()
    cluster: str = ""
    """Items of one cluster are versions of one problem; empty: the item is its own."""
    prompt_hash: str = ""
    resps: tuple[tuple[str, ...], ...]
    """The responses, hostile by assumption; of a game one for each turn."""
    filtered_resps: tuple[str, ...] = ()
    """What was judged."""
    accuracy: float | None = Field(None, ge=0, le=1)
    """1 right, 0 wrong; None for an imported answer that nobody scored."""
    format: float = 0.0
    note: str = ""
    """Why the scorer said so."""
    length: int = 0
    """Tokens of the answer; 0 where the file does not say."""
    finish: str = ""
    """`stop`, or `length` where the answer was cut off; empty where the file does not say."""

    @property
    def response(self) -> str:
        """The (first) response."""
        return self.resps[0][0] if self.resps and self.resps[0] else ""

    @property
    def problem(self) -> str:
        """The sampling unit: the cluster, else the item itself."""
        return self.cluster or f"item {self.doc_id}"

    def value(self, metric: str) -> float:
        """What `metric` says of this answer: `accuracy`, or `score` of a game. Raises ValueError where it has none."""
        found = getattr(self, metric, None) if metric in ("accuracy", "score") else None
        if found is None:
            raise ValueError(f"item {self.doc.id!r} has no {metric}")
        return float(found)


class SokobanRow(SampleRow):
    """One episode of Sokoban."""

    kind: Literal["sokoban"] = "sokoban"  # type: ignore[assignment]
    repeat: int
    score: float
    """Points; 100 for the best possible play."""
    best_reward: float
    upper_reward: float
    steps: int
    dropped: int
    """Moves of the answer that were not played."""


class FootballRow(SampleRow):
    """One episode of football."""

    kind: Literal["football"] = "football"  # type: ignore[assignment]
    repeat: int
    score: float
    """Points."""
    parts: dict[str, float]
    """What the score is made of."""
    prompts_sha256: str
    """16 hex digits over the prompts of all turns."""
    turns: int
    lost_turns: int
    frames: int
    dropped: int
    failed: bool


GameRow = SokobanRow | FootballRow
_ROW: TypeAdapter[SampleRow] = TypeAdapter(
    Annotated[SampleRow | SokobanRow | FootballRow, Field(discriminator="kind")]  # type: ignore[arg-type]
)


def write_samples(path: Path, rows: Iterable[SampleRow]) -> None:
    """Write one row per line, ASCII, atomic (rename)."""
    write(path, "".join(line_of(row) + "\n" for row in rows))


def line_of(row: SampleRow) -> str:
    """A row as JSON; of `doc` what says something."""
    # pydantic's own writer refuses the lone surrogates that a model may emit
    return json.dumps(row.model_dump() | {"doc": row.doc.model_dump(exclude_defaults=True)}, ensure_ascii=True)


def parse(line: str | bytes, where: str) -> SampleRow:
    """A line of `samples.jsonl`. Raises UserError naming place, field and value."""
    try:
        return _ROW.validate_python(_tuples(json.loads(line)))
    except ValidationError as e:
        raise UserError(f"{where}: {_problem(e)}; run the evaluation again") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not a sample ({e}); delete the file and run the evaluation again") from None


def _problem(error: ValidationError) -> str:
    """Field, fault and value of the first fault. The file may be hostile: nothing of it is shown unescaped."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"`kind`: no kind of sample (got {first['input']['kind']!a:.60}); expected answer, sokoban or football"
    field = ".".join(str(part) for part in first["loc"][1:]) or "the line"  # [0] is the kind
    got = f" (got {first['input']!a:.60})" if first["type"] != "missing" else ""
    return f"`{ascii(field)[1:-1]:.60}`: {ascii(first['msg'])[1:-1]:.100}{got}"


def _tuples(row: Any) -> Any:
    """JSON has lists where the row has tuples; strict validation wants them named."""
    if isinstance(row, dict):
        row.setdefault("kind", "answer")
        for key in ("subsets", "filtered_resps", "resps"):
            if isinstance(row.get(key), list):
                row[key] = tuple(tuple(v) if isinstance(v, list) else v for v in row[key])
        if isinstance(row.get("doc"), dict) and isinstance(row["doc"].get("choices"), list):
            row["doc"]["choices"] = tuple(row["doc"]["choices"])
    return row


def read_samples(path: Path) -> Iterator[SampleRow]:
    """The rows of a `samples.jsonl`, read as they are asked for. Raises UserError naming file and line."""
    verify(path, f"delete {path.parent} and run the evaluation again")
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                yield parse(line, f"{path}, line {number}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the evaluation first") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text ({e.reason}); delete it and run the evaluation again") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a samples.jsonl of this suite") from None
