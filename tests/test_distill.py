"""Distillation: its loss against the formula, whole runs on small rendered data, and what becomes of the student."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2
from dino_v1_files import own_checkpoint
from shapes import render_shape, write_shapes
from timm.models import VisionTransformer
from tiny_recipe import RECIPE as TEACHER_RECIPE
from weight_layouts import write_folder

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_train.cli import run
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.export.input_size import Camera, input_size
from dino_train.export.teacher_comparison import size_for
from dino_train.models.backbones import VitOutputs, build_backbone, create_vit
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.models.fewer_blocks import copy_blocks
from dino_train.models.weights import joint_license, open_weights
from dino_train.objectives.dino import Dino
from dino_train.objectives.distill import Distill, agree, distill_loss
from dino_train.objectives.initialize import initialize
from dino_train.objectives.methods import build_objective
from dino_train.recipes import (
    BackboneConfig,
    CropsConfig,
    Dinov2Config,
    Dinov2Recipe,
    DistillConfig,
    DistillRecipe,
    OptimizerConfig,
)
from dino_train.recipes.files import load_recipe, recipe_from_dict
from dino_train.runs.log import LAST_NAME, LOG_NAME
from dino_train.training import trainer
from dino_train.training.checks import check_crop_sizes

CPU = MachineConfig(device="cpu", workers=0)
QUIET = EvaluationConfig(every=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of random weights large enough for attention to be uneven, and images."""
    folder = tmp_path_factory.mktemp("distill")
    own_checkpoint(folder / "teacher.pt", TEACHER_RECIPE)
    (folder / "images").mkdir()
    write_shapes(folder / "images", 128)
    return folder


def recipe(folder: Path, **changes: object) -> DistillRecipe:
    return dataclasses.replace(
        DistillRecipe(
            backbone=BackboneConfig("vit_tiny_patch16_224", 8, 32, depth=2, num_heads=2, drop_path_rate=0.0),
            crops=CropsConfig(32, local_crops_number=0, color=0.3),
            optimizer=OptimizerConfig(lr=2e-2, warmup_epochs=1, weight_decay_end=0.04),
            epochs=6,
            batch_size=16,
            teacher=str(folder / "teacher.pt"),
        ),
        **changes,
    )


def distilled(folder: Path, out: Path, machine: MachineConfig = CPU, **changes: object) -> Path:
    return trainer.train(recipe(folder, **changes), DataConfig([str(folder / "images")]), out, machine, QUIET)


def read_log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]


def outputs(rng: np.random.Generator, heads: int) -> list[np.ndarray]:
    """Features, attention and CLS token of three crops; the attention misses what lies on CLS and registers."""
    attention = 0.1 + rng.random((3, heads, 2, 4)) ** 3
    attention *= 0.8 / attention.sum(axis=(2, 3), keepdims=True)
    return [rng.normal(size=(3, 2, 4, 5)), attention, rng.normal(size=(3, 5))]


def reference(ours: list[np.ndarray], theirs: list[np.ndarray], weights: tuple[float, float, float]) -> np.ndarray:
    """The loss of each crop, number by number."""
    losses = []
    for crop in range(len(ours[0])):

        def cosine(a: np.ndarray, b: np.ndarray) -> float:
            return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(a**2) * sum(b**2)) ** 0.5

        patches = [cosine(ours[0][crop, i, j], theirs[0][crop, i, j]) for i in range(2) for j in range(4)]
        p, q = theirs[1][crop], ours[1][crop]
        if len(p) != len(q):
            p, q = p.mean(axis=0)[None], q.mean(axis=0)[None]
        divergences = []
        for one, other in zip(p, q, strict=True):
            one, other = one.ravel() / one.sum(), other.ravel() / other.sum()
            divergences.append(sum(a * np.log(a / b) for a, b in zip(one, other, strict=True)))
        parts = (1 - np.mean(patches), 1 - cosine(ours[2][crop], theirs[2][crop]), np.mean(divergences))
        losses.append(sum(weight * part for weight, part in zip(weights, parts, strict=True)))
    return np.array(losses)


