"""Features as zarr and pyarrow read them, against Perceiver, after interruptions too."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

zarr = pytest.importorskip("zarr")
dataset = pytest.importorskip("pyarrow.dataset")
pytest.importorskip("onnx")

from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.exports import features as module
from dino_ros.exports.features import export_features
from dino_ros.exports.recordings import Recordings
from dino_ros.files import file_sha256
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver

FRAMES = 70
SUFFIXES = pytest.mark.parametrize("suffix", ["zarr", "parquet"])


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images of noise, of which one does not decode."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for number in range(FRAMES):
        image = cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (60, 40))
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "7.png").write_bytes(b"broken")
    return folder


def run(student: Path, images: Path, out: Path, dtype: str = "float16") -> int:
    perceiver = Perceiver.load(student, "onnxruntime")
    mask = MaskParameters("attention", attention_mass=0.5)
    return export_features(perceiver, Recordings([images], None, 0), out, mask, dtype, lambda line: None)


def read(out: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    if out.suffix == ".zarr":
        group = zarr.open_group(out, mode="r")
        return {name: array[:] for name, array in group.arrays()}, group.attrs["dino_ros"]
    table = dataset.dataset(out).to_table()
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}, json.loads(
        table.schema.metadata[b"dino_ros"]
    )


@SUFFIXES
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_read_back_is_what_perceiver_says(
    student: Path, images: Path, tmp_path: Path, suffix: str, dtype: str
) -> None:
    out = tmp_path / f"features.{suffix}"
    assert run(student, images, out, dtype) == FRAMES - 1
    found, description = read(out)
    perceiver = Perceiver.load(student, "onnxruntime")
    frames = [*Recordings([images], None, 0).sources[0]]
    readable = [number for number in range(FRAMES) if number != 7]
    assert found["frame"].tolist() == readable
    assert found["stamp"].tolist() == [frames[number].stamp for number in readable]
    for row, number in enumerate(readable):
        seen = perceiver(frames[number].rgb(), ["features", "embedding"])
        for name in ("features", "embedding"):
            expected = getattr(seen, name).astype(dtype)
            assert np.array_equal(found[name][row].reshape(expected.shape).astype(dtype), expected)
    assert found["objects"].reshape(FRAMES - 1, -1).shape[1] == 32 * 48
    assert description["student_sha256"] == file_sha256(student)
    assert description["grid"] == [4, 6, 3]
    assert description["input"]["mean"] == [0.5, 0.5, 0.5]


@SUFFIXES
@pytest.mark.parametrize("after", ["the rows", "the position"])
def test_a_run_that_was_killed_goes_on(
    student: Path, images: Path, tmp_path: Path, suffix: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in its second part: before or after the position is kept."""
    run(student, images, tmp_path / f"whole.{suffix}")
    keep = module.Journal.keep

    def stop(journal: Any, position: Any) -> None:
        if position.written < 64 or after == "the position":
            keep(journal, position)
        if position.written >= 64:
            raise KeyboardInterrupt

    out = tmp_path / f"halves.{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(module.Journal, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            run(student, images, out)
    for _ in range(2):  # the second time little is left to do
        assert run(student, images, out) == FRAMES - 1
        for path in sorted((tmp_path / f"whole.{suffix}").rglob("*")):
            if path.is_file():
                assert (out / path.relative_to(tmp_path / f"whole.{suffix}")).read_bytes() == path.read_bytes()
    whole, _ = read(tmp_path / f"whole.{suffix}")
    halves, _ = read(out)
    assert all(np.array_equal(whole[name], halves[name]) for name in whole)


def test_other_settings_and_formats_are_refused(student: Path, images: Path, tmp_path: Path) -> None:
    run(student, images, tmp_path / "a.zarr")
    with pytest.raises(UserError, match=r"begun with other settings \(dtype was float16, and is float32"):
        run(student, images, tmp_path / "a.zarr", "float32")
    with pytest.raises(UserError, match="ends neither in"):
        run(student, images, tmp_path / "a.h5")
    assert not [*tmp_path.glob("*a.h5*")]
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(UserError, match="is not of `dino-ros features`"):
        run(student, images, tmp_path / "mine.zarr")
