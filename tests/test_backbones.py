"""ViTs against the equations of the papers: the reference's forward pass and attention, position embeddings, RoPE."""

import copy
import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

import timm  # noqa: E402

from dino_ros.errors import UserError  # noqa: E402
from dino_train.export.student import fix_size  # noqa: E402
from dino_train.models.backbones import DinoVit, VitOutputs, build_backbone, create_vit, patch_size  # noqa: E402
from dino_train.recipes import BackboneConfig  # noqa: E402

Array = NDArray[np.float64]


def shake(vit: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that leave nothing at 0 or 1 and make the attention uneven."""
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
    """Bicubic interpolation along one axis (Keys 1981, a = -0.75), with the reference's step old / (new + 0.1)."""
    a, matrix = -0.75, np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / (new + 0.1) - 0.5
        for tap in range(math.floor(center) - 1, math.floor(center) + 3):
            x = abs(center - tap)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(tap, 0), old - 1)] += near if x <= 1 else far
    return matrix


def resized(position: Array, rows: int, columns: int, prefix: int = 1) -> Array:
    """A position embedding [1, prefix + side * side, C] for another grid; unchanged where the grid is the same."""
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
    """A DINO ViT (heads of 64) on one image [3, H, W], in float64: all tokens after the final norm, [N, C], and the
    attention matrix of the last block, [heads, N, N]."""

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
    """Largest difference at most `tolerance` of the largest value."""
    difference = np.abs(got.numpy() - expected).max() / np.abs(expected).max()
    assert difference < tolerance


