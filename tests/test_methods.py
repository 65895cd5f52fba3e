"""BYOL, MoCo, SwAV, DINOv2 and CURL: what their objectives move and keep, and whole runs on small rendered data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from literal_losses import (
    byol_reference,
    curl_reference,
    moco_reference,
    moco_v3_reference,
    sinkhorn_reference,
    unit,
)
from shapes import KINDS, render_shape, write_shapes
from tiny_recipe import RECIPE
from torch.nn import functional

from dino_ros.errors import UserError
from dino_ros.student import read_student
from dino_train.cli import run
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.multicrop import MultiCrop, normalize
from dino_train.export.student import export
from dino_train.machine.distributed import Processes
from dino_train.models.backbones import mean_and_std
from dino_train.models.checkpoint import Checkpoint, checkpoint_backbone, load_checkpoint
from dino_train.objectives.initialize import initialize
from dino_train.objectives.methods import build_objective
from dino_train.recipes import (
    ByolConfig,
    ByolRecipe,
    CurlConfig,
    CurlRecipe,
    DinoConfig,
    DinoRecipe,
    Dinov2Config,
    Dinov2Recipe,
    MocoConfig,
    MocoRecipe,
    OptimizerConfig,
    PretrainRecipe,
    SwavConfig,
    SwavRecipe,
)
from dino_train.recipes.files import load_recipe
from dino_train.runs.folder import read_run
from dino_train.runs.health import health_summary
from dino_train.runs.log import LAST_NAME, LOG_NAME
from dino_train.training import trainer
from dino_train.training.checks import check_batch_size
from dino_train.training.fit_to_machine import fit_to_machine

Array = np.ndarray
OPTIMIZER = OptimizerConfig(lr=1e-2, warmup_epochs=1)
SHARED = {"backbone": RECIPE.backbone, "optimizer": OPTIMIZER, "epochs": 4, "batch_size": 64}
TWO_VIEWS = dataclasses.replace(RECIPE.crops, local_crops_number=0)
RECIPES: dict[str, PretrainRecipe] = {
    "byol": ByolRecipe(crops=TWO_VIEWS, byol=ByolConfig(hidden_dim=128, out_dim=32, momentum=0.9), **SHARED),
    "moco_v2": MocoRecipe(
        crops=TWO_VIEWS, moco=MocoConfig(queue=160, hidden_dim=128, out_dim=32, momentum=0.95), **SHARED
    ),
    "moco_v3": MocoRecipe(
        crops=TWO_VIEWS,
        moco=MocoConfig(version=3, hidden_dim=128, out_dim=32, momentum=0.95, freeze_patches=True),
        **{**SHARED, "optimizer": dataclasses.replace(OPTIMIZER, lr=4e-3)},
    ),
    "swav": SwavRecipe(
        crops=RECIPE.crops,
        swav=SwavConfig(
            prototypes=32, hidden_dim=128, out_dim=32, queue=100, queue_from_epochs=0.3, freeze_prototypes_epochs=0.2
        ),
        **SHARED,
    ),
    "dinov2": Dinov2Recipe(
        crops=RECIPE.crops,
        dinov2=Dinov2Config(
            out_dim=64,
            patch_out_dim=64,
            hidden_dim=128,
            bottleneck_dim=32,
            warmup_teacher_temp=0.02,
            teacher_temp=0.02,
            momentum_teacher=0.9,
            freeze_last_layer=0.2,
        ),
        **SHARED,
    ),
    "curl": CurlRecipe(
        crops=TWO_VIEWS, curl=CurlConfig(frames=2, out_dim=32, momentum=0.95), **{**SHARED, "epochs": 6}
    ),
}
WITHOUT_TEACHER = {"swav"}
"""Rows of methods that train one network alone."""
METHODS = pytest.mark.parametrize("name", RECIPES)
QUIET = EvaluationConfig(every=0)
CPU = MachineConfig(device="cpu", workers=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), 320)


def pretrain(recipe: PretrainRecipe, images: Path, out: Path) -> Checkpoint:
    return load_checkpoint(trainer.train(recipe, DataConfig([str(images)]), out, CPU, QUIET))


def read_log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]


def random_groups(recipe: PretrainRecipe, batch: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, recipe.crops.global_crops_size), (recipe.crops.local_crops_number, recipe.crops.local_crops_size)]
    return [torch.randn(n * recipe.stack * batch, 3, size, size, generator=generator) for n, size in shapes if n]


def stepped(name: str, batch: int, steps: int) -> tuple[torch.nn.Module, list[object]]:
    """An objective after some steps without optimizer, and its outputs in each."""
    torch.manual_seed(0)
    objective = build_objective(dataclasses.replace(RECIPES[name], batch_size=batch), new=True).train()
    outputs = []
    for step in range(steps):
        scheduled = objective.schedule(step, 100, 10)
        outputs.append(objective(random_groups(RECIPES[name], batch, step), scheduled)[1])
        objective.after_step(outputs[-1], scheduled)
    return objective, outputs


@METHODS
def test_only_the_student_learns(name: str) -> None:
    torch.manual_seed(0)
    objective = build_objective(RECIPES[name], new=True).train()
    theirs = dict(objective.named_parameters(prefix=""))
    students = {id(p) for p in objective.student.parameters()}
    teachers = [p for key, p in theirs.items() if key.startswith("teacher.")]
    assert not any(id(p) in students or p.requires_grad for p in teachers)
    assert bool(teachers) == (name not in WITHOUT_TEACHER)
    storages = {p.data_ptr() for p in objective.student.parameters()}
    assert not any(p.data_ptr() in storages for p in teachers)
    loss, _ = objective(random_groups(RECIPES[name], 8), objective.schedule(0, 10, 5))
    loss.backward()
    assert all(p.grad is None for p in teachers)
    without = [key for key, p in objective.student.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    frozen = [key for key, p in objective.student.named_parameters() if not p.requires_grad]
    assert frozen == (["backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"] * (name == "moco_v3"))


def test_the_losses_are_those_of_the_networks_outputs() -> None:
    """Which view asks for which, and batch norm of one view at a time: networks called by hand."""
    torch.manual_seed(0)
    groups = random_groups(RECIPES["byol"], 6)
    first, second = groups[0].chunk(2)
    for name in ("byol", "moco_v2", "moco_v3"):
        objective = build_objective(RECIPES[name], new=True).train()
        with torch.no_grad():
            for parameter in objective.student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

        def out(network: torch.nn.Module, view: torch.Tensor) -> Array:
            return network.head(network.backbone(view)).detach().double().numpy()

        asked, keys = ([out(network, v) for v in (first, second)] for network in (objective.student, objective.teacher))
        if name == "byol":
            expected = byol_reference(keys, asked)
        elif name == "moco_v2":
            expected = moco_reference([unit(asked[0])], unit(keys[1]), objective.queue.double().numpy(), 0.2)
        else:
            expected = moco_v3_reference([unit(x) for x in asked], [unit(x) for x in keys], 0.2)
        loss, _ = objective(groups, objective.schedule(0, 10, 5))
        assert loss.item() == pytest.approx(expected, rel=1e-4), name


def test_curl_stacks_the_tokens_of_successive_frames() -> None:
    """The crops of a view stand frame by frame; networks called by hand on each image's frames."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPES["curl"], crops=RECIPE.crops)
    objective = build_objective(recipe, new=True).train()
    with torch.no_grad():
        for parameter in objective.student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    groups = random_groups(recipe, 3)

    def out(network: torch.nn.Module, view: torch.Tensor) -> Array:
        frames = [network.backbone(frame) for frame in view.chunk(2)]
        return network.head(torch.cat(frames, dim=1)).detach().double().numpy()

    first, second = groups[0].chunk(2)
    queries = [out(objective.student, view) for view in (first, *groups[1].chunk(2))]
    similarity = objective.student.similarity.detach().double().numpy()
    loss, outputs = objective(groups, objective.schedule(0, 10, 5))
    assert loss.item() == pytest.approx(curl_reference(queries, out(objective.teacher, second), similarity), rel=1e-4)
    assert len(outputs.correct) == 3 * 3


