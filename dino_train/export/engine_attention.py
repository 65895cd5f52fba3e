"""Attention exported in the form that inference engines run fastest."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PACKED_TO_FRONT = (2, 0, 3, 1, 4)
"""How timm permutes [B, N, 3, heads, C / heads] before it unbinds query, key and value; with 2, key and value."""
SPECIAL = ("attn_mask", "is_causal", "scale", "enable_gqa")
"""Options that a ViT's attention does not have; attention with any of them is left to torch."""


class EngineAttention(TorchFunctionMode):
    """Within its `with` block, computes attention by operations that engines recognize and fuse; results do not change.

    torch exports timm's blocks literally: query, key and value are moved to the front of five dimensions, and torch's
    attention becomes a dozen reshapes. Engines then move tokens in memory between the matrix products, and int8 engines
    convert them to float and back. Here query, key and value are split in place, and attention is two matrix products
    with a softmax in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._packed: Tensor | None = None
        self._moved: Tensor | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plain = len(args) == 3 and all(kwargs.get(option) is None or kwargs[option] is False for option in SPECIAL)
        if function is functional.scaled_dot_product_attention and plain:
            return attention(*args)
        if function is Tensor.unbind and self._packed is not None and args[0] is self._moved:
            return split(self._packed)
        result = function(*args, **kwargs)
        if function is Tensor.permute and args[1:] == PACKED_TO_FRONT:
            self._packed, self._moved = args[0], result
        return result


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, [B, heads, N, C / heads]."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    result: Tensor = scores.softmax(dim=-1) @ value
    return result


def split(packed: Tensor) -> tuple[Tensor, ...]:
    """Split [B, N, 3, heads, C / heads] into query, key and value, or without a query, [B, heads, N, C / heads]."""
    count, heads = packed.shape[2:4]
    return tuple(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.flatten(2).chunk(count, dim=-1))
