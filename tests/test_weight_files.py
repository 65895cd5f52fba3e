"""Encoders from disk: each family's names give its ViT's outputs, and what cannot be opened is named."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from dino_v1_files import RECIPE, official_file, own_checkpoint
from reference_vit import assert_close, shake
from weight_layouts import LAYOUTS, State, as_classifier, as_hub_dinov2, as_openai_clip, write_folder

from dino_ros.errors import UserError
from dino_train.models.backbones import VitOutputs, create_vit, patch_size
from dino_train.models.weights import open_weights, random_like

HEADS_OF_64 = {"embed_dim": 128, "num_heads": 2, "depth": 2}


def small(name: str, **options: object) -> torch.nn.Module:
    """A random ViT of this timm architecture, two blocks deep, heads of 64 channels."""
    return shake(create_vit(name, **{**HEADS_OF_64, **options}))


def outputs(vit: torch.nn.Module, rows: int, columns: int) -> list[np.ndarray]:
    """Features, attention and embedding in float64."""
    torch.manual_seed(1)
    patch = patch_size(vit)
    with torch.no_grad():
        seen = VitOutputs(vit.double().eval())(torch.randn(1, 3, rows * patch, columns * patch, dtype=torch.float64))
    return [output.numpy() for output in seen]


def assert_same(opened: torch.nn.Module, source: torch.nn.Module) -> None:
    """Both ViTs say the same, at a size other than that of their position embedding."""
    for ours, theirs in zip(outputs(opened, 3, 5), outputs(source, 3, 5), strict=True):
        assert_close(torch.from_numpy(ours), theirs)


def write(path: Path, state: State) -> Path:
    """Write safetensors, whatever the file's ending says."""
    safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_family_gives_the_outputs_of_its_vit(tmp_path: Path, family: str) -> None:
    name_weights, name, config = LAYOUTS[family]
    source = small(name)
    folder = write_folder(tmp_path / "encoder", name_weights(source.state_dict()), config)
    opened = open_weights(str(folder))
    assert_same(opened.vit, source)
    assert str(tmp_path) not in f"{opened.architecture} {json.dumps(opened.origin)}"
    untrained = random_like(opened.origin)
    assert untrained is not None
    shapes = {name: tensor.shape for name, tensor in source.state_dict().items()}
    assert {name: tensor.shape for name, tensor in untrained.state_dict().items()} == shapes


def nested(state: State) -> object:
    return {"model": state, "epoch": 3}


def teacher_and_student(state: State) -> object:
    student = {f"module.backbone.{name}": torch.randn_like(tensor) for name, tensor in state.items()}
    return {"student": student, "teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}


def with_average(state: State) -> object:
    return {"state_dict": {name: torch.randn_like(t) for name, t in state.items()}, "model_ema": dict(state)}


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".pth", dict),
        (".pt", nested),
        (".bin", teacher_and_student),
        (".ckpt", with_average),
        (".safetensors", dict),
        ("", nested),
    ],
)
def test_torchs_files_are_recognized_by_their_content(
    tmp_path: Path, ending: str, content: Callable[[State], object]
) -> None:
    source = small("vit_small_patch14_dinov2")
    torch.save(content(source.state_dict()), tmp_path / f"encoder{ending}")
    assert_same(open_weights(str(tmp_path / f"encoder{ending}")).vit, source)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "backbone.", "teacher.backbone.", "model.", "encoder.", "module.encoder.vit.", "visual.trunk."],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_whatever_stands_before_all_names_is_left_out(tmp_path: Path, prefix: str, ending: str) -> None:
    source = small("vit_small_patch14_reg4_dinov2")
    state = {f"{prefix}{name}": tensor for name, tensor in as_hub_dinov2(source.state_dict()).items()}
    path = write(tmp_path / f"encoder{ending}", {**state, "other.weight": torch.zeros(2)})
    assert_same(open_weights(str(path)).vit, source)


def test_the_network_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    vits = {network: small("vit_small_patch14_dinov2") for network in ("student", "teacher")}
    shake(vits["student"], 5)
    content = {network: vit.state_dict() for network, vit in vits.items()}
    torch.save(content, tmp_path / "both.pth")
    for network, vit in vits.items():
        assert_same(open_weights(str(tmp_path / "both.pth"), network).vit, vit)
    torch.save({"teacher": content["teacher"]}, tmp_path / "teacher.pth")
    with pytest.raises(UserError, match=r"teacher\.pth .*student"):
        open_weights(str(tmp_path / "teacher.pth"), "student")
    torch.save({"left": content["student"], "right": content["teacher"]}, tmp_path / "twins.pth")
    with pytest.raises(UserError, match=r"twins\.pth .*'left\.', 'right\.'.*--network"):
        open_weights(str(tmp_path / "twins.pth"))


def test_a_folder_in_several_files(tmp_path: Path) -> None:
    source = small("vit_small_patch14_dinov2")
    folder = write_folder(tmp_path / "encoder", source.state_dict(), {}, parts=3)
    assert_same(open_weights(str(folder)).vit, source)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors"):
        open_weights(str(folder))