@pytest.mark.parametrize(
    ("size", "patch", "images"),
    [
        ("small", 16, [(224, 224), (96, 96), (160, 288)]),
        ("small", 8, [(224, 224), (64, 120)]),
        ("base", 16, [(224, 224), (160, 96)]),
        ("base", 8, [(224, 224), (80, 48)]),
    ],
)
def test_the_authors_vits(size: str, patch: int, images: list[tuple[int, int]]) -> None:
    """Features, CLS token and CLS attention of the four ViTs of DINO to 1e-5, at 224 and at other sizes."""
    vit = shake(build_backbone(BackboneConfig(f"vit_{size}_patch16_224", patch_size=patch), 224))
    weights = weights_of(vit)
    for height, width in images:
        image = torch.randn(1, 3, height, width)
        tokens, matrix = plain_vit(weights, image[0].double().numpy())
        with torch.no_grad():
            features, attention, embedding = VitOutputs(vit)(image)
        assert features.shape == (1, height // patch, width // patch, tokens.shape[1])
        assert attention.shape == (1, len(matrix), height // patch, width // patch)
        assert_close(features[0].flatten(0, 1), tokens[1:])
        assert_close(attention[0].flatten(1), matrix[:, 0, 1:])
        assert_close(embedding[0], tokens[0])
        assert matrix[:, 0].max() > 5 / len(tokens)  # not so even that an error would drown
    with torch.no_grad():  # at the last size, what pretraining sees and what is exported
        assert_close(vit(image)[0], tokens[0])
        assert_close(VitOutputs(fix_size(vit, height, width))(image)[2][0], tokens[0])


@pytest.mark.parametrize(
    ("name", "pretrained", "authors"),
    [
        ("vit_tiny_patch16_224", False, True),  # pretrained here
        ("vit_small_patch16_224.dino", True, True),
        ("vit_small_patch14_dinov2", True, True),
        ("vit_small_patch14_reg4_dinov2", False, True),
        ("vit_small_patch14_reg4_dinov2", True, False),
        ("vit_tiny_patch16_224", True, False),
        ("vit_base_patch16_224.mae", True, False),
        ("deit3_small_patch16_224", True, False),
        ("deit_tiny_distilled_patch16_224", True, False),
    ],
)
def test_whose_position_embedding_is_resized_as_the_authors_do(name: str, pretrained: bool, authors: bool) -> None:
    """What is pretrained here and what DINO's authors published is; foreign encoders keep timm's antialiased resize.

    With patches of zeros, tokens are the position embedding (plus CLS and registers).
    """
    config = BackboneConfig(name, depth=1, pretrained=pretrained)
    vit = shake(build_backbone(config, 224, download=False))
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if authors:
        expected = resized(vit.pos_embed.detach().double().numpy(), 5, 9, prefix)[prefix:]
    else:
        resample = timm.layers.resample_abs_pos_embed
        expected = resample(vit.pos_embed, (5, 9), num_prefix_tokens=prefix).detach()[0, prefix:].numpy()
    with torch.no_grad():
        position = vit._pos_embed(torch.zeros(1, 5, 9, vit.embed_dim))[0, vit.num_prefix_tokens :]
    assert_close(position, expected)
    patch = patch_size(vit)
    assert_close(fix_size(vit, 5 * patch, 9 * patch).pos_embed.detach()[0, prefix:], expected)


def test_weights_published_for_another_size_are_laid_out_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm would resize them while it loads them."""
    published = shake(timm.create_model("vit_small_patch16_224", num_classes=0, depth=1))
    create_model = timm.create_model

    def create_with_weights(*args: object, pretrained: bool, **options: object) -> torch.nn.Module:
        overlay = {"state_dict": published.state_dict(), "num_classes": 0}
        return create_model(*args, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", create_with_weights)
    vit = build_backbone(BackboneConfig("vit_small_patch16_224.dino", depth=1, pretrained=True), 96)
    assert_close(vit.pos_embed.detach()[0], resized(published.pos_embed.detach().double().numpy(), 6, 6))
    assert torch.equal(vit.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)


def test_a_vit_is_copied_stored_compiled_and_checkpointed_as_it_is() -> None:
    vit = shake(build_backbone(BackboneConfig("vit_tiny_patch16_224", depth=2), 64))
    assert isinstance(vit, DinoVit)
    plain = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=0)
    assert [*vit.state_dict()] == [*plain.state_dict()]  # checkpoints are read by name
    image = torch.randn(2, 3, 96, 32)
    expected = vit(image)
    expected.sum().backward()
    gradient, vit.pos_embed.grad = vit.pos_embed.grad, None

    file = io.BytesIO()
    torch.save(vit, file)
    file.seek(0)
    stored = torch.load(file, weights_only=False)
    compiled = torch.compile(vit, backend="eager", fullgraph=True)
    for other in (copy.deepcopy(vit), stored, compiled):
        torch.testing.assert_close(other(image), expected)
    vit.set_grad_checkpointing()
    vit(image).sum().backward()
    torch.testing.assert_close(vit.pos_embed.grad, gradient)


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
"""Encoders by other recipes than DINO's first, and what makes them small."""


@pytest.mark.parametrize("name", FAMILIES)
def test_encoders_of_other_recipes(name: str) -> None:
    """They start a pretraining, with the CLS token as output; a student of them leaves all other prefix tokens out."""
    config = BackboneConfig(name, depth=2, pretrained=True, **FAMILIES[name])
    vit = shake(build_backbone(config, 112, download=False)).double()
    patch, prefix = patch_size(vit), vit.num_prefix_tokens
    for rows, columns in ((3, 5), (8, 8)):
        images = torch.randn(2, 3, rows * patch, columns * patch, dtype=torch.float64)
        matrix = attention_matrix(vit, images)
        with torch.no_grad():
            tokens = vit.forward_features(images)
            features, attention, embedding = VitOutputs(vit)(images)
            assert torch.equal(vit(images), tokens[:, 0])
        assert torch.equal(embedding, tokens[:, 0])
        assert torch.equal(features, tokens[:, prefix:].reshape(2, rows, columns, -1))
        assert attention.shape == (2, matrix.shape[1], rows, columns)
        assert_close(attention.flatten(2), matrix[:, :, 0, prefix:], 1e-6)


def test_attention_is_found_where_timm_was_told_not_to_fuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = shake(create_vit("vit_tiny_patch16_224", depth=1)).double()
    for block in vit.blocks:
        block.attn.fused_attn = False
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    matrix = attention_matrix(vit, images)
    with torch.no_grad():
        assert_close(VitOutputs(vit)(images)[1].flatten(2), matrix[:, :, 0, 1:], 1e-9)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", "'resnet18' is not a plain ViT with a CLS token"),
        ("beit_base_patch16_224", "'beit_base_patch16_224' is not a plain ViT with a CLS token"),
        ("vit_base_patch16_siglip_224", "cannot make the backbone 'vit_base_patch16_siglip_224' .*class token"),
        ("vit_nothing", "cannot make the backbone 'vit_nothing' .*list_models"),
    ],
)
def test_what_is_no_vit_with_a_cls_token_gets_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_vit(name)


def test_two_attentions_in_a_block_are_refused() -> None:
    vit = create_vit("vit_small_patch16_18x2_224", depth=1, embed_dim=64, num_heads=2)
    with pytest.raises(UserError, match="vit_small_patch16_18x2_224 attend in another way than by one softmax"):
        VitOutputs(vit)(torch.zeros(1, 3, 32, 32))
