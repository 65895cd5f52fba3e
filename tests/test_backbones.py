"""ViTs against the equations of the papers: the reference's forward pass and attention, position embeddings, RoPE."""

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import timm
from reference_vit import (
    FAMILIES,
    assert_close,
    attention_matrix,
    plain_vit,
    resized,
    shake,
    softmax,
    weights_of,
)

from dino_ros.errors import UserError
from dino_train.export.student import fix_size
from dino_train.models.backbones import DinoVit, VitOutputs, build_backbone, create_vit, patch_size
from dino_train.recipes import BackboneConfig


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
        assert matrix[:, 0].max() > 5 / len(tokens)  # uneven enough for an error to show
    with torch.no_grad():  # at the last size, what pretraining sees and what is exported
        assert_close(vit(image)[0], tokens[0])
        assert_close(VitOutputs(fix_size(vit, height, width))(image)[2][0], tokens[0])


@pytest.mark.parametrize(
    ("name", "pretrained", "authors"),
    [
        ("vit_tiny_patch16_224", False, True),  # pretrained here
        ("vit_small_patch16_224.dino", True, True),
        ("vit_small_patch14_dinov2", True, True),
        ("vit_small_patch14_reg4_dinov2", False, False),  # as the published ones, from which it may start
        ("vit_small_patch14_reg4_dinov2", True, False),
        ("vit_tiny_patch16_224", True, False),
        ("vit_base_patch16_224.mae", True, False),
        ("deit3_small_patch16_224", True, False),
        ("deit_tiny_distilled_patch16_224", True, False),
    ],
)
def test_which_vits_resize_their_position_embedding_as_the_authors_do(
    name: str, pretrained: bool, authors: bool
) -> None:
    """ViTs without registers that are pretrained here or published by DINO's authors do; others keep timm's.

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


def test_published_weights_of_another_size_are_resized_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm would resize them in its own way while loading."""
    published = shake(timm.create_model("vit_small_patch16_224", num_classes=0, depth=1))
    create_model = timm.create_model

    def create_with_weights(*args: object, pretrained: bool, **options: object) -> torch.nn.Module:
        overlay = {"state_dict": published.state_dict(), "num_classes": 0}
        return create_model(*args, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", create_with_weights)
    vit = build_backbone(BackboneConfig("vit_small_patch16_224.dino", depth=1, pretrained=True), 96)
    assert_close(vit.pos_embed.detach()[0], resized(published.pos_embed.detach().double().numpy(), 6, 6))
    assert torch.equal(vit.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)


def test_a_vit_survives_copying_storing_compiling_and_checkpointing() -> None:
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


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True, "init_values": 0.5, "drop_path_rate": 0.5, "qkv_bias": False}]
)
def test_cls_alone_trains_as_it_does_beside_all_tokens(options: dict[str, Any]) -> None:
    """The last block leaves out what CLS does not need: neither the token nor any gradient may change."""
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=0, global_pool="token", **options)
    vit.__class__ = DinoVit
    shake(vit).train()
    image, towards = torch.randn(4, 3, 64, 64), torch.randn(4, 192)
    gradients = []
    for forward in (lambda image: vit.forward_features(image)[:, 0], vit):
        torch.manual_seed(0)  # of the stochastic depth
        (forward(image) * towards).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in vit.named_parameters()})
        vit.zero_grad()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", FAMILIES)
def test_encoders_other_than_dinos(name: str) -> None:
    """As backbones they return the CLS token; as students they leave out all other prefix tokens."""
    config = BackboneConfig(name, depth=2, pretrained=True, **FAMILIES[name])
    vit = shake(build_backbone(config, 112, download=False)).double()
    patch, prefix = patch_size(vit), vit.num_prefix_tokens
    for rows, columns in ((3, 5), (8, 8)):
        images = torch.randn(2, 3, rows * patch, columns * patch, dtype=torch.float64)
        matrix = attention_matrix(vit, images)
        with torch.no_grad():
            tokens = vit.forward_features(images)
            features, attention, embedding = VitOutputs(vit)(images)
            torch.testing.assert_close(vit(images), tokens[:, 0])
        assert torch.equal(embedding, tokens[:, 0])
        assert torch.equal(features, tokens[:, prefix:].reshape(2, rows, columns, -1))
        assert attention.shape == (2, matrix.shape[1], rows, columns)
        assert_close(attention.flatten(2), matrix[:, :, 0, prefix:], 1e-6)


def test_attention_is_found_where_timm_does_not_fuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = shake(create_vit("vit_tiny_patch16_224", depth=1)).double()
    for block in vit.blocks:
        block.attn.fused_attn = False
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    matrix = attention_matrix(vit, images)
    with torch.no_grad():
        assert_close(VitOutputs(vit)(images)[1].flatten(2), matrix[:, :, 0, 1:], 1e-9)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "CLS token"),
        ("beit_base_patch16_224", "CLS token"),
        ("vit_base_patch16_siglip_gap_224", "attention pooling"),
        ("vit_nothing", "list_models"),
    ],
)
def test_models_without_a_cls_token_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"'{name}'.*{reason}"):
        create_vit(name)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_so150m_patch16_reg4_map_256"])
def test_attention_pooling_takes_the_place_of_cls(name: str) -> None:
    """The attention is that of the pooling query, over patches alone, and the embedding what it pools: written out."""
    vit = shake(create_vit(name, embed_dim=96, num_heads=3, depth=2)).double()
    images = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    prefix, weights = vit.num_prefix_tokens, weights_of(vit.attn_pool)
    with torch.no_grad():
        tokens = vit.forward_features(images)[:, prefix:].numpy()
        features, attention, embedding = VitOutputs(vit)(images)
        assert torch.equal(vit(images), embedding)
    key, value = (
        (tokens @ weights["kv.weight"].T + weights["kv.bias"]).reshape(2, 15, 2, 3, 32).transpose(2, 0, 3, 1, 4)
    )
    query = (weights["latent"][0, 0] @ weights["q.weight"].T + weights["q.bias"]).reshape(3, 1, 32)
    expected = softmax(query @ key.transpose(0, 1, 3, 2) / 32**0.5)
    pooled = (expected @ value).reshape(2, 96) @ weights["proj.weight"].T + weights["proj.bias"]
    assert_close(features.flatten(1, 2), tokens)
    assert_close(attention.flatten(2), expected[:, :, 0])
    with torch.no_grad():
        hidden = vit.attn_pool.mlp(vit.attn_pool.norm(torch.from_numpy(pooled))).numpy()
    assert_close(embedding, pooled + hidden)


def test_two_attentions_in_a_block_are_refused() -> None:
    vit = create_vit("vit_small_patch16_18x2_224", depth=1, embed_dim=64, num_heads=2)
    with pytest.raises(UserError, match="vit_small_patch16_18x2_224"):
        VitOutputs(vit)(torch.zeros(1, 3, 32, 32))
