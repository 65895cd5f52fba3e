"""Starting a run from existing weights: those of an earlier run, of DINO's authors, or of another encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone, mean_and_std
from dino_train.models.checkpoint import load_checkpoint
from dino_train.models.dino_v1 import (
    DINO_LICENSE,
    OfficialCheckpoint,
    first_difference,
    fit_position_embedding,
    load_official,
    settings,
)
from dino_train.models.fewer_blocks import copy_blocks
from dino_train.models.weight_files import find_weights, is_checkpoint, is_safetensors, read_pickled
from dino_train.models.weights import open_weights
from dino_train.objectives.objective import Objective
from dino_train.recipes import BackboneConfig

log = logging.getLogger(__name__)

NETWORKS = ("student.", "teacher.")
"""Prefixes of the networks that a method trains."""


def initialize(objective: Objective, weights: str | Path) -> None:
    """Load weights into the networks of `objective`.

    `weights` are a checkpoint of `dino-train`, an official DINO v1 file, or another encoder that `open_weights` opens,
    told apart by their content. A training checkpoint of the same method replaces everything: backbones, heads, and
    center or queue. Of anything else only backbones are taken; a single one initializes all networks. A position
    embedding of another size is resized as the authors do. Raises UserError, naming the recipe's setting to change, if
    the network there differs from the objective's.
    """
    path = find_weights(str(weights))
    if path is not None and is_checkpoint(path):
        checkpoint = load_checkpoint(path)
        load_networks(objective, checkpoint.recipe.backbone, dict(checkpoint.objective), path)
        objective.licenses += checkpoint.licenses
    elif official := read_official(path):
        load_networks(objective, official.backbone, dict(official.state), cast(Path, path))
        objective.licenses += (DINO_LICENSE,)
    else:
        start_from_encoder(objective, str(weights))


def read_official(path: Path | None) -> OfficialCheckpoint | None:
    """The content of an official DINO v1 file; None for other encoders. Raises UserError as `load_official` does."""
    if path is None or path.is_dir() or is_safetensors(path):
        return None
    # Training checkpoints, and what a run that diverged leaves, are not opened for the encoder in them.
    of_training = read_pickled(path).keys() & {"student", "teacher", "gradient_norms"}
    try:
        return load_official(path)
    except UserError:
        if of_training:
            raise
        return None  # another encoder, or none at all: `open_weights` knows


def start_from_encoder(objective: Objective, weights: str) -> None:
    """Copy an encoder into the backbone of every network; see `copy_blocks`, whose UserError it raises.

    Raises UserError too for an encoder whose images are normalized in another way than the recipe's.
    """
    opened = open_weights(weights)
    source = opened.vit
    network: Any
    for network in objective.children():
        own, there = mean_and_std(network.backbone), mean_and_std(source)
        if not np.allclose(own, there, atol=1e-3):
            raise UserError(
                f"{weights} takes images of mean {there[0]} and standard deviation {there[1]}, not those of ImageNet: "
                "start from its timm name with --backbone.name NAME --backbone.pretrained true."
            )
        if (registers := count_registers(source)) != count_registers(network.backbone):
            like, part = (f"with {registers}", f"reg{registers}_") if registers else ("without", "")
            raise UserError(
                f"{weights} is a ViT {like} registers, unlike the recipe's: give --backbone.name, such as "
                f"vit_small_patch14_{part}dinov2."
            )
        blocks = copy_blocks(network.backbone, source)
    objective.licenses += (opened.license,)
    log.info("The run starts from the blocks %s of %d.", ", ".join(map(str, blocks)), len(source.blocks))


def count_registers(vit: VisionTransformer) -> int:
    """Number of a ViT's register tokens."""
    return 0 if vit.reg_token is None else int(vit.reg_token.shape[1])


def load_networks(objective: Objective, config: BackboneConfig, state: dict[str, Tensor], path: Path) -> None:
    """Load the state of an objective with such a backbone, from the file `path`; see `initialize`."""
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
    networks = {name.split(".")[0] for name in own} & {name.split(".")[0] for name in state}

    def heads(names: Iterable[str]) -> set[str]:
        return {name for name in names if name.startswith(NETWORKS) and ".backbone." not in name}

    same_method = heads(own) == heads(name for name in state if name.split(".")[0] in networks)

    def is_taken(name: str) -> bool:
        return name.split(".")[0] in networks and (same_method or ".backbone." in name)

    taken = {name: tensor for name, tensor in state.items() if is_taken(name)}
    if odd := first_difference({name: tensor for name, tensor in own.items() if is_taken(name)}, taken):
        raise UserError(f"{path} does not fit the recipe ({odd}): start with --backbone.name {config.name}.")
    objective.load_state_dict({**own, **taken})
