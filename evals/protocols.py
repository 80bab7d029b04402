"""Protocols as data: `protocols.yaml`, checked. Imports nothing heavy: the command line reads it at every start."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evals.registry import Benchmark, registry
from lmmr1.config import Settings, parse_settings, read_mapping
from lmmr1.lines import text_of_file
from lmmr1.types import UserError

PROTOCOLS_FILE = Path(__file__).with_name("protocols.yaml")
DEFAULT_PROTOCOL = "rule"
MAX_PROMPT_CHARS = 20_000
"""A longer system prompt is a wrong file."""

TRAINING_DATA = ("VLM-Reasoner/deepscaler", "deepscaler_message.jsonl")
"""The paper's text training data on the Hub; its rows carry the system prompt that the paper trained with."""

Place = Literal["nowhere", "system", "end"]
Role = Literal["baseline", "trained"]
ROLES: tuple[Role, ...] = ("baseline", "trained")
"""Whom a protocol may ask in words of its own: the model that training starts from, and what was trained."""

READ = ("paper", "training")
"""Styles without a text in `protocols.yaml`: the paper's system prompt, and the one that the arm was trained with."""


class Prompt(Settings):
    """A prompt style: a text and where it goes."""

    place: Place
    text: str = ""

    @property
    def sha256(self) -> str:
        """16 hex digits over place and text."""
        return hashlib.sha256(f"{self.place}\n{self.text}".encode()).hexdigest()[:16]

    @property
    def system(self) -> str | None:
        """The system message, if this style is one."""
        return self.text if self.place == "system" else None

    @property
    def ending(self) -> str:
        """What follows the harness's prompt."""
        return f"\n\n{self.text}" if self.place == "end" else ""


