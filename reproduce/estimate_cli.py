"""`lmmr1 estimate`: what a profile costs before it is run."""

from __future__ import annotations

import json
from typing import Annotated, Optional

import typer
from rich.console import Console

Tokens = Optional[int]  # noqa: UP045  Typer reads it at run time


def estimate(
    profile: Annotated[str, typer.Option(help="A file of config/profiles/.")] = "micro",
    recipe: Annotated[str | None, typer.Option(help="A file of reproduce/recipes/ (default: the profile's).")] = None,
    gpu: Annotated[Optional[str], typer.Option(help="h100, h200, a100, a100-40gb, l40s, rtx4090, cpu, ...")] = None,  # noqa: UP045
    gpus: Annotated[Tokens, typer.Option(min=1, help="How many (default: the profile's).")] = None,
    prompt_tokens: Annotated[Tokens, typer.Option(min=1, help="Mean prompt, image included.")] = None,
    image_tokens: Annotated[Tokens, typer.Option(min=0, help="Visual tokens of a prompt.")] = None,
    completion_tokens: Annotated[Tokens, typer.Option(min=1, help="Mean answer.")] = None,
    protocol: Annotated[Optional[str], typer.Option(help="Of the evaluations (default: the profile's).")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="For programs; the keys are in docs/estimate.md.")] = False,
) -> None:
    """Time, GPU memory, disk, judge calls and statistical power of a profile, before anything is spent."""
    from reproduce.budget import show
    from reproduce.budget.estimate import Request
    from reproduce.budget.estimate import estimate as compute
    from reproduce.plan import Plan

    request = Request(gpu, gpus, prompt_tokens, image_tokens, completion_tokens, protocol)
    chosen = {"profile": profile} | ({"recipe": recipe} if recipe else {})
    found = compute(Plan.load(chosen), request)
    if as_json:
        print(json.dumps(show.as_json(found), indent=1))
    else:
        show.show(found, Console())
