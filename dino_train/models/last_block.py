"""The last block of a ViT for its CLS token alone: what patch tokens become there, nothing would read."""

from __future__ import annotations

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional


def is_plain(block: nn.Module) -> bool:
    """Whether `cls_after` knows the block: timm's own, with its own attention and without a gate."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None


def cls_after(block: Block, tokens: Tensor) -> Tensor:
    """Return what CLS, the first of the tokens [B, N, C], becomes in a plain block, [B, 1, C].

    The same as `block(tokens)[:, :1]` with 2 of the block's 12 C * C products per token: keys and values are those of
    all tokens, while query, projection and MLP are CLS's alone.
    """
    cls, normed = tokens[:, :1], block.norm1(tokens)
    attention = block.attn
    heads = (attention.num_heads, attention.head_dim)
    width = attention.num_heads * attention.head_dim
    weights, others_weights = attention.qkv.weight.split((width, 2 * width))
    bias, others_bias = (None, None) if attention.qkv.bias is None else attention.qkv.bias.split((width, 2 * width))
    query = functional.linear(normed[:, :1], weights, bias).unflatten(2, heads).transpose(1, 2)
    others = functional.linear(normed, others_weights, others_bias).unflatten(2, (2, *heads))
    key, value = others.permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query) * attention.scale, attention.k_norm(key)
    seen = attention.attn_drop((query @ key.transpose(-2, -1)).softmax(dim=-1)) @ value  # [B, heads, 1, head_dim]
    seen = attention.proj_drop(attention.proj(attention.norm(seen.transpose(1, 2).flatten(2))))
    cls = cls + block.drop_path1(block.ls1(seen))
    after: Tensor = cls + block.drop_path2(block.ls2(block.mlp(block.norm2(cls))))
    return after
