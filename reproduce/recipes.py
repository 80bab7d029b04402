"""Recipes: how the arms of the real scale are trained, as data in reproduce/recipes/*.yaml, one visible diff each.

`controlled` gives all arms one set of settings, so that they differ in data and start alone. `as_released` gives every
arm what the authors' script for it says, `as_printed` what their paper says where the two disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from lmmr1.config import Settings, parse_settings
from lmmr1.types import UserError
from reproduce.profiles import merge, read_extended


class ArmRecipe(Settings):
    """One arm's differences from the recipe's common settings."""

    script: str | None = None
    """The authors' script for it; None where there is none."""
    train: dict[str, Any] = {}


class Recipe(Settings):
    """Common training settings and what differs from arm to arm."""

    title: str
    train: dict[str, Any]
    arms: dict[str, ArmRecipe] = Field(default={})
    """Empty: all arms alike. Otherwise an arm that it does not name cannot be trained by this recipe."""

    def settings(self, name: str, arm: str) -> dict[str, Any]:
        """Training settings of an arm. Raises UserError for an arm that the recipe leaves out."""
        if not self.arms:
            return self.train
        if arm not in self.arms:
            raise UserError(
                f"reproduce/recipes/{name}.yaml: says nothing about arm {arm}; leave it out of `arms`, or take another "
                "recipe"
            )
        return merge(self.train, self.arms[arm].train)


def load_recipe(root: Path, name: str) -> Recipe:
    """Read and check a recipe. Raises UserError for an unknown name, an unknown key or a bad value."""
    return parse_settings(Recipe, read_extended(root, "recipe", name), f"reproduce/recipes/{name}.yaml")
