"""The shape of a ViT, read from its weights, and the timm ViT of that shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import SwiGLUPacked
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from dino_ros.errors import UserError
from dino_train.models.backbones import ClsDistilledVit, DinoVit
from dino_train.models.layouts import TRANSFORMERS, Encoder, is_dinov3, is_square

SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant"}
"""Names of ViTs by their width."""
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 4096: 32}
"""Attention heads of the published ViTs that do not have one per 64 channels (SO400M, H, g, G and DINOv3's 7B)."""
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
"""Activations that a config.json may name, and timm's names."""
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class VitShape:
    """Everything about a ViT but its weights."""

    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden: int
    """Width of the hidden layer of the blocks' MLPs: of both parts together for SwiGLU in one."""
    grid: int
    """Patches along a side of the square images that its position embedding is for; 0 for a rotary one."""
    norm_eps: float
    activation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_token: bool = True
    distillation_token: bool = False
    registers: int = 0
    prefix_positions: bool = True
    """Whether the tokens before the patches have positions."""
    biases: bool = True
    """Whether query, key and value have biases."""
    qk_norm: bool = False
    layer_scale: bool = False
    pre_norm: bool = False
    """Whether tokens are normalized before the first block, as CLIP's."""
    attention_pooling: bool = False
    """Whether a learned query pools the patches, as SigLIP's."""
    swiglu: str = ""
    """How SwiGLU's two parts are stored: "packed" in one layer or "split" in two; "" for a plain MLP."""
    rope_temperature: float = 0.0
    """Of DINOv3's rotary position embedding; 0 for a learned one."""
    resized_as_dino: bool = False
    """Whether the position embedding is resized as DINO's authors do: see `DinoVit`."""

    def as_options(self) -> dict[str, Any]:
        """What differs from the defaults: the shape is `VitShape(**options)`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def __str__(self) -> str:
        parts = [
            f"vit_{SIZES.get(self.embed_dim, self.embed_dim)}",
            f"patch {self.patch_size}",
            f"{self.depth} blocks",
            f"{self.num_heads} heads",
            "LayerScale" * self.layer_scale,
            "SwiGLU" * bool(self.swiglu),
            f"{self.registers} registers" if self.registers else "",
            "distillation token" * self.distillation_token,
            "rotary positions" * bool(self.rope_temperature),
            "norm before the blocks" * self.pre_norm,
            "attention pooling" * self.attention_pooling,
            self.activation if self.activation not in ("gelu", "silu") else "",
        ]
        return ", ".join(part for part in parts if part)

    def build(self) -> VisionTransformer:
        """Build the ViT with random weights, for images of any size; calling it returns the embedding."""
        options: dict[str, Any] = {
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            # Half a channel more, since timm rounds the product down.
            "mlp_ratio": (self.hidden + 0.5) / self.embed_dim,
            "qkv_bias": self.biases,
            "qk_norm": self.qk_norm,
            "init_values": 1e-5 if self.layer_scale else None,
            "norm_layer": partial(nn.LayerNorm, eps=self.norm_eps),
            "num_classes": 0,
            "dynamic_img_size": True,
        }
        vit: VisionTransformer = self._rotary(options) if self.rope_temperature else self._learned(options)
        vit.pretrained_cfg = {"architecture": str(self), "mean": tuple(self.mean), "std": tuple(self.std)}
        return vit

    def _learned(self, options: dict[str, Any]) -> VisionTransformer:
        if self.swiglu:
            options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
        else:
            options |= {"act_layer": self.activation}
        kind = DinoVit if self.resized_as_dino else ClsDistilledVit if self.distillation_token else VisionTransformer
        return kind(
            img_size=self.grid * self.patch_size,
            class_token=self.class_token,
            reg_tokens=self.registers,
            no_embed_class=not self.prefix_positions,
            pre_norm=self.pre_norm,
            global_pool="map" if self.attention_pooling else "token",
            **options,
        )

    def _rotary(self, options: dict[str, Any]) -> Any:
        return Eva(
            num_reg_tokens=self.registers,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            rope_type="dinov3",
            rope_temperature=self.rope_temperature,
            rope_rotate_half=True,
            use_fc_norm=False,
            swiglu_mlp=bool(self.swiglu),
            swiglu_align_to=1 if self.swiglu else 0,
            global_pool="token",
            **options,
        )


def infer_shape(
    encoder: Encoder,
    config: Mapping[str, Any],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    path: object,
) -> VitShape:
    """Infer a ViT's shape from the names and shapes of its weights, and what its config.json says.

    Raises UserError, naming the file at `path`, where they do not tell.
    """
    state = encoder.state
    kernel = state["patch_embed.proj.weight"]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(
            f"{path} holds no plain ViT, its patch embedding has shape {list(kernel.shape)} instead of [width, 3, "
            "patch, patch]: name its timm model with --architecture, or give another file."
        )
    width, patch = int(kernel.shape[0]), int(kernel.shape[-1])
    has_class, distilled = "cls_token" in state, "dist_token" in state
    pooling, pre_norm = "attn_pool.latent" in state, "norm_pre.weight" in state
    if not (has_class or pooling):
        raise UserError(f"{path} holds a ViT with neither CLS token nor attention pooling: give one that has either.")
    registers = int(state["reg_token"].shape[1]) if "reg_token" in state else 0
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if not depth:
        raise UserError(f"{path} holds the beginning of a ViT without blocks: give the whole file.")
    rotary = is_dinov3(state)
    prefix = has_class + distilled + registers
    grid, prefix_positions = (0, False) if rotary else position_grid(state, prefix, path)
    layer_scale = rotary or "blocks.0.ls1.gamma" in state
    swiglu, hidden = mlp(state, width)
    family_mean, family_std = normalization(pre_norm, pooling)
    heads = int(config.get("num_attention_heads") or default_heads(width, rotary))
    if width % heads:
        raise UserError(f"{path} holds a ViT of width {width}: name its timm model with --architecture.")
    return VitShape(
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        hidden=hidden,
        grid=grid,
        norm_eps=float(config.get("layer_norm_eps") or (1e-5 if rotary or pre_norm else 1e-6)),
        activation=activation(encoder, config, path, pre_norm, pooling, swiglu),
        mean=mean or family_mean,
        std=std or family_std,
        class_token=has_class,
        distillation_token=distilled,
        registers=registers,
        prefix_positions=prefix_positions,
        biases="blocks.0.attn.qkv.bias" in state or "blocks.0.attn.q_bias" in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        layer_scale=layer_scale,
        pre_norm=pre_norm,
        attention_pooling=pooling,
        swiglu=swiglu,
        rope_temperature=float(config.get("rope_theta") or 100.0) if rotary else 0.0,
        # Of the ViTs with LayerScale, DINOv2's without registers.
        resized_as_dino=layer_scale and not rotary and has_class and not registers and prefix_positions,
    )


def position_grid(state: Mapping[str, Tensor], prefix: int, path: object) -> tuple[int, bool]:
    """Patches along a side of a position embedding's images, and whether the `prefix` tokens have positions too."""
    if "pos_embed" not in state:
        raise UserError(f"{path} holds a ViT without position embedding: name its timm model with --architecture.")
    count = int(state["pos_embed"].shape[1])
    if is_square(count - prefix):
        return math.isqrt(count - prefix), True
    if is_square(count):
        return math.isqrt(count), False
    raise UserError(
        f"{path} has a position embedding for {count} tokens, which is no square of patches: name its timm model with "
        "--architecture."
    )


def mlp(state: Mapping[str, Tensor], width: int) -> tuple[str, int]:
    """How the first block's MLP stores SwiGLU, and its hidden width."""
    if "blocks.0.mlp.fc1_g.weight" in state:
        return "split", len(state["blocks.0.mlp.fc1_g.weight"])
    first, second = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    if first is None or second is None:
        return "", 4 * width  # what is missing is named when the weights are loaded
    return "packed" if len(first) == 2 * second.shape[1] else "", len(first)


def default_heads(width: int, rotary: bool) -> int:
    """Attention heads where no config.json states them."""
    return width // 64 if rotary and width == 1280 else HEADS.get(width, max(width // 64, 1))


def activation(
    encoder: Encoder, config: Mapping[str, Any], path: object, pre_norm: bool, pooling: bool, swiglu: str
) -> str:
    """timm's name of the activation; CLIP's comes in two kinds, which the names of the weights do not tell apart."""
    stated = config.get("hidden_act")
    if swiglu == "packed" or (swiglu and stated in (None, "silu")):
        return "silu"  # whatever config.json says: DINOv2's states the one that it does not use
    if stated:
        if swiglu or stated not in ACTIVATIONS:
            raise UserError(f"{path} has the activation {stated!r}: name its timm model with --architecture.")
        return ACTIVATIONS[stated]
    if "model_cfg" in config:  # OpenCLIP's
        return "quick_gelu" if config["model_cfg"].get("quick_gelu") else "gelu"
    if not pre_norm:
        return "gelu_tanh" if pooling and encoder.layout is TRANSFORMERS else "gelu"
    if config.get("model_type", "").startswith("clip"):
        return "quick_gelu"  # transformers' default, left out by older files
    raise UserError(
        f"{path} holds CLIP's image tower and does not tell its activation: name its timm model, such as "
        "--architecture vit_base_patch16_clip_quickgelu_224.openai, or give the folder with its config.json."
    )


def normalization(pre_norm: bool, pooling: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that a family is trained on: CLIP, SigLIP, and all others."""
    if pre_norm:
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    return (HALF, HALF) if pooling else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
