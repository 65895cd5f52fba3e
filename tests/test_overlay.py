"""The overlay: heat where attention lies, an outline around the mask, the camera's image elsewhere."""

import cv2
import numpy as np

from dino_ros.images.overlay import HEAT, OUTLINE, overlay


def test_heat_lies_where_attention_is_and_blends_with_the_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (123, 164, 3), dtype=np.uint8)
    untouched = rgb.copy()
    attention = np.zeros((2, 3, 4), np.float32)
    attention[:, 1, 1] = 1.0
    drawn = overlay(rgb, np.zeros((123, 164), np.uint8), attention)
    np.testing.assert_array_equal(rgb, untouched)
    strength = 11 / 12  # of the middle of patch (1, 1): what the highest value has above the average
    hot = cv2.applyColorMap(np.full((1, 1), 255 * strength, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    blend = rgb[61, 61] + HEAT * strength * (hot.astype(np.float64) - rgb[61, 61])
    np.testing.assert_allclose(drawn[61, 61], blend, atol=3)  # in 8 bits
    np.testing.assert_array_equal(drawn[:20], rgb[:20])
    np.testing.assert_array_equal(drawn[:, 125:], rgb[:, 125:])


def test_even_attention_leaves_the_image_as_it_is() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for value in (0.0, 0.1, 0.25):
        drawn = overlay(rgb, np.zeros((48, 64), np.uint8), np.full((3, 6, 8), value, np.float32))
        np.testing.assert_array_equal(drawn, rgb)


def test_the_outline_follows_the_mask() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 30:70] = 255
    mask[40:60, 45:55] = 0  # a hole has an outline too
    drawn = overlay(rgb, mask, np.ones((1, 5, 5), np.float32))
    outline = (drawn == OUTLINE).all(axis=2)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert not outline[~edge].any()
    assert outline[20, 30:70].all()
    assert outline[20:80, 30].all()
    assert outline[50, 44]
    assert outline[50, 55]
