"""Sheets and videos of what an encoder sees: the colors against NumPy, the files against the frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import write_bag
from numpy.typing import NDArray
from students import expected

torch = pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.perception.perceiver import Perceiver
from dino_train import cli
from dino_train.evaluation.pictures.colors import fit_colors
from dino_train.evaluation.pictures.sheet import draw, frame_rate, see, sheet_frames, write_video


def tokens(seed: int, shape: tuple[int, int] = (10, 12)) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(*shape, 8)) * np.arange(8, 0, -1) + 3).astype(np.float32)


def test_colors_are_the_first_components_of_all_pictures_together() -> None:
    features = [tokens(0), tokens(1, (5, 20))]
    together = np.concatenate([one.reshape(-1, 8) for one in features]).astype(float)
    centered = together - together.mean(axis=0)
    components = centered @ np.linalg.svd(centered, full_matrices=False)[2][:3].T
    rgb = np.concatenate([one.reshape(-1, 3) for one in map(fit_colors(features), features)]).astype(float)
    for color, component in zip(rgb.T, components.T, strict=True):
        low, high = np.quantile(component, (0.01, 0.99))
        shares = np.clip((component - low) / (high - low), 0, 1)
        assert min(np.abs(color - 255 * one).max() for one in (shares, 1 - shares)) < 0.51, "either sign"
        assert (color.min(), color.max()) == (0, 255)


def test_a_color_means_the_same_in_every_picture() -> None:
    one, other = tokens(0), tokens(1)
    other[2, 3] = one[7, 7]
    colors = fit_colors([one, other])
    np.testing.assert_array_equal(colors(other)[2, 3], colors(one)[7, 7])
    np.testing.assert_array_equal(colors(one[:4]), colors(one)[:4])
    np.testing.assert_array_equal(fit_colors([one, other])(one), fit_colors([other, one])(one))


def test_tokens_of_fewer_directions_leave_colors_dark() -> None:
    line = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6, 1) * np.ones(5, np.float32)
    rgb = fit_colors([line])(line)
    assert np.ptp(rgb[:, :, 0]) == 255
    assert not rgb[:, :, 1:].any()
    same = np.ones((4, 6, 5), np.float32)
    assert not fit_colors([same])(same).any()


def test_the_row_shows_picture_mask_colors_and_heads(student: Path) -> None:
    picture = np.full((32, 48, 3), 128, np.uint8)
    picture[8:16, 24:32] = (255, 0, 0)
    seen = see(Perceiver.load(student), picture)
    np.testing.assert_allclose(seen.features, expected(picture[None])["features"][0], atol=1e-5)
    row = seen.row(fit_colors([seen.features]))
    assert row.shape == (246, 3 * 326 + 2 * 163, 3)
    tiles = [row[:, start : start + 326].astype(int) for start in (0, 326, 652)]
    # Row 1 and column 3 of 4 x 6 patches; a tile's picture is 213 pixels high.
    inside, outside = (16 + 80, 3 + 186), (16 + 80, 3 + 80)
    assert np.abs(tiles[0][inside] - (255, 0, 0)).max() < 3
    assert np.abs(tiles[1][outside] - 128).max() < 60
    assert np.abs(tiles[2][inside] - tiles[2][outside]).max() > 200, "the only patch that differs has its own color"
    assert tiles[2][inside][1] == tiles[2][outside][1] == 0


def test_sheets_and_videos_are_written(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "bag", frames=9)
    command = ["evaluate", "pictures", str(student), "--data", str(tmp_path / "bag"), "--topic", "/raw"]
    cli.run([*command, "--frames", "2", "--out", str(tmp_path / "out")])
    sheet, video = sorted((tmp_path / "out").iterdir(), reverse=True)
    assert capsys.readouterr().out.split() == [str(sheet), str(video)]
    assert (sheet.suffix, video.suffix) == (".png", ".mp4")
    assert cv2.imread(str(sheet)).shape == (2 * 246, 3 * 326 + 2 * 163, 3)
    played = open_source(video)
    assert len(played) == 9
    assert frame_rate(played) == pytest.approx(10)
    # The sheet's second row is the last frame, as in the video but for its compression.
    row = cv2.cvtColor(cv2.imread(str(sheet))[246:], cv2.COLOR_BGR2RGB)
    distances = [np.abs(frame.rgb().astype(float) - row).mean() for frame in played]
    assert int(np.argmin(distances)) == 8
    assert distances[8] < 12


def test_a_folder_has_no_video_and_a_picture_may_be_alone(student: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    source, perceiver = open_source(tmp_path / "in"), Perceiver.load(student)
    assert list(draw("runs/a b/best.pt", perceiver, source, tmp_path, 6)) == [tmp_path / "runs_a_b_best.pt.png"]
    assert frame_rate(source) == 30
    with pytest.raises(UserError, match="--frames is 0"):
        list(draw("a", perceiver, source, tmp_path, 0))


def test_frames_are_evenly_spaced(tmp_path: Path) -> None:
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    assert [int(picture[0, 0, 0]) for picture in sheet_frames(open_source(tmp_path), 6)] == [0, 12, 24, 35, 47, 59]
    assert len(sheet_frames(open_source(tmp_path), 99)) == 60


def test_a_video_is_whole_or_absent(tmp_path: Path) -> None:
    pictures = [np.full((31, 45, 3), (200, level, 0), np.uint8) for level in range(0, 250, 50)]
    write_video(tmp_path / "v.mp4", iter(pictures), 12.5)
    played = [frame.rgb() for frame in open_source(tmp_path / "v.mp4")]
    assert [picture.shape for picture in played] == [(32, 46, 3)] * 5
    for frame, picture in zip(played, pictures, strict=True):
        np.testing.assert_allclose(frame[4:20, 4:20].mean(axis=(0, 1)), picture[0, 0], atol=8)
    assert frame_rate(open_source(tmp_path / "v.mp4")) == pytest.approx(12.5)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]

    def broken() -> object:
        yield pictures[0]
        raise UserError("a frame does not decode")

    with pytest.raises(UserError, match="does not decode"):
        write_video(tmp_path / "w.mp4", broken(), 10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
