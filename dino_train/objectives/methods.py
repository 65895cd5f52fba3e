"""The objective of each method, by the method's name in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from timm.models import VisionTransformer

from dino_train.models.weight_files import strange_contents
from dino_train.models.weights import timm_license
from dino_train.objectives.byol import Byol
from dino_train.objectives.curl import Curl
from dino_train.objectives.dino import Dino
from dino_train.objectives.dinov2 import Dinov2
from dino_train.objectives.distill import Distill
from dino_train.objectives.initialize import initialize
from dino_train.objectives.moco import moco
from dino_train.objectives.objective import Objective
from dino_train.objectives.swav import Swav
from dino_train.recipes import DistillRecipe, PretrainRecipe, Recipe

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "dino": Dino,
    "dinov2": Dinov2,
    "byol": Byol,
    "moco": moco,
    "swav": Swav,
    "curl": Curl,
    "distill": Distill,
}


def build_objective(recipe: Recipe, new: bool) -> Objective:
    """Build the objective of a resolved recipe; a `new` run starts from the recipe's `init`, if it has one."""
    objective = OBJECTIVES[recipe.method](recipe)
    if not new:
        return objective
    init = cast(PretrainRecipe | DistillRecipe, recipe).init
    if init and isinstance(objective, Distill):
        objective.start_from(init)
    elif init:
        with strange_contents(Path(init)):
            initialize(objective, init)
    elif recipe.backbone.pretrained:
        objective.licenses += (timm_license(cast(VisionTransformer, objective.student.backbone)),)
    objective.start()
    return objective
