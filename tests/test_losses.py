"""The losses of BYOL, MoCo and SwAV against the papers' formulas in float64, gradients included."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_train.objectives.byol import byol_loss  # noqa: E402
from dino_train.objectives.collapse import spread  # noqa: E402
from dino_train.objectives.moco import batch_loss, queue_loss  # noqa: E402
from dino_train.objectives.sinkhorn import sinkhorn  # noqa: E402
from dino_train.objectives.swav import swav_loss  # noqa: E402

Array = np.ndarray


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def byol_reference(projections: Sequence[Array], predictions: Sequence[Array]) -> float:
    """Grill et al. 2020, equation 2, symmetric: squared distances of unit vectors, summed over the two directions."""
    return sum(
        float(np.mean(np.sum((unit(predictions[s]) - unit(projections[1 - s])) ** 2, axis=-1))) for s in range(2)
    )


def cross_entropy(logits: Array, right: int) -> float:
    return float(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[right])


def moco_reference(queries: Sequence[Array], keys: Array, queue: Array, temperature: float) -> float:
    """He et al. 2020, equation 1, for each query of each view."""
    terms = []
    for view in queries:
        for q, k in zip(view, keys, strict=True):
            candidates = np.array([q @ k, *(q @ old for old in queue)]) / temperature
            terms.append(cross_entropy(candidates, 0))
    return float(np.mean(terms))


def moco_v3_reference(queries: Sequence[Array], keys: Sequence[Array], temperature: float) -> float:
    """Chen et al. 2021, algorithm 1: ctr(q1, k2) + ctr(q2, k1)."""

    def ctr(q: Array, k: Array) -> float:
        return 2 * temperature * float(np.mean([cross_entropy(q[i] @ k.T / temperature, i) for i in range(len(q))]))

    return ctr(queries[0], keys[1]) + ctr(queries[1], keys[0])


def sinkhorn_reference(scores: Array, epsilon: float, iterations: int) -> Array:
    """Caron et al. 2020: u and v of diag(u) exp(scores / epsilon) diag(v), each fixed in turn, columns last."""
    q = np.exp(scores.T / epsilon)  # [K, B]
    q /= q.sum()
    for _ in range(iterations):
        for row in range(len(q)):
            q[row] /= q[row].sum() * len(q)
        for column in range(q.shape[1]):
            q[:, column] /= q[:, column].sum() * q.shape[1]
    return (q * q.shape[1]).T


def swav_reference(codes: Sequence[Array], scores: Sequence[Array], temperature: float) -> float:
    terms = []
    for t, code in enumerate(codes):
        for s, score in enumerate(scores):
            if s != t:
                log_p = score / temperature - np.log(np.exp(score / temperature).sum(axis=-1, keepdims=True))
                terms.append(float(-(code * log_p).sum(axis=-1).mean()))
    return float(np.mean(terms))


def assert_gradient(loss: Callable[..., torch.Tensor], reference: Callable[..., float], free: list[Array]) -> None:
    """Loss, and gradient by the central differences of the reference."""
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in free]
    value = loss(*tensors)
    assert value.item() == pytest.approx(reference(*free), rel=1e-12)
    gradients = torch.autograd.grad(value, tensors)
    for number, gradient in enumerate(gradients):
        for index in np.ndindex(free[number].shape):
            moved = []
            for step in (1e-5, -1e-5):
                changed = [x.copy() for x in free]
                changed[number][index] += step
                moved.append(reference(*changed))
            assert gradient[index].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-7)


def test_byol_is_the_symmetric_distance_and_stops_the_gradient() -> None:
    rng = np.random.default_rng(0)
    z, p = ([rng.normal(size=(4, 6)) for _ in range(2)] for _ in range(2))
    targets = [torch.from_numpy(x).requires_grad_() for x in z]
    assert_gradient(lambda *q: byol_loss(targets, q), lambda *q: byol_reference(z, q), p)
    byol_loss(targets, [torch.from_numpy(x).requires_grad_() for x in p]).backward()
    assert all(target.grad is None for target in targets)


def test_moco_is_info_nce_with_the_queue_and_stops_the_gradient() -> None:
    rng = np.random.default_rng(0)
    queries, keys, queue = (
        [unit(rng.normal(size=(4, 6))) for _ in range(2)],
        *(unit(rng.normal(size=(n, 6))) for n in (4, 7)),
    )
    fixed = [torch.from_numpy(x).requires_grad_() for x in (keys, queue)]
    assert_gradient(lambda *q: queue_loss(q, *fixed, 0.2)[0], lambda *q: moco_reference(q, keys, queue, 0.2), queries)
    loss, found = queue_loss([torch.from_numpy(q).requires_grad_() for q in queries], *fixed, 0.2)
    loss.backward()
    assert all(x.grad is None for x in fixed)
    nearest = [q @ k > max(q @ old for old in queue) for view in queries for q, k in zip(view, keys, strict=True)]
    assert found.tolist() == [float(x) for x in nearest]


def test_moco_v3_is_info_nce_over_the_batch() -> None:
    rng = np.random.default_rng(0)
    queries, keys = ([unit(rng.normal(size=(5, 6))) for _ in range(2)] for _ in range(2))
    fixed = [torch.from_numpy(k) for k in keys]
    assert_gradient(lambda *q: batch_loss(q, fixed, 0.3)[0], lambda *q: moco_v3_reference(q, keys, 0.3), queries)


@pytest.mark.parametrize(("pictures", "outputs", "epsilon"), [(6, 4, 0.05), (5, 9, 0.3), (40, 8, 0.015)])
def test_sinkhorn_shares_images_out(images: int, outputs: int, epsilon: float) -> None:
    scores = np.random.default_rng(1).uniform(-1, 1, (images, outputs))
    codes = sinkhorn(torch.from_numpy(scores), epsilon, 3).numpy()
    np.testing.assert_allclose(codes, sinkhorn_reference(scores, epsilon, 3), rtol=1e-9)
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-12)
    many = sinkhorn(torch.from_numpy(scores), epsilon, 20_000).numpy()
    np.testing.assert_allclose(many.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(many.sum(axis=0), images / outputs, rtol=1e-2, err_msg="every output gets as many")


def test_swav_is_the_cross_entropy_with_the_codes() -> None:
    rng = np.random.default_rng(0)
    codes = [sinkhorn_reference(rng.uniform(-1, 1, (4, 5)), 0.1, 3) for _ in range(2)]
    scores = [rng.uniform(-1, 1, (4, 5)) for _ in range(3)]
    fixed = [torch.from_numpy(code) for code in codes]
    assert_gradient(lambda *s: swav_loss(fixed, s, 0.1), lambda *s: swav_reference(codes, s, 0.1), scores)


def test_spread_tells_random_directions_from_one() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2000, 64)
    assert spread(rows).item() == pytest.approx(1, abs=0.02)
    assert spread(rows[:1] + 1e-3 * rows).item() < 0.01
