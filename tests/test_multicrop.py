"""Multi-crop: the paper's scales and probabilities, and each operation against torchvision or OpenCV."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torchvision.transforms.v2 import functional as reference

from dino_train.data import multicrop
from dino_train.data.multicrop import Draws, MultiCrop, color, color_batch, normalize
from dino_train.recipes import CropsConfig

CONFIG = CropsConfig(
    global_crops_size=64,
    local_crops_size=32,
    local_crops_number=5,
    global_crops_scale=(0.4, 1.0),
    local_crops_scale=(0.05, 0.4),
)


def photo(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """A smooth colorful image, RGB [H, W, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)


def neutral(n: int) -> Draws:
    """Draws that leave crops unchanged."""
    return Draws(
        box=np.zeros((n, 4), np.int64),
        flip=np.zeros(n, bool),
        order=np.tile(np.arange(4), (n, 1)),
        jitter=np.tile(np.array([1, 1, 1, 0], np.float32), (n, 1)),
        gray=np.zeros(n, bool),
        sigma=np.zeros(n, np.float32),
        solarize=np.zeros(n, bool),
    )


def test_number_size_and_type_of_crops() -> None:
    crops = MultiCrop(CONFIG)(photo(), np.random.default_rng(0))
    assert [tuple(group.shape) for group in crops] == [(2, 3, 64, 64), (5, 3, 32, 32)]
    assert {group.dtype for group in crops} == {torch.uint8}
    alone = MultiCrop(CropsConfig(64, 32, local_crops_number=0))(photo(), np.random.default_rng(0))
    assert [tuple(group.shape) for group in alone] == [(2, 3, 64, 64)]


def test_draws_have_the_papers_scales_and_probabilities() -> None:
    crop = MultiCrop(CONFIG)
    drawn = [crop.draw(200, 300, np.random.default_rng([7, i])) for i in range(1500)]
    for group, (low, high) in ((0, CONFIG.global_crops_scale), (1, CONFIG.local_crops_scale)):
        boxes = np.concatenate([draws[group].box for draws in drawn])
        top, left, height, width = boxes.T
        assert np.all((top >= 0) & (left >= 0) & (top + height <= 200) & (left + width <= 300))
        shares, ratios = height * width / 60000, width / height
        inside = shares < 0.6  # larger ones often do not fit and are drawn again
        assert shares.min() == pytest.approx(low, rel=0.05)
        assert np.median(shares[inside]) == pytest.approx((low + min(high, 0.6)) / 2, abs=0.02)
        assert ratios.min() > 0.72
        assert ratios.max() < 1.37
    first, second = (np.array([[d[0].sigma[i] > 0, d[0].solarize[i]] for d in drawn]).mean(axis=0) for i in (0, 1))
    local = [d[1] for d in drawn]
    assert first == pytest.approx([1.0, 0.0], abs=0.001)
    assert second == pytest.approx([0.1, 0.2], abs=0.04)
    assert np.mean([d.sigma > 0 for d in local]) == pytest.approx(0.5, abs=0.03)
    assert not any(d.solarize.any() for d in local)
    assert np.mean([d.flip for d in local]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([d.gray for d in local]) == pytest.approx(0.2, abs=0.03)
    values = np.concatenate([d.jitter for d in local])
    jittered = values[np.any(values != (1, 1, 1, 0), axis=1)]
    assert len(jittered) / len(values) == pytest.approx(0.8, abs=0.03)
    np.testing.assert_allclose(jittered.max(axis=0), [1.4, 1.4, 1.2, 0.1], atol=0.01)
    np.testing.assert_allclose(jittered.min(axis=0), [0.6, 0.6, 0.8, -0.1], atol=0.01)
    orders = {tuple(order) for d in local for order in d.order}
    assert len(orders) == 24, "every order of the operations"
    assert max(d.sigma.max() for d in local) == pytest.approx(2.0 * 32 / 96, rel=0.02)


def test_weaker_color_is_weaker_in_everything() -> None:
    crop = MultiCrop(CropsConfig(64, 32, color=0.0))
    for i in range(50):
        for draws in crop.draw(100, 100, np.random.default_rng(i)):
            np.testing.assert_array_equal(draws.jitter, np.tile([1, 1, 1, 0], (len(draws.gray), 1)))
            assert not draws.gray.any()
            assert not draws.solarize.any()


def test_cuts_are_torchvisions() -> None:
    image, crop = photo(), MultiCrop(CONFIG)
    draws = crop.draw(*image.shape[:2], np.random.default_rng(3))
    for group, drawn, size in zip(crop.cut(([image], [image]), draws), draws, (64, 32), strict=True):
        for cut, (top, left, height, width), flip in zip(group, drawn.box, drawn.flip, strict=True):
            part = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1)
            expected = reference.resize(part, [size, size], reference.InterpolationMode.BICUBIC, antialias=True)
            assert torch.equal(cut, reference.horizontal_flip(expected) if flip else expected)


