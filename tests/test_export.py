"""Students that `dino-train export` writes: they say what torch says, and what does not is refused."""

import argparse
import copy
import dataclasses
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx
import safetensors.torch
import timm
from dino_v1_files import own_checkpoint
from reference_vit import FAMILIES, attention_matrix, shake
from tiny_recipe import RECIPE
from weight_layouts import LAYOUTS, write_folder

from dino_ros.demo.table import TABLE
from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_train.cli import run
from dino_train.export import student as export_module
from dino_train.models import weights as weights_module
from dino_train.models.backbones import VitOutputs, build_backbone, create_vit, patch_size
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.recipes import BackboneConfig

PREFIX_TOKENS = {
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_giant_patch14_dinov2": 1,
    "vit_small_patch16_dinov3": 5,
    "vit_base_patch16_224.mae": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "deit3_small_patch16_224": 1,
}
"""Encoders by other recipes, and how many tokens stand before their patches."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose student and teacher differ, with weights large enough for attention to be uneven."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    own_checkpoint(path, dataclasses.replace(RECIPE, backbone=dataclasses.replace(RECIPE.backbone, depth=2)))
    return path


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one block: each takes a second to export."""
    path = tmp_path_factory.mktemp("shallow") / "checkpoint.pt"
    own_checkpoint(path, dataclasses.replace(RECIPE, backbone=dataclasses.replace(RECIPE.backbone, depth=1)))
    return path


