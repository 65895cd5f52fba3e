"""Weight files whose contents are not what their names promise: read, or refused in one sentence that names them."""

import argparse
import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_v1_files import RECIPE, official_file, own_checkpoint
from reference_vit import shake
from weight_layouts import write_folder

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone, create_vit
from dino_train.models.checkpoint import load_checkpoint
from dino_train.models.dino_v1 import load_official
from dino_train.models.weights import open_weights
from dino_train.objectives.methods import build_objective

# The authors' files were written with torch's old weight norm.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")

Content = dict[str, Any]
STRANGE: list[Any] = [
    None,
    3,
    "text",
    [],
    {},
    {"a": {"b": None}},
    torch.tensor(1.0),
    torch.zeros(0),
    torch.zeros(2, 3, dtype=torch.int64),
    torch.zeros(1, 1, 192, dtype=torch.complex64),
    torch.full((1, 1, 192), math.nan),
    torch.zeros(1, 2, 3, 4, 5),
]


def start(path: Path) -> None:
    """Start a run from the file."""
    build_objective(dataclasses.replace(RECIPE, init=str(path)), new=True)


def refusal(opened: Callable[[Path], object], path: Path) -> str:
    """The sentence with which a file is refused; "" if it is opened."""
    try:
        opened(path)
    except UserError as error:
        return str(error)
    return ""


OPENED: list[Callable[[Path], object]] = [start, load_official, lambda path: open_weights(str(path))]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The content of an official training checkpoint."""
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    official_file(path)
    content: Content = torch.load(path, weights_only=False)
    return content


def poison(content: Content) -> None:
    content["teacher"]["backbone.blocks.1.mlp.fc1.weight"] = torch.full((768, 192), math.nan)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(teacher=None), "no weights under 'teacher'"),
        (lambda content: content.update(student=[1]), "no weights under 'student'"),
        (lambda content: content.pop("dino_loss"), "no center"),
        (lambda content: content["dino_loss"].pop("center"), "no center"),
        (lambda content: content.update(dino_loss=None), "no center"),
        (poison, r"not finite, in .*blocks\.1\.mlp\.fc1\.weight"),
    ],
)
def test_a_training_checkpoint_of_other_contents(
    official: Content, tmp_path: Path, change: Callable[[Content], object], named: str
) -> None:
    content = copy.deepcopy(official)
    change(content)
    torch.save(content, tmp_path / "other.pth")
    for opened in (start, load_official):
        with pytest.raises(UserError, match=rf"other\.pth .*{named}") as caught:
            opened(tmp_path / "other.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("args", [{"arch": "vit_tiny"}, argparse.Namespace(arch="vit_tiny"), None, 3])
def test_what_the_weights_do_not_need_may_be_anything(official: Content, tmp_path: Path, args: Any) -> None:
    torch.save({**official, "args": args, "epoch": torch.tensor(3.0)}, tmp_path / "checkpoint.pth")
    start(tmp_path / "checkpoint.pth")
    known = {"arch": "vit_tiny"} if isinstance(args, dict | argparse.Namespace) else {}
    assert load_official(tmp_path / "checkpoint.pth").args == known


def test_whatever_a_file_holds_it_is_read_or_refused_by_name(official: Content, tmp_path: Path) -> None:
    """One entry at a time is replaced or removed, at random: of a training checkpoint, and of a backbone alone."""
    rng = np.random.default_rng(0)
    backbone = {k.removeprefix("backbone."): v for k, v in official["teacher"].items() if k.startswith("backbone.")}
    path, refused = tmp_path / "other.pth", 0
    for number in range(16):
        content = {name: {**part} if isinstance(part, dict) else part for name, part in official.items()}
        content, inside = [
            (content, content),
            (content, content["teacher"]),
            (content, content["student"]),
            ({**backbone},) * 2,
        ][number % 4]
        key = sorted(inside)[int(rng.integers(len(inside)))]
        value = STRANGE[int(rng.integers(len(STRANGE)))]
        if number % 7 == 0:
            del inside[key]
        else:
            inside[key] = value
        torch.save(content, path)
        for opened in OPENED:
            sentence = refusal(opened, path)
            refused += bool(sentence)
            assert "other.pth" in (sentence or "other.pth"), (key, value)
            assert "\n" not in sentence
    assert refused > 16, "most of what is replaced is needed"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    vit = shake(build_backbone(RECIPE.backbone, 48))
    state = {**vit.state_dict()}
    for value in (math.nan, math.inf):
        state["norm.bias"] = torch.full((192,), value)
        torch.save(state, tmp_path / "encoder.pth")
        for opened in OPENED:
            with pytest.raises(UserError, match=r"encoder\.pth .*not finite.*norm\.bias"):
                opened(tmp_path / "encoder.pth")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda fields: fields["objective"]["center"].fill_(math.nan), "not finite, in center"),
        (lambda fields: fields.update(objective=None), "other contents"),
        (lambda fields: fields.update(recipe={"dino": 3}), "other contents"),
        (lambda fields: fields.update(recipe=None), "other contents"),
        (lambda fields: fields.update(machine={"colour": "red"}), "other contents"),
        (lambda fields: fields.pop("step"), "other contents"),
        (lambda fields: fields.update(more=1), "other contents"),
    ],
)
def test_a_checkpoint_of_other_contents(tmp_path: Path, change: Callable[[Content], object], named: str) -> None:
    path = tmp_path / "last.pt"
    own_checkpoint(path, RECIPE)
    fields = torch.load(path, weights_only=True)
    change(fields)
    torch.save(fields, path)
    for opened in (load_checkpoint, start, lambda path: open_weights(str(path))):
        with pytest.raises(UserError, match=rf"last\.pt .*{named}") as caught:
            opened(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": "six"},
        {"num_attention_heads": 0.5},
        {"vision_config": None},
        {"pretrained_cfg": None},
        {"pretrained_cfg": {"mean": ["a", "b", "c"]}},
        {"architecture": "vit_tiny_patch16_224", "model_args": [1]},
        {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": "two"}},
        {"layer_norm_eps": {}},
        {"hidden_act": []},
    ],
)
def test_a_config_of_other_contents(tmp_path: Path, config: Content) -> None:
    vit = create_vit("vit_tiny_patch16_224", embed_dim=128, num_heads=2, depth=1)
    folder = write_folder(tmp_path / "encoder", vit.state_dict(), config)
    sentence = refusal(lambda path: open_weights(str(path)), folder)
    assert re.search(r"encoder|vit_tiny_patch16_224", sentence) or not sentence
    assert "\n" not in sentence


def test_an_index_of_other_contents(tmp_path: Path) -> None:
    for number, index in enumerate(({"weight_map": [1]}, {"weight_map": {"a": 3}}, {"weight_map": None}, {})):
        folder = tmp_path / f"encoder_{number}"
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=f"encoder_{number}"):
            open_weights(str(folder))
