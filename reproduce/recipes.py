"""Recipes: how the arms of the real scale are trained, as data in reproduce/recipes/*.yaml, one visible diff each.

`controlled` gives all arms one set of settings, so that they differ in data and start alone. `as_released` gives every
arm what the authors' script for it says. A setting that this project does not build is named there with what stands in
for it, and nothing is replaced before the user has agreed to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from lmmr1.config import Settings, parse_settings, read_mapping
from lmmr1.types import UserError
from reproduce.profiles import merge, nearest


class Unbuilt(Settings):
    """A setting of the authors' script that this project does not have."""

    released: str
    here: str | int | float | bool
    """What trains in its place, once `replace_unbuilt` is given."""
    why: str


class ArmRecipe(Settings):
    """One arm's differences from the recipe's common settings."""

    script: str | None = None
    """The authors' script that says so; None where there is none."""
    train: dict[str, Any] = {}
    unbuilt: dict[str, Unbuilt] = {}
    """By key of the training settings."""


class Recipe(Settings):
    """Common training settings and what differs from arm to arm."""

    title: str
    train: dict[str, Any]
    arms: dict[str, ArmRecipe] = Field(default={})
    """Empty: all arms alike. Otherwise an arm that it does not name cannot be trained by this recipe."""

    def settings(self, name: str, arm: str, replace_unbuilt: bool) -> dict[str, Any]:
        """Training settings of an arm. Raises UserError for an arm that the recipe leaves out, or not wholly built."""
        if not self.arms:
            return self.train
        where = f"reproduce/recipes/{name}.yaml"
        if arm not in self.arms:
            raise UserError(f"{where}: says nothing about arm {arm}; leave it out of `arms`, or take another recipe")
        own = self.arms[arm]
        if own.unbuilt and not replace_unbuilt:
            missing = "; ".join(f"{k} {u.released} ({u.why}; in its place: {u.here})" for k, u in own.unbuilt.items())
            raise UserError(
                f"{where}, arm {arm}: the authors' script has what is not built here: {missing}; give --config "
                "replace_unbuilt=true to train it so, or leave the arm out of `arms`"
            )
        return merge(merge(self.train, own.train), {k: u.here for k, u in own.unbuilt.items()})


def load_recipe(root: Path, name: str) -> Recipe:
    """Read and check a recipe. Raises UserError for an unknown name, an unknown key or a bad value."""
    known = sorted(p.stem for p in (root / "reproduce/recipes").glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"config, key recipe: unknown recipe {name!r}; allowed: {', '.join(known)}{nearest(name, known)}"
        )
    file = root / f"reproduce/recipes/{name}.yaml"
    return parse_settings(Recipe, read_mapping(file), str(file.relative_to(root)))
