"""DINOv2's objective by hand: what is masked, which heads see what, what a run keeps of the weights it starts from."""

import copy
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from literal_losses import Array, anchor_reference, gram_reference, ibot_reference, koleo_reference, sinkhorn_reference

from dino_ros.errors import UserError
from dino_train.models.backbones import VitOutputs, create_vit
from dino_train.objectives import dinov2, sinkhorn
from dino_train.objectives.dinov2 import Dinov2
from dino_train.objectives.methods import build_objective
from dino_train.recipes import BackboneConfig, CropsConfig, Dinov2Config, Dinov2Recipe, OptimizerConfig
from dino_train.recipes.files import load_recipe
from dino_train.training.optimizers import build_optimizer, set_rates

RECIPE = Dinov2Recipe(
    backbone=BackboneConfig("vit_small_patch14_reg4_dinov2", 8, 64, depth=3, num_heads=1, drop_path_rate=0.0),
    crops=CropsConfig(32, 16, local_crops_number=1),
    dinov2=Dinov2Config(12, 10, hidden_dim=24, bottleneck_dim=8, teacher_temp=0.1, warmup_teacher_temp=0.1),
    batch_size=4,
)
SCHEDULED = {"teacher_temp": 0.1, "momentum_teacher": 0.9}


def changed(**settings: Any) -> Dinov2Recipe:
    """RECIPE with other settings of its section, or other parts."""
    section = {name: settings.pop(name) for name in list(settings) if hasattr(RECIPE.dinov2, name)}
    return dataclasses.replace(RECIPE, dinov2=dataclasses.replace(RECIPE.dinov2, **section), **settings)


def shaken(recipe: Dinov2Recipe) -> Dinov2:
    """An objective of weights large enough for tokens to differ; student, teacher and anchor differ too."""
    torch.manual_seed(0)
    objective = Dinov2(recipe).train()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return objective


def crops_of(batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n * batch, 3, size, size, generator=generator) for n, size in ((2, 32), (1, 16))]


def tokens_by_hand(
    vit: Any, crops: torch.Tensor, masked: Array | None = None, token: Any = None
) -> tuple[Array, Array]:
    """CLS [n, C] and patch tokens [n, N, C]: patch by patch, with the masked ones replaced before their position."""
    patches = vit.patch_embed(crops)
    for index in np.argwhere(masked) if masked is not None else ():
        patches[tuple(index)] = token
    tokens = vit.norm(vit.blocks(vit._pos_embed(patches))).detach().double().numpy()
    return tokens[:, 0], tokens[:, 5:]  # after CLS and four registers


