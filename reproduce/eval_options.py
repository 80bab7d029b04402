"""Options that `lmmr1 eval` and `lmmr1 check` share, declared once: the same name means the same in both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from evals.protocols import Role
from lmmr1.types import UserError

# Typer reads these at run time, when `X | None` inside Annotated is not yet known to it under Python 3.11
Protocol = Annotated[Optional[str], typer.Option(help="rule, paper or vlmevalkit: docs/protocols.md.")]  # noqa: UP045
Prompt = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="none, direct, cot, r1, paper, training; of agents tags, sections, brief."),
]
AskedRole = Annotated[
    Optional[Role],  # noqa: UP045
    typer.Option(help="Whose prompt of the protocol applies: baseline or trained."),
]
SystemPromptFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="The paper's prompt, or data with it."),
]
Limit = Annotated[Optional[int], typer.Option(min=1, help="First N problems of each benchmark.")]  # noqa: UP045
DataRoot = Annotated[Optional[Path], typer.Option(help="Read local files instead of the Hub.")]  # noqa: UP045
Levels = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder with the levels of agents (default: --data-root)."),
]
AnyData = Annotated[bool, typer.Option("--any-data", help="Also files that are not the pinned ones.")]
JudgeUrl = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(envvar="LMMR1_JUDGE_URL", help="OpenAI-compatible server, e.g. http://localhost:8000/v1."),
]
JudgeModel = Annotated[Optional[str], typer.Option(help="Instead of the protocol's judge.")]  # noqa: UP045


def benchmark_names(text: str) -> list[str]:
    """The names in the value of --benchmarks. Raises UserError where it names none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--benchmarks {text!r}: names no benchmark")
    return names
