"""A film of an object that is shown by a click, found, not in view while it is away, and found again elsewhere.

    python benchmarks/taught_film.py --out docs

Writes OUT/taught.webp, the film, and OUT/taught.jpg: what was shown, and three frames of it. The table is rendered.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.files import replacing
from dino_ros.images.overlay import OUTLINE, overlay
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import object_at_point, patch_tokens
from dino_ros.taught.background import Background
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import look_at
from dino_ros.taught.pictures import write_picture

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tables import NAMES, Table, render, visit
from taught_baselines import middle

NAME, TAUGHT = "can", 0
"""What the object is called, and which of tables.NAMES it is."""
SIZE = (640, 480)
SHOWN = (400, 300)
"""Pixels of a frame, as it is rendered and as it is shown: width and height."""
RATE = 6
SECONDS = 9
MOMENTS = (1.5, 4.0, 7.5)
"""Seconds of the frames in the picture: before the object leaves, while it is away, and after."""
NOTHING = np.zeros((1, 1, 1), np.float32)


def film() -> list[Table]:
    """Four objects; the one that is taught leaves at 3 s and is put down elsewhere, turned, at 5 s."""
    visits = [
        visit(TAUGHT, (-0.2, -0.02), 0.3, -2, 3),
        visit(6, (0.22, 0.12), 0.0, -2, 20),
        visit(8, (0.03, -0.17), 1.0, -2, 20),
        visit(4, (-0.05, 0.19), 1.0, -2, 20),
        visit(TAUGHT, (0.26, -0.14), 2.2, 5, 20),
    ]
    times = (np.arange(RATE * SECONDS) / RATE).tolist()
    return list(render(visits, (TAUGHT, 6, 8, 4, TAUGHT), times, 5, SIZE))


def labeled(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """A picture at the size at which it is shown, with a line of text on a dark bar."""
    small = cv2.resize(picture, SHOWN, interpolation=cv2.INTER_AREA)
    small[:30] //= 4
    cv2.putText(small, text, (9, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return small.astype(np.uint8, copy=False)


def main() -> None:
    """Render, teach, find, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="table_vit_micro_8", help="student file, or name of a bundled student")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    perceiver, frames, steps = Perceiver.load(options.model), film(), MaskParameters()
    first = frames[0].rgb
    row, column = middle(frames[0].masks[NAMES[TAUGHT]].astype(np.uint8))
    mask = object_at_point(perceiver, first, column, row)
    finder = Finder(
        {NAME: [look_at(patch_tokens(perceiver, first), first, mask)]}, Background(perceiver.info.embed_dim)
    )
    maker, pictures = MaskMaker(), []
    for number, frame in enumerate(frames):
        found = finder(patch_tokens(perceiver, frame.rgb))[NAME]
        view = maker.see(frame.rgb.shape[:2], frame.rgb, number * 10**9 // RATE, steps)
        drawn = overlay(frame.rgb, maker.make_named({NAME: found.soft}, view, steps)[NAME].mask, NOTHING)
        text = f"{NAME} {found.score:.2f}" if found.score >= 0.5 else f"{NAME} not in view"
        pictures.append(labeled(drawn, text))
    clicked = overlay(first, mask, NOTHING)
    cv2.drawMarker(clicked, (column, row), OUTLINE, cv2.MARKER_CROSS, 24, 3)
    shown = labeled(clicked, f"a click: {NAME}")
    gap = np.full((SHOWN[1], 8, 3), 255, np.uint8)
    row_of_four = [part for at in MOMENTS for part in (gap, pictures[round(at * RATE)])]
    write_picture(options.out / "taught.jpg", np.hstack([shown, *row_of_four]))
    images = [Image.fromarray(picture) for picture in [shown] * RATE + pictures]
    with replacing(options.out / "taught.webp") as temporary:
        images[0].save(
            temporary, "WEBP", save_all=True, append_images=images[1:], duration=1000 // RATE, loop=0, quality=50
        )


if __name__ == "__main__":
    main()
