"""Every setting that is a number has a range, and a value outside of it gets one sentence."""

import dataclasses
import math
import types
import typing

import pytest

from dino_ros.errors import UserError
from dino_train import config
from dino_train.ranges import RANGES, Range, check_ranges
from dino_train.recipes import RECIPES, DistillRecipe
from dino_train.recipes.files import parts

SECTIONS = {
    config.DataConfig: "",
    config.EvaluationConfig: "evaluation",
    config.ComparisonConfig: "comparison",
    config.MachineConfig: "machine",
    config.SlurmConfig: "slurm",
}
"""What the settings apart from the recipe are called on the command line."""


def is_number(kind: object) -> bool:
    """Whether a setting of this type is, or may be, a number or a pair of them."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType, tuple):
        return any(map(is_number, typing.get_args(kind)))
    return kind in (int, float)


def numbers(kind: type, section: str) -> dict[str, type]:
    """Owner of each setting that is a number, by name."""
    hints = typing.get_type_hints(kind)
    fields = (field.name for field in dataclasses.fields(kind) if is_number(hints[field.name]))
    return {f"{section}.{name}".removeprefix("."): kind for name in fields}


def all_numbers() -> dict[str, type]:
    found: dict[str, type] = {}
    for recipe in RECIPES.values():
        found |= numbers(recipe, "")
        for section, kind in parts(recipe).items():
            found |= numbers(kind, section)
    for kind, section in SECTIONS.items():
        found |= numbers(kind, section)
    return found


NUMBERS = all_numbers()


def test_no_setting_is_forgotten() -> None:
    assert NUMBERS.keys() == RANGES.keys()
    ours = {kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)}
    assert ours == SECTIONS.keys()


def checked(name: str, value: object) -> None:
    """Check the settings that hold this one, with this value."""
    kind = NUMBERS[name]
    section, _, field = name.rpartition(".")
    for recipe in RECIPES.values():
        built = recipe(teacher="x") if recipe is DistillRecipe else recipe()  # type: ignore[call-arg]
        if kind is recipe or isinstance(built, kind):
            dataclasses.replace(built, **{field: value}).check()
            return
        if section and kind is parts(recipe).get(section):
            part = dataclasses.replace(getattr(built, section), **{field: value})
            dataclasses.replace(built, **{section: part}).check()
            return
    needed = {config.DataConfig: {"paths": []}, config.SlurmConfig: {"partition": "gpu"}}
    check_ranges(kind(**needed.get(kind, {}), **{field: value}), section)


def outside(allowed: Range) -> list[float]:
    beyond = [allowed.low - 1, math.nan, math.inf, -math.inf]
    beyond += [allowed.low] if allowed.low_excluded else []
    if allowed.high < math.inf:
        beyond += [allowed.high * 2] + ([allowed.high] if allowed.high_excluded else [])
    return beyond


def at_the_edges(allowed: Range) -> list[float]:
    low = [] if allowed.low_excluded else [allowed.low]
    return low + ([allowed.high] if allowed.high < math.inf and not allowed.high_excluded else [])


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_range_gets_one_sentence(name: str) -> None:
    pair = name.endswith(("_scale", "_ratio"))
    for value in outside(RANGES[name]):
        with pytest.raises(UserError) as caught:
            checked(name, (value, 1.0) if pair else value)
        assert str(caught.value) == f"{name} is {(value, 1.0) if pair else value}: it must be {RANGES[name]}."
    for value in at_the_edges(RANGES[name]):
        if name != "moco.queue":  # which the batch holds to more
            checked(name, (value, value) if pair else value)


def test_words_for_ranges() -> None:
    words = {
        Range(0, low_excluded=True): "above 0 and finite",
        Range(1): "at least 1 and finite",
        Range(0, 1): "at least 0 and at most 1",
        Range(0, 1, high_excluded=True): "at least 0 and below 1",
    }
    assert {str(allowed): text for allowed, text in words.items()} == {text: text for text in words.values()}


def test_what_is_no_number_is_out_of_range() -> None:
    """As a checkpoint of somebody else's may hold it."""
    with pytest.raises(UserError, match="batch_size is many"):
        checked("batch_size", "many")
