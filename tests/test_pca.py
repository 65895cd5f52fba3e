"""Principal components against scikit-learn's."""

import numpy as np
import pytest

from dino_train.evaluation.probing.pca import fit_pca

decomposition = pytest.importorskip("sklearn.decomposition")


@pytest.mark.parametrize("shape", [(200, 12), (15, 40)])
def test_components_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5).astype(np.float32)
    ours, theirs = fit_pca(vectors, 6), decomposition.PCA(6, svd_solver="full").fit(vectors.astype(np.float64))
    signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components, signs[:, None] * theirs.components_, atol=1e-6)
    others = rng.normal(size=(2, 3, shape[1]))
    expected = theirs.transform(others.reshape(6, -1)).reshape(2, 3, 6) * signs
    np.testing.assert_allclose(ours.project(others), expected, atol=1e-5)


def test_the_sign_does_not_depend_on_that_of_the_data() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 5)) * [1, 2, 3, 4, 5]
    for one, other in zip(fit_pca(vectors, 3).components, fit_pca(-vectors, 3).components, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
        assert one[np.abs(one).argmax()] > 0


def test_there_are_no_more_components_than_directions() -> None:
    directions = np.random.default_rng(2).normal(size=(2, 30))
    for count in (8, 90):  # fewer and more vectors than numbers
        vectors = np.random.default_rng(3).normal(size=(count, 2)) @ directions + 1
        pca = fit_pca(vectors, 5)
        assert pca.components.shape == (2, 30)
        np.testing.assert_allclose(pca.project(vectors) @ pca.components + pca.mean, vectors, atol=1e-8)
