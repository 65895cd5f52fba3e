"""Labels of a video's first frame, propagated through the video by the similarity of patch features.

Caron et al. 2021, section 4.2.2 and table 5 (DAVIS-2017), after Jabri et al. 2020; facebookresearch/dino,
eval_video_segmentation.py. Nothing is trained. The reference shrinks images to 480 pixels by a multiple of 64; here
they have the encoder's size or, where none was given, their own, rounded to patches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dino_train.evaluation.encoders import Encoder, TorchEncoder
from dino_train.evaluation.segmentation.labeled_images import VOID

CONTEXT = 7
"""Previous frames that labels come from, besides the first."""
RADIUS = 12
"""Half the side, in patches, of the square around a patch in which similar patches are looked for."""
NEAREST = 5
"""Most similar patches, over all frames of the context, whose labels are averaged."""
TEMPERATURE = 0.1
"""Their weights are exp(cosine / temperature)."""


@torch.inference_mode()
def segment_video(
    encoder: Encoder, images: Iterable[NDArray[np.uint8]], first: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the object numbers [H, W] of each image after the first.

    `images` are RGB [H, W, 3]; `first` [H, W] are the object numbers of the first: 0 for background, VOID for pixels
    that give no label. From frame to frame labels stay soft, on the patch grid; only what is yielded is decided.
    """
    numbers = np.unique(np.append(first[first != VOID], 0)).astype(np.uint8)
    images = iter(images)
    start = patch_features(encoder, next(images))
    labels = grid_labels(first, numbers, start.shape[:2]).to(start.device)
    context = deque([(start, labels)], maxlen=1 + CONTEXT)
    for image in images:
        features = patch_features(encoder, image)
        sources, known = (torch.stack(part, dim=1) for part in zip(*context, strict=True))
        labels = propagate(features, sources, known)
        if len(context) == context.maxlen:
            del context[1]  # the first frame stays
        context.append((features, labels))
        yield numbers[decide(labels, first.shape)]


def patch_features(encoder: Encoder, image: NDArray[np.uint8]) -> Tensor:
    """Unit-length patch features [h, w, C], float32 on the encoder's device (the CPU for a student file)."""
    features = encoder(image, ("features",)).features
    assert features is not None  # they were asked for
    device = next(encoder.vit.parameters()).device if isinstance(encoder, TorchEncoder) else "cpu"
    return functional.normalize(torch.from_numpy(features).to(device), dim=-1)


def grid_labels(objects: NDArray[np.uint8], numbers: NDArray[np.uint8], grid: tuple[int, ...]) -> Tensor:
    """One-hot labels [h, w, K] float32 of object numbers [H, W], taken at the center of each patch."""
    rows, columns = grid
    small = cv2.resize(objects, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy((small[:, :, None] == numbers).astype(np.float32))


def propagate(
    target: Tensor,
    sources: Tensor,
    labels: Tensor,
    radius: int = RADIUS,
    nearest: int = NEAREST,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Soft labels [h, w, K] of a frame with unit features `target` [h, w, C].

    `sources` [h, n, w, C] are the unit features of n frames, `labels` [h, n, w, K] their labels (rows come first). Each
    patch takes the weighted mean label of the `nearest` most similar patches, over all n frames together, at most
    `radius` rows and columns away; of more than that where similarities are equal. Done row by row, so that memory
    grows with n (2 radius + 1) w^2 and not with (h w)^2.
    """
    columns = torch.arange(target.shape[1], device=target.device)
    far = ((columns[:, None] - columns).abs() > radius)[:, None]
    propagated = []
    for row, features in enumerate(target):
        rows = slice(max(row - radius, 0), row + radius + 1)
        similarity = features @ sources[rows].flatten(0, 2).T  # [w, rows * n * w]
        similarity = similarity.unflatten(1, (-1, len(columns))).masked_fill(far, -torch.inf).flatten(1)
        least = similarity.topk(min(nearest, similarity.shape[1])).values[:, -1:]
        weights = (similarity / temperature).exp().masked_fill(similarity < least, 0)
        propagated.append(weights @ labels[rows].flatten(0, 2) / weights.sum(dim=1, keepdim=True))
    return torch.stack(propagated)


def decide(labels: Tensor, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Index [H, W] of the likeliest label, from soft labels [h, w, K] upsampled bilinearly to `shape`.

    Each label's values are first stretched to 0 to 1 over the image, so that a label that has become faint everywhere
    still wins where it is strongest. The reference upsamples to the network's input, and from there to the image by
    nearest pixel.
    """
    likely = functional.interpolate(labels.movedim(-1, 0)[None], shape, mode="bilinear")[0]
    likely = likely - likely.amin(dim=(1, 2), keepdim=True)
    highest = likely.amax(dim=(1, 2), keepdim=True)
    chosen: NDArray[np.int64] = (likely / highest.clamp(min=torch.finfo(likely.dtype).tiny)).argmax(dim=0).cpu().numpy()
    return chosen
