"""`dino-train compare`: files that list runs, and a comparison on tiny data, interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from shapes import KINDS, render_shape, write_shapes

from dino_ros.errors import UserError
from dino_train.cli import run
from dino_train.compare import runs
from dino_train.compare.plan import merge, read_runs
from dino_train.models.checkpoint import load_checkpoint
from dino_train.recipes import ByolRecipe, CurlRecipe, DinoRecipe, MocoRecipe, SwavRecipe
from dino_train.recipes.files import load_recipe

VIT = {
    "name": "vit_tiny_patch16_224",
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "drop_path_rate": 0.0,
}
RUNS = {
    "changes": {
        "backbone": VIT,
        "crops": {"global_crops_size": 32, "local_crops_size": 16, "local_crops_number": 1},
        "optimizer": {"warmup_epochs": 1},
        "batch_size": 16,
    },
    "runs": {
        "dino": {"dino": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16}},
        "byol": {"byol": {"hidden_dim": 32, "out_dim": 16}, "crops": {"local_crops_number": 0}},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "images").mkdir()
    write_shapes(folder / "images", 80)
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(24):
            kind = folder / "labeled" / part / f"kind_{number % KINDS}"
            kind.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(kind / f"{number:02d}.png"), render_shape(number % KINDS, rng)[:, :, ::-1])
    (folder / "runs.yaml").write_text(yaml.safe_dump(RUNS, sort_keys=False))
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "compare", str(folder / "runs.yaml"), "--data", str(folder / "images"), "--knn", str(folder / "labeled"),
        "--out", str(out), "--points", "2", "--machine.device", "cpu", "--machine.workers", "0", *more,
    ]  # fmt: skip


def test_changes_go_into_sections() -> None:
    settings = {"crops": {"a": 1, "b": 2}, "epochs": 3}
    assert merge(settings, {"crops": {"b": 5}, "seed": 1}) == {"crops": {"a": 1, "b": 5}, "epochs": 3, "seed": 1}
    assert settings == {"crops": {"a": 1, "b": 2}, "epochs": 3}
    assert merge(settings, {"crops": None}) == {"crops": None, "epochs": 3}


def test_the_comparisons_that_ship() -> None:
    methods = read_runs(["methods"])
    assert {name: type(recipe) for name, recipe in methods.items()} == {
        "dino": DinoRecipe, "byol": ByolRecipe, "moco_v2": MocoRecipe, "swav": SwavRecipe,
        "curl": CurlRecipe,
    }  # fmt: skip
    first = methods["dino"]
    for recipe in methods.values():
        assert (recipe.backbone, recipe.optimizer, recipe.batch_size) == (
            first.backbone,
            first.optimizer,
            first.batch_size,
        )
    ablations = read_runs(["ablations"])
    base = load_recipe("small_dino")
    assert ablations["dino"] == base
    assert ablations["no_multicrop"].crops.local_crops_number == 0
    assert ablations["no_sharpening"].dino.teacher_temp == base.dino.student_temp
    assert all(recipe != base for name, recipe in ablations.items() if name != "dino")
    both = read_runs(["small_swav", "ablations"])
    assert both.keys() == {"small_swav", *ablations}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("runs: {a: {dino: {out_dimm: 3}}}", "a of .*runs.yaml .*out_dimm"),
        ("runs: {a: {dino: {}, byol: {}}}", "dino and byol"),
        ("runs: {a: {}}\nbatch_size: 3", "runs.yaml .*'batch_size'"),
        ("runs: {a/b: {}}", "runs.yaml .*'a/b'"),
        ("runs: {a: {recipe: nothing}}", "'nothing'.*robot_bag"),
        ("runs: {a: {moco: {queue: 8}}}", "moco.queue is 8"),
        ("[", "runs.yaml"),
        ("3", "runs.yaml"),
    ],
)
def test_a_file_that_is_wrong_gets_one_sentence(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "runs.yaml").write_text(content)
    with pytest.raises(UserError, match=named) as caught:
        read_runs([str(tmp_path / "runs.yaml")])
    assert "\n" not in str(caught.value)


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster than a new process for every run."""
    monkeypatch.setattr(runs, "in_own_process", lambda function, *arguments: function(*arguments))


