"""Files of DINO's authors: their content arrives in student, teacher, heads and center, and none of it is executed."""

import copy
import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_v1_files import RECIPE, official_file, own_checkpoint
from reference_vit import assert_close, gelu, plain_vit, resized, shake, weights_of

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone
from dino_train.models.dino_v1 import load_official
from dino_train.objectives.dino import Dino
from dino_train.objectives.initialize import initialize
from dino_train.recipes import CropsConfig, DinoRecipe

WITH_BATCH_NORM = dataclasses.replace(RECIPE, dino=dataclasses.replace(RECIPE.dino, use_bn_in_head=True))

# The authors' files were written with torch's old weight norm.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


def teacher_logits(network: dict[str, torch.Tensor], image: torch.Tensor) -> Any:
    """Backbone and head written out, [1, K]; batch norm by its running mean and variance."""
    weights = {name: tensor.double().numpy() for name, tensor in network.items()}
    backbone = {name.removeprefix("backbone."): array for name, array in weights.items() if "backbone." in name}
    x = plain_vit(backbone, image.double().numpy())[0][:1]
    norms = "head.mlp.1.running_mean" in weights
    for layer in (0, 3, 6) if norms else (0, 2, 4):
        x = x @ weights[f"head.mlp.{layer}.weight"].T + weights[f"head.mlp.{layer}.bias"]
        if norms and layer < 6:
            mean, variance, scale, shift = (
                weights[f"head.mlp.{layer + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / np.sqrt(variance + 1e-5) * scale + shift
        x = x if layer == (6 if norms else 4) else gelu(x)
    direction, norm = weights["head.last_layer.weight_v"], weights["head.last_layer.weight_g"]
    directions = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return x / np.linalg.norm(x) @ (norm * directions).T


@pytest.mark.parametrize("recipe", [RECIPE, WITH_BATCH_NORM], ids=["plain", "batch norm"])
def test_a_training_checkpoint_continues(tmp_path: Path, recipe: DinoRecipe) -> None:
    """Both networks' logits are those of the file's weights, at the size of its position embedding and at another."""
    networks = official_file(tmp_path / "checkpoint.pth", recipe.dino.use_bn_in_head)
    recipe = dataclasses.replace(recipe, crops=CropsConfig(48, 16))
    dino = Dino(recipe)
    initialize(dino, tmp_path / "checkpoint.pth")
    official = load_official(tmp_path / "checkpoint.pth")
    for name in ("student", "teacher"):
        network: Any = getattr(dino, name).eval()
        for size in (48, 32):
            image = torch.randn(3, size, size)
            with torch.no_grad():
                logits = network.head(network.backbone(image[None]))
            assert_close(logits, teacher_logits(networks[name], image))
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert torch.equal(dino.center, content["dino_loss"]["center"])
    assert (official.epoch, official.name) == (100, "vit_tiny_patch8_224.dino")
    assert official.args == {"arch": "vit_tiny", "patch_size": 8, "out_dim": 48, "global_crops_scale": [0.4, 1.0]}


def test_a_backbone_starts_both_networks_and_leaves_the_heads(tmp_path: Path) -> None:
    vit = shake(build_backbone(RECIPE.backbone, 48))
    torch.save(vit.state_dict(), tmp_path / "backbone.pth")
    dino = Dino(RECIPE)
    before = copy.deepcopy(dino.state_dict())
    initialize(dino, tmp_path / "backbone.pth")
    position = resized(weights_of(vit)["pos_embed"], 4, 4)  # of 48 pixels, for crops of 32
    for name, tensor in dino.state_dict().items():
        if "backbone." not in name:
            assert torch.equal(tensor, before[name])
        elif name.endswith("pos_embed"):
            assert_close(tensor[0], position)
        else:
            assert torch.equal(tensor, vit.state_dict()[name.split("backbone.")[1]])


def test_an_earlier_run_starts_another(tmp_path: Path) -> None:
    state = own_checkpoint(tmp_path / "checkpoint.pt", dataclasses.replace(RECIPE, crops=CropsConfig(48, 16)))
    dino = Dino(RECIPE)
    initialize(dino, tmp_path / "checkpoint.pt")
    for name, tensor in dino.state_dict().items():
        if name.endswith("pos_embed"):
            assert_close(tensor[0], resized(state[name].double().numpy(), 4, 4))
        else:
            assert torch.equal(tensor, state[name])


def changed(**settings: Any) -> DinoRecipe:
    """RECIPE with other settings of backbone or head."""
    backbone, head = (
        {k: v for k, v in settings.items() if hasattr(part, k)} for part in (RECIPE.backbone, RECIPE.dino)
    )
    return dataclasses.replace(
        RECIPE,
        backbone=dataclasses.replace(RECIPE.backbone, **backbone),
        dino=dataclasses.replace(RECIPE.dino, **head),
    )


@pytest.mark.parametrize("file", ["checkpoint.pth", "checkpoint.pt"])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"out_dim": 64}, r"dino.out_dim is 48 .*--dino.out_dim 48\."),
        ({"hidden_dim": 64, "bottleneck_dim": 8}, "--dino.bottleneck_dim 24 --dino.hidden_dim 40"),
        ({"use_bn_in_head": True}, "--dino.use_bn_in_head false"),
        ({"patch_size": 16}, "--backbone.patch_size 8"),
        ({"name": "vit_small_patch16_224"}, "--backbone.embed_dim 192 --backbone.num_heads 3"),
        ({"num_heads": 2}, "--backbone.num_heads 3"),
        ({"depth": 3}, "--backbone.depth 2"),
        (
            {"name": "vit_small_patch14_dinov2", "embed_dim": 192, "num_heads": 3},
            r"blocks.0.ls1.gamma is missing.*--backbone.name vit_tiny_patch16_224",
        ),
    ],
)
def test_what_does_not_match_is_named(tmp_path: Path, file: str, settings: dict[str, Any], named: str) -> None:
    own_checkpoint(tmp_path / file, RECIPE) if file.endswith(".pt") else official_file(tmp_path / file)
    dino = Dino(changed(**settings))
    before = copy.deepcopy(dino.state_dict())
    with pytest.raises(UserError, match=named) as caught:
        initialize(dino, tmp_path / file)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dino.state_dict().items())


