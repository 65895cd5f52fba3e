"""The documentation's site: its pages are all in the menu, and those made from the code leave nothing out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("jsonargparse")

import dino_ros
import dino_ros.cli
import dino_train.cli
from dino_ros.nodes.camera_topics import LABEL_INFO, OUTPUT_TOPICS
from dino_ros.nodes.topics import RESULTS, topics_table
from dino_ros.perception.perceiver import OUTPUTS, Perceiver, Perception
from dino_train.commands.evaluate import EVALUATIONS
from docs.mkdocs import reference

ROOT = Path(__file__).resolve().parents[1]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def pages(entry: Any) -> list[str]:
    """Paths of the pages below an entry of the menu, which is a path, a title with an entry, or a list of entries."""
    if isinstance(entry, str):
        return [entry]
    return [path for part in (entry.values() if isinstance(entry, dict) else entry) for path in pages(part)]


def test_every_page_is_in_the_menu_once() -> None:
    patterns = ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "dino_ros/models/*.md")
    written = [path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)]
    assert sorted(pages(NAV)) == sorted([*written, *reference.PAGES])


def test_the_table_of_topics_is_that_of_the_node() -> None:
    optional = {"detections", LABEL_INFO}
    assert {*OUTPUT_TOPICS} - optional == {*RESULTS} - optional, "these depend on vision_msgs"
    for name, message in OUTPUT_TOPICS.items():
        assert RESULTS[name].type == f"{message.__module__.split('.')[0]}/{message.__name__}"
    assert topics_table() in (ROOT / "docs" / "node.md").read_text(), "put topics_table() into docs/node.md"
    assert topics_table() in reference.topics_page()


@pytest.mark.parametrize(
    ("program", "page", "names"),
    [
        ("dino-ros", reference.dino_ros_page, {*dino_ros.cli.COMMANDS}),
        ("dino-train", reference.dino_train_page, {*dino_train.cli.COMMANDS} - {"evaluate"}),
        ("dino-train evaluate", reference.evaluations_page, {*EVALUATIONS}),
    ],
)
def test_every_command_has_a_section_with_all_its_options(program: str, page: Any, names: set[str]) -> None:
    sections = dict(part.split("\n", 1) for part in page().split(f"\n## {program} ")[1:])
    assert sections.keys() == names
    half = dino_ros if program == "dino-ros" else dino_train
    _, parsers = half.cli.parsers()
    for name in names & parsers.keys():
        for action in parsers[name]._actions:
            for option in [*action.option_strings, *([] if action.option_strings else [action.dest])]:
                if not option.endswith(("help", "+")) and option != "-h":  # --list+ appends to --list
                    assert f"| `{option}` |" in sections[name], f"{program} {name} {option}"


def test_options_keep_their_defaults_choices_and_texts() -> None:
    page = reference.dino_train_page()
    assert "| `--dino.center_momentum` | `0.9` | EMA momentum of the center" in page
    assert "| `--slurm.partition` |  | Partition to submit to" in page
    assert (
        "| `--precision` | `fp32` | fp16 for GPUs, int8 for CPUs that are too slow in fp32. One of fp32, fp16, int8. |"
        in page
    )
    assert "| `--topic` | every image topic but depth and labels | image topics of bags to take, where" in page
    assert "(type:" not in page + reference.evaluations_page()


def test_every_recipe_is_shown_with_what_it_changes_and_why() -> None:
    page = reference.recipes_page()
    for path in (ROOT / "config").glob("*/*.yaml"):
        assert f"\n### {path.stem}\n" in page
    assert "| `dino.norm_last_layer` | `false` | `true` | \\[help\\]: better, and safe for ViT-S |" in page
    assert "| `backbone.depth` | `9` |  | of 12; with 6, as many images brought it less close to its teacher |" in page
    assert "\n  swav: {recipe: small_swav}\n" in page


def test_every_public_name_of_the_package_is_shown() -> None:
    page = reference.python_page()
    assert all(f"\n::: dino_ros.{name}\n" in page for name in dino_ros.__all__)
    assert "| `steady` | `0.5` | Share of the mask" in page


def python_of(page: str) -> dict[str, Any]:
    """Names that the first Python block of a how-to defines."""
    text = (ROOT / "docs" / "howto" / page).read_text()
    names: dict[str, Any] = {}
    exec(text.split("```python\n", 1)[1].split("```", 1)[0], names)
    return names


def test_the_points_of_objects_are_where_they_were_projected_from() -> None:
    objects = np.zeros((48, 64), np.uint16)
    objects[10:21, 20:31], objects[30:33, 50:55] = 3, 4
    depth = np.full((48, 64), 2.0, np.float32)
    depth[10:12, 20:31] = 9.0  # pixels at the outline that see what is behind
    depth[30:33, 50:55] = np.nan
    k = np.array([[60.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])
    points = python_of("masks_for_grasping.md")["centers"](objects, depth, k)
    assert points.keys() == {3}, "nothing is known of the depth of object 4"
    np.testing.assert_allclose(points[3], [(25 - 31.5) / 60 * 2, (15 - 23.5) / 50 * 2, 2.0])


def test_places_are_found_by_direction_alone() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(5, 16))
    places = python_of("place_recognition.md")["Places"]()
    for embedding in seen:
        places.add(embedding)
    index, cosine = places.find(seen[3] * 7 + rng.normal(size=16) * 0.1)
    assert index == 3
    assert cosine > 0.99


def test_the_observation_of_a_policy_averages_parts_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.repeat(np.arange(14.0)[:, None], 14, axis=1)[..., None]
    seen = Perception(features, None, np.ones(3), None)
    monkeypatch.setattr(Perceiver, "load", lambda: lambda rgb, outputs: seen if {*outputs} <= {*OUTPUTS} else None)
    embedding, pooled = python_of("policy_features.md")["observation"](np.zeros((60, 80, 3), np.uint8))
    assert embedding is seen.embedding
    np.testing.assert_allclose(pooled[..., 0], np.repeat([[1.5], [5.5], [9.0], [12.0]], 4, axis=1))
