"""Students that `dino-train export` writes: they say what torch says, and what does not is refused."""

import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402
from test_pretrain import RECIPE  # noqa: E402

from dino_ros.demo.table import TABLE  # noqa: E402
from dino_ros.errors import UserError  # noqa: E402
from dino_ros.perceiver import Perceiver  # noqa: E402
from dino_ros.student import read_student  # noqa: E402
from dino_train import export as export_module  # noqa: E402
from dino_train.backbones import VitOutputs, create_vit  # noqa: E402
from dino_train.checkpoint import Checkpoint, checkpoint_backbone, load_checkpoint, save_checkpoint  # noqa: E402
from dino_train.cli import run  # noqa: E402
from dino_train.objectives.dino import Dino  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose student and teacher differ, with weights large enough for attention to be uneven."""
    torch.manual_seed(0)
    dino = Dino(RECIPE)
    with torch.no_grad():
        for parameter in dino.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    save_checkpoint(Checkpoint(RECIPE, ["bag"], [], 100, 7, dino.state_dict(), {}, {}, {}), path)
    return path


def reference(vit: torch.nn.Module, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, attention and embedding by timm's own forward pass in float64, the whole attention matrix computed."""
    vit = vit.double().eval()
    config = vit.pretrained_cfg
    images = torch.from_numpy((pictures / 255.0 - config["mean"]) / config["std"]).permute(0, 3, 1, 2)
    last, seen = vit.blocks[-1].attn, []
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        tokens = vit.forward_features(images)
        handle.remove()
        batch, count, _ = seen[0].shape
        qkv = last.qkv(seen[0]).reshape(batch, count, 3, last.num_heads, -1).permute(2, 0, 3, 1, 4)
        matrix = (qkv[0] @ qkv[1].transpose(-2, -1) / qkv.shape[-1] ** 0.5).softmax(dim=-1)
    rows, columns = pictures.shape[1] // 8, pictures.shape[2] // 8
    prefix = vit.num_prefix_tokens
    features = tokens[:, prefix:].reshape(batch, rows, columns, -1)
    attention = matrix[:, :, 0, prefix:].reshape(batch, -1, rows, columns)
    return features.numpy(), attention.numpy(), tokens[:, 0].numpy()


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
    pictures = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    vit = checkpoint_backbone(load_checkpoint(checkpoint), network)
    features, attention, embedding = reference(vit, pictures)
    for seen, f, a, e in zip(Perceiver.load(out)(list(pictures)), features, attention, embedding, strict=True):
        assert np.abs(seen.features - f).max() < tolerance * np.abs(f).max()
        assert np.abs(seen.attention - a).max() < tolerance * a.max()
        assert np.abs(seen.embedding - e).max() < tolerance * np.abs(e).max()
    info = read_student(out)
    assert (info.grid, info.heads, info.embed_dim, info.precision) == ((3, 5), 2, 64, precision)
    assert info.weights["source"] == f"dino-train pretrain, {network}"
    assert info.weights["steps"] == 7
    assert len(str(info.weights["sha256"])) == 64


def test_registers_are_left_out() -> None:
    """DINOv2's register tokens appear in no output."""
    torch.manual_seed(0)
    vit = create_vit(
        "vit_small_patch14_reg4_dinov2", patch_size=8, embed_dim=32, depth=2, num_heads=2, img_size=32
    ).double()
    pictures = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    features, attention, embedding = reference(vit, pictures)
    images = torch.from_numpy((pictures / 255.0 - vit.pretrained_cfg["mean"]) / vit.pretrained_cfg["std"])
    with torch.no_grad():
        got = VitOutputs(vit)(images.permute(0, 3, 1, 2))
    assert vit.num_prefix_tokens == 5
    for ours, theirs in zip(got, (features, attention, embedding), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)