def reference(vit: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, attention and embedding by timm's own forward pass in float64, the whole attention matrix computed."""
    vit = vit.double().eval()
    config, prefix = vit.pretrained_cfg, vit.num_prefix_tokens
    prepared = torch.from_numpy((images / 255.0 - config["mean"]) / config["std"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = vit.forward_features(prepared).numpy()
    matrix = attention_matrix(vit, prepared)
    batch, rows, columns = len(images), *(n // patch_size(vit) for n in images.shape[1:3])
    features = tokens[:, prefix:].reshape(batch, rows, columns, -1)
    return features, matrix[:, :, 0, prefix:].reshape(batch, -1, rows, columns), tokens[:, 0]


def assert_says(student: Path, images: np.ndarray, expected: tuple[np.ndarray, ...], tolerance: float) -> None:
    """The student's outputs differ from what is expected by less than a share of its largest value."""
    seen = Perceiver.load(student)(list(images))
    for name, theirs in zip(("features", "attention", "embedding"), expected, strict=True):
        ours = np.stack([getattr(output, name) for output in seen])
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 3e-2)])
def test_the_student_says_what_torch_says(
    checkpoint: Path, tmp_path: Path, network: str, precision: str, tolerance: float
) -> None:
    out = tmp_path / "student.onnx"
    run(
        [
            "export",
            str(checkpoint),
            "--out",
            str(out),
            "--size",
            "24x40",
            "--precision",
            precision,
            "--network",
            network,
        ]
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    vit = checkpoint_backbone(load_checkpoint(checkpoint), network)
    assert_says(out, images, reference(vit, images), tolerance)
    info = read_student(out)
    assert (info.grid, info.heads, info.embed_dim, info.precision) == ((3, 5), 2, 64, precision)
    assert info.weights["source"] == f"dino-train pretrain, {network}"
    assert info.weights["steps"] == 7
    assert len(str(info.weights["sha256"])) == 64


@pytest.mark.parametrize(("name", "prefix"), PREFIX_TOKENS.items())
def test_students_of_other_recipes(name: str, prefix: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2 with and without registers, DINOv3, MAE and DeiT say in ONNX Runtime what they say in torch."""
    built = shake(create_vit(name, depth=2, **FAMILIES[name]))
    vit = copy.deepcopy(built)
    monkeypatch.setattr(weights_module, "create_vit", lambda name, pretrained: built)
    size = patch_size(vit)
    out = tmp_path / "student.onnx"
    run(["export", name, "--out", str(out), "--size", f"{3 * size}x{5 * size}"])
    images = np.random.default_rng(0).integers(0, 256, (2, 3 * size, 5 * size, 3), dtype=np.uint8)
    assert_says(out, images, reference(vit, images), 2e-5)
    info, model = read_student(out), onnx.load(out)
    assert (info.registers, info.heads, info.grid) == (prefix - 1, 3, (3, 5))
    assert info.license == vit.pretrained_cfg["license"]
    assert model.opset_import[0].version == 18
    assert "Resize" not in {node.op_type for node in model.graph.node}


def test_official_dino_v1_file(tmp_path: Path) -> None:
    """Both kinds that the authors publish: backbone alone, and training checkpoint, whose networks are told apart."""
    teacher, student = (
        shake(build_backbone(BackboneConfig("vit_small_patch16_224", depth=2), 224), seed) for seed in (0, 1)
    )
    full = {
        "student": {f"module.backbone.{name}": tensor for name, tensor in student.state_dict().items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in teacher.state_dict().items()},
        "args": argparse.Namespace(arch="vit_small"),
    }
    torch.save(teacher.state_dict(), tmp_path / "backbone.pth")
    torch.save(full, tmp_path / "full.pth")
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    out = tmp_path / "student.onnx"
    for name, network, vit in (
        ("backbone.pth", "teacher", teacher),
        ("full.pth", "teacher", teacher),
        ("full.pth", "student", student),
    ):
        run(["export", str(tmp_path / name), "--out", str(out), "--size", "64x96", "--network", network])
        assert_says(out, images, reference(vit, images), 1e-4)
        info = read_student(out)
        assert info.architecture == "vit_small_patch16_224.dino"
        assert info.mean == pytest.approx((0.485, 0.456, 0.406))
        assert info.weights["source"] == f"official DINO v1 file {name}, {network}"


EXPORTS = """
import sys
from dino_train.cli import main

out, *names = sys.argv[1:]
for name in names:
    sys.argv = ["dino-train", "export", name, "--out", out, "--size", "48x32"]
    main()
"""


def test_timm_names_are_downloaded(tmp_path: Path) -> None:
    """`dino-train export NAME` in a process of its own, against a hub on the loopback that holds one small model."""
    torch.manual_seed(1)
    source = timm.create_model("test_vit", num_classes=0)
    weights = tmp_path / "model.safetensors"
    safetensors.torch.save_file(source.state_dict(), weights)

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = self.path == f"/timm/test_vit.r160_in1k/resolve/main/{weights.name}"
            content = weights.read_bytes() if there else b""
            self.send_response(200 if there else 404)
            for name, value in {
                "Content-Length": len(content),
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": "0" * 40,
                **({} if there else {"X-Error-Code": "EntryNotFound"}),
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    out = tmp_path / "student.onnx"

    def export(*names: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        # The hub's address is read when huggingface_hub is imported.
        hub = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", EXPORTS, str(out), *names]
        return subprocess.run(command, env={**os.environ, **hub, **environment}, capture_output=True, text=True)

    try:
        missing = export("test_vit.r160_in1k", "vit_small_patch16_224.dino")
    finally:
        server.shutdown()
        server.server_close()
    unreachable = export("vit_small_patch16_224.dino", HF_HUB_OFFLINE="1")
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 32, 3), dtype=np.uint8)
    vit = create_vit("test_vit.r160_in1k")
    vit.load_state_dict(source.state_dict())
    assert_says(out, images, reference(vit, images), 1e-4)
    assert read_student(out).weights["source"] == "timm test_vit.r160_in1k"
    for process in (missing, unreachable):
        assert process.returncode == 2
        assert (
            "The weights of 'vit_small_patch16_224.dino' cannot be fetched from the Hugging Face hub" in process.stderr
        )
        assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("arguments", "size", "sentence"),
    [
        (["--camera", "64x48"], (48, 64), "for a camera 64 wide and 48 high"),
        (["--camera", "48x64"], (64, 48), "for an upright camera 48 wide and 64 high"),
        (["--camera", "1280x720"], (168, 296), "for a camera 1280 wide and 720 high"),
        ([], (224, 224), r"224 pixels high and 224 wide: --camera WIDTHxHEIGHT chooses one of your camera's aspect\.$"),
        (["--size", "48x88"], (48, 88), r"48 pixels high and 88 wide\.$"),
    ],
)
def test_the_size_follows_the_camera_and_is_printed(
    shallow: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    size: tuple[int, int],
    sentence: str,
) -> None:
    out = tmp_path / "student.onnx"
    run(["export", str(shallow), "--out", str(out), *arguments])
    info = read_student(out)
    assert (info.height, info.width) == size
    (perception,) = Perceiver.load(out)([np.zeros((48, 64, 3), np.uint8)], ["features"])
    assert perception.features.shape[:2] == (size[0] // 8, size[1] // 8)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("The input is ")]
    assert f"{size[0]} pixels high and {size[1]} wide" in said
    assert re.search(sentence, said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vit_nothing"], "cannot make the backbone 'vit_nothing'"),
        (["resnet18.a1_in1k", "--network", "random"], "takes the shape of a checkpoint"),
        (["missing.pt"], "missing.pt"),
        (["CHECKPOINT", "--size", "30x40"], "--size 30x40 is not a multiple of the patch size 8: choose 24x40"),
        (["CHECKPOINT", "--size", "224"], "--size 224 is not HxW"),
        (["CHECKPOINT", "--camera", "640"], "--camera 640 is not WIDTHxHEIGHT"),
        (["CHECKPOINT", "--camera", "640x4"], "A camera of 640x4 is smaller than a patch of 8x8 pixels"),
        (["CHECKPOINT", "--camera", "640x480", "--size", "24x40"], "--size and --camera are both given"),
    ],
)
def test_what_cannot_be_exported_gets_one_sentence(
    checkpoint: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    named = [str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments]
    with pytest.raises(UserError, match=sentence) as caught:
        run(["export", *named, "--out", str(tmp_path / "x.onnx")])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_are_refused_before_any_data_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: object) -> None:
        raise AssertionError("the data was opened")

    monkeypatch.setattr(export_module, "open_frames", opened)
    monkeypatch.setattr(export_module, "open_class_folder", opened)
    (tmp_path / "text.pth").write_text("rubbish")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name in ("text.pth", "other.pth", "gone.pth"):
        with pytest.raises(UserError, match=name):
            run(["export", str(tmp_path / name), "--knn", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("family", ["torch.hub DINOv3", "OpenCLIP QuickGELU", "transformers SigLIP"])
def test_students_of_encoders_from_disk(tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture) -> None:
    """They say what the encoder says, are written next to it, and their description holds no private path."""
    name_weights, name, config = LAYOUTS[family]
    source = shake(create_vit(name, embed_dim=128, num_heads=2, depth=2))
    folder = write_folder(tmp_path / "encoder", name_weights(source.state_dict()), config)
    with caplog.at_level("INFO"):
        run(["export", str(folder), "--size", "48x80"])
    student = tmp_path / "encoder.onnx"
    info = read_student(student)
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    with torch.no_grad():
        normalized = (torch.from_numpy(images) / 255 - torch.tensor(info.mean)) / torch.tensor(info.std)
        expected = [output.numpy() for output in VitOutputs(source)(normalized.permute(0, 3, 1, 2))]
    assert_says(student, images, tuple(expected), 1e-4)
    assert (info.mean, info.std) == tuple(source.pretrained_cfg[part] for part in ("mean", "std"))
    assert info.registers == (4 if "DINOv3" in family else 0)
    assert str(tmp_path) not in info.to_json()
    assert ("dinov3-license" in caplog.text) == ("DINOv3" in family)


def test_a_license_that_is_named_is_not_warned_of_if_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = shake(create_vit("vit_small_patch14_dinov2", embed_dim=128, num_heads=2, depth=1))
    safetensors.torch.save_file(source.state_dict(), tmp_path / "encoder.safetensors")
    for license, warned in (("apache-2.0", False), ("cc-by-nc-4.0", True)):
        caplog.clear()
        run(["export", str(tmp_path / "encoder.safetensors"), "--size", "28x28", "--license", license])
        assert read_student(tmp_path / "encoder.onnx").license == license
        assert any(record.levelname == "WARNING" and license in record.message for record in caplog.records) == warned


def test_a_student_that_differs_is_refused_and_not_kept(
    shallow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one per cent in the graph is found by the parity check."""
    write = export_module.write_onnx

    def write_wrong(graph: torch.nn.Module, info: object, path: Path) -> None:
        graph.scale.mul_(1.01)
        write(graph, info, path)  # type: ignore[arg-type]

    monkeypatch.setattr(export_module, "write_onnx", write_wrong)
    with pytest.raises(UserError, match=r"features .* 1e-03 of fp32"):
        run(["export", str(shallow), "--out", str(tmp_path / "x.onnx"), "--size", "24x40"])
    assert not list(tmp_path.iterdir())


def test_evaluate_agrees_with_the_formula(shallow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of the demo's bag, head by head, computed again the slow way for its first frames."""
    from dino_ros.masks.attention import attention_mask
    from dino_ros.masks.binary import upsample_mask
    from dino_train.evaluation.segmentation.jaccard import jaccard_scores
    from dino_train.evaluation.segmentation.labeled_images import labeled_bag

    out = tmp_path / "student.onnx"
    run(["export", str(shallow), "--out", str(out), "--size", "48x64"])
    perceiver = Perceiver.load(out)
    frames = [f for _, f in zip(range(5), labeled_bag(TABLE, "/camera/image_raw/compressed",
              "/ground_truth/mask/compressed"), strict=False)]  # fmt: skip
    best, mean, objects = [], [], []
    for rgb, ids in frames:
        attention = perceiver(rgb, ["attention"]).attention
        heads = [upsample_mask(attention_mask(attention, 0.6, h), *ids.shape) > 0 for h in (-1, 0, 1)]
        overlap = [(m & (ids > 0)).sum() / (m | (ids > 0)).sum() for m in heads]
        mean.append(overlap[0])
        best.append(max(overlap[1:]))
        for n in range(1, ids.max() + 1):
            if (ids == n).any():
                objects.append(max((m & (ids == n)).sum() / (m | (ids == n)).sum() for m in heads[1:]))
    scores = jaccard_scores(perceiver, frames)
    assert scores.mean_of_heads == pytest.approx(np.mean(mean))
    assert scores.best_head == pytest.approx(np.mean(best))
    assert scores.best_head_per_object == pytest.approx(np.mean(objects))
    assert (scores.images, scores.objects) == (5, len(objects))
    json.dumps(scores.__dict__)  # plain numbers
