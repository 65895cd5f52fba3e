"""What the page shows of one frame, and how it is encoded for a browser."""

from __future__ import annotations

import base64
import colorsys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_COLOR = (0, 255, 255)
"""RGB of the mask over the image."""
JPEG_QUALITY = 85
LAYERS = ("mask", "objects", "taught", "attention", "features", "similarity")
"""What a page may show of a frame besides the camera's image."""
CRUMB = 0.1
"""Size of a part of a mask, relative to its largest one, below which it gets no box."""
GOLDEN = 0.618034
"""Step between the hues of taught objects: however many there are, no two are close."""
LOOKED_AT = 2.0
"""Seconds after which a page that asks for nothing counts as closed."""


@dataclass(frozen=True)
class Place:
    """Where an object is pointed out in an image: at a point, or in a box."""

    x: float
    """Of the point, or of the box's left upper corner: 0 to 1 across the image, as all of these."""
    y: float
    width: float = 0.0
    """Of the box; 0 for a point."""
    height: float = 0.0

    @property
    def is_box(self) -> bool:
        return self.width > 0 and self.height > 0

    def pixels(self, height: int, width: int) -> tuple[float, float, float, float]:
        """x, y, width and height in pixels of an image of that height and width; a point is inside it."""
        x, y = min(self.x * width, width - 1), min(self.y * height, height - 1)
        return x, y, self.width * width, self.height * height


@dataclass(frozen=True, eq=False)
class PointedOut:
    """Something in a frame that waits for its name."""

    number: int
    """By which `Viewed.teach` names it."""
    picture: NDArray[np.uint8] | None
    """What will be learnt, outlined: RGB [H, W, 3]; None where that is not known yet."""

    def encoded(self) -> dict[str, Any]:
        """For JSON: the picture is a data URL."""
        return {"shown": self.number, "picture": "" if self.picture is None else _url(self.picture, ".jpg")}


@dataclass(frozen=True, eq=False)
class Found:
    """Where a taught object is in a frame."""

    mask: NDArray[np.uint8]
    """[H, W]: 255 on the object, else 0; 0 everywhere if it is not in view."""
    score: float | None = None
    """How sure it is that the object is in view, 0 to 1; None where that is not known."""


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
    taught: Mapping[str, Found] = field(default_factory=dict)
    """The taught objects, by name."""

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
        if "taught" in layers and self.taught:
            shown |= self._encoded_taught()
        if "attention" in layers and self.attention is not None:
            shown["attention"] = [_url(heat(head / max(float(head.max()), 1e-12)), ".png") for head in self.attention]
        if "features" in layers and self.colors is not None:
            shown["features"] = _url(self.colors, ".png")
        if "similarity" in layers and point is not None and self.features is not None:
            values = similarity(self.features, *point)
            shown["similarity"] = _url(heat(np.clip(values, 0, 1)), ".png")
            shown["similarities"] = np.round(values, 4).tolist()
        return shown

    def _encoded_taught(self) -> dict[str, Any]:
        """The masks of the taught objects as one picture, and by name the object's color, score and boxes in pixels,
        of which there are none if it is not in view."""
        painted = np.zeros((*self.rgb.shape[:2], 4), np.uint8)
        found: dict[str, Any] = {}
        for number, (name, one) in enumerate(self.taught.items()):
            color = distinct_color(number)
            painted[one.mask > 0] = (*color, 255)
            score = None if one.score is None else round(one.score, 2)
            found[name] = {"color": "#" + bytes(color).hex(), "score": score, "boxes": parts(one.mask)}
        return {"taught": _url(painted, ".png"), "found": found}


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

    def learner(self) -> dict[str, str]:
        """What is known of the node that learns on the robot, by name; empty where there is none."""

    def waiting_for(self) -> str:
        """Why there is no image yet, and what to do."""

    def parameters(self) -> dict[str, Any]:
        """Value of each parameter that `set_parameters` takes."""

    def set_parameters(self, values: dict[str, Any]) -> None:
        """Raises UserError for parameters that there are not, and values that they cannot take."""

    def taught(self) -> dict[str, int]:
        """How many looks there are at each taught object, by its name."""

    def point_out(self, number: int, place: Place) -> PointedOut:
        """Take what is there, in the scene with that number, for an object that `teach` names; the last one waits.

        Raises UserError if nothing is there, or the scene is gone.
        """

    def teach(self, number: int, name: str, shows_it: bool) -> None:
        """Learn what was pointed out with that number as a look at an object, or at what is not to be taken for it.

        Raises UserError, as do `undo` and `forget`, if that cannot be done.
        """

    def undo(self, name: str) -> None:
        """Take back the last look at a taught object."""

    def forget(self, name: str) -> None:
        """Forget a taught object."""

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


def parts(mask: NDArray[np.uint8]) -> list[list[int]]:
    """x, y, width and height, in pixels, of the connected parts of a mask [H, W], largest first, without crumbs."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask)
    found = sorted(statistics[1:].tolist(), key=lambda part: -part[cv2.CC_STAT_AREA])
    return [part[:4] for part in found if part[cv2.CC_STAT_AREA] >= CRUMB * found[0][cv2.CC_STAT_AREA]]


def distinct_color(number: int) -> tuple[int, int, int]:
    """RGB of a taught object: bright, and unlike those of the numbers before."""
    red, green, blue = colorsys.hsv_to_rgb((0.09 + number * GOLDEN) % 1, 0.8, 1)
    return round(red * 255), round(green * 255), round(blue * 255)


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
