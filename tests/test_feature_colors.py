"""Colors of features against scikit-learn's principal components."""

from pathlib import Path

import numpy as np
import pytest
from scenes import image
from students import expected

from dino_ros.backends.parity import shipped_images
from dino_ros.images.encodings import resize
from dino_ros.perception.feature_colors import FeatureColors
from dino_ros.perception.perceiver import Perceiver


def test_colors_are_the_principal_components() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(4, 9, 11, 16)) * np.linspace(4, 1, 16) + 3
    rgb = FeatureColors.fit(tokens.astype(np.float32)).rgb(tokens[0].astype(np.float32))
    assert (rgb.shape, rgb.dtype) == ((9, 11, 3), np.uint8)
    components = decomposition.PCA(3).fit(tokens.reshape(-1, 16)).transform(tokens[0].reshape(-1, 16))
    for channel, component in zip(rgb.reshape(-1, 3).T, components.T, strict=True):
        inside = (channel > 2) & (channel < 253)
        linear = np.arctanh(channel[inside] / 127.5 - 1)
        assert abs(np.corrcoef(linear, component[inside])[0, 1]) > 0.999


def test_colors_belong_to_the_student_and_not_to_the_frame(student: Path) -> None:
    """Another start has the same colors; what a frame looks like depends on its features alone."""
    batch = np.stack([resize(rgb, 32, 48) for rgb in shipped_images()])
    by_hand = FeatureColors.fit(expected(batch)["features"].astype(np.float32))
    first, second = Perceiver.load(student), Perceiver.load(student)
    for seed in range(3):
        features = first(image(32, 48, seed), ["features"]).features
        rgb = first.feature_colors.rgb(features)
        np.testing.assert_array_equal(second.feature_colors.rgb(features), rgb)
        assert np.abs(by_hand.rgb(features).astype(int) - rgb).max() <= 1
        np.testing.assert_array_equal(first.feature_colors.rgb(features[:2]), rgb[:2])


def test_tokens_far_from_the_shipped_images_keep_valid_colors(student: Path) -> None:
    colors = Perceiver.load(student).feature_colors
    far = np.array([[[1e6, 1e6, 1e6], [-1e6, -1e6, -1e6]]], np.float32)
    rgb = colors.rgb(far)
    assert set(np.unique(rgb)) <= {0, 255}
    assert (rgb[0, 0] != rgb[0, 1]).all()