class Half(Settings):
    """What a protocol says of text benchmarks, or of those with images."""

    prompt: dict[Role, str]
    """Style for each role; in the file one name for both."""
    tasks: Literal["own", "stock"] = "own"
    max_new_tokens: int | None = Field(None, gt=0)
    repetition_penalty: float = Field(1.0, gt=0)

    @field_validator("prompt", mode="before")
    @classmethod
    def _for_both(cls, value: Any) -> Any:
        return dict.fromkeys(ROLES, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _all_roles(self) -> Half:
        if lacking := [role for role in ROLES if role not in self.prompt]:
            raise ValueError(f"`prompt` has no style for role {lacking[0]}")
        return self

    @property
    def styles(self) -> frozenset[str]:
        """All styles that this half may ask in; where no training prompt is known, the baseline's stands for it."""
        return frozenset(self.prompt.values())


class JudgeCall(Settings):
    """One kind of question to the judge."""

    temperature: float = Field(ge=0)
    max_tokens: int = Field(gt=0)
    tries: int = Field(gt=0)
    """Requests until a reply can be read; each has a seed of its own."""
    options: tuple[str, ...] = ()
    """The only replies that the server may decode, where it can be told so (vLLM's guided decoding)."""


class JudgeSettings(Settings):
    """A judge model and how it is asked."""

    model: str
    seed: int
    extract: JudgeCall
    compare: JudgeCall
    option: JudgeCall


class ProtocolSettings(Settings):
    """One protocol; the comments at the top of `protocols.yaml` explain the keys."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    summary: str
    text: Half
    multimodal: Half
    images: Literal["harness", "marks"]
    min_pixels: int | None = Field(None, gt=0)
    max_pixels: int | None = Field(None, gt=0)
    scoring: Literal["rule", "paper", "harness"]
    judge: JudgeSettings | None
    macro: tuple[str, ...]

    def half(self, benchmark: Benchmark) -> Half:
        """The part that applies to `benchmark`."""
        return self.text if benchmark.kind == "text" else self.multimodal

    def judged(self, benchmark: Benchmark) -> bool:
        """True where this protocol asks a judge about `benchmark`: never for text, nor where the tools have rules."""
        return self.judge is not None and benchmark.dataset in ("mathvision", "mathverse", "mmstar", "mathvista")

    def judge_calls(self, benchmark: Benchmark) -> dict[str, Any] | None:
        """Model, seed and the kinds of question that the judge is asked about `benchmark`; None where none is asked."""
        if self.judge is None or not self.judged(benchmark):
            return None
        settings = self.judge.model_dump(mode="json")
        used = {"mmstar": ("option",), "mathverse": ("extract", "compare")}.get(benchmark.dataset, ("extract",))
        return {key: settings[key] for key in ("model", "seed", *used)}

    def aggregation(self, benchmark: Benchmark) -> Literal["macro", "mean"]:
        """How the headline is formed: over categories, or over problems."""
        return "macro" if benchmark.name in self.macro else "mean"


class _File(Settings):
    prompts: dict[str, Prompt]
    protocols: dict[str, dict[str, Any]]


def load_protocols(path: Path = PROTOCOLS_FILE) -> tuple[dict[str, Prompt], dict[str, ProtocolSettings]]:
    """Prompt styles and protocols by name. Raises UserError on a missing file, bad YAML, unknown keys or bad values."""
    file = parse_settings(_File, read_mapping(path), str(path))
    protocols = {
        name: parse_settings(ProtocolSettings, {**values, "name": name}, f"{path}: protocol {name!r}")
        for name, values in file.protocols.items()
    }
    for name, protocol in protocols.items():
        for style in sorted(protocol.text.styles | protocol.multimodal.styles):
            if style not in file.prompts:
                raise UserError(
                    f"{path}: protocol {name!r}: prompt style {style!r} is none of {', '.join(file.prompts)}"
                )
        if protocol.scoring == "paper" and protocol.judge is None:
            raise UserError(f"{path}: protocol {name!r}: scoring `paper` needs a judge")
    return file.prompts, protocols


@cache
def _known() -> tuple[dict[str, Prompt], dict[str, ProtocolSettings]]:
    return load_protocols()


def prompt_styles() -> dict[str, Prompt]:
    """The prompt styles of this package."""
    return _known()[0]


def find_protocol(name: str) -> ProtocolSettings:
    """The protocol called `name`. Raises UserError that lists the known ones."""
    known = _known()[1]
    if name not in known:
        raise UserError(f"--protocol: {name!r} is not known; known: {', '.join(known)}")
    return known[name]


def choose_style(
    protocol: ProtocolSettings,
    benchmark: Benchmark,
    style: str | None = None,
    role: Role = "trained",
    training_prompt: str | None = None,
) -> str:
    """Name of the prompt style for one benchmark: --prompt, else the benchmark's own, else the protocol's.

    training_prompt: what the checkpoint was trained with, where that is known. A protocol that asks for it falls back
    on the baseline's style without one. Raises UserError for an unknown style, and for `training` without a text.
    """
    of = protocol.half(benchmark).prompt
    name = style or benchmark.prompt or of[role]
    if name not in prompt_styles():
        raise UserError(f"--prompt: {name!r} is not known; known: {', '.join(prompt_styles())}")
    if name != "training" or training_prompt is not None:
        return name
    if style:
        raise UserError(
            "--prompt training: the checkpoint's manifest names no system prompt that it was trained with; "
            "evaluate an arm of a run, or give the text with --prompt paper --system-prompt-file FILE"
        )
    return of["baseline"]


def choose_prompt(
    protocol: ProtocolSettings,
    benchmark: Benchmark,
    style: str | None = None,
    system_prompt_file: Path | None = None,
    role: Role = "trained",
    training_prompt: str | None = None,
) -> tuple[str, Prompt]:
    """Name (see `choose_style`) and text of the prompt. Raises UserError as that does, or where its text cannot be
    read."""
    name = choose_style(protocol, benchmark, style, role, training_prompt)
    if name == "training":
        return name, Prompt(place="system", text=training_prompt or "")
    if name != "paper":
        return name, prompt_styles()[name]
    return name, Prompt(place="system", text=read_system_prompt(system_prompt_file or _training_data()))


def prompts_may_differ(protocol: str, task: str) -> frozenset[str]:
    """The styles in which a protocol asks about a benchmark: answers in any of them may stand in one table.

    One style at most where the protocol or the benchmark is not known here.
    """
    known, benchmarks = _known()[1], registry()
    if protocol not in known or task not in benchmarks or benchmarks[task].prompt:
        return frozenset()
    return known[protocol].half(benchmarks[task]).styles


def read_system_prompt(path: Path) -> str:
    """The system prompt in a text file, or the first one among the rows of training data (.jsonl).

    Raises UserError where the file is missing, not UTF-8, has none, or one that is too long to be one.
    """
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                text = _first_system_message(path, islice(file, 100))
        else:
            text = text_of_file(path).strip()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give the paper's system prompt as a file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 (byte {e.start}); save the system prompt as UTF-8") from None
    if not 0 < len(text) <= MAX_PROMPT_CHARS:
        raise UserError(f"{path}: {len(text)} characters, expected a system prompt of 1 to {MAX_PROMPT_CHARS}")
    return text


def _first_system_message(path: Path, lines: Any) -> str:
    for number, line in enumerate(lines, start=1):
        try:
            messages = json.loads(line)["message"]
            messages = _literal(messages) if isinstance(messages, str) else messages
            found = [m["content"] for m in messages if m["role"] == "system"]
        except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
            raise UserError(f"{path}, line {number}: expected a row with chat messages under `message`") from None
        for content in found:
            parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
            return "".join(parts).strip()
    raise UserError(f"{path}: no system message in its first rows; give the prompt with --system-prompt-file")


def _literal(text: str) -> Any:
    """A stringified list of messages, as JSON or as a Python literal; never evaluated."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def _training_data() -> Path:
    import huggingface_hub

    repository, name = TRAINING_DATA
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, repo_type="dataset"))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"the paper's system prompt stands in {repository} ({name}), which cannot be loaded ({reason}): "
            "connect to the network, give it with --system-prompt-file, or choose another style with --prompt"
        ) from None
