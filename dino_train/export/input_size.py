"""The input size of a student that squashes its camera's images least and costs no more than the usual square."""

from __future__ import annotations

from dataclasses import dataclass

from dino_ros.errors import UserError

SQUARE = 224
"""Side in pixels of the square on which ViTs are usually evaluated; its patches are what the input may cost."""
LEAST_SHARE = 7 / 8
"""Share of those patches that the input has at least. With fewer the aspect would be closer still, the grid coarser."""


@dataclass(frozen=True)
class Camera:
    """The size of a camera's images, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse_camera(text: str) -> Camera:
    """A camera from "WIDTHxHEIGHT"; raises UserError for anything else."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--camera {text} is not WIDTHxHEIGHT: write, for example, 640x480.")
    return Camera(int(width), int(height))


def input_size(camera: Camera, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels, multiples of `patch_size`, of a student's input for this camera's images.

    Of all grids that lie inside the camera's image, with at most as many patches as a square of SQUARE pixels and at
    least LEAST_SHARE of them, that of the closest aspect; of several the one with most patches. A camera that is
    smaller than the square gives all patches that fit into its image as the most. Raises UserError for a camera smaller
    than one patch.
    """
    rows, columns = camera.height // patch_size, camera.width // patch_size
    if not rows or not columns:
        raise UserError(
            f"A camera of {camera} is smaller than a patch of {patch_size}x{patch_size} pixels: give the WIDTHxHEIGHT "
            "of the camera's images, for example 640x480."
        )
    most = min((SQUARE // patch_size) ** 2, rows * columns)
    grids = [
        (h, w)
        for h in range(1, min(rows, most) + 1)
        for w in range(1, min(columns, most // h) + 1)
        if h * w >= LEAST_SHARE * most
    ]

    def squash(grid: tuple[int, int]) -> float:
        across, down = grid[1] * camera.height, grid[0] * camera.width
        return max(across / down, down / across)

    h, w = min(grids, key=lambda grid: (squash(grid), -grid[0] * grid[1]))
    return h * patch_size, w * patch_size
