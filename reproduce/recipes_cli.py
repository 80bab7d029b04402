"""`lmmr1 recipes`: what differs between two recipes, arm by arm, as it would be trained."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reproduce.plan import Plan

ABSENT = "-"


def differences(arm: str, left: Plan, right: Plan) -> list[tuple[str, Any, Any, str]]:
    """(setting, its value in `left`, in `right`, what the authors' script has where `right` cannot) of one arm."""
    sides = [flat(plan.train_config(arm, plan.seeds[0])) for plan in (left, right)]
    unbuilt = right.recipe.arms[arm].unbuilt if right.recipe and arm in right.recipe.arms else {}
    keys = dict.fromkeys([*sides[0], *sides[1]])
    return [
        (key, *(side.get(key, ABSENT) for side in sides), f"{u.released}: {u.why}" if (u := unbuilt.get(key)) else "")
        for key in keys
        if sides[0].get(key, ABSENT) != sides[1].get(key, ABSENT) or key in unbuilt
    ]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"loss.beta": 0.0, ...}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def recipes(
    profile: Annotated[str, typer.Option(help="Whose settings stand over both.")] = "paper",
    left: Annotated[str, typer.Option(help="A file of reproduce/recipes/.")] = "controlled",
    right: Annotated[str, typer.Option(help="The other one.")] = "as_released",
) -> None:
    """Show what two recipes train differently, arm by arm, with what stands in for settings that are not built."""
    plans = [Plan.load({"profile": profile, "recipe": name, "replace_unbuilt": True}) for name in (left, right)]
    table = Table("arm", "setting", left, right, "not built", box=None, padding=(0, 1))
    for arm in plans[0].trained:
        for at, (key, *values, unbuilt) in enumerate(differences(arm, *plans)):
            table.add_row("" if at else arm, key, *map(str, values), unbuilt)
    Console().print(table)
