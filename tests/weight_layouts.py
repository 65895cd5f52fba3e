"""A timm ViT's weights under the names that each family of published files gives them, and files that hold them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

State = dict[str, Tensor]


def renamed(state: State, *pairs: tuple[str, str]) -> State:
    """Names with regular expressions replaced in this order."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def as_timm(state: State) -> State:
    return dict(state)


def as_classifier(state: State) -> State:
    """With a classifier, as DeiT's and supervised ViTs are published."""
    width = state["cls_token"].shape[-1]
    return {**state, "head.weight": torch.randn(10, width), "head.bias": torch.randn(10)}


def as_mae(state: State) -> State:
    """With the decoder of a masked autoencoder."""
    decoder = {f"decoder_blocks.0.norm1.{kind}": torch.randn(8) for kind in ("weight", "bias")}
    return {**state, **decoder, "mask_token": torch.randn(1, 1, 8), "decoder_pred.weight": torch.randn(4, 8)}


def as_hub_dinov2(state: State) -> State:
    """torch.hub's DINOv2: blocks in chunks, a position for CLS where there are registers, SwiGLU's own names."""
    state = renamed(state, (r"^blocks\.(\d+)\.", r"blocks.0.\1."), ("^reg_token$", "register_tokens"))
    if state["blocks.0.0.mlp.fc1.weight"].shape[0] == 2 * state["blocks.0.0.mlp.fc2.weight"].shape[1]:
        state = renamed(state, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    return {**with_cls_position(state, "register_tokens"), "mask_token": torch.randn(1, state["cls_token"].shape[-1])}


def with_cls_position(state: State, registers: str) -> State:
    """Move a part of the CLS token into a position of its own, where there are registers."""
    if registers not in state:
        return state
    position = torch.randn_like(state["cls_token"])
    return {
        **state,
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], dim=1),
    }


