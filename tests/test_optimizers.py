"""Optimizers: what decays, how gradients are clipped, and one step of each against its formula."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_train.recipes import OptimizerConfig
from dino_train.training.optimizers import build_optimizer, clip_each_gradient, parameter_groups


class Student(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(5, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.frozen = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_biases_and_norms_do_not_decay() -> None:
    student = Student()
    decayed, free = (group["params"] for group in parameter_groups(student, OptimizerConfig()))
    assert [id(p) for p in decayed] == [id(student.layer.weight)]
    assert {id(p) for p in free} == {id(student.layer.bias), id(student.norm.weight), id(student.norm.bias)}


def test_gradients_are_clipped_each_on_its_own() -> None:
    model = torch.nn.Linear(4, 3)
    model.weight.grad = torch.full((3, 4), 5.0)
    model.bias.grad = torch.full((3,), 0.1)
    total = clip_each_gradient(model, 3.0)
    assert total.item() == pytest.approx(math.sqrt(12 * 25 + 3 * 0.01), rel=1e-5)
    assert model.weight.grad.norm().item() == pytest.approx(3.0, rel=1e-4)
    torch.testing.assert_close(model.bias.grad, torch.full((3,), 0.1))


def two_steps(name: str) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Weight and bias after two steps with lr 0.1 and weight decay 0.3, and the gradients of both steps."""
    student = Student()
    optimizer = build_optimizer(OptimizerConfig(name=name), student)  # type: ignore[arg-type]
    for group, decay in zip(optimizer.param_groups, (0.3, 0.0), strict=True):
        group["lr"], group["weight_decay"] = 0.1, decay
    gradients = []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        for parameter in student.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        gradients.append((student.layer.weight.grad.double().numpy(), student.layer.bias.grad.double().numpy()))
        optimizer.step()
    return student.layer.weight.detach().numpy(), student.layer.bias.detach().numpy(), gradients


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_two_steps_are_the_formulas(name: str) -> None:
    weight, bias, gradients = two_steps(name)
    start = Student()
    for which, (got, p) in enumerate(((weight, start.layer.weight), (bias, start.layer.bias))):
        value, decay = p.detach().double().numpy(), 0.3 if which == 0 else 0.0
        first, second, momentum = 0.0, 0.0, 0.0
        for step in (1, 2):
            gradient = gradients[step - 1][which]
            if name == "adamw":  # Loshchilov and Hutter 2019, algorithm 2
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                update = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                value = value - 0.1 * decay * value - 0.1 * update
                continue
            update = gradient + decay * value
            if name == "lars" and decay:
                update = update * 0.001 * np.linalg.norm(value) / np.linalg.norm(update)
            momentum = 0.9 * momentum + update
            value = value - 0.1 * momentum
        np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-7)


def lars_reference(
    weight: np.ndarray, gradients: list[np.ndarray], lr: float, decay: float, momentum: float = 0.9, eta: float = 0.001
) -> np.ndarray:
    """LARS as the references of DINO and MoCo v3 compute it, element by element of one parameter."""
    values = [float(value) for value in weight.flatten()]
    velocity = [0.0] * len(values)
    for gradient in gradients:
        update = [float(slope) for slope in gradient.flatten()]
        if weight.ndim > 1:
            update = [slope + decay * value for slope, value in zip(update, values, strict=True)]
            length = math.sqrt(math.fsum(part * part for part in update))
            size = math.sqrt(math.fsum(value * value for value in values))
            if length > 0 and size > 0:
                update = [eta * size / length * part for part in update]
        velocity = [momentum * old + part for old, part in zip(velocity, update, strict=True)]
        values = [value - lr * speed for value, speed in zip(values, velocity, strict=True)]
    return np.array(values).reshape(weight.shape)


@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize(
    ("shape", "weight_scale", "gradient_scale"),
    [((4, 5), 1.0, 1.0), ((4, 5), 1e-3, 1e4), ((2, 3, 4), 1.0, 1e-9), ((6,), 1.0, 1.0), ((4, 5), 0.0, 1.0)],
)
def test_lars_is_the_references(
    decay: float, shape: tuple[int, ...], weight_scale: float, gradient_scale: float
) -> None:
    """In float64: with and without decay, a weight of zeros, a step without gradient, biases."""
    rng = np.random.default_rng(7)
    weight = weight_scale * rng.normal(size=shape)
    gradients = [gradient_scale * rng.normal(size=shape) for _ in range(4)]
    gradients[1][:] = 0
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    module.unused = torch.nn.Parameter(torch.ones(2, 2))  # without gradient
    optimizer = build_optimizer(OptimizerConfig(name="lars"), module)
    for group, of_group in zip(optimizer.param_groups, (decay, 0.0), strict=True):
        group["lr"], group["weight_decay"] = 0.5, of_group
    for gradient in gradients:
        module.weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = lars_reference(weight, gradients, 0.5, decay)
    np.testing.assert_allclose(module.weight.detach().numpy(), expected, rtol=1e-13, atol=1e-300)
    assert torch.equal(module.unused, torch.ones(2, 2))