def test_a_comparison_that_was_killed_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed during the first run, whose process ends too; repeated, it resumes that run and starts the second."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dino_train", *arguments(folder, out, "--images", "960")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (out / "dino" / "last.pt").exists():
        assert process.poll() is None, "ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    assert not (out / "dino" / "evaluations.jsonl").exists(), "its process has ended too"
    assert load_checkpoint(out / "dino" / "last.pt").step in (30, 60)

    in_this_process(monkeypatch)
    run(arguments(folder, out, "--images", "960"))
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/*.*")}
    run(arguments(folder, out, "--images", "960"))
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.*")} == written, "nothing is left to do"
    content = json.loads((out / "compare.json").read_text())
    assert list(content["curves"]) == ["dino", "byol"]
    for name, curve in content["curves"].items():
        assert [point["images"] for point in curve] == [0, 480, 960], name
        assert 0 <= curve[0]["minutes"] < curve[1]["minutes"] < curve[2]["minutes"]
        evaluated = [json.loads(line) for line in (out / name / "evaluations.jsonl").read_text().splitlines()]
        assert [line["knn"]["20"] for line in evaluated] == [point["knn"] for point in curve]
        tested = [np.repeat([1.0, 0.0], [hits, 24 - hits]) for hits in (round(24 * point["knn"]) for point in curve)]
        assert [point["error"] for point in curve] == pytest.approx([answers.std() / 24**0.5 for answers in tested])
        log = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == list(range(10, 61, 10))
        assert (out / name / "report.html").is_file()
    dino, byol = content["rows"]
    assert dino["k-NN"] == content["curves"]["dino"][-1]["knn"]
    assert dino["entropy"] + dino["KL"] > 0
    assert dino["embedding std"] == byol["entropy"] == ""
    assert 0 < byol["embedding std"] < 1.2
    assert dino["GB"] > 0.1
    assert cv2.imread(str(out / "compare.png")).std() > 1

    for more, sentence in (
        (("--images", "3200"), "images = 960, not 3200"),
        (("--images", "960", "--seed", "1"), "out/dino"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(arguments(folder, out, *more))


def test_minutes_become_images(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the speed of a trial, which leaves nothing behind."""
    measured = runs.images_per_second
    speeds: list[float] = []

    def measure(*arguments: object) -> float:
        speeds.append(measured(*arguments))  # type: ignore[arg-type]
        return 32.0

    in_this_process(monkeypatch)
    monkeypatch.setattr(runs, "images_per_second", measure)
    monkeypatch.setattr(runs, "TRIAL_STEPS", 20)
    one = {**RUNS, "runs": {"byol": RUNS["runs"]["byol"]}}
    (tmp_path / "runs.yaml").write_text(yaml.safe_dump(one))
    command = arguments(folder, tmp_path / "out", "--minutes", "0.1")
    run(["compare", str(tmp_path / "runs.yaml"), *command[2:]])
    assert len(speeds) == 1
    assert speeds[0] > 1
    curves = json.loads((tmp_path / "out" / "compare.json").read_text())["curves"]
    assert [point["images"] for point in curves["byol"]] == [0, 96, 192]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "byol", "compare.json", "compare.png", "settings.json"
    }  # fmt: skip


def test_one_budget_is_needed(folder: Path, tmp_path: Path) -> None:
    for more, sentence in (
        ((), "--images N or --minutes N"),
        (("--images", "5", "--minutes", "5"), "--images N or --minutes N"),
        (("--minutes", "-1"), "--minutes is -1.0"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(arguments(folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()
