"""How masks are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dino_ros.errors import UserError
from dino_ros.student import StudentInfo

METHODS = {
    "foreground": ("foreground",),
    "background": ("features", "attention"),
    "normalized_cut": ("features", "attention"),
    "lost": ("features",),
    "attention": ("attention",),
}
"""The methods by name, and the outputs of a student that each needs."""


@dataclass(frozen=True)
class MaskParameters:
    """How a mask is made. Raises UserError for values out of range."""

    method: str = "auto"
    """One of METHODS, or "auto": foreground where the student has such a head, else background."""
    attention_mass: float = 0.6
    """Share of the attention that the mask of the method attention keeps, above 0, at most 1."""
    attention_head: int = -1
    """Attention head of the method attention, counted from 0; -1 for the mean of all heads."""
    components: int = 0
    """Keep only so many of the largest 8-connected parts; 0 keeps all."""
    refine: bool = True
    """Follow the edges of the image at the camera's resolution; else the grid's mask is interpolated."""
    steady: float = 0.5
    """Share of the mask that is carried over from the frame before, from 0 (none) to below 1."""

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise UserError(f"mask_method is {self.method!r}: choose one of auto, {', '.join(METHODS)}.")
        if not 0 < self.attention_mass <= 1:
            raise UserError(f"mask_attention_mass is {self.attention_mass}: it must be above 0 and at most 1.")
        if self.attention_head < -1:
            raise UserError(
                f"mask_attention_head is {self.attention_head}: it must be a head counted from 0, or -1 for the "
                "mean of all."
            )
        if self.components < 0:
            raise UserError(f"mask_components is {self.components}: it must be 0 (all parts) or more.")
        if not 0 <= self.steady < 1:
            raise UserError(f"mask_steady is {self.steady}: it must be at least 0 and below 1.")

    def needs_image(self, objects: bool) -> bool:
        """Whether masks, and with `objects` numbered objects, need the image beside what the student sees in it."""
        return self.refine or self.steady > 0 or objects

    def resolve(self, info: StudentInfo) -> MaskParameters:
        """The same for a student, with its method chosen. Raises UserError if they do not suit it."""
        if self.attention_head >= info.heads:
            raise UserError(
                f"mask_attention_head is {self.attention_head}, but the student has the heads 0 to {info.heads - 1}."
            )
        if self.method == "foreground" and not info.foreground_head:
            raise UserError(
                "mask_method is foreground, but the student has no such head: make one with `dino-train head`, or "
                "choose another method."
            )
        if self.method != "auto":
            return self
        return dataclasses.replace(self, method="foreground" if info.foreground_head else "background")


ATTENTION = MaskParameters("attention", refine=False, steady=0.0)
"""The paper's mask."""
