"""The DINO objective against the paper's formulas, written out in float64."""

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_train.objectives.collapse import effective_rank
from dino_train.objectives.dino import Dino, DinoHead, dino_loss
from dino_train.objectives.networks import update_ema
from dino_train.objectives.schedules import cosine_schedule, epoch_schedule, warmup_cosine_schedule
from dino_train.recipes import BackboneConfig, CropsConfig, DinoConfig, DinoRecipe
from dino_train.recipes.files import load_recipe

TINY = DinoRecipe(
    backbone=BackboneConfig(
        "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0
    ),
    crops=CropsConfig(global_crops_size=32, local_crops_size=16, local_crops_number=3),
    dino=DinoConfig(out_dim=48, hidden_dim=24, bottleneck_dim=12),
)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def random_groups(batch: int = 4) -> list[torch.Tensor]:
    """Two global and three local crops of each image, crop by crop."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n * batch, 3, size, size, generator=generator) for n, size in ((2, 32), (3, 16))]


def reference_loss(teacher: np.ndarray, student: np.ndarray, center: np.ndarray, tau_t: float, tau_s: float) -> float:
    """Equation 3 for logits teacher [2, B, K] and student [crops, B, K]: the mean over all pairs of different crops."""
    terms = []
    for t in range(2):
        target = softmax((teacher[t] - center) / tau_t)
        for s in range(len(student)):
            if s != t:
                terms.append(-(target * np.log(softmax(student[s] / tau_s))).sum(axis=-1).mean())
    return float(np.mean(terms))


def test_loss_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    teacher, student, center = (
        rng.normal(size=(2, 5, 16)),
        rng.normal(size=(6, 5, 16)),
        rng.normal(size=(1, 16)),
    )
    targets = [torch.from_numpy(softmax((logits - center) / 0.04)) for logits in teacher]
    loss = dino_loss(targets, [torch.from_numpy(logits) for logits in student], 0.1)
    assert loss.item() == pytest.approx(reference_loss(teacher, student, center, 0.04, 0.1), rel=1e-12)


def test_whole_objective_loss_entropy_and_center() -> None:
    """The module's loss equals the formula on its own networks' outputs, crop by crop; its center moves by eq. 4."""
    torch.manual_seed(0)
    dino = Dino(TINY)
    dino.center.normal_()
    with torch.no_grad():
        for parameter in dino.student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that student and teacher differ
    groups = random_groups()
    crops = [crop for group, n in zip(groups, (2, 3), strict=True) for crop in group.chunk(n)]

    def logits(network: torch.nn.Module, crop: torch.Tensor) -> np.ndarray:
        return network.head(network.backbone(crop)).detach().double().numpy()

    teacher = np.stack([logits(dino.teacher, crop) for crop in crops[:2]])
    student = np.stack([logits(dino.student, crop) for crop in crops])
    before = dino.center.double().numpy().copy()
    loss, outputs = dino(groups, {"teacher_temp": 0.05})
    health = dino.health(loss, outputs)
    dino.update_center(outputs.logits)

    assert loss.item() == health["loss"] == pytest.approx(reference_loss(teacher, student, before, 0.05, 0.1), rel=1e-5)
    targets = softmax((teacher - before) / 0.05)
    entropy = -(targets * np.log(targets)).sum(axis=-1).mean()
    assert health["teacher_entropy"] == pytest.approx(entropy, rel=1e-5)
    mean = targets.reshape(-1, 48).mean(axis=0)
    assert health["marginal_entropy"] == pytest.approx(-(mean * np.log(mean)).sum(), rel=1e-5)
    assert health["kl"] == pytest.approx(loss.item() - entropy, rel=1e-4)
    assert health["center_norm"] == pytest.approx(np.linalg.norm(before), rel=1e-5)
    expected = 0.9 * before + 0.1 * teacher.reshape(-1, 48).mean(axis=0)
    np.testing.assert_allclose(dino.center.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_float32_under_autocast() -> None:
    """At a temperature of 0.015 the rounding of bf16's logits would be noise: the head runs in float32."""
    torch.manual_seed(0)
    dino = Dino(TINY)
    with torch.autocast("cpu", torch.bfloat16):
        loss, outputs = dino(random_groups(), {"teacher_temp": 0.015})
    assert loss.dtype == outputs.logits.dtype == torch.float32
    steps = outputs.logits.flatten().sort().values.diff()
    assert (steps[steps > 0] < 2**-9).any(), "the logits are finer than bf16 could hold"


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    for directions in (1, 3, 8):
        basis = np.linalg.qr(rng.normal(size=(32, directions)))[0]
        coefficients = np.linalg.qr(rng.normal(size=(400, directions)) - 0)[0]
        coefficients -= coefficients.mean(axis=0)
        tokens = torch.from_numpy(coefficients @ basis.T + 5)  # the mean is no direction
        assert effective_rank(tokens).item() == pytest.approx(directions, rel=0.02)


