"""Starting a run from existing weights: those of an earlier run, or of DINO's authors."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone
from dino_train.models.checkpoint import load_checkpoint
from dino_train.models.dino_v1 import first_difference, fit_position_embedding, load_official, settings
from dino_train.models.weight_files import is_checkpoint
from dino_train.objectives.objective import Objective


def initialize(objective: Objective, path: Path) -> None:
    """Load a file's weights into the networks of `objective`.

    `path` is a checkpoint of `dino-train` or an official DINO v1 file, told apart by their content. A training
    checkpoint of the same method replaces everything: backbones, heads, and center or queue. From another method's
    checkpoint, or a file with a single backbone, only backbones are taken; a single one initializes both networks. A
    position embedding of another size is resized as the authors do. Raises UserError, naming the recipe's setting to
    change, if the file's network differs from the objective's.
    """
    if is_checkpoint(path):
        checkpoint = load_checkpoint(path)
        config, state = checkpoint.recipe.backbone, dict(checkpoint.objective)
    else:
        official = load_official(path)
        config, state = official.backbone, dict(official.state)
    own, student = objective.state_dict(), cast(VisionTransformer, objective.student.backbone)
    if not any(name.startswith("teacher.") for name in state):
        vits = {name: value for name, value in state.items() if name.startswith("student.backbone.")}
        state |= {name.replace("student", "teacher", 1): value for name, value in vits.items()}
    with torch.device("meta"):
        vit = build_backbone(config, 224, download=False)
    wanted = settings(student, own)
    wrong = {name: value for name, value in settings(vit, state).items() if value != wanted.get(name, value)}
    if wrong:
        there = ", ".join(f"{name} is {value} there but {wanted[name]} in the recipe" for name, value in wrong.items())
        change = " ".join(f"--{name} {str(value).lower()}" for name, value in wrong.items())
        raise UserError(f"{path} does not fit the recipe ({there}): start with {change}.")
    for name in ("student.backbone.pos_embed", "teacher.backbone.pos_embed"):
        if name in own and name in state:
            state[name] = fit_position_embedding(student, state[name])
    same_method = {name for name in own if ".head." in name} <= state.keys()
    networks = {name.split(".")[0] for name in own}

    def is_taken(name: str) -> bool:
        return name.split(".")[0] in networks and (same_method or ".backbone." in name)

    taken = {name: tensor for name, tensor in state.items() if is_taken(name)}
    if odd := first_difference({name: tensor for name, tensor in own.items() if is_taken(name)}, taken):
        raise UserError(f"{path} does not fit the recipe ({odd}): start with --backbone.name {config.name}.")
    objective.load_state_dict({**own, **taken})