def test_official_dino_v1_file(tmp_path: Path) -> None:
    """Both kinds that the authors publish: backbone alone, and training checkpoint with `module.backbone.` names."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", num_classes=0)
    backbone = dict(vit.state_dict())
    full = {"teacher": {f"backbone.{name}": tensor for name, tensor in backbone.items()}, "epoch": 3}
    full["teacher"]["head.mlp.0.weight"] = torch.zeros(3, 3)
    embeddings = []
    for name, content in (("backbone.pth", backbone), ("full.pth", full)):
        torch.save(content, tmp_path / name)
        out = tmp_path / f"{name}.onnx"
        run(["export", str(tmp_path / name), "--out", str(out), "--size", "64x96"])
        info = read_student(out)
        assert info.architecture == "vit_small_patch16_224.dino"
        assert info.mean == pytest.approx((0.485, 0.456, 0.406))
        embeddings.append(Perceiver.load(out)(np.full((64, 96, 3), 100, np.uint8), ["embedding"]).embedding)
    np.testing.assert_array_equal(*embeddings)


def test_timm_names_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real download code, against a server on the loopback that holds one small checkpoint."""
    torch.manual_seed(1)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "tiny.pth")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        url = f"http://127.0.0.1:{server.server_port}/tiny.pth"
        overlay = {"url": url, "hf_hub_id": None, "source": "url", "num_classes": 0, "custom_load": False}
        original = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: original(*a, **k, pretrained_cfg_overlay=overlay))
        vit = create_vit("vit_tiny_patch16_224", pretrained=True)
    finally:
        server.shutdown()
    assert all(torch.equal(a, b) for a, b in zip(vit.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vit_nothing"], "cannot make the backbone 'vit_nothing'"),
        (["resnet18.a1_in1k", "--network", "random"], "takes the shape of a checkpoint"),
        (["missing.pt"], "no checkpoint missing.pt"),
        (["CHECKPOINT", "--size", "30x40"], "--size 30x40 is not a multiple of the patch size 8: choose 24x40"),
        (["CHECKPOINT", "--size", "224"], "--size 224 is not HxW"),
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


def test_a_pth_file_that_is_no_dino_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("rubbish")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name, sentence in (("text.pth", "not a weights file"), ("other.pth", "holds no DINO v1 ViT")):
        with pytest.raises(UserError, match=sentence):
            run(["export", str(tmp_path / name), "--out", str(tmp_path / "x.onnx")])


def test_a_student_that_differs_is_refused_and_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one per cent in the graph is found by the parity check."""
    write = export_module.write_onnx

    def write_wrong(graph: torch.nn.Module, info: object, path: Path) -> None:
        graph.scale.mul_(1.01)
        write(graph, info, path)  # type: ignore[arg-type]

    monkeypatch.setattr(export_module, "write_onnx", write_wrong)
    with pytest.raises(UserError, match=r"features differs from torch by .* above the tolerance 1e-03 of fp32"):
        run(["export", str(checkpoint), "--out", str(tmp_path / "x.onnx"), "--size", "24x40"])
    assert not list(tmp_path.iterdir())


def test_evaluate_agrees_with_the_formula(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of the demo's bag, head by head, computed again the slow way for its first frames."""
    from dino_ros.masks import MaskParameters, attention_mask, upsample_mask
    from dino_train.evaluation.jaccard import jaccard_scores, labelled_bag

    out = tmp_path / "student.onnx"
    run(["export", str(checkpoint), "--out", str(out), "--size", "48x64"])
    perceiver = Perceiver.load(out)
    frames = [f for _, f in zip(range(5), labelled_bag(TABLE, "/camera/image_raw/compressed",
              "/ground_truth/mask/compressed"), strict=False)]  # fmt: skip
    best, mean, objects = [], [], []
    for rgb, ids in frames:
        attention = perceiver(rgb, ["attention"]).attention
        heads = [upsample_mask(attention_mask(attention, MaskParameters(head=h)), *ids.shape) > 0 for h in (-1, 0, 1)]
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
    assert (scores.pictures, scores.objects) == (5, len(objects))
    json.dumps(scores.__dict__)  # plain numbers
