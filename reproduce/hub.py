"""Training sets in the authors' message format or as plain questions, from the Hub or a local file.

Every row is checked before anything is trained on it, and a card says what was kept and what was dropped, with reasons.

A row is an object with `message` (a stringified list of chat messages; or `messages`, the list) or `question`, with
`answer` and, where the messages name none, its pictures in `image` or `images`. A file holds one row a line, or a list.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any
from urllib.parse import unquote

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from evals.protocols import read_system_prompt
from lmmr1.chat import (
    BadRow,
    answer_text,
    chat_messages,
    image_file,
    image_items,
    is_file,
    read_object,
    text_of,
    to_sample,
)
from lmmr1.data import rows_of
from lmmr1.files import seal
from lmmr1.hub_commits import resolve
from lmmr1.images import image_faults, image_size
from lmmr1.rewards import VerifierPool
from lmmr1.store import sha256_file, write_json
from lmmr1.types import Sample, UserError
from reproduce.archives import unpack

BATCH = 256
"""Rows whose images are decoded, and whose golds are judged, at once."""
EXAMPLES = 3
"""Dropped rows per reason that the card shows."""


@dataclass(frozen=True)
class PromptCheck:
    """Whether a prompt fits, by the processor of the checkpoint that will be trained on it."""

    processor: Any
    max_prompt_length: int

    def length(self, sample: Sample, where: str) -> int:
        """Tokens of the prompt, visual ones included. Raises BadRow where marks and images differ or it is too long."""
        text = self.processor.apply_chat_template(sample.messages, add_generation_prompt=True, tokenize=False)
        marks = text.count(self.processor.image_token)
        if marks != len(sample.images):
            raise BadRow("image_marks", f"{where}: {len(sample.images)} images but {marks} marks for them")
        tokens = len(self.processor.tokenizer(text)["input_ids"])
        tokens += sum(self._visual_tokens(image) - 1 for image in sample.images)
        if tokens > self.max_prompt_length:
            raise BadRow("too_long", f"{where}: prompt of {tokens} tokens, longer than {self.max_prompt_length}")
        return tokens

    def _visual_tokens(self, path: Path) -> int:
        of, (width, height) = self.processor.image_processor, image_size(path)
        return int(of.get_number_of_image_patches(height, width) // of.merge_size**2)


@dataclass
class Sieve:
    """Rows on their way to our prompt format, and the count of those that were dropped."""

    images: Path
    """Folder under which image paths are looked for."""
    folder: Path
    """Folder of the prompts; image paths become relative to it."""
    absolute: bool = False
    """Whether a row may name an image anywhere on this machine: the user's own data."""
    system: str | None = None
    """System message for rows without one."""
    check: PromptCheck | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    systems: Counter[str] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def take(self, lines: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
        """The rows in our format; those that cannot be used as they were meant are dropped."""
        read = list(filter(None, itertools.starmap(self._read, lines)))
        faults = image_faults(image for _, _, sample in read for image in sample.images)
        for where, row, sample in read:
            try:
                for image in (image for image in sample.images if image in faults):
                    raise BadRow(faults[image].reason, f"{where}: image {image} cannot be read ({faults[image]})")
                self._require_new(row, where)
                if self.check:
                    self.tokens.append(self.check.length(sample, where))
            except BadRow as e:
                self.drop(e.reason, str(e))
            else:
                yield row

    def _read(self, where: str, line: bytes) -> tuple[str, dict[str, Any], Sample] | None:
        """A row with its sample, before its images are looked at; None for one that was dropped."""
        try:
            row = self._convert(read_object(line, where), where)
            return where, row, to_sample(row, where, self.folder)
        except BadRow as e:
            return self.drop(e.reason, str(e))

    def drop(self, reason: str, text: str) -> None:
        """Count a row that is left out; the first of each reason are shown."""
        self.dropped[reason] += 1
        if len(self.examples.setdefault(reason, [])) < EXAMPLES:
            self.examples[reason].append(text[:300])

    def _convert(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        messages = chat_messages(row if "message" in row or "messages" in row else _asked(row, where), where)
        if self.system and not any(m["role"] == "system" for m in messages):
            messages = [{"role": "system", "content": self.system}, *messages]
        for item in (item for m in messages for item in image_items(m)):
            item["image"] = self._locate(str(item.get("image", "")), where)
        name, source = str(row.get("id", where.rsplit(" ", 1)[1])), str(row.get("source", "hub"))
        answer = row.get("answer")
        answer = answer_text(answer, where) if isinstance(answer, list) else answer
        return {"id": name, "messages": messages, "answer": answer, "source": source}

    def _locate(self, named: str, where: str) -> str:
        """An image's path relative to the prompts: as named, or without its first folders, under `images`."""
        if self.absolute and named.startswith(("/", "file://")) and is_file(own := image_file(named, self.images)):
            return os.path.relpath(own, self.folder)
        path = PurePosixPath(unquote(named) if named.startswith("file://") else named.replace("\\", "/"))
        parts = [part for part in path.parts if part not in ("/", ".", "file:")]
        if ".." in parts:
            raise BadRow("image_path", f"{where}: image path {named!r:.200} leads out of the folder of images")
        for start in range(len(parts)):
            if is_file(file := self.images.joinpath(*parts[start:])):
                return os.path.relpath(file, self.folder)
        raise BadRow("image", f"{where}: image {named!r:.200} is not among the images")

    def _require_new(self, row: dict[str, Any], where: str) -> None:
        """The same prompt with the same answer counts once; with another answer, one of the two is wrong."""
        asked = hashlib.sha256(json.dumps(row["messages"], sort_keys=True).encode()).digest()
        if asked in self._seen:
            raise BadRow("duplicate", f"{where}: the same prompt stood in an earlier row")
        self._seen.add(asked)


def write_prompts(source: dict[str, Any], out: Path, check: PromptCheck | None = None, gold: bool = True) -> None:
    """Get a data set, check it row by row and write our prompt format, with a card beside it.

    Args:
        source: `repo`, `file`, `images` and `revision`, as in reproduce/stages.yaml; without `repo` all is local. The
            card names the commit that the revision stood for.
        out: the JSONL file; images of an archive go to `images_STEM/` beside it.
        check: which prompts fit; None: not checked.
        gold: whether answers must be such that the verifier can judge against them.

    Raises:
        UserError: the Hub or a local file is not there, an archive is not what it should be, or no row is usable.
    """
    source = _at_commit(source)
    raw = _fetch(source, source["file"])
    out.parent.mkdir(parents=True, exist_ok=True)
    images = _images(source, raw, out)
    system = read_system_prompt(Path(source["system_prompt_file"])) if source.get("system_prompt_file") else None
    sieve = Sieve(images, out.parent, source.get("repo") is None, system, check)
    partial, rows = out.with_name(out.name + ".partial"), 0
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for row in _with_gold(_taken(raw, sieve), sieve) if gold else _taken(raw, sieve):
            file.write(json.dumps(row, ensure_ascii=True) + "\n")
            sieve.systems.update(text_of(m) for m in row["messages"] if m["role"] == "system")
            rows += 1
    if not rows:
        partial.unlink()
        raise UserError(f"{raw}: no usable row; dropped: {dict(sieve.dropped)}; first of each: {sieve.examples}")
    card = out.with_suffix(".card.json")
    write_json(card, _card(source, raw, rows, sieve))
    os.replace(partial, out)
    seal(out, [card])  # what the card says of the data goes into the manifests of what is trained on them


def _taken(raw: Path, sieve: Sieve) -> Iterator[dict[str, Any]]:
    lines = rows_of(raw)
    while batch := list(itertools.islice(lines, BATCH)):
        yield from sieve.take(batch)


def _with_gold(rows: Iterable[dict[str, Any]], sieve: Sieve) -> Iterator[dict[str, Any]]:
    """Rows whose answer can be judged against; the released verifier pays 1.0 for any answer to the others."""
    rows = iter(rows)
    with VerifierPool() as verifier:
        while batch := list(itertools.islice(rows, BATCH)):
            usable = verifier.parses([str(row["answer"]) for row in batch])
            for row, good in zip(batch, usable, strict=True):
                if good:
                    yield row
                else:
                    sieve.drop("gold_unparsable", f"row {row['id']}: answer {row['answer']!r:.200}")


def _card(source: dict[str, Any], raw: Path, rows: int, sieve: Sieve) -> dict[str, Any]:
    """What became of the data set."""
    of = {k: source.get(k) for k in ("repo", "revision", "asked", "file", "images") if source.get(k)}
    systems = [
        {"sha256": hashlib.sha256(text.encode()).hexdigest()[:16], "characters": len(text), "rows": n}
        for text, n in sieve.systems.most_common(5)
    ]
    card = {"source": of, "sha256": sha256_file(raw), "read": rows + sieve.dropped.total(), "rows": rows}
    card |= {"dropped": dict(sieve.dropped), "dropped_examples": sieve.examples, "system_prompts": systems}
    if sieve.check and sieve.tokens:
        spread = {"min": min(sieve.tokens), "mean": round(fmean(sieve.tokens), 1), "max": max(sieve.tokens)}
        card["prompt_tokens"] = spread | {"limit": sieve.check.max_prompt_length}
    return card


def _asked(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A plain row as a chat; its images stay in their column."""
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRow("bad_message", f"{where}: neither `message` nor `question`")
    return {**row, "messages": [{"role": "user", "content": [{"type": "text", "text": question}]}]}


def _at_commit(source: dict[str, Any]) -> dict[str, Any]:
    """The source with the commit as its revision, and what was asked for: rows and images are of the same one."""
    if source.get("repo") is None:
        return source
    asked = source["revision"]
    commit = resolve(source["repo"], asked, "dataset")
    return source | {"revision": commit, "asked": asked if asked != commit else None}


def _images(source: dict[str, Any], raw: Path, out: Path) -> Path:
    """The folder of images: unpacked from the archive, given, or that of a local data file."""
    if not source.get("images"):
        return raw.parent if source.get("repo") is None else out.parent / f"images_{out.stem}"
    path = _fetch(source, source["images"])
    if path.is_dir():
        return path
    folder = out.parent / f"images_{out.stem}"
    unpack(path, folder)
    return folder


def _fetch(source: dict[str, Any], file: str) -> Path:
    """A local path, or the path of a file in the Hub's cache, fetched if need be."""
    if source.get("repo") is None:
        if not Path(file).exists():
            raise UserError(f"{file}: no such data file; give the path from the folder of the Snakefile, or whole")
        return Path(file).absolute()
    try:
        return Path(hf_hub_download(source["repo"], file, repo_type="dataset", revision=source["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"{source['repo']}/{file}: cannot be fetched from the Hub ({reason}); check network, name or HF_HOME"
        ) from None