def test_half_precision(tmp_path: Path) -> None:
    source = small("vit_small_patch14_dinov2").bfloat16().float()
    path = write(tmp_path / "half.safetensors", {name: t.bfloat16() for name, t in source.state_dict().items()})
    assert_same(open_weights(str(path)).vit, source)


def test_the_files_beside_the_weights_count(tmp_path: Path) -> None:
    """Heads and epsilon of config.json, the normalization of preprocessor_config.json, the license of the card."""
    source = small("vit_small_patch14_dinov2", num_heads=4)
    config: dict[str, object] = {"num_attention_heads": 4, "layer_norm_eps": 1e-3}
    for norm in (module for module in source.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-3
    folder = write_folder(tmp_path / "encoder", source.state_dict(), config)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: some-nc-license\n---\n# Encoder\n")
    for name in ("encoder", "encoder/model.safetensors"):
        opened = open_weights(str(tmp_path / name))
        assert_same(opened.vit, source)
        assert opened.vit.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
        assert opened.vit.pretrained_cfg["std"] == (0.4, 0.5, 0.6)
        assert (opened.license, opened.is_free) == ("some-nc-license", False)


@pytest.mark.parametrize("marked", ["", "local-dir:"])
def test_timms_folder(tmp_path: Path, marked: str) -> None:
    """The architecture that config.json names, with its options; the private path stays private."""
    source = small("vit_small_patch14_dinov2", init_values=None)
    config: dict[str, object] = {
        "architecture": "vit_small_patch14_dinov2",
        "model_args": {**HEADS_OF_64, "init_values": None, "num_classes": 7, "global_pool": "avg"},
        "pretrained_cfg": {"tag": "mine", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "license": "mit"},
    }
    folder = write_folder(tmp_path / "private", source.state_dict(), config)
    opened = open_weights(f"{marked}{folder}")
    images = outputs(opened.vit, 16, 16), outputs(source, 16, 16)
    for ours, theirs in zip(*images, strict=True):
        assert_close(torch.from_numpy(ours), theirs, 0.1)  # timm's resize, where the tag is not DINOv2's
    assert opened.architecture == "vit_small_patch14_dinov2"
    assert (opened.license, opened.is_free) == ("mit", True)
    assert opened.vit.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert str(tmp_path) not in json.dumps(opened.origin)


@pytest.mark.parametrize(
    "name",
    [
        "eva02_tiny_patch14_224",
        "vit_xsmall_patch16_clip_224",
        "vit_tiny_patch16_224",
    ],
)
def test_a_named_architecture(tmp_path: Path, name: str) -> None:
    """EVA02, and whatever else timm has with a CLS token, in timm's names."""
    source = shake(create_vit(name))
    opened = open_weights(str(write(tmp_path / "encoder.bin", source.state_dict())), architecture=name)
    assert_same(opened.vit, source)
    assert opened.architecture == name
    assert opened.vit.pretrained_cfg["mean"] == source.pretrained_cfg["mean"]


def test_the_names_that_clip_is_published_under(tmp_path: Path) -> None:
    """Without config.json, only a named architecture tells its activation."""
    name = "vit_xsmall_patch16_clip_224"
    source = shake(create_vit(name))
    path = write(tmp_path / "clip.safetensors", as_openai_clip(source.state_dict()))
    assert_same(open_weights(str(path), architecture=name).vit, source)
    with pytest.raises(UserError, match=r"clip\.safetensors .*--architecture"):
        open_weights(str(path))


@pytest.mark.parametrize(("width", "patch", "side"), [(384, 16, 256), (768, 16, 256), (1024, 16, 256), (1280, 14, 224)])
def test_shapes_of_vc_1_mvp_and_mae(tmp_path: Path, width: int, patch: int, side: int) -> None:
    """MAE's layout under `model`, at 256 pixels for VC-1 and MVP; ViT-H has heads of 80 channels."""
    heads = {1280: 16}.get(width, width // 64)
    options = {"embed_dim": width, "num_heads": heads, "depth": 1, "patch_size": patch, "img_size": side}
    source = shake(create_vit("vit_base_patch16_224.mae", **options))
    torch.save({"model": source.state_dict()}, tmp_path / "vc1.pth")
    opened = open_weights(str(tmp_path / "vc1.pth"))
    assert opened.vit.patch_embed.grid_size == (side // patch, side // patch)
    assert_same(opened.vit, source)
    assert opened.license == "not stated"


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_dinos_own_files_and_checkpoints_whatever_they_are_called(tmp_path: Path) -> None:
    official_file(tmp_path / "dino.pt")
    own_checkpoint(tmp_path / "ours.pth", RECIPE)
    opened = open_weights(str(tmp_path / "dino.pt"))
    assert opened.origin["source"] == "official DINO v1 file dino.pt, teacher"
    assert (opened.architecture, opened.license) == ("vit_tiny_patch8_224.dino", "Apache-2.0")
    assert open_weights(str(tmp_path / "ours.pth")).origin["source"] == "dino-train pretrain, teacher"


def test_a_plain_vit_is_dinos_only_as_its_authors_publish_it(tmp_path: Path) -> None:
    source = shake(create_vit("vit_tiny_patch16_224", depth=1))
    torch.save(source.state_dict(), tmp_path / "alone.pth")
    torch.save({"model": source.state_dict()}, tmp_path / "mae.pth")
    torch.save(as_classifier(source.state_dict()), tmp_path / "supervised.pth")
    write(tmp_path / "converted.safetensors", source.state_dict())
    for name, license in (
        ("alone.pth", "Apache-2.0"),
        ("mae.pth", "not stated"),
        ("supervised.pth", "not stated"),
        ("converted.safetensors", "not stated"),
    ):
        assert open_weights(str(tmp_path / name)).license == license


VIT = {
    "patch_embed.proj.weight": torch.zeros(64, 3, 8, 8),
    "cls_token": torch.zeros(1, 1, 64),
    "blocks.0.norm1.weight": torch.zeros(64),
}
"""Some weights of a ViT."""


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "no ViT"),  # ResNet
        ({"stages.0.weight": torch.zeros(3)}, r"no ViT.*stages\.0\.weight"),
        (VIT, "position embedding"),
        ({**VIT, "pos_embed": torch.zeros(1, 12, 64)}, "12 tokens"),
        ({**VIT, "pos_embed": torch.zeros(1, 10, 64)}, r"blocks\.0\.attn\.proj\.bias is missing"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8), "cls_token": torch.zeros(1, 1, 64)}, "without blocks"),
        ({"patch_embed.proj.weight": VIT["patch_embed.proj.weight"]}, "neither CLS token nor attention pooling"),
        ({"patch_embed.proj.weight": torch.zeros(64, 192)}, r"\[64, 192\]"),  # patches flattened
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 2, 16, 16)}, r"\[64, 3, 2, 16, 16\]"),  # video
    ],
)
def test_what_is_no_vit_gets_one_sentence(tmp_path: Path, state: State, named: str) -> None:
    path = write(tmp_path / "other.safetensors", state)
    with pytest.raises(UserError, match=rf"other\.safetensors .*({named})") as caught:
        open_weights(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_tiny_r_s16_p8_224", "vit_base_patch16_siglip_gap_224"])
def test_other_vits_without_an_architecture_get_one_sentence(tmp_path: Path, name: str) -> None:
    """EVA02, whose weights do not tell enough; a hybrid with a convolutional stem; SigLIP's mean of patches."""
    import timm

    vit = timm.create_model(name, num_classes=0, **({} if "_r_" in name else {"depth": 1}))
    path = write(tmp_path / "other.bin", vit.state_dict())
    with pytest.raises(UserError, match=r"other\.bin") as caught:
        open_weights(str(path))
    assert "\n" not in str(caught.value)
    if not name.startswith("eva"):
        with pytest.raises(UserError, match=name):
            open_weights(str(path), architecture=name)


def damaged_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def damaged_torch(path: Path) -> None:
    torch.save({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/constants.pkl", b"")


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (damaged_safetensors, "damaged"),
        (damaged_torch, "cannot|not a weights file"),
        (torchscript, "TorchScript"),
        (no_tensors, "no weights"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
        (lambda path: path.write_bytes(b""), "not a weights file"),
        (lambda path: path.write_text("rubbish"), "not a weights file"),
        (lambda path: path.mkdir(), "none"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(tmp_path: Path, make: Callable[[Path], object], named: str) -> None:
    make(tmp_path / "broken.bin")
    with pytest.raises(UserError, match=rf"broken\.bin.*({named})") as caught:
        open_weights(str(tmp_path / "broken.bin"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.safetensors", "folder/gone", "local-dir:gone", "facebook/dinov2-small"])
def test_a_path_that_does_not_exist_is_no_timm_name(name: str) -> None:
    with pytest.raises(UserError, match=f"no weights file or folder {name.removeprefix('local-dir:')}"):
        open_weights(name)


def test_an_architecture_is_for_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--architecture .* vit_tiny_patch16_224"):
        open_weights("vit_tiny_patch16_224", architecture="vit_tiny_patch16_224")
    path = write(tmp_path / "encoder.bin", small("vit_small_patch14_dinov2").state_dict())
    with pytest.raises(UserError, match=r"encoder\.bin .*vit_tiny_patch16_224"):
        open_weights(str(path), architecture="vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("license", "free"),
    [
        ("apache-2.0", True),
        ("MIT", True),
        ("bsd-3-clause", True),
        ("cc-by-4.0", True),
        ("not stated", True),
        ("cc-by-nc-4.0", False),
        ("dinov3-license", False),
        ("other", False),
    ],
)
def test_which_licenses_are_warned_of(license: str, free: bool) -> None:
    from dino_train.models.weights import Weights

    assert Weights(torch.nn.Identity(), "", {}, license).is_free is free
