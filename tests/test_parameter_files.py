"""The files that are made from the parameter tables."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

from dino_ros.masks.parameters import RULES, MaskParameters
from dino_ros.nodes.parameter_files import FILES
from dino_ros.nodes.parameters import CAMERA_PARAMETERS, DEPTH_PARAMETERS, LEARNER_PARAMETERS, PERCEPTION_PARAMETERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("path", "make"), FILES.items())
def test_the_file_is_what_the_tables_say(path: str, make: Callable[[], str]) -> None:
    assert (ROOT / path).read_text() == make(), "run `python -m dino_ros.nodes.parameter_files`"


def test_the_yaml_files_hold_every_default() -> None:
    values = yaml.safe_load((ROOT / "config" / "perception.yaml").read_text())["/**/perception"]["ros__parameters"]
    assert values == {row.name: row.default for row in PERCEPTION_PARAMETERS}
    masks = {name.removeprefix("mask_"): value for name, value in values.items() if name.startswith("mask_")}
    assert MaskParameters(**masks) == MaskParameters()
    for node, rows in (("depth", DEPTH_PARAMETERS), ("learner", LEARNER_PARAMETERS)):
        values = yaml.safe_load((ROOT / "config" / f"{node}.yaml").read_text())[f"/**/{node}"]["ros__parameters"]
        assert values == {row.name: row.default for row in rows}


def test_the_page_names_every_parameter() -> None:
    page = (ROOT / "docs" / "parameters.md").read_text()
    for row in (*PERCEPTION_PARAMETERS, *DEPTH_PARAMETERS, *LEARNER_PARAMETERS, *CAMERA_PARAMETERS):
        assert f"| `{row.name}` |" in page
        assert row.rule.description in page


def test_masks_and_node_have_the_same_rules() -> None:
    rows = {row.name: row for row in PERCEPTION_PARAMETERS}
    for name, rule in RULES.items():
        assert rows[f"mask_{name}"].rule is rule
        assert rows[f"mask_{name}"].default == getattr(MaskParameters(), name)
        assert rows[f"mask_{name}"].live
