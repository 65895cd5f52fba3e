"""What the page shows of one frame, and how it is encoded for a browser."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_COLOR = (0, 255, 255)
"""RGB of the mask over the image."""
JPEG_QUALITY = 85
LAYERS = ("mask", "objects", "attention", "features", "similarity")
"""What a page may show of a frame besides the camera's image."""
LOOKED_AT = 2.0
"""Seconds after which a page that asks for nothing counts as closed."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame and what the student sees in it; None for what is not there."""

    number: int
    """Rises with every scene, from 1."""
    stamp: int
    """Nanoseconds."""
    rgb: NDArray[np.uint8]
    """The image, [H, W, 3]."""
    mask: NDArray[np.uint8] | None = None
    """[H, W]: 255 on objects, else 0."""
    objects: NDArray[np.uint16] | None = None
    """[H, W]: 0 on the background, else the object's number."""
    attention: NDArray[np.float32] | None = None
    """[heads, h, w]."""
    features: NDArray[np.float32] | None = None
    """[h, w, C]."""
    colors: NDArray[np.uint8] | None = None
    """[h, w, 3]: the features as colors."""

    def encoded(self, layers: Collection[str], point: tuple[float, float] | None = None) -> dict[str, Any]:
        """The image and `layers`, those of LAYERS that there are, for JSON: pictures are data URLs.

        Similarity is that of all patches to `point` (x, y, each 0 to 1).
        """
        height, width = self.rgb.shape[:2]
        shown: dict[str, Any] = {
            "number": self.number,
            "stamp": self.stamp,
            "width": width,
            "height": height,
            "camera": _url(self.rgb, ".jpg"),
        }
        if "mask" in layers and self.mask is not None:
            shown["mask"] = _url(np.dstack([np.full((height, width, 3), MASK_COLOR, np.uint8), self.mask]), ".png")
        if "objects" in layers and self.objects is not None:
            shown["objects"] = boxes(self.objects)
        if "attention" in layers and self.attention is not None:
            shown["attention"] = [_url(heat(head / max(float(head.max()), 1e-12)), ".png") for head in self.attention]
        if "features" in layers and self.colors is not None:
            shown["features"] = _url(self.colors, ".png")
        if "similarity" in layers and point is not None and self.features is not None:
            values = similarity(self.features, *point)
            shown["similarity"] = _url(heat(np.clip(values, 0, 1)), ".png")
            shown["similarities"] = np.round(values, 4).tolist()
        return shown


class Viewed(Protocol):
    """What the server shows: a recording that is played, or a running node."""

    name: str
    recording: bool
    """Whether it can be paused."""

    def scene(self, after: int, seconds: float, layers: Collection[str]) -> Scene | None:
        """Wait at most `seconds` for a scene with a higher number than `after`; None if there is none.

        It has `layers`, of LAYERS, as soon as they can be had. Only while somebody asks is anything computed.
        """

    def status(self) -> dict[str, str]:
        """Rate, latency, what was dropped, and whatever else is known, by name."""

    def waiting_for(self) -> str:
        """Why there is no image yet, and what to do."""

    def parameters(self) -> dict[str, Any]:
        """Value of each parameter that `set_parameters` takes."""

    def set_parameters(self, values: dict[str, Any]) -> None:
        """Raises UserError for parameters that there are not, and values that they cannot take."""

    def paused(self) -> bool:
        """Whether it is paused."""

    def pause(self, paused: bool) -> None:
        """Pause or go on; nothing where it is no recording."""

    def step(self) -> None:
        """Pause, and play one frame."""

    def close(self) -> None:
        """End at once."""


def similarity(features: NDArray[np.float32], x: float, y: float) -> NDArray[np.float32]:
    """Cosine similarity [h, w] of all patch tokens [h, w, C] to that at x and y, each 0 to 1 across the image."""
    rows, columns = features.shape[:2]
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    token = unit[min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)]
    return np.asarray(unit @ token, dtype=np.float32)


def boxes(objects: NDArray[np.uint16]) -> list[dict[str, int]]:
    """Number and box, in pixels, of each object of [H, W]."""
    found = []
    for number in np.unique(objects[objects > 0]):
        x, y, width, height = cv2.boundingRect((objects == number).astype(np.uint8))
        found.append({"id": int(number), "x": x, "y": y, "width": width, "height": height})
    return found


def heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB [h, w, 3] of values 0 to 1 [h, w]: black, violet, orange, yellow."""
    colored = cv2.applyColorMap(np.round(values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(colored[:, :, ::-1])


def _url(pixels: NDArray[np.uint8], kind: str) -> str:
    """A data URL of RGB or RGBA pixels; `kind` is .jpg or .png."""
    swapped = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    data = base64.b64encode(cv2.imencode(kind, swapped, options)[1].tobytes()).decode()
    return f"data:image/{'jpeg' if kind == '.jpg' else 'png'};base64,{data}"
