"""The simulated arm: its expert does the tasks, scenes can be had again, and what is shown can be learned."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pybullet")

from sklearn.decomposition import PCA
from students import write_student

from dino_ros.errors import UserError
from dino_train import cli
from dino_train.evaluation.policy import cloning
from dino_train.evaluation.policy.arm import CLOSED, OPEN, STRIDE, Arm, State, simulated_arm
from dino_train.evaluation.policy.cloning import Components, EncoderEye, Moment, Pixels, Policy, blind, true_place
from dino_train.evaluation.policy.expert import TASKS
from dino_train.evaluation.policy.trials import attempt, demonstrate

IMAGE = np.random.default_rng(1).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.fixture
def arm() -> Iterator[Arm]:
    with simulated_arm() as one:
        yield one


def rng(number: int) -> np.random.Generator:
    return np.random.default_rng([7, number])


def test_the_expert_does_what_an_idle_arm_does_not(arm: Arm) -> None:
    for name, task in TASKS.items():
        assert all(attempt(arm, name, lambda state, look, task=task: task.expert(state), rng(i)) for i in range(3))
        assert not attempt(arm, name, lambda state, look: np.array([0, 0, 0, OPEN]), rng(0))


def test_a_scene_does_not_depend_on_what_happened_before(arm: Arm) -> None:
    """The cube lies, moves and looks the same again."""

    def pushed() -> tuple[State, np.ndarray]:
        arm.reset("push", rng(0))
        for _ in range(12):
            arm.act(TASKS["push"].expert(arm.state()))
        return arm.state(), arm.image()

    state, image = pushed()
    attempt(arm, "pick", lambda state, look: TASKS["pick"].expert(state), rng(1))
    again, same = pushed()
    np.testing.assert_array_equal(np.append(again.body, again.cube), np.append(state.body, state.cube))
    np.testing.assert_array_equal(same, image)
    arm.reset("push", rng(1))
    assert np.linalg.norm(arm.state().cube - state.cube) > 0.01
    assert (arm.image() != image).any()


def test_a_policy_that_sees_the_cube_learns_to_reach_it(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arm, "image", lambda self: np.empty((0, 0, 3), np.uint8))  # nobody looks at one
    monkeypatch.setattr(cloning, "ITERATIONS", 400)
    shown = demonstrate(arm, "reach", 20, seed=0)
    seeing, seeing_nothing = Policy(true_place, shown, seed=0), Policy(blind, shown, seed=0)
    assert sum(attempt(arm, "reach", seeing, rng(number)) for number in range(6)) >= 5
    assert sum(attempt(arm, "reach", seeing_nothing, rng(number)) for number in range(6)) <= 3


def test_what_was_seen_in_some_places_is_found_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """On backgrounds that no demonstration has: scenes are not learned by heart."""
    monkeypatch.setattr(cloning, "ITERATIONS", 200)
    numbers = np.random.default_rng(0)

    def moment() -> Moment:
        """The action leads to a patch, white above, which lies anywhere on a grayish table."""
        image = np.tile(numbers.integers(0, 160, 3, np.uint8), (96, 128, 1))
        row, column = numbers.integers(0, (6, 8)) * 16
        image[row : row + 8, column : column + 16] = 255
        way = np.array([row / 80 - 0.5, column / 112 - 0.5, 0, 1]) * STRIDE
        return Moment(State(np.zeros(7), np.zeros(3), 0.08, np.zeros(3)), image, way)

    shown, others = [[moment() for _ in range(count)] for count in (40, 20)]
    policy = Policy(EncoderEye(Pixels(), [one.image for one in shown]), shown, seed=0)
    off = [policy(one.state, lambda one=one: one.image)[:2] - one.action[:2] for one in others]
    assert np.abs(off).max() < 0.1 * STRIDE


def test_the_same_seed_clones_the_same_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloning, "ITERATIONS", 5)
    numbers = np.random.default_rng(0)
    shown = [
        Moment(State(numbers.normal(size=7), numbers.normal(size=3), 0.08, numbers.normal(size=3)), IMAGE, way)
        for way in numbers.normal(size=(20, 4))
    ]
    first, same, other = (
        Policy(EncoderEye(Pixels(), [IMAGE, 255 - IMAGE]), shown, seed)(shown[0].state, lambda: IMAGE)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert first[3] in (OPEN, CLOSED)


def test_components_are_those_of_scikit_learn_on_one_scale() -> None:
    vectors = np.random.default_rng(0).normal(size=(90, 70)).astype(np.float32) @ np.diag(np.arange(70)) + 5
    expected = PCA(cloning.COMPONENTS).fit_transform(vectors)
    found = Components(vectors)(vectors.reshape(9, 10, 70)).reshape(90, -1)
    np.testing.assert_allclose(np.abs(found), np.abs(expected) / np.sqrt(expected.var(axis=0).mean()), atol=1e-3)


def test_pixels_of_a_patch_are_its_token() -> None:
    image = IMAGE[:50, :70]
    tokens = Pixels()(image).features
    assert tokens is not None
    assert tokens.shape == (3, 4, 16 * 16 * 3)
    np.testing.assert_allclose(tokens[1, 2], image[16:32, 32:48].ravel())


def test_the_command_scores_encoders_between_the_expert_and_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloning, "ITERATIONS", 2)
    monkeypatch.setattr(Arm, "image", lambda self: IMAGE)  # faster than to render
    student, other = tmp_path / "small.onnx", tmp_path / "other" / "small.onnx"  # their strips must not be one file
    other.parent.mkdir()
    write_student(student)
    write_student(other)
    out, pictures = tmp_path / "scores.json", tmp_path / "pictures"
    few = ["--task", "reach", "--demonstrations", "1", "--trials", "1"]
    files = ["--out", str(out), "--pictures", str(pictures)]
    monkeypatch.setattr("sys.argv", ["dino-train", "evaluate", "policy", str(student), str(other), *few, *files])
    cli.main()
    rows = {row["encoder"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["expert", "true place of the cube", str(student), str(other), "pixels' PCA", "no image"]
    assert (rows["expert"]["success"], rows["expert"]["standard error"]) == (1, 0)
    assert {row["success"] for row in rows.values()} <= {0, 1}
    assert sorted(file.name for file in pictures.iterdir()) == [
        "reach_01_expert.png",
        "reach_02_true_place_of_the_cube.png",
        "reach_03_small.png",
        "reach_04_small.png",
        "reach_05_pixels_pca.png",
        "reach_06_no_image.png",
    ]


def test_without_pybullet_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    monkeypatch.delitem(sys.modules, "dino_train.evaluation.policy.arm")
    monkeypatch.delattr("dino_train.evaluation.policy.arm")
    with pytest.raises(UserError, match=r"pip install 'dino_ros\[simulation\]'"):
        import dino_train.evaluation.policy.arm  # noqa: F401
