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
    decayed, free = (group["params"] for group in parameter_groups(student))
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
            if name == "lars" and decay:  # You et al. 2017, equation 6
                norms = np.linalg.norm(value), np.linalg.norm(gradient)
                trust = 0.001 * norms[0] / (norms[1] + decay * norms[0])
                momentum = 0.9 * momentum + trust * (gradient + decay * value)
            else:
                momentum = 0.9 * momentum + gradient + decay * value
            value = value - 0.1 * momentum
        np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-7)