def test_the_loss_is_that_of_the_networks_outputs() -> None:
    """Networks called by hand: the teacher sees what is masked, each head its own tokens, the anchor stays."""
    recipe = changed(koleo=0.1, anchor=0.7, gram=1.3, ibot=0.9, dino=1.1, init="published")
    objective, groups = shaken(recipe), crops_of(4)
    torch.manual_seed(5)
    masked = objective.draw_masks(groups[0]).numpy()
    assert masked.any(axis=(1, 2)).sum() == 4, "half of eight crops"
    torch.manual_seed(5)
    loss, outputs = objective(groups, SCHEDULED)

    student, teacher = objective.student, objective.teacher
    cls, patches = tokens_by_hand(student.backbone, groups[0], masked, student.mask_token)
    local, _ = tokens_by_hand(student.backbone, groups[1])
    whole_cls, whole = tokens_by_hand(teacher.backbone, groups[0])
    start_cls, start = tokens_by_hand(objective.anchor.backbone, groups[0])
    hidden = masked.reshape(8, 16)

    def out(head: torch.nn.Module, tokens: Array) -> Array:
        return head(torch.from_numpy(tokens).float()).detach().double().numpy()

    targets = sinkhorn_reference(out(teacher.cls_head, whole_cls), 0.1, 3)
    views = [out(student.cls_head, view) for view in (cls[:4], cls[4:], local)]
    terms = []
    for t, target in enumerate((targets[:4], targets[4:])):
        for s, view in enumerate(views):
            if s != t:
                p = np.exp(view / 0.1) / np.exp(view / 0.1).sum(axis=1, keepdims=True)
                terms.append(-(target * np.log(p)).sum(axis=1).mean())
    patch_targets = sinkhorn_reference(out(teacher.patch_head, whole[hidden]), 0.1, 3)
    expected = {
        "dino": float(np.mean(terms)),
        "ibot": ibot_reference(patch_targets, out(student.patch_head, patches[hidden]), hidden, 0.1),
        "koleo": koleo_reference(cls[:4]) + koleo_reference(cls[4:]),
        "anchor": anchor_reference(cls, start_cls) + anchor_reference(patches, start),
        "gram": gram_reference(patches, start),
    }
    assert outputs.terms[0].tolist() == pytest.approx([expected[name] for name in dinov2.TERMS], rel=1e-3)
    weights = {"dino": 1.1, "ibot": 0.9, "koleo": 0.1, "anchor": 0.7, "gram": 1.3}
    assert loss.item() == pytest.approx(sum(weights[name] * expected[name] for name in weights), rel=1e-3)
    np.testing.assert_allclose(outputs.targets.numpy(), targets, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(outputs.tokens.numpy(), whole_cls, rtol=1e-3, atol=1e-4)

    health = objective.health(loss, outputs)
    assert health["loss"] == pytest.approx(loss.item())
    assert health["kl"] == pytest.approx(expected["dino"] - health["teacher_entropy"], abs=1e-3)
    assert health["gram_loss"] == pytest.approx(expected["gram"], rel=1e-3)
    loss.backward()
    assert student.mask_token.grad is not None
    assert student.mask_token.grad.any()
    assert not any(p.requires_grad for p in objective.anchor.parameters())
    assert dinov2.Dinov2(changed()).health(loss, outputs).keys() == health.keys() - {"anchor_loss", "gram_loss"}


def side_by_side(work: Callable[[int], None], patch: pytest.MonkeyPatch) -> None:
    """Do the work of two processes in two threads that exchange what processes would."""
    barrier, given, rank = threading.Barrier(2), [None, None], threading.local()

    def exchange(combine: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            given[rank.number] = value
            barrier.wait()
            both = combine(*given)
            barrier.wait()
            return both

        return run

    def start(number: int) -> None:
        rank.number = number
        try:
            work(number)
        except BaseException:
            barrier.abort()
            raise

    patch.setattr(sinkhorn, "sum_over_processes", exchange(torch.add))
    patch.setattr(sinkhorn, "max_over_processes", exchange(torch.maximum))
    threads = [threading.Thread(target=start, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("one_sees_all", [False, True])
def test_two_processes_give_the_loss_and_the_gradient_of_one(
    one_sees_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many crops but other numbers of masked patches: Sinkhorn-Knopp is over those of both."""
    whole, groups = shaken(changed(koleo=0.0)), crops_of(4)
    masked = whole.draw_masks(groups[0]) | (torch.arange(8) % 4 == 0)[:, None, None]
    if one_sees_all:  # as may be with small batches
        masked[[2, 3, 6, 7]] = False
    monkeypatch.setattr(Dinov2, "draw_masks", lambda self, crops: self.masked)
    whole.masked = masked
    loss, _ = whole(groups, SCHEDULED)
    loss.backward()
    halves, losses = [copy.deepcopy(whole), copy.deepcopy(whole)], [0.0, 0.0]

    def half(number: int) -> None:
        def ours(x: torch.Tensor, views: int) -> torch.Tensor:
            return torch.cat([view[2 * number : 2 * number + 2] for view in x.chunk(views)])

        halves[number].masked = ours(masked, 2)
        halves[number].zero_grad()
        own, _ = halves[number]([ours(groups[0], 2), ours(groups[1], 1)], SCHEDULED)
        own.backward()
        losses[number] = own.item()

    side_by_side(half, monkeypatch)
    assert halves[0].masked.sum() != halves[1].masked.sum()
    assert np.mean(losses) == pytest.approx(loss.item(), rel=1e-5)
    gradients = zip(*(objective.student.named_parameters() for objective in (whole, *halves)), strict=True)
    for (name, one), (_, first), (_, second) in gradients:
        torch.testing.assert_close((first.grad + second.grad) / 2, one.grad, rtol=1e-3, atol=1e-5, msg=name)


def stepped(objective: Dinov2, epochs: float, recipe: Dinov2Recipe) -> set[str]:
    """Names of the student's parameters that a step of the optimizer moves."""
    optimizer = build_optimizer(recipe.optimizer, objective.student)
    set_rates(optimizer, recipe.optimizer, 1e-2, 0.1)
    before = copy.deepcopy(objective.student.state_dict())
    objective(crops_of(4), SCHEDULED)[0].backward()
    objective.before_step(epochs)
    optimizer.step()
    return {name for name, value in objective.student.state_dict().items() if not torch.equal(value, before[name])}


def test_what_is_frozen_does_not_move() -> None:
    recipe = changed(freeze_last_layer=0.5, freeze_backbone=1.0, freeze_blocks=2)
    names = set(dict(shaken(recipe).student.named_parameters()))
    last = {name for name in names if ".last_layer." in name}
    heads = {name for name in names if "_head." in name}
    late = {name for name in names if name.startswith(("backbone.blocks.2.", "backbone.norm."))}
    moved = [stepped(shaken(recipe), epochs, recipe) for epochs in (0.4, 0.5, 1.0)]
    assert len(last) == 4
    assert moved == [heads - last, heads, heads | late]
    assert stepped(shaken(changed()), 1.0, changed()) == names, "without freezing, everything"


def test_the_backbone_may_learn_more_slowly_than_the_heads() -> None:
    recipe = changed(optimizer=OptimizerConfig(backbone_lr=0.05))
    student = shaken(recipe).student
    optimizer = build_optimizer(recipe.optimizer, student)
    set_rates(optimizer, recipe.optimizer, 1e-2, 0.1)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in student.named_parameters():
        lr, decay = 5e-4 if name.startswith("backbone.") else 1e-2, 0.1 if parameter.ndim > 1 else 0.0
        assert rates.pop(id(parameter)) == pytest.approx((lr, decay)), name
    assert not rates


def test_a_run_starts_as_the_published_weights(tmp_path: Path) -> None:
    """The weights of a file, at their own grid, in student, teacher and anchor; new heads, the same in both."""
    torch.manual_seed(3)
    options = {"patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 1, "img_size": 72}
    published = create_vit("vit_small_patch14_reg4_dinov2", **options)
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    safetensors.torch.save_file(published.state_dict(), tmp_path / "encoder.safetensors")
    backbone = dataclasses.replace(RECIPE.backbone, image_size=72)
    recipe = changed(anchor=1.0, init=str(tmp_path / "encoder.safetensors"), backbone=backbone)
    objective = build_objective(recipe, new=True)
    image = torch.randn(1, 3, 40, 48)
    with torch.inference_mode():
        expected = VitOutputs(published.eval())(image)
        for network in objective.children():
            for ours, theirs in zip(VitOutputs(network.backbone.eval())(image), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
    for name, value in objective.teacher.state_dict().items():
        assert torch.equal(value, objective.student.state_dict()[name]), name

    with torch.no_grad():  # a run goes on: its anchor is that of its start, whatever the file holds by then
        objective.student.backbone.norm.bias.add_(1)
    objective.after_step(None, {"momentum_teacher": 0.5})
    (tmp_path / "encoder.safetensors").unlink()
    resumed = build_objective(recipe, new=False)
    resumed.restore(objective.checkpoint_state())
    anchored, teacher = (dict(network.backbone.named_parameters()) for network in (resumed.anchor, resumed.teacher))
    assert all(torch.equal(anchored[name], value) for name, value in published.named_parameters())
    assert not torch.equal(teacher["norm.bias"], anchored["norm.bias"])


def test_weights_that_do_not_fit_get_one_sentence(tmp_path: Path) -> None:
    options = {"patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 1, "img_size": 32}
    without_registers = create_vit("vit_small_patch14_dinov2", **options)
    safetensors.torch.save_file(without_registers.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(
        UserError, match=r"plain.safetensors .*without registers.* vit_small_patch14_dinov2\."
    ) as caught:
        build_objective(changed(init=str(tmp_path / "plain.safetensors")), new=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"anchor.*random.*--init"):
        changed(anchor=1.0).check()
    with pytest.raises(UserError, match=r"mask_ratio is \(0.5, 0.1\)"):
        changed(mask_ratio=(0.5, 0.1)).check()


def test_the_shipped_recipes_are_the_papers_and_one_that_does_not_forget() -> None:
    paper, adapt = load_recipe("vit_small_14_dinov2"), load_recipe("adapt")
    assert isinstance(paper, Dinov2Recipe)
    assert isinstance(adapt, Dinov2Recipe)
    assert (paper.dinov2.dino, paper.dinov2.ibot, paper.dinov2.koleo) == (1.0, 1.0, 0.1)
    assert (paper.dinov2.mask_probability, paper.dinov2.mask_ratio) == (0.5, (0.1, 0.5))
    peak = 0.004 * (paper.batch_size / 1024) ** 0.5
    assert paper.optimizer.lr * paper.batch_size / 256 == pytest.approx(peak, rel=1e-4)
    assert not paper.anchored
    assert adapt.anchored
    assert adapt.init
    assert adapt.dinov2.freeze_backbone < adapt.epochs / 3
