"""Played levels as the page shows them: strips of pictures, redrawn from what the sample files say was played.

Shown are the same levels for every arm, evenly spaced over the level file, first seed, first repeat: not the best ones.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from evals.agents import football, sokoban
from evals.agents.football_field import picture
from evals.agents.sokoban_view import strip
from evals.records import Protocol, read_records
from evals.samples import GameRow, read_samples
from lmmr1.sokoban import Level
from lmmr1.types import UserError
from reports.answers import Limits
from reports.layout import Benchmark
from reports.samples import clean

PLAYED_RULE = (
    "The same levels for every arm, evenly spaced over the level file, of the first seed and repeat, not the best. "
    "The pictures are drawn again from the recorded moves; the models saw larger ones, and one at a time."
)

FRAMES, CELL, WIDTH = 8, 16, 120
"""Pictures in a strip; pixels of a Sokoban cell; pixels of a football picture."""

QUALITY = 60

TEXT = 200
"""Characters of an answer."""


def strips(scores: pd.DataFrame, agents: list[Benchmark], used: Limits) -> list[dict[str, Any]]:
    """Per agent benchmark its title and what is shown, arms in the order of the scores.

    scores: rows of `reports.cells.headline`. Fewer levels are shown where `strip_megabytes` would not do.
    Raises UserError on a missing or malformed sample file.
    """
    count = used.max_strips
    while count > 0:
        found = [{"title": b.title, "shown": list(_shown(scores, b, count))} for b in agents]
        size = sum(len(one["webp"]) for game in found for one in game["shown"])
        if size <= 1e6 * used.strip_megabytes:
            return [game for game in found if game["shown"]]
        count -= 1
    return []


def _shown(scores: pd.DataFrame, benchmark: Benchmark, count: int) -> Iterator[dict[str, Any]]:
    rows = scores[scores.benchmark == benchmark.name]
    for arm, of in rows.groupby("arm", sort=False):
        first = of.loc[of.seed.idxmin()]
        protocol = read_records(Path(first.record))[0].protocol
        if protocol.decoding.get("environment") not in ("sokoban", "field"):
            continue  # the real pitch cannot be redrawn here
        samples = [s for s in read_samples(Path(first.samples)) if isinstance(s, GameRow) and s.repeat == 0]
        for i in range(min(count, len(samples))):
            yield _one(str(arm), samples[i * len(samples) // min(count, len(samples))], protocol, first.samples)


def _one(arm: str, sample: GameRow, protocol: Protocol, where: str) -> dict[str, Any]:
    """One episode: picture, score and texts, clean but not yet HTML."""
    try:
        image, answer = _sheet(sample, protocol)
        level, score = sample.doc.id, sample.score
    except (KeyError, TypeError, ValueError, UserError) as e:
        raise UserError(f"{where}, doc_id {sample.doc_id}: cannot be redrawn ({e}); evaluate again") from None
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=2)
    return {
        "arm": arm,
        "level": clean(level, 60),
        "score": f"{score:.1f}",
        "note": clean(sample.note, 160),
        "answer": clean(answer, TEXT),
        "alt": f"level {clean(level, 60)} as played by {arm}",
        "width": image.width,
        "height": image.height,
        "webp": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }


def _sheet(sample: GameRow, protocol: Protocol) -> tuple[Image.Image, str]:
    """The strip and the text that is shown with it: the answer, or the moves of many answers."""
    if protocol.decoding["environment"] == "field":
        frames = football.replay(sample, protocol.decoding["seed"])
        return _film([picture(frames[i], WIDTH) for i in _spread(len(frames))]), sample.filtered_resps[0]
    answer = sample.response
    episode = sokoban.play_answer(Level.parse(sample.doc.level), protocol.prompt, answer)  # type: ignore[arg-type]
    return strip(episode.states, episode.parsed.actions, CELL, FRAMES, FRAMES), answer


def _spread(n: int) -> list[int]:
    """At most FRAMES positions of n, evenly spread, the first and the last always."""
    return sorted({round(i * (n - 1) / (FRAMES - 1)) for i in range(FRAMES)})


def _film(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size side by side."""
    wide, high = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (wide + 4) - 4, high), "white")
    for i, one in enumerate(pictures):
        sheet.paste(one, (i * (wide + 4), 0))
    return sheet