def as_hub_dinov3(state: State) -> State:
    """torch.hub's DINOv3: LayerScale's and SwiGLU's own names, and a mask for the bias of the keys."""
    state = renamed(
        state,
        ("^reg_token$", "storage_tokens"),
        (r"\.gamma_(\d)$", r".ls\1.gamma"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
    )
    if "blocks.0.mlp.w1.weight" in state:
        state = renamed(state, (r"mlp\.fc2", "mlp.w3"))
    for name in [name for name in state if name.endswith("q_bias")]:
        block = name.removesuffix("q_bias")
        query, value = state.pop(name), state.pop(f"{block}v_bias")
        state[f"{block}qkv.bias"] = torch.cat([query, torch.randn_like(query), value])
        state[f"{block}qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(query))
    return {**state, "rope_embed.periods": torch.randn(16), "mask_token": torch.randn(1, state["norm.bias"].shape[0])}


def split_qkv(state: State, query: str) -> State:
    """Query, key and value apart; `query` is the name of the first, such as `attention.attention.query`."""
    result = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for own, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                other = query.replace("query", own) if "query" in query else query.replace("q_", f"{own[0]}_")
                result[name.replace("attn.qkv", other)] = part
        else:
            result[name] = tensor
    return result


def as_transformers_vit(state: State) -> State:
    """ViTModel, DeiTModel, ViTMAEModel."""
    state = renamed(
        split_qkv(state, "attention.attention.query"),
        (r"^(cls_token)$", r"embeddings.\1"),
        ("^dist_token$", "embeddings.distillation_token"),
        ("^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj", ".attention.output.dense"),
        (r"\.mlp\.fc1", ".intermediate.dense"),
        (r"\.mlp\.fc2", ".output.dense"),
    )
    return {**state, "pooler.dense.weight": torch.randn(4, 4), "pooler.dense.bias": torch.randn(4)}


def as_transformers_dinov2(state: State) -> State:
    """Dinov2Model and Dinov2WithRegistersModel."""
    swiglu = state["blocks.0.mlp.fc1.weight"].shape[0] == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]
    state = renamed(
        split_qkv(with_cls_position(state, "reg_token"), "attention.attention.query"),
        (r"^(cls_token)$", r"embeddings.\1"),
        ("^reg_token$", "embeddings.register_tokens"),
        ("^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"\.attn\.proj", ".attention.output.dense"),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        *(((r"mlp\.fc1", "mlp.weights_in"), (r"mlp\.fc2", "mlp.weights_out")) if swiglu else ()),
    )
    return {**state, "embeddings.mask_token": torch.randn(1, 4)}


def as_transformers_dinov3(state: State) -> State:
    """DINOv3ViTModel, whose keys have no bias."""
    split = split_qkv(state, "attention.q_proj")
    gated = "blocks.0.mlp.fc1_g.weight" in state
    return renamed(
        split,
        (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
        (r"^(cls_token)$", r"embeddings.\1"),
        ("^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"^blocks\.", "layer."),
        (r"\.attn\.proj", ".attention.o_proj"),
        (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
        (r"mlp\.fc1_g", "mlp.gate_proj"),
        (r"mlp\.fc1(_x)?\.", "mlp.up_proj."),
        (r"mlp\.fc2", "mlp.down_proj"),
    ) | ({} if gated else {"embeddings.mask_token": torch.randn(1, 1, 4)})


def as_transformers_clip(state: State) -> State:
    """CLIPVisionModel and SiglipVisionModel, as a part of the model with text."""
    state = renamed(
        split_qkv(state, "self_attn.q_proj"),
        ("^cls_token$", "embeddings.class_embedding"),
        ("^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj", "embeddings.patch_embedding"),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^blocks\.", "encoder.layers."),
        (r"\.norm([12])\.", r".layer_norm\1."),
        (r"\.attn\.proj", ".self_attn.out_proj"),
        (r"^attn_pool\.latent", "head.probe"),
        (r"^attn_pool\.proj", "head.attention.out_proj"),
        (r"^attn_pool\.norm", "head.layernorm"),
        (r"^attn_pool\.mlp", "head.mlp"),
    )
    for kind in ("weight", "bias") if "head.probe" in state else ():
        parts = [state.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        state[f"head.attention.in_proj_{kind}"] = torch.cat(parts)
    if "embeddings.class_embedding" in state:
        state["embeddings.class_embedding"] = state["embeddings.class_embedding"].flatten()
    state["embeddings.position_embedding.weight"] = state["embeddings.position_embedding.weight"][0]
    state["embeddings.position_ids"] = torch.arange(4)
    text = {"text_model.encoder.layers.0.layer_norm1.weight": torch.randn(4), "logit_scale": torch.randn(())}
    return {f"vision_model.{name}": tensor for name, tensor in state.items()} | text


def as_openai_clip(state: State) -> State:
    """CLIP's and OpenCLIP's image tower, with the text's beside it."""
    state = renamed(
        state,
        ("^cls_token$", "class_embedding"),
        ("^pos_embed$", "positional_embedding"),
        (r"^patch_embed\.proj", "conv1"),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj", ".attn.out_proj"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
    )
    state["class_embedding"] = state["class_embedding"].flatten()
    state["positional_embedding"] = state["positional_embedding"][0]
    text = {"positional_embedding": torch.randn(7, 4), "transformer.resblocks.0.ln_1.weight": torch.randn(4)}
    return {f"visual.{name}": tensor for name, tensor in state.items()} | {"visual.proj": torch.randn(4, 4)} | text


LAYOUTS: dict[str, tuple[Callable[[State], State], str, dict[str, object]]] = {
    "timm DINOv2": (as_timm, "vit_small_patch14_dinov2", {}),
    "timm DINOv3": (as_timm, "vit_small_patch16_dinov3", {}),
    "timm DeiT": (as_classifier, "deit_tiny_distilled_patch16_224", {}),
    "timm DeiT III": (as_classifier, "deit3_small_patch16_224", {}),
    "timm SigLIP": (as_timm, "vit_base_patch16_siglip_224", {}),
    "MAE": (as_mae, "vit_base_patch16_224.mae", {}),
    "torch.hub DINOv2": (as_hub_dinov2, "vit_small_patch14_dinov2", {}),
    "torch.hub DINOv2 with registers": (as_hub_dinov2, "vit_small_patch14_reg4_dinov2", {}),
    "torch.hub DINOv2 g": (as_hub_dinov2, "vit_giant_patch14_dinov2", {}),
    "torch.hub DINOv3": (as_hub_dinov3, "vit_base_patch16_dinov3_qkvb", {}),
    "torch.hub DINOv3 H+": (as_hub_dinov3, "vit_small_plus_patch16_dinov3_qkvb", {}),
    "transformers ViT": (as_transformers_vit, "vit_base_patch16_224.mae", {"layer_norm_eps": 1e-6}),
    "transformers DeiT": (as_transformers_vit, "deit_tiny_distilled_patch16_224", {"model_type": "deit"}),
    "transformers Dinov2": (as_transformers_dinov2, "vit_small_patch14_dinov2", {}),
    "transformers Dinov2WithRegisters": (as_transformers_dinov2, "vit_small_patch14_reg4_dinov2", {}),
    "transformers Dinov2 g": (as_transformers_dinov2, "vit_giant_patch14_dinov2", {"hidden_act": "gelu"}),
    "transformers DINOv3": (as_transformers_dinov3, "vit_base_patch16_dinov3_qkvb", {"rope_theta": 100.0}),
    "transformers DINOv3 S+": (as_transformers_dinov3, "vit_small_plus_patch16_dinov3_qkvb", {"hidden_act": "silu"}),
    "transformers CLIP": (
        as_transformers_clip,
        "vit_base_patch16_clip_quickgelu_224",
        {"vision_config": {"hidden_act": "quick_gelu"}},
    ),
    "transformers SigLIP": (as_transformers_clip, "vit_base_patch16_siglip_224", {"hidden_act": "gelu"}),
    "OpenCLIP": (as_openai_clip, "vit_base_patch16_clip_224", {"model_cfg": {"vision_cfg": {"width": 128}}}),
    "OpenCLIP QuickGELU": (as_openai_clip, "vit_base_patch16_clip_quickgelu_224", {"model_cfg": {"quick_gelu": True}}),
}
"""Families: how they name weights, the timm model that has them, and what config.json says."""


def write_folder(folder: Path, state: State, config: dict[str, object], parts: int = 1) -> Path:
    """Write a Hugging Face folder, its weights in one file or in several with an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    if parts == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        return folder
    places = {name: f"model-{number % parts}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        safetensors.torch.save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder
