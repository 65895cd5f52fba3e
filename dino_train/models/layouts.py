"""How families of weight files name a ViT's weights, and the names that timm gives to the same weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_ros.errors import UserError
from dino_train.models.weight_files import WeightFile

AVERAGED = ("teacher", "target_encoder", "model_ema", "state_dict_ema", "ema")
"""Of several ViTs in a file, the one whose name contains the first of these is taken."""


@dataclass(frozen=True)
class Layout:
    """The names of a family."""

    name: str
    patch_embedding: str
    """A regular expression for the end of the name of the patch embedding's weight; what stands before it stands before
    all of the ViT's names."""
    renamed: tuple[tuple[str, str], ...]
    """Regular expressions for parts of its names, and what timm calls them, applied in this order."""
    unused: str
    """A regular expression for names of weights that are no part of the encoder."""


TIMM = Layout(
    "timm, torch.hub",
    r"patch_embed\.proj\.weight",
    (
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's and DINOv3's chunks of blocks
        (r"^(register_tokens|storage_tokens)$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),  # DINOv2's SwiGLU
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    r"mask_token|(head|head_dist|fc|classifier|decoder_\w+|rope_embed|local_cls_norm|.*qkv\.bias_mask)(\..*|$)",
)
TRANSFORMERS = Layout(
    "transformers",
    r"embeddings\.(patch_embeddings\.projection|patch_embeddings|patch_embedding)\.weight",
    (
        (r"^(model\.)?(encoder\.)?layers?\.", "blocks."),
        (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
        (r"^embeddings\.(patch_embeddings\.projection|patch_embeddings|patch_embedding)\.", "patch_embed.proj."),
        (r"^pre_la?yr?norm\.|^pre_layernorm\.", "norm_pre."),
        (r"^(layernorm|post_layernorm)\.", "norm."),
        (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
        (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
        (r"\.(attention\.attention|attention|self_attn)\.(query|key|value|[qkv]_proj)\.", r".attn.\2."),
        (r"\.attn\.([qkv])\w+\.", r".attn.\1."),
        (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    ),
    r"embeddings\.(mask_token|position_ids)|(pooler|classifier|decoder|lm_head)\..*|rope_embeddings\..*",
)
CLIP = Layout(
    "CLIP",
    r"conv1\.weight",
    (
        (r"^conv1\.", "patch_embed.proj."),
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ),
    r"proj",
)
LAYOUTS = (TIMM, TRANSFORMERS, CLIP)


@dataclass(frozen=True)
class Encoder:
    """A ViT found in a file."""

    layout: Layout
    prefix: str
    """What stands before all of its names in the file, such as `teacher.backbone.`."""
    state: dict[str, Tensor]
    """Its weights in float32 under timm's names."""
    unused: frozenset[str]
    """Names, without prefix, of weights beside the encoder's, such as those of a classifier."""


def find_encoder(file: WeightFile, network: str | None = None) -> Encoder:
    """Find a file's ViT; `network` is "teacher" or "student", to choose between the two where a file names them.

    Raises UserError if there is none, or none of that name, or if it is unclear which one is meant.
    """
    found = candidates(file.state)
    if not found:
        raise UserError(
            f"{file.path} holds no ViT whose names are those of timm, torch.hub, transformers or CLIP (its first "
            f"weight is {min(file.state)}): give another file."
        )
    named = any(contains(prefix, word) for prefix in found for word in ("teacher", "student"))
    averaged = [word for word in AVERAGED if any(contains(prefix, word) for prefix in found)]
    words = [network] if network and named else averaged[:1]
    chosen = {prefix: layout for prefix, layout in found.items() if all(contains(prefix, word) for word in words)}
    if len(chosen) != 1:
        listed = ", ".join(repr(prefix) for prefix in found)
        raise UserError(
            f"{file.path} must hold one ViT{f' named {network}' * bool(network)} but its ViTs are named {listed}: "
            "choose one with --network, or give a file that holds one."
        )
    ((prefix, layout),) = chosen.items()
    own = {name.removeprefix(prefix): value for name, value in file.state.items() if name.startswith(prefix)}
    unused = frozenset(name for name in own if re.fullmatch(layout.unused, name))
    state = {rename(layout, name): value.float() for name, value in own.items() if name not in unused}
    return Encoder(layout, prefix, as_timm_shapes(state), unused)


def candidates(names: Iterable[str]) -> dict[str, Layout]:
    """Prefixes of the ViTs among weights of these names, and their layouts."""
    names = set(names)
    found = {}
    for layout in LAYOUTS:
        for name in names:
            if match := re.fullmatch(rf"((?:.*\.)?){layout.patch_embedding}", name):
                prefix = match[1]
                if layout is not CLIP or f"{prefix}class_embedding" in names:  # ResNets have a conv1 too
                    found[prefix] = layout
    return dict(sorted(found.items()))


def contains(prefix: str, word: str) -> bool:
    """Whether a word is one of the parts of a prefix."""
    return word in prefix.split(".")


def rename(layout: Layout, name: str) -> str:
    """timm's name for a weight."""
    for pattern, replacement in layout.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def as_timm_shapes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights of timm's names timm's shapes: query, key and value in one, tokens and positions of 3 dimensions."""
    state = dict(state)
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        if name in state and state[name].ndim < 3:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    for name in [name for name in state if name.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        join(state, [f"{block}{letter}.weight" for letter in "qkv"], f"{block}qkv.weight")
        join(state, [f"{block}{letter}.bias" for letter in "qkv"], f"{block}qkv.bias")
    for kind in ("weight", "bias"):
        if (packed := state.pop(f"attn_pool.qkv.{kind}", None)) is not None:
            third = len(packed) // 3
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = packed[:third], packed[third:]
    if "reg_token" in state and "pos_embed" in state and is_square(state["pos_embed"].shape[1] - 1):
        # DINOv2's registers have no position; timm then gives none to CLS either, and adds it to the token.
        position = state["pos_embed"]
        state["cls_token"], state["pos_embed"] = state["cls_token"] + position[:, :1], position[:, 1:]
    return dinov3_names(state) if is_dinov3(state) else state


def join(state: dict[str, Tensor], names: list[str], joined: str) -> None:
    """Replace tensors by their concatenation; one that is missing, such as DINOv3's bias of the keys, is zero."""
    there = [state[name] for name in names if name in state]
    if there:
        state[joined] = torch.cat([state.pop(name, torch.zeros_like(there[0])) for name in names])


def is_square(count: int) -> bool:
    """Whether a number of patches is that of a square image."""
    return count > 0 and round(count**0.5) ** 2 == count


def is_dinov3(state: dict[str, Tensor]) -> bool:
    """Whether a ViT of timm's names is DINOv3's: registers and LayerScale, and rotary instead of learned positions."""
    return (
        "pos_embed" not in state
        and "reg_token" in state
        and bool({"blocks.0.ls1.gamma", "blocks.0.gamma_1"} & {*state})
    )


def dinov3_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's class for DINOv3: LayerScale, biases of query and value alone, the three layers of SwiGLU."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        name = re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)
        name = re.sub(r"\.mlp\.(gate_proj|w1)\.", ".mlp.fc1_g.", name)
        gated = f"{name.split('.mlp.')[0]}.mlp.gate_proj.weight" in state
        name = re.sub(r"\.mlp\.up_proj\.", ".mlp.fc1_x." if gated else ".mlp.fc1.", name)
        name = re.sub(r"\.mlp\.w2\.", ".mlp.fc1_x.", name)
        name = re.sub(r"\.mlp\.down_proj\.", ".mlp.fc2.", name)
        if name.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            block = name.removesuffix("qkv.bias")
            renamed[f"{block}q_bias"], renamed[f"{block}v_bias"] = query, values
        else:
            renamed[name] = value
    return renamed
