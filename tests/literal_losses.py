"""The losses of the papers, written out in float64."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def byol_reference(projections: Sequence[Array], predictions: Sequence[Array]) -> float:
    """Grill et al. 2020, equation 2, symmetrized: squared distances of unit vectors, summed over both directions."""
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


def curl_reference(queries: Sequence[Array], keys: Array, similarity: Array) -> float:
    """Srinivas et al. 2020: log-softmax of q W k over the keys of the batch, for each query of each view."""
    terms = [
        cross_entropy(np.array([q @ similarity @ k for k in keys]), right)
        for view in queries
        for right, q in enumerate(view)
    ]
    return float(np.mean(terms))


def sinkhorn_reference(scores: Array, epsilon: float, iterations: int) -> Array:
    """Caron et al. 2020: diag(u) exp(scores / epsilon) diag(v), with u and v solved in turn, v last."""
    q = np.exp(scores.T / epsilon)  # [K, B]
    q /= q.sum()
    for _ in range(iterations):
        for row in range(len(q)):
            q[row] /= q[row].sum() * len(q)
        for column in range(q.shape[1]):
            q[:, column] /= q[:, column].sum() * q.shape[1]
    return (q * q.shape[1]).T


def ibot_reference(targets: Array, logits: Array, masked: Array, temperature: float) -> float:
    """Zhou et al. 2022, section 3, for each crop: the mean over its masked patches; a crop without any counts as 0."""
    rows = iter(zip(targets, logits, strict=True))
    crops = []
    for crop in masked:
        patches = []
        for hidden in crop:
            if hidden:
                target, logit = next(rows)
                p = np.exp(logit / temperature) / np.sum(np.exp(logit / temperature))
                patches.append(-sum(t * np.log(s) for t, s in zip(target, p, strict=True)))
        crops.append(np.mean(patches) if patches else 0.0)
    return float(np.mean(crops))


def koleo_reference(tokens: Array) -> float:
    """Oquab et al. 2023, section 4: minus the mean logarithm of the distance to the nearest other token."""
    z = unit(tokens)
    nearest = [min(float(np.linalg.norm(a - b)) for j, b in enumerate(z) if j != i) for i, a in enumerate(z)]
    return -float(np.mean(np.log(nearest)))


def anchor_reference(tokens: Array, start: Array) -> float:
    """Mean over all tokens of 1 minus the cosine."""
    ours, theirs = (unit(x).reshape(-1, x.shape[-1]) for x in (tokens, start))
    return float(np.mean([1 - a @ b for a, b in zip(ours, theirs, strict=True)]))


def gram_reference(patches: Array, start: Array) -> float:
    """Siméoni et al. 2025, equation 2, over the squared number of patches: mean over crops."""
    crops = []
    for ours, theirs in zip(unit(patches), unit(start), strict=True):
        norm = np.linalg.norm(ours @ ours.T - theirs @ theirs.T, "fro")
        crops.append(norm**2 / len(ours) ** 2)
    return float(np.mean(crops))
