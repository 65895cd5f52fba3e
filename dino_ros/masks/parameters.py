"""How masks are made: the one place that knows the parameters, their defaults and their bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dino_ros.errors import UserError
from dino_ros.student import StudentInfo

METHODS = {
    "foreground": ("foreground",),
    "smoothed_attention": ("features", "attention"),
    "background": ("features", "attention"),
    "normalized_cut": ("features", "attention"),
    "lost": ("features",),
    "attention": ("attention",),
}
"""The methods by name, and the student's outputs that each needs."""
WITHOUT_HEAD = "smoothed_attention"
"""The method that "auto" stands for where the student has no foreground head."""


@dataclass(frozen=True)
class Rule:
    """What a parameter means, and the values it may take."""

    description: str
    bounds: tuple[float, float] | None = None
    """Smallest and largest value, both allowed."""
    choices: tuple[str, ...] = ()
    """The only values allowed."""

    def check(self, name: str, value: Any) -> None:
        """Raise UserError, naming the parameter, for a value that it may not take."""
        if self.choices and value not in self.choices:
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(self.choices)}.")
        if self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            raise UserError(f"{name} is {value}: it must be from {self.bounds[0]} to {self.bounds[1]}.")


def _parameter(default: Any, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True)
class MaskParameters:
    """How a mask is made; RULES says what each field means. Raises UserError for a value that its rule forbids.

    The perception node has a parameter `mask_<field>` for each.
    """

    method: str = _parameter(
        "auto",
        Rule(
            "How objects are found: try another where objects are missed or the background is taken in. foreground: by "
            "the student's own foreground head. smoothed_attention: as the patches whose likes get much attention. "
            "background: as whatever is unlike the patches that get little attention (FOUND). normalized_cut: by a cut "
            "of the graph of patches (TokenCut). lost: by growing the patch that is like fewest others (LOST). "
            "attention: as the patches that hold most of the attention (DINO). auto: foreground if the student has "
            f"that head, else {WITHOUT_HEAD}.",
            choices=("auto", *METHODS),
        ),
    )
    attention_mass: float = _parameter(
        0.6,
        Rule(
            "For the method attention: share of the attention that the mask keeps. Raise it where masks lack parts of "
            "objects, lower it where they take in what is around.",
            bounds=(0.01, 1.0),
        ),
    )
    attention_head: int = _parameter(
        -1,
        Rule(
            "For the method attention: which attention head to use, counted from 0; -1 for the mean of all. Name one "
            "that follows your objects, as seen on the page of `dino-ros view`.",
            bounds=(-1, 63),
        ),
    )
    components: int = _parameter(
        0,
        Rule(
            "Keep only this many of the mask's largest 8-connected parts; 0 keeps all. Take 1 where there is "
            "one object, against specks beside it.",
            bounds=(0, 1000),
        ),
    )
    refine: bool = _parameter(
        True,
        Rule(
            "Follow the image's edges at the camera's resolution; if false, the patch grid's mask is only "
            "interpolated, which is coarser and a little faster."
        ),
    )
    steady: float = _parameter(
        0.5,
        Rule(
            "Share of the mask that is carried over from the previous frame: raise it against flicker; 0 treats each "
            "frame alone.",
            bounds=(0.0, 0.95),
        ),
    )
    remember: float = _parameter(
        30.0,
        Rule(
            "Seconds for which an object out of view is remembered: if it comes back, it is known by its looks and "
            "gets its number again. Raise it for a camera that looks away for longer; 0 gives what comes back a new "
            "number.",
            bounds=(0.0, 3600.0),
        ),
    )

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule.check(f"mask_{name}", getattr(self, name))

    def needs_image(self, objects: bool) -> bool:
        """Whether masks, and with `objects` numbered objects, need the image besides the student's outputs."""
        return self.refine or self.steady > 0 or objects

    def resolve(self, info: StudentInfo) -> MaskParameters:
        """The same parameters with "auto" replaced by the method that suits the student.

        Raises UserError if the student lacks the attention head or the foreground head that they name.
        """
        if self.attention_head >= info.heads:
            raise UserError(
                f"mask_attention_head is {self.attention_head}, but the student has the heads 0 to {info.heads - 1}: "
                "set one of these, or -1 for their mean."
            )
        if self.method == "foreground" and not info.foreground_head:
            raise UserError(
                "mask_method is foreground, but the student has no foreground head: add one with `dino-train head`, "
                "or choose another method."
            )
        if self.method != "auto":
            return self
        return dataclasses.replace(self, method="foreground" if info.foreground_head else WITHOUT_HEAD)


RULES: Mapping[str, Rule] = {f.name: f.metadata["rule"] for f in dataclasses.fields(MaskParameters)}
"""The rule of each field of MaskParameters."""

ATTENTION = MaskParameters("attention", refine=False, steady=0.0)
"""The mask of the DINO paper."""