def test_mocos_queue_keeps_the_newest_keys_in_order() -> None:
    objective, outputs = stepped("moco_v2", batch=60, steps=4)
    keys = torch.cat([one.keys for one in outputs])
    assert int(objective.pointer) == 240 % 160
    torch.testing.assert_close(objective.queue.roll(-int(objective.pointer), 0), keys[-160:], rtol=0, atol=0)


def test_swavs_queue_joins_the_assignment_when_it_is_full_and_in_use() -> None:
    objective, outputs = stepped("swav", batch=16, steps=8)
    embeddings = torch.cat([one.embeddings for one in outputs])
    assert bool(objective.filled)
    torch.testing.assert_close(objective.queue.roll(-int(objective.pointer), 0), embeddings[-100:], rtol=0, atol=0)
    norms = objective.student.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))

    groups = random_groups(RECIPES["swav"], 16, seed=9)
    prototypes = objective.student.prototypes.weight.detach().double().numpy()
    for uses_queue in (1.0, 0.0):
        _, now = objective(groups, {"uses_queue": uses_queue})
        for view in range(2):
            rows = now.embeddings[:, view].double().numpy()
            if uses_queue:
                rows = np.concatenate([rows, objective.queue[:, view].double().numpy()])
            expected = sinkhorn_reference(rows @ prototypes.T, 0.05, 3)[:16]
            np.testing.assert_allclose(now.codes[:, view].numpy(), expected, rtol=1e-3, atol=1e-6)
    _, before = stepped("swav", batch=16, steps=6)
    assert not stepped("swav", batch=16, steps=6)[0].filled, "96 of 100"
    assert len(before) == 6