@pytest.mark.parametrize("heads", [(2, 2), (2, 3)], ids=["head by head", "mean of heads"])
def test_the_loss_is_the_formula_and_so_is_its_gradient(heads: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = outputs(rng, heads[0]), outputs(rng, heads[1])
    weights = (1.0, 0.5, 2.0)
    fixed = [torch.from_numpy(a) for a in theirs]

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        return distill_loss(agree(tensors, tuple(fixed), tensors[2]), *weights)

    free = [torch.from_numpy(a).requires_grad_() for a in ours]
    np.testing.assert_allclose(loss(*free).detach().numpy(), reference(ours, theirs, weights), rtol=1e-12)
    gradients = torch.autograd.grad(loss(*free).sum(), free)
    for part, gradient in enumerate(gradients):
        for index in np.ndindex(ours[part].shape):  # central differences of the slow formula
            moved = []
            for step in (1e-6, -1e-6):
                changed = [a.copy() for a in ours]
                changed[part][index] += step
                moved.append(reference(changed, theirs, weights).sum())
            assert gradient[index].item() == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-6)


def test_the_objective_compares_the_networks(folder: Path) -> None:
    """A teacher of another width, patch size and normalization sees the crop as it would by itself."""
    torch.manual_seed(0)
    small = recipe(folder, backbone=BackboneConfig("vit_tiny_patch16_224", 4, 32, 2, 2, drop_path_rate=0.0))
    distill = Distill(small).train()
    distill._shift, distill._scale = [0.1, 0.2, 0.3], [1.5, 1.0, 0.5]
    crops = torch.randn(3, 3, 32, 32)
    loss, agreement = distill([crops], {})
    seen = crops * torch.tensor([1.5, 1.0, 0.5]).view(1, 3, 1, 1) + torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    seen = torch.nn.functional.interpolate(seen, (64, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        theirs = [a.numpy() for a in VitOutputs(distill.teacher)(seen)]
        features, attention, cls = VitOutputs(distill.student.backbone)(crops)
        project = distill.student.projection
        ours = [a.numpy() for a in (project(features), attention, project(cls))]
    assert ours[0].shape == theirs[0].shape == (3, 8, 8, 64)
    as_wide = Distill(recipe(folder, backbone=TEACHER_RECIPE.backbone)).student.projection
    assert isinstance(as_wide, torch.nn.Identity), "comparable as they are"
    losses = []
    for crop in range(3):
        a, b = (side[0][crop].reshape(64, 64) for side in (ours, theirs))
        patches = np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        a, b = ours[2][crop], theirs[2][crop]
        cls_cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        p, q = (side[1][crop].reshape(2, 64) for side in (theirs, ours))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        losses.append(1 - patches + 1 - cls_cosine + (p * np.log(p / q)).sum(1).mean())
        assert agreement.patches[crop].item() == pytest.approx(patches, abs=1e-5)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    health = distill.health(loss, agreement)
    assert health["loss"] == loss.item()
    assert health["cosine"] == pytest.approx(agreement.patches.mean().item())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_attention_is_read_from_blocks_that_are_not_fused(name: str) -> None:
    from dino_train.models.backbones import create_vit

    vit = create_vit(name, depth=2, img_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    view = VitOutputs(vit)
    with torch.no_grad():
        fused = view(images)
        for module in vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        plain = view(images)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_student_learns_and_its_teacher_stands_still(folder: Path, tmp_path: Path) -> None:
    """Through the command: distilled, compared, exported; and the checkpoint starts a pretraining run."""
    out, before = tmp_path / "run", (folder / "teacher.pt").read_bytes()
    small = recipe(folder)
    held_out = tmp_path / "held_out"
    for part in ("images", "masks"):
        (held_out / part).mkdir(parents=True)
    rng = np.random.default_rng(7)
    for number in range(5):
        image = render_shape(1, rng)
        cv2.imwrite(str(held_out / "images" / f"{number}.png"), image[:, :, ::-1])
        cv2.imwrite(str(held_out / "masks" / f"{number}.png"), 255 * (np.ptp(image, axis=2) > 120).astype(np.uint8))
    plain = json.dumps(json.loads(json.dumps(dataclasses.asdict(small))))
    (tmp_path / "recipe.yaml").write_text(plain)
    run(
        [
            "distill",
            str(folder / "images"),
            *("--config", str(tmp_path / "recipe.yaml"), "--out", str(out)),
            *("--machine.device", "cpu", "--machine.workers", "0", "--evaluation.every", "3"),
            *("--comparison.size", "48x32", "--comparison.data", str(held_out / "images")),
            *("--comparison.masks", str(held_out / "masks")),
        ]
    )
    log = read_log(out)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert log[-1]["cosine"] > log[0]["cosine"] + 0.1
    assert log[-1]["attention_kl"] < log[0]["attention_kl"]
    checkpoint = load_checkpoint(out / LAST_NAME)
    assert not any("teacher." in name for name in checkpoint.objective), "the teacher is not in it"
    assert (folder / "teacher.pt").read_bytes() == before

    comparison = json.loads((out / "comparison.json").read_text())
    student, teacher = (Perceiver.load(out / f"{name}.onnx") for name in ("student", "teacher"))
    overlaps = []
    for number in range(5):
        image = cv2.imread(str(held_out / "images" / f"{number}.png"))[:, :, ::-1]
        a, b = (one(image).mask > 0 for one in (student, teacher))
        overlaps.append((a & b).sum() / (a | b).sum())
    assert comparison["mask_iou"] == pytest.approx(np.mean(overlaps))
    assert comparison["frames"] == 5
    assert 0 < comparison["student"]["mask_iou_truth"] < 1
    assert comparison["cosine"] > log[0]["cosine"]
    assert comparison["speed_up"] == comparison["teacher"]["milliseconds"] / comparison["student"]["milliseconds"]
    info = read_student(out / "student.onnx")
    assert (info.embed_dim, info.grid, info.weights["source"]) == (32, (6, 4), "dino-train distill, student")
    for name in ("comparison.json", "Student and teacher"):
        assert (name in (out / "report.html").read_text()) == (name == "Student and teacher")
    assert len((out / "evaluations.jsonl").read_text().splitlines()) == 3

    with pytest.raises(UserError, match=r"teacher\.pt"):
        run(["export", str(out / LAST_NAME), "--size", "48x32", "--network", "teacher"])
    dino = Dino(dataclasses.replace(TEACHER_RECIPE, backbone=small.backbone, crops=small.crops))
    initialize(dino, out / LAST_NAME)
    vit = checkpoint_backbone(checkpoint, "student")
    for network in (dino.student, dino.teacher):
        assert all(torch.equal(a, b) for a, b in zip(network.backbone.parameters(), vit.parameters(), strict=True))


def test_the_size_of_a_student_follows_the_images(caplog: pytest.LogCaptureFixture) -> None:
    """That of most images, at the cost of 224x224; a square where they are of many sizes."""
    camera = [np.zeros((480, 640, 3), np.uint8)] * 3
    with caplog.at_level("INFO"):
        assert size_for([*camera, np.zeros((100, 100, 3), np.uint8)], 8) == input_size(Camera(640, 480), 8)
    assert "for images 640 wide and 480 high: --comparison.size" in caplog.text
    photographs = [np.zeros((height, 200, 3), np.uint8) for height in range(300, 310)]
    assert size_for(photographs, 16) == (224, 224)


def test_a_student_starts_from_the_blocks_of_its_teacher(folder: Path, tmp_path: Path) -> None:
    """With as many blocks it is its teacher; with fewer, it has evenly spaced ones. So with a checkpoint."""
    backbone = dataclasses.replace(TEACHER_RECIPE.backbone, depth=4)
    own_checkpoint(folder / "deep.pt", dataclasses.replace(TEACHER_RECIPE, backbone=backbone))
    deep = recipe(folder, teacher=str(folder / "deep.pt"), init="teacher", backbone=backbone)
    same = build_objective(deep, new=True).eval()
    crops = torch.randn(2, 3, 32, 32)
    _, agreement = same([crops], {})
    torch.testing.assert_close(agreement.patches, torch.ones(2))
    torch.testing.assert_close(agreement.divergence, torch.zeros(2), rtol=0, atol=1e-6)

    shallow = dataclasses.replace(deep, backbone=dataclasses.replace(backbone, depth=2), epochs=1)
    begun = build_objective(shallow, new=True)
    for own, original in zip(begun.student.backbone.blocks, (0, 3), strict=True):
        torch.testing.assert_close(own.state_dict(), begun.teacher.blocks[original].state_dict())
    resumed = build_objective(dataclasses.replace(shallow, init="not/there.pt"), new=False)
    assert not torch.equal(resumed.student.backbone.cls_token, begun.teacher.cls_token), "a checkpoint fills it"
    started = load_checkpoint(trainer.train(shallow, DataConfig([str(folder / "images")]), tmp_path / "a", CPU, QUIET))
    again = dataclasses.replace(
        shallow, init=str(tmp_path / "a" / LAST_NAME), crops=CropsConfig(48, local_crops_number=0)
    )
    ours = build_objective(again, new=True).student.state_dict()
    theirs = started.objective
    assert all(torch.equal(ours[name], theirs[f"student.{name}"]) for name in ours if "pos_embed" not in name)
    assert ours["backbone.pos_embed"].shape[1] == 1 + (48 // backbone.patch_size) ** 2
    origin = open_weights(str(tmp_path / "a" / LAST_NAME)).origin["recipe"]
    assert '"teacher": "deep.pt"' in str(origin), "no folder of this machine"


@pytest.mark.parametrize("registers", [0, 2])
def test_blocks_are_copied_from_encoders_of_other_shapes(registers: int) -> None:
    """LayerScale and another patch size: the same features from the same crop, registers apart."""
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True}
    teacher = VisionTransformer(
        img_size=56, patch_size=14, init_values=0.3, reg_tokens=registers, no_embed_class=registers > 0, **options
    ).eval()
    student = build_backbone(BackboneConfig("vit_tiny_patch16_224", 14, 32, depth=3, num_heads=2), 56).eval()
    assert copy_blocks(student, teacher) == [0, 1, 2]
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        if registers:  # without them nothing but the attention to them is missing
            teacher.reg_token.fill_(0)
            cosine = torch.nn.functional.cosine_similarity(student(images), teacher(images))
            assert cosine.min() > 0.5
        else:
            torch.testing.assert_close(student(images), teacher(images), rtol=1e-4, atol=1e-5)
        assert teacher.blocks[0].ls1.gamma.max() == 0.3, "the teacher stays as it is"
        larger = build_backbone(BackboneConfig("vit_tiny_patch16_224", 16, 32, depth=3, num_heads=2), 64).eval()
        copy_blocks(larger, teacher)
        smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 8, 8), (56, 56), mode="bicubic")
        enlarged = torch.nn.functional.interpolate(smooth, (64, 64), mode="bicubic")
        cosine = torch.nn.functional.cosine_similarity(larger(enlarged), student(smooth))
        assert cosine.min() > 0.98


def test_a_stopped_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    changes = {"epochs": 2, "backbone": BackboneConfig("vit_tiny_patch16_224", 8, 32, 2, 2, drop_path_rate=0.2)}
    whole = load_checkpoint(distilled(folder, tmp_path / "whole", **changes))
    save = trainer.save_checkpoint

    def save_and_stop(checkpoint: object, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.step == 5:  # type: ignore[attr-defined]
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patched.setattr(trainer, "save_checkpoint", save_and_stop)
        with pytest.raises(Stopped):
            distilled(folder, tmp_path / "cut", **changes)
    resumed = load_checkpoint(trainer.resume_run(tmp_path / "cut", CPU))
    assert resumed.objective.keys() == whole.objective.keys()
    for name, value in whole.objective.items():
        ours = resumed.objective[name]
        assert torch.equal(value, ours) if isinstance(value, torch.Tensor) else value == ours, name
    assert [line["loss"] for line in read_log(tmp_path / "cut")] == [
        line["loss"] for line in read_log(tmp_path / "whole")
    ]
    broken = {**resumed.objective, "teacher_sha256": "0" * 64}
    with pytest.raises(UserError, match=r"teacher\.pt"):
        Distill(recipe(folder)).restore(broken)


def test_parts_and_activations_computed_again_change_nothing(folder: Path, tmp_path: Path) -> None:
    """In fp32, where attention is fused; the other tests run in bf16, where the CPU has it and attention is not."""
    exact = dataclasses.replace(CPU, precision="fp32")
    whole = load_checkpoint(distilled(folder, tmp_path / "whole", exact, epochs=1))
    ways = {"parts": {"accumulate": 2}, "again": {"checkpoint_activations": True}}
    for name, machine in ways.items():
        other = load_checkpoint(distilled(folder, tmp_path / name, dataclasses.replace(exact, **machine), epochs=1))
        assert other.step == whole.step
        for number in ("loss", "cosine", "cls_cosine", "attention_kl", "gradient_norm"):
            theirs = read_log(tmp_path / "whole")[0][number]
            assert read_log(tmp_path / name)[0][number] == pytest.approx(theirs, rel=1e-3)


def test_what_cannot_be_distilled_gets_one_sentence(folder: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--machine.device", "cpu"]
    data, teacher = str(folder / "images"), str(folder / "teacher.pt")
    for arguments, named in (
        ([data], "--teacher"),
        ([data, "--teacher", "missing.pt"], "missing.pt"),
        (
            [data, "--teacher", teacher, "--config", "robot_bag", "--init", "teacher"],
            "blocks of --init .*8 attention heads, not 2",
        ),
        ([data, "--teacher", teacher, "--config", "robot_bag", "--init", "none.pt"], "none.pt"),
        ([data, "--teacher", teacher, "--distill.cls", "-1"], "distill.cls is -1.0: it must be at least 0"),
        ([data, "--teacher", teacher, "--config", "robot_bag", "--machine.compile", "true"], "machine.compile"),
        ([data, "--config", "smoke"], "'smoke'.*vit_tiny_16"),
        ([data, "--teacher", teacher, "--comparison.size", "224"], "224 is not HxW"),
    ):
        with pytest.raises(UserError, match=named) as caught:
            run(["distill", *arguments, *out])
        assert "\n" not in str(caught.value)


def test_only_crops_that_are_cut_must_fit_the_patches(folder: Path) -> None:
    check_crop_sizes(recipe(folder, crops=CropsConfig(40, 30, local_crops_number=0)), 20)
    for crops, named in (
        (CropsConfig(40, 30), "local_crops_size is 30"),
        (CropsConfig(30, 40), "global_crops_size is 30"),
    ):
        with pytest.raises(UserError, match=rf"{named}, which .*patch size 20: give --crops\.\w+_size 20"):
            check_crop_sizes(recipe(folder, crops=crops), 20)


def test_shipped_recipes_are_valid() -> None:
    for path in sorted((Path(__file__).parents[1] / "config" / "distill").glob("*.yaml")):
        shipped = dataclasses.replace(load_recipe(path.stem, "distill"), teacher="x", distill=DistillConfig(cls=0.5))
        shipped.check()
        build_backbone(shipped.backbone, shipped.crops.global_crops_size)
        assert recipe_from_dict(dataclasses.asdict(shipped)) == shipped


def test_a_student_has_the_licenses_of_all_that_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    """From published weights through an adapted encoder, whose run was resumed without them, to a distilled student."""
    vit = create_vit("vit_small_patch14_dinov2", patch_size=8, embed_dim=64, depth=2, num_heads=1, img_size=32)
    published = write_folder(tmp_path / "published", vit.state_dict(), {})
    (published / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Encoder\n")
    backbone = BackboneConfig("vit_small_patch14_dinov2", 8, 64, depth=2, num_heads=1, drop_path_rate=0.0)
    dinov2 = Dinov2Config(12, 10, hidden_dim=24, bottleneck_dim=8)
    crops = CropsConfig(32, local_crops_number=0)
    adapting = Dinov2Recipe(backbone, crops, epochs=1, batch_size=64, init=str(published), dinov2=dinov2)
    adapted = trainer.train(adapting, DataConfig([str(folder / "images")]), tmp_path / "adapted", CPU, QUIET)
    shutil.rmtree(published)
    trainer.resume_run(tmp_path / "adapted")
    assert open_weights(str(adapted)).license == "cc-by-nc-4.0"
    assert open_weights(str(adapted), "random").license == "not stated"

    vit = create_vit("vit_tiny_patch16_224", patch_size=8, embed_dim=192, depth=2, num_heads=3)
    torch.save(vit.state_dict(), tmp_path / "dino.pth")
    wide = BackboneConfig("vit_tiny_patch16_224", 8, 192, depth=2, num_heads=3, drop_path_rate=0.0)
    distilling = {"backbone": wide, "init": str(tmp_path / "dino.pth"), "epochs": 1, "batch_size": 64}
    opened = open_weights(str(distilled(folder, tmp_path / "distilled", teacher=str(adapted), **distilling)))
    assert (opened.license, opened.is_free) == ("cc-by-nc-4.0 AND Apache-2.0", False)

    further = dataclasses.replace(TEACHER_RECIPE, backbone=wide, init=str(tmp_path / "distilled" / LAST_NAME))
    assert joint_license(build_objective(further, new=True).licenses) == opened.license
    assert joint_license(build_objective(dataclasses.replace(further, init=None), new=True).licenses) == "not stated"
