"""The losses of BYOL, MoCo, SwAV, DINOv2 and CURL against the papers' formulas in float64, gradients included."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from literal_losses import (
    Array,
    anchor_reference,
    byol_reference,
    curl_reference,
    gram_reference,
    ibot_reference,
    koleo_reference,
    moco_reference,
    moco_v3_reference,
    sinkhorn_reference,
    unit,
)

from dino_train.objectives import curl
from dino_train.objectives.byol import byol_loss
from dino_train.objectives.collapse import embedding_std
from dino_train.objectives.dinov2 import anchor_loss, gram_loss, ibot_loss, koleo_loss
from dino_train.objectives.moco import batch_loss, queue_loss
from dino_train.objectives.sinkhorn import sinkhorn
from dino_train.objectives.swav import swav_loss


def swav_reference(codes: Sequence[Array], scores: Sequence[Array], temperature: float) -> float:
    terms = []
    for t, code in enumerate(codes):
        for s, score in enumerate(scores):
            if s != t:
                log_p = score / temperature - np.log(np.exp(score / temperature).sum(axis=-1, keepdims=True))
                terms.append(float(-(code * log_p).sum(axis=-1).mean()))
    return float(np.mean(terms))


def assert_gradient(loss: Callable[..., torch.Tensor], reference: Callable[..., float], free: list[Array]) -> None:
    """Compare a loss with its reference, and its gradient with central differences of the reference."""
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
    loss, correct = queue_loss([torch.from_numpy(q).requires_grad_() for q in queries], *fixed, 0.2)
    loss.backward()
    assert all(x.grad is None for x in fixed)
    nearest = [q @ k > max(q @ old for old in queue) for view in queries for q, k in zip(view, keys, strict=True)]
    assert correct.tolist() == [float(x) for x in nearest]


def test_moco_v3_is_info_nce_over_the_batch() -> None:
    rng = np.random.default_rng(0)
    queries, keys = ([unit(rng.normal(size=(5, 6))) for _ in range(2)] for _ in range(2))
    fixed = [torch.from_numpy(k) for k in keys]
    assert_gradient(lambda *q: batch_loss(q, fixed, 0.3)[0], lambda *q: moco_v3_reference(q, keys, 0.3), queries)


@pytest.mark.parametrize(("images", "outputs", "epsilon"), [(6, 4, 0.05), (5, 9, 0.3), (40, 8, 0.015)])
def test_sinkhorn_gives_every_output_an_equal_share(images: int, outputs: int, epsilon: float) -> None:
    scores = np.random.default_rng(1).uniform(-1, 1, (images, outputs))
    codes = sinkhorn(torch.from_numpy(scores), epsilon, 3).numpy()
    np.testing.assert_allclose(codes, sinkhorn_reference(scores, epsilon, 3), rtol=1e-9)
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-12)
    many = sinkhorn(torch.from_numpy(scores), epsilon, 20_000).numpy()
    np.testing.assert_allclose(many.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(many.sum(axis=0), images / outputs, rtol=1e-2, err_msg="equal shares")


def test_swav_is_the_cross_entropy_with_the_codes() -> None:
    rng = np.random.default_rng(0)
    codes = [sinkhorn_reference(rng.uniform(-1, 1, (4, 5)), 0.1, 3) for _ in range(2)]
    scores = [rng.uniform(-1, 1, (4, 5)) for _ in range(3)]
    fixed = [torch.from_numpy(code) for code in codes]
    assert_gradient(lambda *s: swav_loss(fixed, s, 0.1), lambda *s: swav_reference(codes, s, 0.1), scores)


def test_ibot_is_the_cross_entropy_of_the_masked_patches() -> None:
    """Of three crops with three, none and one masked patches: each crop counts the same."""
    rng = np.random.default_rng(0)
    masked = np.zeros((3, 6), bool)
    masked[0, [1, 2, 5]] = masked[2, 3] = True
    targets, logits = sinkhorn_reference(rng.uniform(-1, 1, (4, 5)), 0.1, 3), rng.uniform(-1, 1, (4, 5))
    fixed = torch.from_numpy(targets), torch.from_numpy(masked)
    assert_gradient(
        lambda s: ibot_loss(fixed[0], s, fixed[1], 0.1), lambda s: ibot_reference(targets, s, masked, 0.1), [logits]
    )
    nothing = torch.zeros(0, 5, requires_grad=True)
    ibot_loss(nothing.detach(), nothing, torch.zeros(2, 6, dtype=torch.bool), 0.1).backward()
    assert nothing.grad is not None, "processes without masked patches take part in the exchange of gradients"


def test_koleo_spreads_each_from_its_nearest() -> None:
    tokens = np.random.default_rng(0).normal(size=(5, 4))
    assert_gradient(koleo_loss, koleo_reference, [tokens])
    assert torch.isfinite(koleo_loss(torch.ones(3, 4))), "of equal tokens"


def test_the_anchors_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    patches, start = (rng.normal(size=(2, 4, 3)) for _ in range(2))
    fixed = torch.from_numpy(start)
    assert_gradient(lambda x: anchor_loss(x, fixed), lambda x: anchor_reference(x, start), [patches])
    assert_gradient(lambda x: gram_loss(x, fixed), lambda x: gram_reference(x, start), [patches])
    turned = patches @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert gram_loss(torch.from_numpy(turned), torch.from_numpy(patches)).item() == pytest.approx(0, abs=1e-12)


def test_curl_is_info_nce_with_a_bilinear_similarity() -> None:
    rng = np.random.default_rng(0)
    views, keys = [rng.normal(size=(4, 3)) for _ in range(2)], rng.normal(size=(4, 3))
    similarity = rng.uniform(size=(3, 3))
    fixed = torch.from_numpy(keys).requires_grad_()
    assert_gradient(
        lambda *free: curl.bilinear_loss(free[:2], fixed, free[2])[0],
        lambda *free: curl_reference(free[:2], keys, free[2]),
        [*views, similarity],
    )
    tensors = [torch.from_numpy(view).requires_grad_() for view in views]
    loss, correct = curl.bilinear_loss(tensors, fixed, torch.from_numpy(similarity))
    loss.backward()
    assert fixed.grad is None
    nearest = [np.argmax([q @ similarity @ k for k in keys]) == i for view in views for i, q in enumerate(view)]
    assert correct.tolist() == [float(x) for x in nearest]


def test_curls_negatives_are_the_keys_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, keys, similarity = (torch.from_numpy(rng.normal(size=shape)) for shape in ((6, 3), (6, 3), (3, 3)))
    losses = []
    for rank in range(3):
        monkeypatch.setattr(curl, "rank_and_count", lambda rank=rank: (rank, 3))
        monkeypatch.setattr(curl, "gather_over_processes", lambda own: keys)
        ours = slice(2 * rank, 2 * rank + 2)
        losses.append(curl.bilinear_loss([queries[ours]], keys[ours], similarity)[0].item())
    expected = curl_reference([queries.numpy()], keys.numpy(), similarity.numpy())
    assert np.mean(losses) == pytest.approx(expected, rel=1e-12)


def test_embedding_std_tells_random_directions_from_one() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2000, 64)
    assert embedding_std(rows).item() == pytest.approx(1, abs=0.02)
    assert embedding_std(rows[:1] + 1e-3 * rows).item() < 0.01
