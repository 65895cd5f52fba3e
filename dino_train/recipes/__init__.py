"""Recipes: everything that decides what a run learns, apart from the data. One file per method."""

from __future__ import annotations

from dino_train.recipes.byol import ByolConfig, ByolRecipe
from dino_train.recipes.curl import CurlConfig, CurlRecipe
from dino_train.recipes.dino import DinoConfig, DinoRecipe
from dino_train.recipes.dinov2 import Dinov2Config, Dinov2Recipe
from dino_train.recipes.distill import DistillConfig, DistillRecipe
from dino_train.recipes.moco import MocoConfig, MocoRecipe
from dino_train.recipes.recipe import (
    BackboneConfig,
    CropsConfig,
    OptimizerConfig,
    PretrainRecipe,
    Recipe,
    resolved,
)
from dino_train.recipes.swav import SwavConfig, SwavRecipe

__all__ = [
    "RECIPES",
    "BackboneConfig",
    "ByolConfig",
    "ByolRecipe",
    "CropsConfig",
    "CurlConfig",
    "CurlRecipe",
    "DinoConfig",
    "DinoRecipe",
    "Dinov2Config",
    "Dinov2Recipe",
    "DistillConfig",
    "DistillRecipe",
    "MocoConfig",
    "MocoRecipe",
    "OptimizerConfig",
    "PretrainRecipe",
    "Recipe",
    "SwavConfig",
    "SwavRecipe",
    "resolved",
]

RECIPES: dict[str, type[Recipe]] = {
    recipe.method: recipe
    for recipe in (DinoRecipe, Dinov2Recipe, ByolRecipe, MocoRecipe, SwavRecipe, CurlRecipe, DistillRecipe)
}
"""Recipe class by method, which is also the name of its section. A recipe without any such section is DINO's."""