class Dangerous:
    """Executes code when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    vit = build_backbone(RECIPE.backbone, 48)
    torch.save({**vit.state_dict(), "args": Dangerous(tmp_path / "made")}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match=r"hostile.pth .*safely"):
        load_official(tmp_path / "hostile.pth")
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_written_with_an_older_numpy(tmp_path: Path) -> None:
    """The optimizer's learning rate is a NumPy scalar, whose constructor is named differently in NumPy 1 and 2."""
    official_file(tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(name, content)
    assert b"cnumpy.core.multiarray\nscalar" in zipfile.ZipFile(tmp_path / "old.pth").read("new/data.pkl")
    for name in ("new.pth", "old.pth"):
        assert load_official(tmp_path / name).epoch == 100


def beginning(width: int) -> dict[str, torch.Tensor]:
    """Weights of a ViT that say its width, and no more."""
    return {"patch_embed.proj.weight": torch.zeros(width, 3, 16, 16), "pos_embed": torch.zeros(1, 5, width)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "holds no DINO v1 ViT"),  # ResNet-50
        ([torch.zeros(2)], "holds no DINO v1 ViT"),
        (beginning(192), "without blocks"),
        (beginning(1024) | {"blocks.0.norm1.weight": torch.zeros(1024)}, "width 1024"),
        (beginning(192) | {"blocks.0.norm1.weight": torch.zeros(192)}, r"blocks\.0\.attn\.proj\.bias is missing"),
    ],
)
def test_other_networks_get_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=sentence) as caught:
        load_official(tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


def test_a_missing_file_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth"):
        initialize(Dino(RECIPE), tmp_path / "nothing.pth")
