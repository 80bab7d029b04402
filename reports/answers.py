"""The data of the page's browser of sample answers: which are taken, and how they are packed.

Taken are the answers of every arm's first seed to the same items, an equal share of every benchmark, evenly spaced over
its file; how many is said in config/report.yaml. All text passes `reports.samples.clean`; the page shows it as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from evals.samples import SampleRow, read_samples
from lmmr1.config import Settings, parse_settings, read_mapping
from reports.embed import packed
from reports.images import Thumbnail, thumbnails
from reports.layout import Benchmark, arm_style, arm_title
from reports.samples import clean

CONFIG_FILE = Path(__file__).parent.parent / "config/report.yaml"


class Limits(Settings):
    """The comments in `config/report.yaml` explain the keys."""

    max_answers: int = Field(10_000, gt=0)
    max_megabytes: float = Field(18, gt=0)
    max_characters: int = Field(4000, ge=100)
    image_pixels: int = Field(320, ge=16)
    max_strips: int = Field(3, ge=0)
    strip_megabytes: float = Field(2, ge=0)


def load_limits(path: Path = CONFIG_FILE) -> Limits:
    """Read a file of limits. Raises UserError naming the file and the key."""
    return parse_settings(Limits, read_mapping(path), str(path))


@cache
def limits() -> Limits:
    """The limits of this package."""
    return load_limits()


@dataclass(frozen=True, slots=True)
class Embedded:
    """What goes into the page."""

    data: str
    """`reports.embed.packed` of the columns that `_columns` describes."""
    images: list[list[Any]]
    """[width, height, base64 of a WebP file] each; the data name them by position."""
    answers: int
    """Taken."""
    available: int
    """Of all first seeds."""
    rule: str
    """One sentence on which were taken."""

    @property
    def bytes(self) -> int:
        """About how many bytes of the page this is."""
        return len(self.data) + sum(len(image[2]) + 16 for image in self.images)


Samples = dict[tuple[str, str], dict[str, SampleRow]]
"""(arm, benchmark) -> {doc_id: row}, in file order."""


def embed(scores: pd.DataFrame, benchmarks: list[Benchmark], files: list[Path], used: Limits) -> Embedded:
    """Choose and pack. scores: rows of `reports.cells.headline`; files: where images are (`reports.images`).

    Takes fewer items than `max_answers` allows where those would need more than `max_megabytes`.
    Raises UserError on a missing or malformed sample file.
    """
    samples = first_answers(scores)
    sizes = {b.name: len(next(rows for (_, name), rows in samples.items() if name == b.name)) for b in benchmarks}
    arms = len({arm for arm, _ in samples})
    cache: dict[str, Thumbnail] = {}
    items = max(used.max_answers // arms, len(benchmarks))
    while True:
        chosen = dict(_chosen(samples, shares(sizes, items)))
        _add_images(cache, chosen, samples, files, used.image_pixels)
        found = _embedded(samples, chosen, cache, used, cut=used.max_answers // arms > items)
        if found.bytes <= 1e6 * used.max_megabytes or items <= len(benchmarks):
            return found
        items = max(int(0.95 * min(items, sum(sizes.values())) * 1e6 * used.max_megabytes / found.bytes), 1)
        items = max(items, len(benchmarks))


def first_answers(scores: pd.DataFrame) -> Samples:
    """The samples of every arm's first seed. Raises UserError on a missing or malformed file."""
    first = scores[scores.seed == scores.groupby("arm").seed.transform("min")]
    return {
        (row.arm, row.benchmark): {str(s.doc_id): s for s in read_samples(Path(row.samples))}
        for row in first.itertuples()
    }


