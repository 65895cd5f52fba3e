"""Multi-crop augmentation (Caron et al. 2021, section 3.1; colour and blur as BYOL, Grill et al. 2020, table 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from dino_train.config import CropsConfig

BLUR_SIGMA = (0.1, 2.0)
"""Standard deviation of the blur in pixels, at the paper's crop sizes of 224 and 96; smaller crops get less."""


class MultiCrop:
    """Make two global crops and `local_crops` local crops of one picture.

    Called with a uint8 tensor [3, H, W] of any size; returns a list of uint8 tensors: two of [3, global_size,
    global_size], then `local_crops` of [3, local_size, local_size]. The crops are normalised later, in batch. Draws
    from torch's global generator.
    """

    def __init__(self, config: CropsConfig) -> None:
        strength = config.colour

        def crop(size: int, scale: tuple[float, float]) -> list[v2.Transform]:
            return [
                v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4 * strength, 0.4 * strength, 0.2 * strength, 0.1 * strength)], p=0.8),
                v2.RandomGrayscale(0.2 * strength),
            ]

        def blur(size: int, paper_size: int, p: float) -> v2.Transform:
            low, high = (sigma * min(size / paper_size, 1.0) for sigma in BLUR_SIGMA)
            kernel = max(3, size // 10 // 2 * 2 + 1)  # odd and about a tenth of the side, as BYOL; never under 3 pixels
            return v2.RandomApply([v2.GaussianBlur(kernel, (low, high))], p=p)

        globally, locally = config.global_size, config.local_size
        # The asymmetry of the two global crops (blur always and rarely, solarise only the second) is BYOL's.
        self.first_global = v2.Compose([*crop(globally, config.global_scale), blur(globally, 224, 1.0)])
        self.second_global = v2.Compose(
            [*crop(globally, config.global_scale), blur(globally, 224, 0.1), v2.RandomSolarize(128, p=0.2 * strength)]
        )
        self.local = v2.Compose([*crop(locally, config.local_scale), blur(locally, 96, 0.5)])
        self.local_crops = config.local_crops

    def __call__(self, picture: Tensor) -> list[Tensor]:
        """Crop one picture; see the class for shapes."""
        crops = [self.first_global(picture), self.second_global(picture)]
        return crops + [self.local(picture) for _ in range(self.local_crops)]


def normalise(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn uint8 crops [B, 3, H, W] into float32 with the backbone's mean and standard deviation (in 0 to 1)."""
    scale = torch.tensor(std, device=crops.device).view(1, 3, 1, 1) * 255
    shift = torch.tensor(mean, device=crops.device).view(1, 3, 1, 1) * 255
    return (crops.float() - shift) / scale
