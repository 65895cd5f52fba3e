"""Multi-crop augmentation (Caron et al. 2021, section 3.1; color and blur as in BYOL, Grill et al. 2020, table 6).

All random numbers for an image's crops are drawn first, from a generator of its own. Then the crops are cut and
colored: one by one with OpenCV on the CPU, or all at once with torch on a GPU. The results are the same except that
OpenCV rounds to 8 bits after each operation.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from dino_train.recipes import CropsConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER = np.array([0.4, 0.4, 0.2, 0.1])
"""Strengths of the four jitter operations, in the order above."""
BLUR_SIGMA = (0.1, 2.0)
"""Range of the blur's standard deviation in pixels, for crops of 224 and 96 pixels; less for smaller ones."""
SOLARIZE_FROM = 128
"""Values from here to 255 are inverted."""
GRAY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in a gray value (ITU-R BT.601)."""


Views = tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]
"""What each of the two global crops is cut from: k images, RGB [H, W, 3], all of the same size."""


class Draws(NamedTuple):
    """Random numbers of n crops of one size: NumPy arrays when drawn, tensors in the batches of a loader."""

    box: Any
    """[n, 4]: top, left, height and width in the image, pixels."""
    flip: Any
    """[n]: whether to mirror left to right."""
    order: Any
    """[n, 4]: jitter operations in the order they are applied."""
    jitter: Any
    """[n, 4]: factors of brightness, contrast and saturation (1: none), and shift of the hue (0: none, 1: a turn)."""
    gray: Any
    """[n]: whether to remove the color."""
    sigma: Any
    """[n]: standard deviation of the blur, pixels; 0: no blur."""
    solarize: Any
    """[n]: whether to invert bright values."""


class MultiCrop:
    """Two global crops and `local_crops_number` local crops of an image.

    With a `stack` of k, a crop is k crops of k images, which share its random numbers.

    Calling it draws the random numbers (`draw`), cuts the crops (`cut`) and colors them (`color`).
    """

    def __init__(self, config: CropsConfig, stack: int = 1) -> None:
        self.config = config
        self.stack = stack

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator) -> list[Tensor]:
        """Return the crops of an image [H, W, 3]: uint8 [2 * k, 3, G, G] and, if any, [n * k, 3, L, L]."""
        draws = self.draw(image.shape[0], image.shape[1], rng)
        frames = self.stack * [image]
        return [color(crops, drawn) for crops, drawn in zip(self.cut((frames, frames), draws), draws, strict=True)]

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Draws]:
        """Draw the random numbers for an image of this size: for the global crops, then for the local crops if any."""
        config = self.config
        # The global crops differ as in BYOL: blur always or rarely, solarization only in the second.
        draws = [
            self._draw(
                rng, height, width, config.global_crops_scale, config.global_crops_size / 224, [1.0, 0.1], [0.0, 0.2]
            )
        ]
        if n := config.local_crops_number:
            draws.append(
                self._draw(
                    rng, height, width, config.local_crops_scale, config.local_crops_size / 96, [0.5] * n, [0.0] * n
                )
            )
        return [Draws(*(field.repeat(self.stack, axis=0) for field in drawn)) for drawn in draws]

    def _draw(
        self,
        rng: np.random.Generator,
        height: int,
        width: int,
        scale: tuple[float, float],
        size: float,
        blur: list[float],
        solarize: list[float],
    ) -> Draws:
        """`size` is the crops' side relative to the paper's; `blur` and `solarize` are probabilities, one per crop."""
        n, strength = len(blur), self.config.color
        jitter = rng.uniform(-1, 1, (n, 4)) * JITTER * strength + (1, 1, 1, 0)
        jitter[rng.random(n) >= 0.8] = (1, 1, 1, 0)
        return Draws(
            box=np.array([draw_box(rng, height, width, scale) for _ in range(n)]),
            flip=rng.random(n) < 0.5,
            order=rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1),
            jitter=jitter.astype(np.float32),
            gray=rng.random(n) < 0.2 * strength,
            sigma=(rng.uniform(*BLUR_SIGMA, n) * min(size, 1.0) * (rng.random(n) < blur)).astype(np.float32),
            solarize=rng.random(n) < np.array(solarize) * strength,
        )

    def cut(self, views: Views, draws: list[Draws]) -> list[Tensor]:
        """Cut, resize (bicubic, antialiased) and mirror the crops: uint8 [n * k, 3, size, size] per entry of `draws`.

        Each global crop is cut from a view of its own, the local crops from the first.
        """
        first, second = ([torch.from_numpy(image).permute(2, 0, 1) for image in view] for view in views)
        cut_from = (first + second, itertools.cycle(first))
        sizes = (self.config.global_crops_size, self.config.local_crops_size)
        crops = []
        for drawn, size, sources in zip(draws, sizes, cut_from, strict=False):
            cut = [
                resized_crop(source, *map(int, box), [size, size], InterpolationMode.BICUBIC, antialias=True)
                for source, box in zip(sources, drawn.box, strict=False)
            ]
            crops.append(torch.stack([c.flip(-1) if flip else c for c, flip in zip(cut, drawn.flip, strict=True)]))
        return crops


def draw_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop whose share of the area is in `scale` and whose shape is 3:4 to 4:3.

    A crop that does not fit is drawn again. After ten tries the result is the largest centered crop with such a shape,
    as in Szegedy et al. 2015 and torchvision.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def color(crops: Tensor, draws: Draws) -> Tensor:
    """Apply jitter, grayscale, blur and solarization to uint8 crops [n, 3, S, S], one by one with OpenCV."""
    done = []
    for i, crop in enumerate(crops):
        image = np.ascontiguousarray(crop.permute(1, 2, 0).numpy())
        for operation in draws.order[i]:
            image = jitter(image, int(operation), float(draws.jitter[i, operation]))
        if draws.gray[i]:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if draws.sigma[i] > 0:
            size = kernel_size(float(draws.sigma[i]))
            image = cv2.GaussianBlur(image, (size, size), float(draws.sigma[i]), borderType=cv2.BORDER_REFLECT_101)
        if draws.solarize[i]:
            image = np.where(image >= SOLARIZE_FROM, 255 - image, image)
        done.append(torch.from_numpy(image).permute(2, 0, 1))
    return torch.stack(done)


def jitter(image: Any, operation: int, value: float) -> Any:
    """Apply one operation of the color jitter, as torchvision defines it, to a uint8 image [H, W, 3]."""
    if value == (0 if operation == HUE else 1):
        return image
    if operation == BRIGHTNESS:
        return cv2.convertScaleAbs(image, alpha=value)
    if operation == CONTRAST:
        mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
        return cv2.addWeighted(image, value, image, 0, mean * (1 - value))
    if operation == SATURATION:
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(image, value, gray, 1 - value, 0)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(value * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def color_batch(crops: Tensor, draws: Draws) -> Tensor:
    """As `color`, for a batch on any device: uint8 [n, 3, S, S] to float32 in 0 to 255, without rounding in between."""
    x = crops.float() / 255
    gray = torch.from_numpy(GRAY).to(x.device).view(1, 3, 1, 1)
    order, values = torch.as_tensor(draws.order), torch.as_tensor(draws.jitter)
    for position in range(4):
        for operation in range(4):
            neutral = 0 if operation == HUE else 1
            chosen = torch.nonzero((order[:, position] == operation) & (values[:, operation] != neutral)).flatten()
            if not len(chosen):
                continue
            value = values[chosen, operation].to(x.device, non_blocking=True).view(-1, 1, 1, 1)
            chosen = chosen.to(x.device, non_blocking=True)
            x[chosen] = jitter_batch(x[chosen], operation, value, gray)
    without = torch.as_tensor(draws.gray).to(x.device).view(-1, 1, 1, 1)
    x = torch.where(without, (x * gray).sum(dim=1, keepdim=True), x)
    x = blur_batch(x, torch.as_tensor(draws.sigma).to(x.device))
    inverted = torch.as_tensor(draws.solarize).to(x.device).view(-1, 1, 1, 1) & (x >= SOLARIZE_FROM / 255)
    return torch.where(inverted, 1 - x, x) * 255


def jitter_batch(x: Tensor, operation: int, value: Tensor, gray: Tensor) -> Tensor:
    """Apply one operation of the color jitter to float images [n, 3, H, W] in 0 to 1; `value` is [n, 1, 1, 1]."""
    if operation == BRIGHTNESS:
        return (x * value).clamp(0, 1)
    if operation == HUE:
        return shift_hue(x, value)
    grays = (x * gray).sum(dim=1, keepdim=True)
    other = grays.mean(dim=(1, 2, 3), keepdim=True) if operation == CONTRAST else grays
    return torch.lerp(other, x, value).clamp(0, 1)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of images [n, 3, H, W] in 0 to 1 by `shift` [n, 1, 1, 1] full turns (HSV, Smith 1978)."""
    value, brightest = x.max(dim=1, keepdim=True)
    chroma = value - x.min(dim=1, keepdim=True).values
    # In sixths of a turn: the brightest primary, and from the other two how far the hue is from it and on which side.
    following = x.gather(1, (brightest + 1) % 3) - x.gather(1, (brightest + 2) % 3)
    hue = 2 * brightest + following / chroma.clamp(min=1e-8) + 6 * shift
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1) + hue) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def blur_batch(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image [n, 3, H, W] with a Gaussian of its own sigma [n], pixels; 0 leaves it unchanged."""
    n, channels, height, width = x.shape
    radius = min(kernel_size(BLUR_SIGMA[1]) // 2, height - 1)
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    x = functional.pad(x.view(1, n * channels, height, width), [radius] * 4, mode="reflect")
    x = functional.conv2d(x, kernel[:, None, :, None], groups=n * channels)
    x = functional.conv2d(x, kernel[:, None, None, :], groups=n * channels)
    return x.view(n, channels, height, width)


def kernel_size(sigma: float) -> int:
    """Side of a blur's kernel: four sigma on each side, odd."""
    return 2 * math.ceil(4 * sigma) + 1


def normalize(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalize crops [B, 3, H, W] in 0 to 255 by the backbone's mean and standard deviation (in 0 to 1): float32."""
    scale = torch.tensor(std, device=crops.device).view(1, 3, 1, 1) * 255
    shift = torch.tensor(mean, device=crops.device).view(1, 3, 1, 1) * 255
    return (crops.float() - shift) / scale
