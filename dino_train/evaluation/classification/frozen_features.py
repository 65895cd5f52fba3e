"""The frozen features that a linear classifier is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor

from dino_ros.errors import UserError
from dino_train.data.multicrop import normalize
from dino_train.evaluation.classification.class_folder import BATCH, center_crop
from dino_train.evaluation.encoders import Encoder, perceive_all, read_images
from dino_train.machine.progress import watched
from dino_train.models.backbones import mean_and_std

BASE_WIDTH = 768
"""Width of ViT-B's tokens. From it on the paper takes one block and the mean of the patch tokens."""
PATCHES = ", mean of patches"


class FrozenFeatures(Protocol):
    """Computes features of image files; nothing in it is trained."""

    def of_files(self, files: Sequence[Path], mirrored: bool = False) -> Tensor:
        """Features [N, C] float32 of N files, on the encoder's device; `mirrored` flips the images left to right.

        Raises UserError for a file that is no image.
        """


class CropFeatures:
    """Features of square crops from a ViT in torch: CLS tokens of the last blocks, and the last one's mean patch.

    All are taken after the final norm (Caron et al. 2021, appendix; facebookresearch/dino, eval_linear.py). `side` is
    the side of the crops in pixels. `blocks` and `patches` default to the paper's: four blocks and no patches, or one
    block and the patches from the width of ViT-B on. Raises UserError if the ViT has fewer blocks.
    """

    def __init__(
        self, vit: VisionTransformer, side: int, blocks: int | None = None, patches: bool | None = None
    ) -> None:
        is_base = vit.embed_dim >= BASE_WIDTH
        self.vit = vit.eval()
        self.side = side
        self.blocks = blocks or (1 if is_base else min(4, len(vit.blocks)))
        self.patches = is_base if patches is None else patches
        if vit.cls_token is None:
            raise UserError(
                "This protocol needs a CLS token, which the ViT does not have: export a student, whose embeddings of "
                "whole images are classified."
            )
        if self.blocks > len(vit.blocks):
            raise UserError(f"--blocks {blocks} is more than the {len(vit.blocks)} blocks of the ViT: give fewer.")

    def __str__(self) -> str:
        return f"CLS of {self.blocks} block{'s' * (self.blocks > 1)}" + PATCHES * self.patches

    @torch.no_grad()
    def __call__(self, crops: Tensor) -> Tensor:
        """Features [B, C * (blocks + patches)] of RGB crops, uint8 [B, 3, side, side], on any device."""
        images = normalize(crops.to(next(self.vit.parameters()).device), *mean_and_std(self.vit))
        layers = self.vit.forward_intermediates(
            images,
            indices=self.blocks,
            norm=True,
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        parts = [prefix[:, 0] for _, prefix in layers]
        if self.patches:
            parts.append(layers[-1][0].mean(dim=1))
        return torch.cat(parts, dim=1).float()

    def of_files(self, files: Sequence[Path], mirrored: bool = False) -> Tensor:
        batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
        crops = (torch.stack([center_crop(file, self.side) for file in batch]) for batch in batches)
        shown = watched(crops, f"looking at {len(files)} images", len(batches))
        return torch.cat([self(batch.flip(-1) if mirrored else batch) for batch in shown])


class WholeFeatures:
    """Features of whole images from any encoder: its embedding and, if `patches`, the mean of its patch tokens.

    `patches` defaults to the paper's choice: from the width of ViT-B on.
    """

    def __init__(self, encoder: Encoder, patches: bool | None = None) -> None:
        self.encoder = encoder
        blank = encoder(np.zeros((32, 32, 3), np.uint8), ("embedding",)).embedding
        assert blank is not None  # it was asked for
        self.patches = len(blank) >= BASE_WIDTH if patches is None else patches

    def __str__(self) -> str:
        return "embedding" + PATCHES * self.patches

    def of_files(self, files: Sequence[Path], mirrored: bool = False) -> Tensor:
        images = (np.ascontiguousarray(p[:, ::-1]) if mirrored else p for p in read_images(files))
        seen = perceive_all(self.encoder, images, ("embedding", "features"))
        features = []
        for one in watched(seen, "looking at images", len(files)):
            assert one.embedding is not None  # both were asked for
            assert one.features is not None
            mean = [one.features.mean(axis=(0, 1))] if self.patches else []
            features.append(np.concatenate([one.embedding, *mean]))
        return torch.from_numpy(np.stack(features))
