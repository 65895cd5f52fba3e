"""Start a shallow ViT from the weights of a deep one (DistilBERT, Sanh et al. 2019, section 3, for ViTs)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import nn

from dino_ros.errors import UserError
from dino_train.models.backbones import patch_size
from dino_train.models.dino_v1 import first_difference


@torch.no_grad()
def copy_blocks(student: VisionTransformer, teacher: VisionTransformer) -> list[int]:
    """Copy evenly spaced blocks of `teacher`, the first and the last among them, to `student`; returns their numbers.

    All else is copied too: the patch embedding, resized to the student's patches (as FlexiViT's, Beyer et al. 2023),
    the position embedding, resized to its grid, CLS token and final norm. LayerScale becomes part of the layer before
    it, and registers are left out, where the student has none. With as many blocks and the same patches the outputs are
    then the teacher's. Raises UserError if the student differs in more than depth, patches and these.
    """
    numbers = [int(number) for number in np.linspace(0, len(teacher.blocks) - 1, len(student.blocks)).round()]
    source = copy.deepcopy(teacher)
    if source.pos_embed is not None:
        patch, grid = patch_size(student), student.patch_embed.grid_size
        source.set_input_size((grid[0] * patch, grid[1] * patch), (patch, patch))
    expected = student.state_dict()
    if "blocks.0.ls1.gamma" not in expected:
        fold_layer_scale(source)
    if student.reg_token is None:
        drop_registers(source)
    weights = source.state_dict()
    state = {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.")}
    for number, block in enumerate(numbers):
        names = [name for name in weights if name.startswith(f"blocks.{block}.")]
        state |= {name.replace(str(block), str(number), 1): weights[name] for name in names}
    odd = first_difference(expected, state)
    heads, own = source.blocks[0].attn.num_heads, student.blocks[0].attn.num_heads
    if heads != own:
        odd = f"it has {own} attention heads, not {heads}"
    if odd:
        raise UserError(
            f"The student cannot start from the blocks of --init ({odd}): make it like that in everything but "
            "--backbone.depth and --backbone.patch_size, or leave --init out."
        )
    student.load_state_dict(state)
    return numbers


@torch.no_grad()
def fold_layer_scale(vit: VisionTransformer) -> None:
    """Multiply LayerScale's factors into the layers before it: fewer operations, the same outputs."""
    for block in vit.blocks:
        for name, layer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            if (gamma := getattr(getattr(block, name, None), "gamma", None)) is not None:
                layer.weight.mul_(gamma[:, None])
                layer.bias.mul_(gamma)
                setattr(block, name, nn.Identity())


def drop_registers(vit: VisionTransformer) -> None:
    """Remove the registers, and give CLS a position of zeros if it has none."""
    position, patches = vit.pos_embed, vit.patch_embed.num_patches
    if position is not None:
        cls = torch.zeros_like(position[:, :1]) if vit.no_embed_class else position[:, :1]
        vit.pos_embed = nn.Parameter(torch.cat([cls, position[:, -patches:]], dim=1))
    vit.reg_token = None