def test_dinos_variants() -> None:
    """Each by a setting alone: where the teacher comes from, what keeps it from collapse, and a predictor."""
    groups = random_groups(RECIPE, 4)

    def dino(**settings: object) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_objective(dataclasses.replace(RECIPE, dino=dataclasses.replace(RECIPE.dino, **settings)), new=True)

    copied, epochs = dino(teacher="copy"), dino(teacher="previous_epoch")
    assert {copied.schedule(step, 20, 5)["momentum_teacher"] for step in range(20)} == {0.0}
    moved = [step for step in range(20) if epochs.schedule(step, 20, 5)["momentum_teacher"] == 0.0]
    assert moved == [4, 9, 14, 19], "at the end of each epoch, and never between"
    assert {epochs.schedule(step, 20, 5)["momentum_teacher"] for step in range(20)} == {0.0, 1.0}

    for centering in ("sinkhorn", "none"):
        objective = dino(centering=centering)
        scheduled = objective.schedule(0, 10, 5)
        _, outputs = objective(groups, scheduled)
        logits = outputs.logits.double().numpy()
        expected = sinkhorn_reference(logits, scheduled["teacher_temp"], 3)
        if centering == "none":
            expected = np.exp(logits / scheduled["teacher_temp"])
            expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(outputs.targets.numpy(), expected, rtol=2e-3, atol=1e-6)
        objective.after_step(outputs, scheduled)
        assert not objective.center.any()

    plain, predicting = dino(), dino(predictor=True)
    assert plain.state_dict().keys() < predicting.state_dict().keys()
    extra = predicting.state_dict().keys() - plain.state_dict().keys()
    assert all(key.startswith("student.head.predictor.") for key in extra)
    predicting(groups, predicting.schedule(0, 10, 5))[0].backward()
    assert all(p.grad is not None for p in predicting.student.head.predictor.parameters())


@pytest.mark.parametrize("name", ["byol", "moco_v3", "swav"])
def test_batch_norm_is_over_all_processes(name: str) -> None:
    objective = build_objective(RECIPES[name], new=True)
    names = list(objective.state_dict())
    with pytest.raises(UserError, match="batch norm"):
        fit_to_machine(objective, CPU, Processes(0, 2, torch.device("cpu")))
    shared = fit_to_machine(objective, MachineConfig(), Processes(0, 2, torch.device("cuda")))
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in shared.modules())
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules())
    assert list(shared.state_dict()) == names


@METHODS
def test_the_smallest_batch_is_said_before_training(images: Path, tmp_path: Path, name: str) -> None:
    """Batch norm cannot be over one image, nor a contrast without others; the batch that the sentence gives works."""
    alone = dataclasses.replace(RECIPES[name], batch_size=1, epochs=0.01)
    least = alone.smallest_batch
    assert least == (2 if name in ("byol", "moco_v3", "dinov2", "curl") else 1)
    objective = build_objective(dataclasses.replace(alone, batch_size=least), new=True).train()
    loss, _ = objective(random_groups(alone, least), objective.schedule(0, 10, 5))
    assert torch.isfinite(loss)
    if least == 1:
        return
    for batch, accumulate, processes, smallest in ((1, 1, 1, 2), (2, 2, 1, 4), (3, 3, 1, 6), (2, 2, 2, 4)):
        recipe, machine = dataclasses.replace(alone, batch_size=batch), MachineConfig(accumulate=accumulate)
        with pytest.raises(UserError, match=rf"batch_size .*{smallest}\b") as caught:
            check_batch_size(recipe, machine, processes)
        assert "\n" not in str(caught.value)
        check_batch_size(dataclasses.replace(recipe, batch_size=smallest), machine, processes)
    check_batch_size(dataclasses.replace(alone, batch_size=2), MachineConfig(), 2)
    with pytest.raises(UserError, match="give --batch_size 2 or more"):
        pretrain(alone, images, tmp_path / "run")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "0000.png").write_bytes((images / "0000.png").read_bytes())
    with pytest.raises(UserError, match=r"1 images.* give at least 2"):
        pretrain(dataclasses.replace(alone, batch_size=2), tmp_path / "one", tmp_path / "run")


