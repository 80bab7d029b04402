"""`lmmr1 recipes`: what differs between two recipes, arm by arm, as it would be trained."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reproduce.plan import Plan

ABSENT = "-"


def differences(arm: str, left: Plan, right: Plan) -> list[tuple[str, Any, Any]]:
    """(setting, its value in `left`, in `right`) of one arm."""
    sides = [flat(plan.train_config(arm, plan.seeds[0])) for plan in (left, right)]
    rows = [(key, *(side.get(key, ABSENT) for side in sides)) for key in dict.fromkeys([*sides[0], *sides[1]])]
    return [row for row in rows if row[1] != row[2]]


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
    """Show what two recipes train differently, arm by arm."""
    plans = [Plan.load({"profile": profile, "recipe": name}) for name in (left, right)]
    table = Table("arm", "setting", left, right, box=None, padding=(0, 1))
    for arm in plans[0].trained:
        for at, (key, *values) in enumerate(differences(arm, *plans)):
            table.add_row("" if at else arm, key, *map(str, values))
    Console().print(table)
