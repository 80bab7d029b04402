"""Files of the micro world: benchmarks as lm-eval and VLMEvalKit read them, prompts as the RL stages read them.

Every file is written under a temporary name and renamed, is the same byte for byte for the same arguments, and has a
seal (lmmr1/files.py); the images of prompts are in the seal of their file.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from pathlib import Path

from lmmr1.files import seal, write
from reproduce.micro.world import BENCHMARKS, TEXT_TASKS, Item, category, draw_benchmark, draw_mix, key, render, split

# Test drawings and training drawings come from different streams of random numbers.
TEST_DRAWINGS, TRAIN_DRAWINGS = "test", "train"
_COLUMNS = ("index", "image", "question", "answer", "category")


def png(item: Item, seed: str) -> bytes:
    image = render(item, seed)
    if image is None:
        raise ValueError(f"{item.task} problems have no image")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_benchmark(name: str, n: int, seed: int, out: Path) -> None:
    """`n` test problems: JSONL for a text benchmark, VLMEvalKit's TSV for an image benchmark."""
    items = draw_benchmark(name, n, seed)
    if name.removeprefix("micro_") in TEXT_TASKS:
        rows = [
            {"id": f"{name}-{i}", "question": item.text, "answer": item.answer, "category": category(item)}
            for i, item in enumerate(items)
        ]
        write(Path(out), _jsonl(rows), sealed=True)
        return
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for i, item in enumerate(items):
        image = base64.b64encode(png(item, f"{TEST_DRAWINGS}-{seed}-{i}")).decode()
        writer.writerow([i, image, item.text, item.answer, category(item)])
    write(Path(out), buffer.getvalue(), sealed=True)


def _prompt_row(item: Item, i: int, seed: int, folder: Path) -> dict:
    """One RL prompt; its image, if any, is saved into `folder` and comes before the text."""
    content: list[dict] = []
    if item.cells:
        file = folder / f"{i:05d}.png"
        write(file, png(item, f"{TRAIN_DRAWINGS}-{seed}-{i}"))
        content.append({"type": "image", "image": f"{folder.name}/{file.name}"})
    content.append({"type": "text", "text": item.text})
    messages = [{"role": "user", "content": content}]
    return {"id": f"{item.task}-{i}", "messages": messages, "answer": item.answer, "source": item.task}


def prompts_card(items: list[Item], weights: dict[str, float], seed: int) -> dict:
    """What the prompts are made of. The overlap is measured: prompts of the test split, or of a drawn benchmark."""
    keys = {key(item) for item in items}
    benchmark_keys = {key(item) for name in BENCHMARKS for item in draw_benchmark(name, 500, 0)}
    overlap = {k for k in keys if split(k) == "test"} | (keys & benchmark_keys)
    return {
        "rows": len(items),
        "seed": seed,
        "weights": weights,
        "counts": dict(sorted(Counter(item.task for item in items).items())),
        "phrases": dict(sorted(Counter(item.phrase for item in items).items())),
        "distinct_keys": len(keys),
        "overlap_with_benchmarks": len(overlap),
    }


def write_prompts(weights: dict[str, float], n: int, seed: int, out: Path) -> None:
    """`n` training prompts as JSONL, images in `images_<stem>` beside it (relative paths), and `<stem>.card.json`."""
    out = Path(out)
    items = draw_mix(weights, n, seed)
    card = prompts_card(items, weights, seed)
    folder = out.parent / f"images_{out.stem}"
    rows = [_prompt_row(item, i, seed, folder) for i, item in enumerate(items)]
    write(out.with_suffix(".card.json"), json.dumps(card, indent=1, sort_keys=True) + "\n")
    write(out, _jsonl(rows))
    parts = [part for row in rows for part in row["messages"][0]["content"]]
    seal(out, [out.parent / part["image"] for part in parts if part["type"] == "image"])