OPERATIONS = {
    "brightness": (multicrop.BRIGHTNESS, 1.3, lambda x: reference.adjust_brightness(x, 1.3)),
    "contrast": (multicrop.CONTRAST, 0.7, lambda x: reference.adjust_contrast(x, 0.7)),
    "saturation": (multicrop.SATURATION, 1.2, lambda x: reference.adjust_saturation(x, 1.2)),
    "hue": (multicrop.HUE, 0.08, lambda x: reference.adjust_hue(x, 0.08)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_jitter_is_torchvisions(name: str) -> None:
    operation, value, expected = OPERATIONS[name]
    crop = torch.from_numpy(photo(64, 64)).permute(2, 0, 1)[None]
    draws = neutral(1)
    draws.jitter[0, operation] = value
    exact = expected(crop.float() / 255) * 255
    assert (color_batch(crop, draws) - exact).abs().max() < 0.01
    rounded = (color(crop, draws).float() - exact).abs()
    assert rounded.mean() < 1.0  # OpenCV rounds to 8 bits, hue to 256 steps
    assert rounded.max() < 6.0


def test_gray_blur_and_solarize() -> None:
    crop = torch.from_numpy(photo(64, 64)).permute(2, 0, 1)[None]
    floats = crop.float()
    gray = neutral(1)._replace(gray=np.array([True]))
    blur = neutral(1)._replace(sigma=np.array([1.3], np.float32))
    solarize = neutral(1)._replace(solarize=np.array([True]))
    blurred = cv2.GaussianBlur(crop[0].permute(1, 2, 0).numpy().astype(np.float64), (0, 0), 1.3)
    for draws, expected in (
        (gray, reference.rgb_to_grayscale(floats, 3)),
        (blur, torch.from_numpy(blurred).permute(2, 0, 1)[None]),
        (solarize, reference.solarize(crop, 128).float()),
        (neutral(1), floats),
    ):
        assert (color(crop, draws).float() - expected).abs().max() < 2.0
        assert (color_batch(crop, draws) - expected).abs().max() < 1.0


def test_both_ways_to_color_agree() -> None:
    """All operations together: crops colored in batch, as on a GPU, equal those colored one by one."""
    crop = MultiCrop(CropsConfig(64, 32))
    for i in range(20):
        image = photo(seed=i)
        draws = crop.draw(*image.shape[:2], np.random.default_rng(i))
        for cut, drawn in zip(crop.cut(([image], [image]), draws), draws, strict=True):
            smooth = drawn._replace(solarize=np.zeros_like(drawn.solarize))  # rounding decides at its threshold
            assert (color(cut, smooth).float() - color_batch(cut, smooth)).abs().mean() < 1.5


def test_normalize() -> None:
    crops = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (crops.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalize(crops, mean, std).double(), expected, atol=1e-5, rtol=1e-5)