def shares(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Items of each benchmark: an equal share of `total`; what a small one leaves goes to the larger ones.

    >>> shares({"a": 500, "b": 10, "c": 500}, 210)
    {'a': 100, 'b': 10, 'c': 100}
    """
    left, taken = total, {}
    for at, name in enumerate(sorted(sizes, key=lambda n: (sizes[n], n))):
        taken[name] = min(sizes[name], left // (len(sizes) - at))
        left -= taken[name]
    return {name: taken[name] for name in sizes}


def _chosen(samples: Samples, take: dict[str, int]) -> Iterator[tuple[str, list[str]]]:
    """(benchmark, ids), evenly spaced over the file of the first arm that has it."""
    for benchmark, count in take.items():
        ids = next(list(rows) for (_, name), rows in samples.items() if name == benchmark)
        yield benchmark, [ids[i * len(ids) // count] for i in range(count)]


def _add_images(
    cache: dict[str, Thumbnail], chosen: dict[str, list[str]], samples: Samples, files: list[Path], pixels: int
) -> None:
    """Make the thumbnails that `cache` lacks."""
    wanted = {
        digest
        for (_, benchmark), rows in samples.items()
        for item in chosen[benchmark]
        if item in rows and (digest := rows[item].doc.image_sha256)
    }
    if missing := wanted - set(cache):
        cache.update(thumbnails(files, missing, pixels))


class _Texts:
    """Each text once; others name it by its position."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self.at.setdefault(text, len(self.at))


def _embedded(
    samples: Samples, chosen: dict[str, list[str]], images: dict[str, Thumbnail], used: Limits, cut: bool
) -> Embedded:
    data, shown = _columns(samples, chosen, images, used)
    taken, available = len(data["answers"]["item"]), sum(map(len, samples.values()))
    rule = f"All {available:,} answers of each arm's first seed."
    if taken < available:
        why = f"{used.max_megabytes:g} MB" if cut else f"{used.max_answers:,} answers"
        rule = (
            f"{taken:,} of the {available:,} answers of each arm's first seed: the same items for every arm, an equal "
            f"share of every benchmark, evenly spaced over its file, up to {why} (config/report.yaml)."
        )
    rows = [[images[k].width, images[k].height, images[k].webp] for k in shown]
    return Embedded(packed(data), rows, taken, available, rule)


def _columns(
    samples: Samples, chosen: dict[str, list[str]], images: dict[str, Thumbnail], used: Limits
) -> tuple[dict[str, Any], list[str]]:
    """The packed data, column by column, and the hashes of the images in the order that they are named.

    `items`: benchmark, id, question, gold, category, image (-1: none); `answers`: item, arm, right, text, notes.
    question, gold, text and notes are positions in `texts`.
    """
    arms = list(dict.fromkeys(arm for arm, _ in samples))
    texts, shown = _Texts(), _Texts()
    items: dict[str, list[Any]] = {k: [] for k in ("benchmark", "id", "question", "gold", "category", "image")}
    answers: dict[str, list[int]] = {k: [] for k in ("item", "arm", "right", "text", "notes")}
    for at, (benchmark, ids) in enumerate(chosen.items()):
        for item in ids:
            of = [(i, samples[arm, benchmark].get(item)) for i, arm in enumerate(arms) if (arm, benchmark) in samples]
            first = next(sample for _, sample in of if sample is not None)
            image = first.doc.image_sha256
            values = (at, clean(item, 80), *_question(first, texts, used), shown.add(image) if image in images else -1)
            for column, value in zip(items.values(), values, strict=True):
                column.append(value)
            for arm_at, sample in of:
                if sample is not None:
                    row = (len(items["id"]) - 1, arm_at, *_answer(sample, texts, used))
                    for column, value in zip(answers.values(), row, strict=True):
                        column.append(value)
    data = {
        "arms": [[arm, arm_title(arm), arm_style(arm, arms)[0]] for arm in arms],
        "benchmarks": list(chosen),
        "texts": list(texts.at),
        "items": items,
        "answers": answers,
    }
    return data, list(shown.at)


def _question(sample: SampleRow, texts: _Texts, used: Limits) -> tuple[int, int, str]:
    """Question, gold, category."""
    options = [f"\n({chr(65 + i)}) {c}" for i, c in enumerate(sample.doc.choices)]
    question = clean(sample.doc.question + "".join(options), used.max_characters)
    gold = clean(sample.target, 400)
    return texts.add(question), texts.add(gold), clean(sample.category, 80)


def _answer(sample: SampleRow, texts: _Texts, used: Limits) -> tuple[int, int, int]:
    """Right (0 or 1), text, notes."""
    notes = [f"{sample.length} tokens"] if sample.length else []
    notes += [clean(text, 60) for text in (sample.note, sample.finish) if text]
    text = clean(sample.response, used.max_characters)
    return int(sample.accuracy == 1), texts.add(text), texts.add(" · ".join(notes))