@pytest.mark.parametrize("use_bn", [False, True])
def test_the_head_has_the_references_layers(use_bn: bool) -> None:
    head = DinoHead(8, DinoConfig(out_dim=20, hidden_dim=16, bottleneck_dim=6, use_bn_in_head=use_bn))
    names = [type(layer).__name__ for layer in head.mlp]
    hidden = ["Linear", "BatchNorm1d", "GELU"] if use_bn else ["Linear", "GELU"]
    assert names == [*hidden, *hidden, "Linear"]
    assert head(torch.randn(4, 8)).shape == (4, 20)


def test_only_the_student_learns_and_the_teacher_is_its_average() -> None:
    dino = Dino(TINY)
    for (name, s), t in zip(dino.student.named_parameters(), dino.teacher.parameters(), strict=True):
        assert torch.equal(s, t), f"{name} differs at the start"
        assert s is not t
    loss, _ = dino(random_groups(), {"teacher_temp": 0.04})
    loss.backward()
    assert all(p.grad is None for p in dino.teacher.parameters())
    assert all(p.grad is not None for p in dino.student.parameters() if p.requires_grad)
    before = [p.double().clone() for p in dino.teacher.parameters()]
    with torch.no_grad():
        for p in dino.student.parameters():
            p.add_(torch.randn_like(p))
    update_ema(dino.teacher, dino.student, 0.99)
    for old, s, new in zip(before, dino.student.parameters(), dino.teacher.parameters(), strict=True):
        torch.testing.assert_close(new.double(), 0.99 * old + 0.01 * s.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_last_layer_is_weight_normalized(norm_last_layer: bool) -> None:
    head = DinoHead(8, DinoConfig(out_dim=20, hidden_dim=16, bottleneck_dim=6, norm_last_layer=norm_last_layer))
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=10.0)
    head(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    norms = head.last_layer.weight.norm(dim=1)
    assert torch.allclose(norms, torch.ones(20), atol=1e-5) == norm_last_layer


def test_logits_are_cosines_times_the_norm() -> None:
    """With unit weights and a normalized bottleneck every logit lies in [-1, 1], whatever the input's scale."""
    head = DinoHead(8, DinoConfig(out_dim=20, hidden_dim=16, bottleneck_dim=6))
    assert head(1e4 * torch.randn(64, 8)).abs().max() <= 1 + 1e-5


def test_schedules() -> None:
    steps, warmup = 100, 10
    values = [warmup_cosine_schedule(step, steps, warmup, 2.0, 0.5) for step in range(steps)]
    np.testing.assert_allclose(values[:11], np.linspace(0, 2.0, 11))
    angles = np.arange(90) / 89 * math.pi
    np.testing.assert_allclose(values[10:], 0.5 + 0.5 * 1.5 * (1 + np.cos(angles)))
    momentum = [cosine_schedule(step, steps, 0.996, 1.0) for step in range(steps)]
    assert momentum[0] == pytest.approx(0.996)
    assert momentum[-1] == pytest.approx(1.0)
    assert np.all(np.diff(momentum) >= 0)


@pytest.mark.parametrize("warmup", [0, 1, 2, 30])
def test_the_teachers_temperature_changes_with_the_epoch(warmup: int) -> None:
    """As the reference's list of a temperature per epoch: numpy.linspace over the warm-up, then constant."""
    recipe = dataclasses.replace(
        TINY,
        dino=dataclasses.replace(
            TINY.dino, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=warmup
        ),
    )
    listed = np.concatenate((np.linspace(0.04, 0.07, warmup), np.full(40 - warmup, 0.07)))
    dino = Dino(recipe)
    temperatures = [dino.schedule(step, 40 * 5, 5)["teacher_temp"] for step in range(40 * 5)]
    np.testing.assert_allclose(temperatures, np.repeat(listed, 5), rtol=1e-12)
    assert [epoch_schedule(epoch, 1.5, 0.04, 0.07) for epoch in range(3)] == [0.04, 0.07, 0.07], "a part counts as one"


def test_a_network_of_the_references_width_starts_like_it() -> None:
    """trunc_normal_ of 0.02 for CLS token and linear layers, biases of 0; the last layer as torch's, of unit norm."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(
        load_recipe("vanilla_100ep"), backbone=BackboneConfig("vit_small_patch16_224", depth=1, drop_path_rate=0.1)
    )
    student = Dino(recipe).student
    weights = {name: tensor for name, tensor in student.named_parameters() if "last_layer" not in name}
    linear = {name: tensor for name, tensor in weights.items() if tensor.ndim > 1 and "patch_embed" not in name}
    assert {"backbone.cls_token", "backbone.pos_embed", "head.mlp.0.weight", "head.mlp.4.weight"} <= linear.keys()
    for name, tensor in linear.items():
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15 if "cls_token" in name else 0.02), name
    for name in ("head.mlp.0.bias", "head.mlp.2.bias", "head.mlp.4.bias"):
        assert not weights[name].any()
    assert torch.allclose(student.head.last_layer.weight.norm(dim=1), torch.ones(65536), atol=1e-5)


def test_narrower_heads_keep_the_signal_above_their_biases() -> None:
    torch.manual_seed(0)
    head = DinoHead(128, DinoConfig(out_dim=20, hidden_dim=512, bottleneck_dim=64))
    assert head.mlp[0].weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert head.mlp[2].weight.std().item() == pytest.approx(512**-0.5, rel=0.05)