def matched_across_crops(vit: torch.nn.Module) -> float:
    """Share of fresh images whose most similar crop, among other crops of all of them, is of their kind."""
    rng, crop = np.random.default_rng(99), MultiCrop(TWO_VIEWS)
    kinds = torch.arange(200) % KINDS
    views = torch.stack([crop(render_shape(int(kind), rng), rng)[0] for kind in kinds], dim=1)
    with torch.inference_mode():
        a, b = (functional.normalize(vit.eval()(normalize(view, *mean_and_std(vit))), dim=-1) for view in views)
    similarity = (a - a.mean(dim=0)) @ (b - b.mean(dim=0)).T
    return (kinds[similarity.argmax(dim=1)] == kinds).float().mean().item()


@METHODS
def test_a_run_learns_and_is_exported(images: Path, tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    before = matched_across_crops(build_objective(recipe, new=True).student.backbone)
    checkpoint = pretrain(recipe, images, tmp_path)
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.95 * (recipe.chance_loss or log[0]["loss"])
    after = matched_across_crops(checkpoint_backbone(checkpoint, checkpoint.network))
    assert after > before + 0.03, f"{after}, of the random ViT {before}, chance 0.25"
    assert "images apart" in health_summary(read_run(tmp_path))
    info = export(str(tmp_path / LAST_NAME), tmp_path / "student.onnx", (32, 48), data=[str(images)])
    assert read_student(tmp_path / "student.onnx").weights == info.weights
    assert info.weights["source"] == f"dino-train pretrain, {recipe.exported}"
    if name in WITHOUT_TEACHER:
        with pytest.raises(UserError, match=recipe.method):
            checkpoint_backbone(checkpoint, "teacher")
    else:
        checkpoint_backbone(checkpoint, "teacher")


@METHODS
def test_a_stopped_run_goes_on_bit_for_bit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In the third epoch: the queues have wrapped, the prototypes move, and every buffer ends up the same."""

    class Stopped(Exception):
        pass

    recipe = dataclasses.replace(
        RECIPES[name], epochs=1.6, backbone=dataclasses.replace(RECIPE.backbone, drop_path_rate=0.1)
    )
    whole = pretrain(recipe, images, tmp_path / "whole")
    assert whole.step == 8
    save = trainer.save_checkpoint

    def save_and_stop(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.step == 5:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patched.setattr(trainer, "save_checkpoint", save_and_stop)
        with pytest.raises(Stopped):
            pretrain(recipe, images, tmp_path / "cut")
    resumed = load_checkpoint(trainer.resume_run(tmp_path / "cut", CPU))
    assert resumed.objective.keys() == whole.objective.keys()
    for key, tensor in whole.objective.items():
        assert torch.equal(tensor, resumed.objective[key]), key
    assert resumed.recipe == recipe


def test_the_command_takes_a_recipe_by_name_and_changes_it(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(
        [
            *("pretrain", str(images), "--config", "small_byol", "--byol.out_dim", "16", "--epochs", "0.2"),
            *("--backbone.embed_dim", "32", "--backbone.num_heads", "2", "--out", str(out)),
            *("--machine.device", "cpu", "--machine.workers", "0", "--evaluation.every", "0"),
        ]
    )
    recipe = load_checkpoint(out / LAST_NAME).recipe
    assert isinstance(recipe, ByolRecipe)
    by_name = load_recipe("small_byol")
    assert isinstance(by_name, ByolRecipe)
    assert recipe.byol == dataclasses.replace(by_name.byol, out_dim=16)
    assert recipe.backbone == dataclasses.replace(by_name.backbone, embed_dim=32, num_heads=2)
    with pytest.raises(UserError, match="dino and byol"):
        run(["pretrain", str(images), "--config", "small_byol", "--dino.out_dim", "16", "--out", str(tmp_path / "b")])


def test_one_method_starts_from_the_backbone_of_another(images: Path, tmp_path: Path) -> None:
    short = {name: dataclasses.replace(recipe, epochs=0.2) for name, recipe in RECIPES.items()}
    swav = pretrain(short["swav"], images, tmp_path / "swav")
    vit = checkpoint_backbone(swav, "student")
    objectives = {name: build_objective(recipe, new=True) for name, recipe in RECIPES.items()}
    objectives["dino"] = build_objective(DinoRecipe(RECIPE.backbone, RECIPE.crops, dino=DinoConfig(64)), new=True)
    for name, objective in objectives.items():
        head = {key: tensor.clone() for key, tensor in objective.state_dict().items() if ".head." in key}
        initialize(objective, tmp_path / "swav" / LAST_NAME)
        for network in objective.children():
            assert all(torch.equal(a, b) for a, b in zip(network.backbone.parameters(), vit.parameters(), strict=True))
        same = all(torch.equal(tensor, head[key]) for key, tensor in objective.state_dict().items() if ".head." in key)
        assert same == (name != "swav"), "its own head is taken too"
