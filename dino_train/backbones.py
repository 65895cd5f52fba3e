"""Vision Transformers from timm, and the CLS attention of their last block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import VisionTransformer
from torch import Tensor, nn

from dino_ros.errors import UserError
from dino_train.config import BackboneConfig


def build_backbone(
    config: BackboneConfig, image_size: int, drop_path: float = 0.0, download: bool = True
) -> VisionTransformer:
    """Build a timm ViT without classifier that takes images of any size that is a multiple of the patch.

    `image_size` (pixels, square) is the size its position embedding is laid out for. Calling the module on [B, 3, H, W]
    float32 gives the CLS token after the final norm, [B, C]. `download` False leaves out the published weights of a
    `pretrained` config, for a ViT whose weights are about to be replaced. Raises UserError if timm has no such model,
    if it is not a ViT with a CLS token, or if the shape in `config` does not fit together.
    """
    shape = {
        name: value
        for name in ("patch_size", "embed_dim", "depth", "num_heads")
        if (value := getattr(config, name)) is not None
    }
    pretrained = config.pretrained and download
    vit = create_vit(config.name, pretrained, drop_path_rate=drop_path, img_size=image_size, **shape)
    if not config.pretrained:
        # As the paper; timm's own values belong to the published weights that are not used here.
        vit.pretrained_cfg = {
            **vit.pretrained_cfg,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
        }
    return vit


def create_vit(name: str, pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Create timm's ViT `name` without classifier, for images of any size; `options` go to timm.

    Raises UserError when timm does not know the name, the download fails, or the model has no CLS token.
    """
    try:
        vit: VisionTransformer = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="token", dynamic_img_size=True, **options
        )
    except (RuntimeError, AssertionError, TypeError, OSError, ValueError) as error:
        hint = "" if timm.is_model(name.split(".")[0]) else "; `timm.list_models('vit*')` lists the names"
        raise UserError(
            f"timm cannot make the backbone {name!r} ({first_line(error)}): check the name and its options{hint}."
        ) from error
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        raise UserError(
            f"The model {name!r} is not a plain ViT with a CLS token to take attention from: choose one such as "
            "vit_small_patch16_224."
        )
    return vit


def patch_size(vit: VisionTransformer) -> int:
    """Side of the ViT's square patches, in pixels."""
    return int(vit.patch_embed.patch_size[0])


def mean_and_std(vit: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation (RGB in 0 to 1) that the ViT's inputs are normalised with."""
    config = vit.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


class VitOutputs(nn.Module):
    """Everything a student publishes, computed from one forward pass of a timm ViT.

    Called with normalised images [B, 3, H, W] float32; returns features [B, h, w, C] (patch tokens after the final
    norm), attention [B, heads, h, w] (softmaxed CLS-to-patch attention of the last block, CLS and registers left out)
    and embedding [B, C] (the CLS token after the final norm).

    The attention is computed again for the CLS row only, from the input of the last block: O(N) beside the block's
    own O(N^2), and the block's fused attention stays as it is.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        vit = self.vit
        tokens = vit.patch_embed(images)
        height, width = images.shape[-2] // patch_size(vit), images.shape[-1] // patch_size(vit)
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(tokens)))
        for block in vit.blocks[:-1]:
            tokens = block(tokens)
        attention = cls_attention(vit.blocks[-1], tokens)
        tokens = vit.norm(vit.blocks[-1](tokens))
        prefix = vit.num_prefix_tokens
        features = tokens[:, prefix:].reshape(-1, height, width, tokens.shape[-1])
        heads = attention.shape[1]
        return features, attention[:, :, prefix:].reshape(-1, heads, height, width), tokens[:, 0]


def cls_attention(block: Any, tokens: Tensor) -> Tensor:
    """Softmaxed attention of the CLS token to all tokens, [B, heads, N], in a timm block whose input is `tokens`."""
    attention = block.attn
    x = block.norm1(tokens)
    batch, count, _ = x.shape
    heads, dim = attention.num_heads, attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    inner = heads * dim
    query = nn.functional.linear(x[:, :1], weight[:inner], None if bias is None else bias[:inner])
    key = nn.functional.linear(x, weight[inner : 2 * inner], None if bias is None else bias[inner : 2 * inner])
    query = attention.q_norm(query.reshape(batch, 1, heads, dim).transpose(1, 2))
    key = attention.k_norm(key.reshape(batch, count, heads, dim).transpose(1, 2))
    scores = (query * attention.scale) @ key.transpose(-2, -1)
    weights: Tensor = scores.softmax(dim=-1)
    return weights[:, :, 0]


def load_dino_v1(path: Path) -> tuple[VisionTransformer, str]:
    """Build the ViT that an official DINO v1 `.pth` file holds and load its weights.

    Takes both kinds the authors publish: the backbone alone, and the full training checkpoint (its teacher is used).
    Returns the ViT and its timm name. The architecture follows from the weights' shapes. Only tensors are unpickled.
    Raises UserError if the file is neither.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is not a weights file that torch can read safely ({first_line(error)}): give an official DINO "
            "v1 .pth file or a checkpoint of `dino-train pretrain`."
        ) from error
    state = state.get("teacher", state)
    state = {
        name.removeprefix("module.").removeprefix("backbone."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and "head." not in name
    }
    if "patch_embed.proj.weight" not in state or "blocks.0.attn.qkv.weight" not in state:
        raise UserError(f"{path} holds no DINO v1 ViT: its weights have other names than the authors' files.")
    embed_dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    name = f"vit_{'small' if embed_dim == 384 else 'base'}_patch{patch}_224.dino"
    if embed_dim not in (384, 768) or not timm.is_model_pretrained(name):
        raise UserError(
            f"{path} holds a ViT of width {embed_dim} and patch {patch}: DINO v1 has widths 384 and 768, patches 8 "
            "and 16."
        )
    vit = create_vit(name)
    vit.load_state_dict(state)
    return vit, name


def first_line(error: BaseException) -> str:
    """First line of an error's message, without its full stop, to quote in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
