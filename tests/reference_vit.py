"""A ViT written out in NumPy, and the families of encoders that tests cover."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from dino_train.models.backbones import patch_size

Array = NDArray[np.float64]


def shake(vit: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Change weights so that none stays at 0 or 1 and the attention becomes uneven."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if parameter.ndim > 1 and "embed" not in name and "token" not in name:
                parameter.mul_(3)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return vit.eval()


def weights_of(network: torch.nn.Module) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


def cubic_matrix(old: int, new: int) -> Array:
    """Bicubic interpolation along an axis (Keys 1981, a = -0.75), with the reference's step old / (new + 0.1)."""
    a, matrix = -0.75, np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / (new + 0.1) - 0.5
        for tap in range(math.floor(center) - 1, math.floor(center) + 3):
            x = abs(center - tap)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(tap, 0), old - 1)] += near if x <= 1 else far
    return matrix


def resized(position: Array, rows: int, columns: int, prefix: int = 1) -> Array:
    """Resize a position embedding [1, prefix + side * side, C] to another grid; unchanged if the grid is the same."""
    side = math.isqrt(position.shape[1] - prefix)
    if (rows, columns) == (side, side):
        return position[0]
    grid = position[0, prefix:].reshape(side, side, -1)
    grid = np.einsum("ij,kl,jlc->ikc", cubic_matrix(side, rows), cubic_matrix(side, columns), grid)
    return np.concatenate([position[0, :prefix], grid.reshape(rows * columns, -1)])


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + torch.erf(torch.from_numpy(x / math.sqrt(2))).numpy())


def plain_vit(weights: dict[str, Array], image: Array) -> tuple[Array, Array]:
    """Run a DINO ViT (heads of 64) on one image [3, H, W], in float64. Returns all tokens after the final norm, [N, C],
    and the attention matrix of the last block, [heads, N, N]."""

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    kernel = weights["patch_embed.proj.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    patches = image.reshape(3, rows, patch, columns, patch).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    patches = patches @ kernel.reshape(width, -1).T + weights["patch_embed.proj.bias"]
    tokens = np.concatenate([weights["cls_token"][0], patches]) + resized(weights["pos_embed"], rows, columns)
    attention = np.empty(0)
    for block in range(len([name for name in weights if name.endswith("attn.qkv.weight")])):
        name = f"blocks.{block}"
        qkv = linear(norm(tokens, f"{name}.norm1"), f"{name}.attn.qkv")
        query, key, value = qkv.reshape(len(tokens), 3, -1, 64).transpose(1, 2, 0, 3)
        attention = softmax(query @ key.transpose(0, 2, 1) / 8)
        tokens = tokens + linear((attention @ value).transpose(1, 0, 2).reshape(len(tokens), -1), f"{name}.attn.proj")
        hidden = gelu(linear(norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1"))
        tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
    return norm(tokens, "norm"), attention


def assert_close(got: torch.Tensor, expected: Array, tolerance: float = 1e-5) -> None:
    """Assert that no difference exceeds `tolerance` times the largest value."""
    difference = np.abs(got.numpy() - expected).max() / np.abs(expected).max()
    assert difference < tolerance


def rotation(rows: int, columns: int, dim: int) -> tuple[Array, Array]:
    """Cosine and sine, [rows * columns, dim], of DINOv3's rotary embedding (Siméoni et al. 2025, section 3.2).

    Patch centers in [-1, 1] by row and by column, periods 100^(4i / dim), the two halves of a head turned together.
    """
    centers = [2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns)]
    grid = np.stack(np.meshgrid(*centers, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = 2 * np.pi * grid / 100 ** (4 * np.arange(dim // 4) / dim)
    angles = np.tile(angles.reshape(len(grid), -1), 2)
    return np.cos(angles), np.sin(angles)


def attention_matrix(vit: torch.nn.Module, images: torch.Tensor) -> Array:
    """The whole softmaxed attention of the last block, [B, heads, N, N]; `vit` and `images` are float64."""
    last, seen = vit.blocks[-1].attn, []
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        vit.forward_features(images)
    handle.remove()
    weights, x = weights_of(last), seen[0].numpy()

    def projected(letter: str) -> Array:
        """Query (q) or key (k), [B, heads, N, dim]."""
        if "qkv.weight" in weights:
            part = slice(0, x.shape[-1]) if letter == "q" else slice(x.shape[-1], 2 * x.shape[-1])
            bias = weights["qkv.bias"][part] if "qkv.bias" in weights else weights.get(f"{letter}_bias", 0)
            y = x @ weights["qkv.weight"][part].T + bias
        else:
            y = x @ weights[f"{letter}_proj.weight"].T + weights.get(f"{letter}_proj.bias", 0)
        y = y.reshape(*x.shape[:2], last.num_heads, -1).transpose(0, 2, 1, 3)
        if getattr(vit, "rope", None) is not None:
            patches, half = y[:, :, vit.num_prefix_tokens :], y.shape[-1] // 2
            cosine, sine = rotation(*(n // patch_size(vit) for n in images.shape[-2:]), 2 * half)
            turned = np.concatenate([-patches[..., half:], patches[..., :half]], axis=-1)
            patches[...] = patches * cosine + turned * sine
        return y

    query, key = projected("q"), projected("k")
    return softmax(query @ key.swapaxes(-2, -1) / math.sqrt(query.shape[-1]))


FAMILIES = {
    "vit_small_patch14_dinov2": {"embed_dim": 96, "num_heads": 3},
    "vit_small_patch14_reg4_dinov2": {"embed_dim": 96, "num_heads": 3},
    "vit_giant_patch14_dinov2": {"embed_dim": 96, "num_heads": 3},  # SwiGLU
    "vit_small_patch16_dinov3": {"embed_dim": 96, "num_heads": 3},
    "vit_base_patch16_dinov3_qkvb": {"embed_dim": 96, "num_heads": 3},
    "vit_base_patch16_224.mae": {"embed_dim": 96, "num_heads": 3},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {"embed_dim": 96, "num_heads": 3},
}
"""Encoders other than DINO's, with options that make them small."""
