"""What is evaluated: checkpoints, students and random weights are opened by name and called alike."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from dino_v1_files import RECIPE as OFFICIAL_RECIPE
from dino_v1_files import official_file, own_checkpoint
from reference_vit import shake
from students import changed, expected, write_student
from tiny_recipe import RECIPE
from weight_layouts import LAYOUTS, write_folder

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_train.cli import run
from dino_train.evaluation import encoders
from dino_train.evaluation.encoders import (
    TorchEncoder,
    embed_images,
    open_encoders,
    perceive_all,
    random_vit,
)
from dino_train.models import weights
from dino_train.models.backbones import VitOutputs, build_backbone, create_vit
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.recipes import BackboneConfig

OUTPUTS = ("features", "attention", "embedding")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TINY = BackboneConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3)


def random_images(*shapes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    own_checkpoint(path, RECIPE)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    path = checkpoint.with_name("student.onnx")
    run(["export", str(checkpoint), "--out", str(path), "--size", "24x40", "--precision", "fp32"])
    return path


def test_a_checkpoint_says_what_its_teacher_and_its_student_file_say(checkpoint: Path, exported: Path) -> None:
    opened = open_encoders([str(checkpoint), str(exported)], (24, 40), "cpu")
    (image,) = random_images((24, 40))
    ours, theirs = (encoder(image, OUTPUTS) for encoder in opened.values())
    outputs = VitOutputs(checkpoint_backbone(load_checkpoint(checkpoint), "teacher").eval())
    images = torch.from_numpy((image / 255 - MEAN) / STD).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        direct = outputs(images)
    for name, tensor in zip(OUTPUTS, direct, strict=True):
        np.testing.assert_allclose(getattr(ours, name), tensor[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3)
    assert ours.mask is None


def test_a_student_file_is_what_runs_on_the_robot(student: Path) -> None:
    (encoder,) = open_encoders([str(student)], (8, 8)).values()  # it has its own size
    assert isinstance(encoder, Perceiver)
    images = random_images((32, 48))
    np.testing.assert_allclose(
        encoder(images[0], ("embedding",)).embedding, expected(np.stack(images))["embedding"][0], atol=1e-5
    )


def test_only_what_is_asked_for_is_given() -> None:
    encoder = TorchEncoder(shake(build_backbone(TINY, 32)), (16, 24))
    seen = encoder(random_images((16, 24))[0], ("attention",))
    assert seen.attention is not None
    assert seen.attention.shape == (3, 2, 3)
    assert (seen.features, seen.embedding, seen.mask) == (None, None, None)


def test_pictures_are_averaged_down_and_keep_their_size_unless_one_is_given() -> None:
    vit = build_backbone(TINY, 32)
    (image,) = random_images((48, 80))
    halved = TorchEncoder(vit, (24, 40)).prepare(image)[0].permute(1, 2, 0).numpy() * STD + MEAN
    np.testing.assert_allclose(halved * 255, image.reshape(24, 2, 40, 2, 3).mean(axis=(1, 3)), atol=0.51)
    own = TorchEncoder(vit).prepare(image)[0].permute(1, 2, 0).numpy() * STD + MEAN
    np.testing.assert_allclose(own * 255, image, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "shape", "side"),
    [
        (None, (48, 64), None),
        ((32, 32), (32, 32), 32),
        ((30, 30), (32, 32), 32),
        ((2, 2), (8, 8), 8),
        ((20, 41), (16, 40), None),
    ],
)
def test_sizes_are_rounded_to_patches(size: tuple[int, int] | None, shape: tuple[int, int], side: int | None) -> None:
    encoder = TorchEncoder(build_backbone(TINY, 32), size)
    assert tuple(encoder.prepare(random_images((49, 63))[0]).shape) == (1, 3, *shape)
    assert encoder.crop_side == side, "crops are for square sizes"


def test_many_images_go_in_batches_of_one_size_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "BATCH", 2)
    encoder = TorchEncoder(shake(build_backbone(TINY, 32)))
    images = random_images((16, 24), (16, 24), (16, 24), (24, 16), (16, 24), (16, 24))
    one_by_one = [encoder(image, OUTPUTS) for image in images]
    sizes: list[int] = []
    encoder._outputs.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    together = list(perceive_all(encoder, iter(images), OUTPUTS))
    assert sizes == [2, 1, 1, 2]
    for one, other in zip(one_by_one, together, strict=True):
        for name in OUTPUTS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


def test_embeddings_of_files(tmp_path: Path, student: Path) -> None:
    images = random_images((32, 48), (32, 48), (32, 48))
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), image[:, :, ::-1])
    embeddings = embed_images(Perceiver.load(student), files)
    np.testing.assert_allclose(embeddings, expected(np.stack(images))["embedding"], atol=1e-5)
    files[1].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1\.png does not decode"):
        embed_images(Perceiver.load(student), files)


def same_shape_other_weights(vit: torch.nn.Module, trained: torch.nn.Module) -> None:
    ours, theirs = vit.state_dict(), trained.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in theirs.items()}
    assert [name for name in ours if torch.equal(ours[name], theirs[name])] == []


def test_random_has_the_shape_of_a_checkpoint(checkpoint: Path) -> None:
    opened = open_encoders([str(checkpoint), "random"], (32, 32), "cpu")
    assert list(opened) == [str(checkpoint), f"random like {checkpoint}"]
    trained, untrained = opened.values()
    assert isinstance(trained, TorchEncoder)
    assert isinstance(untrained, TorchEncoder)
    same_shape_other_weights(untrained.vit, trained.vit)
    again = open_encoders([str(checkpoint), "random"], (32, 32), "cpu")[f"random like {checkpoint}"]
    (image,) = random_images((32, 32))
    first, second = (one(image, ("embedding",)).embedding for one in (untrained, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("family", ["torch.hub DINOv2 with registers", "transformers SigLIP"])
def test_random_has_the_shape_of_another_encoder_and_of_its_student(tmp_path: Path, family: str) -> None:
    """Its file, and the student file made of it, say how it was built."""
    name_weights, name, config = LAYOUTS[family]
    source = shake(create_vit(name, embed_dim=128, num_heads=2, depth=2))
    folder = write_folder(tmp_path / "encoder", name_weights(source.state_dict()), config)
    size = "28x42" if "14" in name else "32x48"
    run(["export", str(folder), "--out", str(tmp_path / "student.onnx"), "--size", size])
    for encoder in (str(folder), str(tmp_path / "student.onnx")):
        untrained = open_encoders([encoder, "random"], (56, 56), "cpu")[f"random like {encoder}"]
        assert isinstance(untrained, TorchEncoder)
        same_shape_other_weights(untrained.vit, source)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_random_has_the_shape_of_an_official_file(tmp_path: Path) -> None:
    official_file(tmp_path / "dino.pth")
    trained, untrained = open_encoders([str(tmp_path / "dino.pth"), "random"], (48, 48), "cpu").values()
    assert isinstance(trained, TorchEncoder)
    assert isinstance(untrained, TorchEncoder)
    assert len(untrained.vit.blocks) == OFFICIAL_RECIPE.backbone.depth
    same_shape_other_weights(untrained.vit, trained.vit)


def test_random_has_the_shape_of_an_encoder_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def created(name: str, pretrained: bool = False) -> torch.nn.Module:
        names.append((name, pretrained))
        return create_vit(name)

    monkeypatch.setattr(weights, "create_vit", created)
    opened = open_encoders(["vit_tiny_patch16_224", "random"], device="cpu")
    assert list(opened) == ["vit_tiny_patch16_224", "random like vit_tiny_patch16_224"]
    assert names == [("vit_tiny_patch16_224", True), ("vit_tiny_patch16_224", False)], "the second is not downloaded"


def test_random_has_the_shape_and_the_size_of_a_student(checkpoint: Path, exported: Path) -> None:
    encoder = open_encoders([str(exported), "random"], (64, 64), "cpu")[f"random like {exported}"]
    assert isinstance(encoder, TorchEncoder)
    assert encoder.size == (24, 40)
    same_shape_other_weights(encoder.vit, checkpoint_backbone(load_checkpoint(checkpoint), "teacher"))


def test_random_is_built_as_a_student_of_timm_says(tmp_path: Path) -> None:
    write_student(tmp_path / "timm.onnx", changed(weights={"source": "timm vit_tiny_patch16_224"}))
    vit = random_vit(str(tmp_path / "timm.onnx"))
    assert (vit.embed_dim, len(vit.blocks)) == (192, 12)


def test_names_that_cannot_be_used_get_one_sentence(student: Path, tmp_path: Path) -> None:
    for names, sentence in (
        ([str(student), str(student)], r"tiny\.onnx is named twice"),
        ([str(student), "random"], r"tiny\.onnx does not say how its ViT was built"),
        (["random"], "random takes the shape of the encoder before it"),
        ([str(tmp_path / "gone.onnx")], "There is no student"),
        ([str(tmp_path / "gone.pt")], r"gone\.pt"),
        ([str(tmp_path / "gone.pth")], r"gone\.pth"),
        (["no_such_vit"], "timm cannot make the backbone 'no_such_vit'"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_encoders(names, device="cpu")
