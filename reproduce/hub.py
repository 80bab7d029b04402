"""The authors' training sets from the Hub: JSONL in their message format and a tar archive of images."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from lmmr1.data import read_samples
from lmmr1.files import write
from lmmr1.rewards import VerifierPool
from lmmr1.types import UserError


def write_prompts(source: dict[str, Any], out: Path) -> None:
    """Fetch a data set, check it row by row and write our prompt format, with a card of what was kept and dropped.

    Args:
        source: `repo`, `file`, `images` (an archive or None) and `revision`, as in reproduce/stages.yaml.

    Raises:
        UserError: the Hub cannot be reached or has no such file, or no row is usable.
    """
    raw = _download(source, source["file"])
    images = out.parent / f"images_{out.stem}"
    if source["images"]:
        unpack(_download(source, source["images"]), images)
    convert(raw, images, out)


def convert(raw: Path, images: Path, out: Path) -> None:
    """Rewrite rows with image paths relative to `out`; rows that `read_samples` refuses are dropped and counted, and so
    are rows whose gold answer cannot be judged against (the released verifier pays 1.0 there for any answer).

    A row's image is looked for under `images` by the path in its message. Raises UserError where nothing is left.
    """
    kept: list[str] = []
    dropped: Counter[str] = Counter()
    candidate = out.with_name(out.name + ".row")
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(raw.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        candidate.write_text(_relocate(line, number, images, out.parent) + "\n", encoding="utf-8")
        try:
            read_samples(candidate)
        except UserError as e:
            dropped[str(e).partition(": ")[2].split(" ")[0] or "empty"] += 1
            continue
        kept.append(candidate.read_text(encoding="utf-8"))
    candidate.unlink(missing_ok=True)
    with VerifierPool() as verifier:
        usable = verifier.parses([json.loads(row)["answer"] for row in kept])
    dropped["gold_unparsable"] += usable.count(False)
    kept = [row for row, good in zip(kept, usable, strict=True) if good]
    if not kept:
        raise UserError(f"{raw}: no usable row; dropped by first word of the reason: {dict(+dropped)}")
    card = {"file": raw.name, "rows": len(kept), "dropped": dict(+dropped)}
    out.with_suffix(".card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write(out, "".join(kept), sealed=True)


def _relocate(line: str, number: int, images: Path, folder: Path) -> str:
    """The row with an id and with each image path made relative to `folder`; a bad row is returned as it is."""
    try:
        row = json.loads(line)
        messages = (
            json.loads(row["message"]) if isinstance(row.get("message"), str) else row.get("messages", row["message"])
        )
        for message in messages:
            for item in message["content"] if isinstance(message["content"], list) else []:
                if item.get("type") == "image":
                    inside = Path(str(item["image"]).removeprefix("file://").lstrip("/"))
                    item["image"] = os.path.relpath(images / inside, folder)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return line
    return json.dumps(
        {"id": str(row.get("id", number)), "messages": messages, "answer": row.get("answer", ""), "source": "hub"}
    )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive below `folder`. Raises UserError where a member would leave it, or is not a plain file."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    except (tarfile.FilterError, tarfile.ReadError) as e:
        raise UserError(f"{archive}: not unpacked, {e}") from None
    partial.rename(folder)


def _download(source: dict[str, Any], file: str) -> Path:
    try:
        return Path(hf_hub_download(source["repo"], file, repo_type="dataset", revision=source["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"{source['repo']}/{file}: cannot be fetched from the Hub ({reason}); check network, name or HF_HOME"
        ) from None
