"""Recipes: those that are shipped, "auto" settings, and values that are refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jsonargparse")


from dino_ros.errors import UserError
from dino_train.config import DataConfig, EvaluationConfig
from dino_train.recipes import ByolRecipe, DinoConfig, DinoRecipe, DistillRecipe, resolved
from dino_train.recipes.files import load_recipe, parse_recipe, recipe_from_dict

SHIPPED = sorted((Path(__file__).parents[1] / "config" / "pretrain").glob("*.yaml"))


def test_documented_recipes_are_shipped() -> None:
    names = {path.stem for path in SHIPPED}
    assert names >= {"vit_small_16", "vit_small_8", "vit_base_16", "vit_base_8", "vanilla_100ep", "robot_bag", "smoke"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    timm = pytest.importorskip("timm")
    recipe = load_recipe(path.stem)
    recipe.check()
    assert timm.is_model(recipe.backbone.name)
    assert recipe_from_dict(dataclasses.asdict(recipe)) == recipe


def test_imagenet_recipes_hold_the_papers_numbers() -> None:
    """The paper's schedule is stated for batches of 1024: a peak learning rate of 0.002 for ViT-S, 0.003 for B/16."""
    peaks = {
        name: load_recipe(name).optimizer.lr * load_recipe(name).batch_size / 256
        for name in ("vit_small_16", "vit_base_16")
    }
    assert peaks == pytest.approx({"vit_small_16": 0.002, "vit_base_16": 0.003})
    for name in ("vit_small_16", "vit_small_8", "vit_base_16", "vit_base_8"):
        recipe = load_recipe(name)
        assert recipe.dino.out_dim == 65536
        assert recipe.dino.norm_last_layer == name.startswith("vit_base")
        assert f"patch{name.rsplit('_', 1)[1]}_" in recipe.backbone.name


def test_the_section_tells_the_method() -> None:
    names = ("smoke", "byol", "moco", "moco_v3", "swav", "small_swav", "small_curl")
    methods = {name: load_recipe(name).method for name in names}
    assert list(methods.values()) == ["dino", "byol", "moco", "moco", "swav", "swav", "curl"]
    assert parse_recipe({}, "nothing") == DinoRecipe()
    assert parse_recipe({"dino": None, "byol": {}}, "replaced") == ByolRecipe()
    with pytest.raises(UserError, match="several methods, dino and swav"):
        parse_recipe({"dino": {"out_dim": 5}, "swav": {}}, "both")
    with pytest.raises(UserError, match=r"mine.yaml .*out_dims"):
        parse_recipe({"dino": {"out_dims": 5}}, "mine.yaml")


def test_recipes_of_earlier_checkpoints_go_on_loading() -> None:
    """From before there were other methods: fewer settings, whole epochs, lists for tuples."""
    values = json.loads(json.dumps(dataclasses.asdict(DinoRecipe(epochs=3))))
    for name in ("teacher", "centering", "predictor"):
        del values["dino"][name]
    assert recipe_from_dict(values) == DinoRecipe(epochs=3)
    distilled = dataclasses.asdict(DistillRecipe(teacher="x"))
    assert recipe_from_dict(distilled) == DistillRecipe(teacher="x")


def test_imagenet_recipes_of_the_other_methods_hold_their_papers_numbers() -> None:
    byol, moco, v3, swav = (load_recipe(name) for name in ("byol", "moco", "moco_v3", "swav"))
    assert (byol.byol.momentum, byol.byol.hidden_dim, byol.crops.local_crops_number) == (0.996, 4096, 0)
    assert (moco.moco.queue, moco.moco.temperature, moco.moco.momentum) == (65536, 0.2, 0.999)
    assert (v3.moco.version, v3.moco.momentum, v3.batch_size, v3.optimizer.lr) == (3, 0.99, 4096, 1.5e-4)
    assert (swav.swav.prototypes, swav.swav.epsilon, swav.swav.iterations) == (3000, 0.05, 3)


AUTO = DinoRecipe(
    dino=DinoConfig(out_dim="auto", momentum_teacher="auto", warmup_teacher_temp="auto", teacher_temp="auto")
)


def test_auto_goes_from_small_data_to_imagenet() -> None:
    def values(images: int) -> list[float]:
        dino = AUTO.resolve(images)[0].dino
        return [
            resolved(value)
            for value in (
                dino.out_dim, dino.momentum_teacher, dino.warmup_teacher_temp, dino.teacher_temp
            )
        ]  # fmt: skip

    assert values(300) == values(20_000) == [1024, 0.99, 0.015, 0.025]
    assert values(1_281_167) == values(10**8) == pytest.approx([65536, 0.996, 0.04, 0.07], rel=1e-3)
    path = np.array([values(n) for n in (20_000, 80_000, 160_000, 500_000, 1_280_000)])
    assert np.all(np.diff(path, axis=0) > 0)
    assert {int(k) & (int(k) - 1) for k in path[:, 0]} == {0}, "powers of two"
    assert values(160_000)[0] == 8192, "halfway along the logarithm"


def test_only_auto_is_replaced_and_the_choices_are_returned() -> None:
    recipe = dataclasses.replace(AUTO, dino=dataclasses.replace(AUTO.dino, out_dim=512))
    resolved, chosen = recipe.resolve(1000)
    assert resolved.dino.out_dim == 512
    assert chosen == {
        "dino.momentum_teacher": 0.99,
        "dino.warmup_teacher_temp": 0.015,
        "dino.teacher_temp": 0.025,
    }
    assert resolved.resolve(10**6) == (resolved, {}), "nothing is left to resolve"


def test_a_run_finds_its_data_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataConfig(["bag", "/images"], weights={"bag": 2.0, "/front": 0.5, "/images": 3.0}).absolute()
    assert data.paths == [f"{tmp_path}/bag", "/images"]
    assert data.weights == {f"{tmp_path}/bag": 2.0, "/front": 0.5, "/images": 3.0}
    evaluation = EvaluationConfig(knn="labeled", frames=["a.png"]).absolute()
    assert (evaluation.knn, evaluation.frames) == (f"{tmp_path}/labeled", [f"{tmp_path}/a.png"])


def test_values_out_of_range_are_refused() -> None:
    for recipe, sentence in (
        (DinoRecipe(epochs=0), "epochs is 0"),
        (DinoRecipe(dino=DinoConfig(teacher_temp=0.0)), r"dino.teacher_temp is 0.0"),
        (
            dataclasses.replace(
                DinoRecipe(), crops=dataclasses.replace(DinoRecipe().crops, local_crops_scale=(0.5, 0.2))
            ),
            r"crops.local_crops_scale is \(0.5, 0.2\)",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            recipe.check()
