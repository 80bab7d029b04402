"""`lmmr1 publish`: a model card and a folder that is ready for the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from lmmr1.types import UserError

console = Console()
OptionalPath = Optional[Path]  # noqa: UP045  Typer reads it at run time


def publish(
    arm: Annotated[Path, typer.Argument(help="results/NAME/ARM", show_default=False)],
    seed: Annotated[Optional[int], typer.Option(help="Run of the arm (default: the first).")] = None,  # noqa: UP045
    repo: Annotated[Optional[str], typer.Option(help="owner/name on the Hub.")] = None,  # noqa: UP045
    out: Annotated[OptionalPath, typer.Option(help="Default: results/NAME/publish/ARM-SEED.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Upload; without it nothing leaves this machine.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A new repository is private without it.")] = False,
) -> None:
    """Write a checkpoint's model card (verdicts, protocol, recipe, model-index) and its folder; --push uploads it.

    The token is that of HF_TOKEN or `hf auth login`.
    """
    if push and not repo:
        raise UserError("--push: where to? give --repo owner/name")
    from reproduce import publish as work

    folder, published = work.prepare(arm, seed, repo, out)
    console.print(f"{folder}: {published.name}, {len(published.records)} results", soft_wrap=True, highlight=False)
    if push:
        console.print(f"uploaded: {work.push(folder, str(repo), not public)}", soft_wrap=True, highlight=False)
    else:
        console.print("nothing was uploaded; read README.md, then add --repo owner/name --push", soft_wrap=True)
