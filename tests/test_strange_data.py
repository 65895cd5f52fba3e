"""The data of a run changes, or cannot be read."""

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bags import raw, write_topics
from shapes import write_shapes
from tiny_recipe import CPU, RECIPE, a_checkpoint

from dino_ros.errors import UserError
from dino_train.cli import run
from dino_train.config import DataConfig, EvaluationConfig
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.images import decode
from dino_train.data.listing import as_started, fingerprint, keep_listing, list_images
from dino_train.data.loader import EpochSampler, crop_loader
from dino_train.data.selection import SelectionParameters
from dino_train.models.checkpoint import load_checkpoint, save_checkpoint
from dino_train.training import trainer
from dino_train.training.checks import same_data


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return write_shapes(tmp_path / "images", 70)


def test_the_files_of_a_folder_keep_their_numbers(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is removed, one renamed to the front, one replaced, one new: the others are drawn as they would have been."""
    caplog.set_level(logging.INFO)
    before = open_frames([images])
    expected = keep_listing(before, tmp_path)
    pictures = [before[number] for number in range(70)]
    assert as_started(open_frames([images]), expected, tmp_path).sources[0].files[3] == "0003.png"
    (images / "0003.png").unlink()
    (images / "0050.png").rename(images / "0000a.png")
    shutil.copy(images / "0001.png", images / "0060.png")
    shutil.copy(images / "0002.png", images / "zz.png")

    caplog.clear()
    after = as_started(open_frames([images]), expected, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "images: 2 gone since the run was started, and left out: 0003.png, 0050.png",
        "images: 1 changed since the run was started: 0060.png",
        "images: 2 new since the run was started, and not used: 0000a.png, zz.png",
    ]
    orders = [[*EpochSampler(frames, RECIPE)] for frames in (before, after)]
    assert orders[0] == orders[1]
    for number in range(70):
        if number in (3, 50):
            with pytest.raises(UserError, match=rf"00{number:02}\.png cannot be read \(No such file"):
                after[number]
        else:
            np.testing.assert_array_equal(after[number], pictures[1 if number == 60 else number])


def test_a_listing_holds_any_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"\xff.png", "ü\n.png".encode()):
        (tmp_path / "images" / "x.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3)))[1].tobytes())
        (tmp_path / "images" / "x.png").rename(
            Path(bytes(tmp_path).decode()) / "images" / name.decode("utf-8", "surrogateescape")
        )
    expected = keep_listing(open_frames([tmp_path / "images"]), tmp_path)
    (tmp_path / "images" / "ü\n.png").unlink()
    assert len(as_started(open_frames([tmp_path / "images"]), expected, tmp_path)) == 2


def test_other_data_that_changed_is_refused_by_name(images: Path, tmp_path: Path) -> None:
    def bag(values: range) -> MixedFrames:
        shutil.rmtree(tmp_path / "bag", ignore_errors=True)
        frames = [raw("rgb8", np.full((12, 16, 3), 9 * value, np.uint8)) for value in values]
        bag = write_topics(tmp_path / "bag", {"/camera": frames})
        return open_frames([images, bag], selection=SelectionParameters(1))

    expected = keep_listing(bag(range(5)), tmp_path)
    assert fingerprint(list_images(bag(range(5)))) == expected
    with pytest.raises(UserError, match=r"bag /camera is not what it was .* 5 images, and has 6 now"):
        as_started(bag(range(6)), expected, tmp_path)
    for damaged in (b"", b"{}", b"[1]", b'[{"name": "images"}]'):
        (tmp_path / "images.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"The data, 76 images, is not that with which"):
            as_started(bag(range(6)), expected, tmp_path)


def test_a_checkpoint_of_format_3_knows_only_how_many_images_there_were(images: Path, tmp_path: Path) -> None:
    save_checkpoint(a_checkpoint(70), tmp_path / "old.pt")
    fields = torch.load(tmp_path / "old.pt", weights_only=True)
    del fields["fingerprint"]
    torch.save({**fields, "format_version": 3}, tmp_path / "old.pt")
    old = load_checkpoint(tmp_path / "old.pt")
    frames = open_frames([images])
    assert same_data(frames, old, tmp_path) is frames
    (images / "0000.png").unlink()
    with pytest.raises(UserError, match="69 images, but 70"):
        same_data(open_frames([images]), old, tmp_path)


class Failing:
    """Numbered images, every third of which cannot be read."""

    name = "failing"
    sources = (range(24),)
    weights = (1.0,)

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> np.ndarray:
        if index % 3 == 0:
            raise UserError(f"image {index} does not decode")
        return np.full((40, 40, 3), index, np.uint8)


def test_all_workers_know_which_images_are_bad(tmp_path: Path) -> None:
    """Over three epochs each is named once."""
    frames = Failing()
    said = logging.FileHandler(tmp_path / "said")  # of all workers
    logging.getLogger("dino_train.data.loader").addHandler(said)
    recipe = type(RECIPE)(crops=RECIPE.crops, epochs=3, batch_size=4)
    loader = crop_loader(frames, recipe, EpochSampler(frames, recipe), workers=2)  # type: ignore[arg-type]
    assert len([*loader]) == 18
    logging.getLogger("dino_train.data.loader").removeHandler(said)
    said.close()
    named = sorted(int(line.split()[3]) for line in (tmp_path / "said").read_text().splitlines())
    assert named == [*range(0, 24, 3)]
    assert loader.dataset.bad.nonzero().ravel().tolist() == [*range(0, 24, 3)]  # type: ignore[attr-defined]


def test_bad_images_are_counted_at_the_end_of_each_epoch(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(0, 70, 7):
        (images / f"{number:04d}.png").write_bytes(b"no image")
    short = type(RECIPE)(RECIPE.backbone, RECIPE.crops, RECIPE.optimizer, epochs=2, batch_size=35, dino=RECIPE.dino)
    trainer.train(short, DataConfig([str(images)]), tmp_path / "run", CPU, EvaluationConfig(every=0))
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not decode" in line for line in said) == 10
    totals = [line for line in said if line.startswith("epoch")]
    assert totals == [f"epoch {n}: 10 of 70 images cannot be read; others take their place" for n in (1, 2)]


def test_a_folder_of_corrupt_files_is_no_data(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(36):
        (images / f"{number:04d}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="More than 50% of the 70 images of images cannot be read"):
        run(["data", str(images), "--out", str(tmp_path / "sheet.png")])
    assert sum("does not decode" in record.getMessage() for record in caplog.records) == 36
    assert "36" in capsys.readouterr().out


def test_a_small_file_of_a_huge_image_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"bomb\.jpg is of 30000x30000 pixels"):
        decode(bytes(jpeg), "bomb.jpg")
