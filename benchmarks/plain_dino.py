"""The paper's recipe as a plain loop, the baseline of `training.py`: what one writes from the paper in an afternoon.

Per-crop augmentation of PIL images with torchvision's classic transforms in DataLoader workers, student and teacher
in eager mode and fp32 (autocast to fp16 on a GPU), a Python loop over parameters for clipping and for the EMA.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import timm
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dino_train.data.frames import Frames
from dino_train.recipes import DinoRecipe, resolved


class PilCrops(Dataset[list[Tensor]]):
    """Normalized crops of images."""

    def __init__(self, frames: Frames, recipe: DinoRecipe) -> None:
        self.frames = frames
        crops = recipe.crops
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)

        def pipeline(size: int, scale: tuple[float, float], blur: float, solarize: float) -> transforms.Compose:
            return transforms.Compose(
                [
                    transforms.RandomResizedCrop(size, scale, interpolation=transforms.InterpolationMode.BICUBIC),
                    transforms.RandomHorizontalFlip(),
                    transforms.RandomApply([jitter], 0.8),
                    transforms.RandomGrayscale(0.2),
                    transforms.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
                                      if random.random() < blur else x),
                    transforms.Lambda(lambda x: ImageOps.solarize(x) if random.random() < solarize else x),
                    transforms.ToTensor(),
                    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                ]
            )  # fmt: skip

        first = pipeline(crops.global_crops_size, crops.global_crops_scale, 1.0, 0.0)
        second = pipeline(crops.global_crops_size, crops.global_crops_scale, 0.1, 0.2)
        local = pipeline(crops.local_crops_size, crops.local_crops_scale, 0.5, 0.0)
        self.pipelines = [first, second] + [local] * crops.local_crops_number

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = Image.fromarray(self.frames[index])
        return [pipeline(image) for pipeline in self.pipelines]


class Head(nn.Module):
    """Projection head."""

    def __init__(self, width: int, recipe: DinoRecipe) -> None:
        super().__init__()
        config = recipe.dino
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        self.last = nn.utils.parametrizations.weight_norm(
            nn.Linear(config.bottleneck_dim, resolved(config.out_dim), bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of CLS tokens."""
        return self.last(functional.normalize(self.mlp(x), dim=-1))


class Network(nn.Module):
    """Backbone and head; crops of the same size in one pass, as in the reference."""

    def __init__(self, recipe: DinoRecipe) -> None:
        super().__init__()
        names = ("patch_size", "embed_dim", "depth", "num_heads")
        shape = {name: value for name in names if (value := getattr(recipe.backbone, name)) is not None}
        self.backbone = timm.create_model(
            recipe.backbone.name, num_classes=0, dynamic_img_size=True, img_size=recipe.crops.global_crops_size, **shape
        )
        self.head = Head(self.backbone.num_features, recipe)

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Logits of all crops."""
        groups = [crops[:2], crops[2:]] if len(crops) > 2 else [crops]
        return self.head(torch.cat([self.backbone(torch.cat(group)) for group in groups]))


def seconds_per_step(frames: Frames, recipe: DinoRecipe, steps: int, workers: int, device: str) -> list[float]:
    """Seconds of each step, loading included, after three that are not counted."""
    student, teacher = Network(recipe).to(device), Network(recipe).to(device)
    teacher.load_state_dict(student.state_dict())
    center = torch.zeros(1, resolved(recipe.dino.out_dim), device=device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.04)
    scaler = torch.GradScaler(device, enabled=device == "cuda")
    loader = DataLoader(
        PilCrops(frames, recipe), recipe.batch_size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=True
    )
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < steps + 3:
        for batch in loader:
            crops = [crop.to(device, non_blocking=True) for crop in batch]
            with torch.autocast(device, torch.float16, enabled=device == "cuda"):
                with torch.no_grad():
                    teacher_logits = teacher(crops[:2])
                loss, center = plain_loss(teacher_logits, student(crops), center, len(crops))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            for parameter in student.parameters():
                if parameter.grad is not None:
                    scale = 3.0 / (parameter.grad.norm() + 1e-6)
                    if scale < 1:
                        parameter.grad.mul_(scale)
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                for source, target in zip(student.parameters(), teacher.parameters(), strict=True):
                    target.mul_(0.996).add_(0.004 * source)
            loss.item()
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
            if len(times) == steps + 3:
                break
    return times[3:]


def plain_loss(teacher: Tensor, student: Tensor, center: Tensor, crops: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the pairs of different crops, and the updated center."""
    targets = functional.softmax((teacher.float() - center) / 0.04, dim=-1).chunk(2)
    predictions: Sequence[Tensor] = (student.float() / 0.1).chunk(crops)
    terms = [
        -(target * functional.log_softmax(prediction, dim=-1)).sum(dim=-1).mean()
        for t, target in enumerate(targets)
        for s, prediction in enumerate(predictions)
        if s != t
    ]
    return torch.stack(terms).mean(), 0.9 * center + 0.1 * teacher.float().mean(dim=0, keepdim=True)
