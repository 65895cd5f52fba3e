"""Object numbers from masks of every kind, and the layouts that labeled images come in."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from labeled_files import OBJECTS, write_image, write_palette
from PIL import Image

from dino_ros.demo.table import TABLE
from dino_ros.errors import UserError
from dino_train.evaluation.segmentation.labeled_images import VOID, labeled_images, read_objects
from dino_train.evaluation.segmentation.video_folder import open_video_folder


def test_a_palette_png_holds_the_numbers_themselves(tmp_path: Path) -> None:
    for numbers in (OBJECTS, np.where(OBJECTS == VOID, VOID, 0).astype(np.uint8)):
        write_palette(tmp_path / "mask.png", numbers)
        np.testing.assert_array_equal(read_objects(tmp_path / "mask.png"), numbers)


def test_white_in_a_gray_mask_is_an_object_unless_others_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    white = np.where(OBJECTS == 7, 255, 0).astype(np.uint8)
    for written, expected in [
        (white, white > 0),
        (white > 0, white > 0),
        (np.zeros_like(white), white * 0),
        (OBJECTS, OBJECTS),
        (np.dstack([white] * 3), white > 0),
        (np.dstack([OBJECTS] * 3 + [white]), OBJECTS),
    ]:
        Image.fromarray(written).save(file)
        found = read_objects(file)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    with pytest.raises(UserError, match=r"mask\.png does not exist"):
        read_objects(file)
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"mask\.png does not decode"):
        read_objects(file)
    for wrong in (OBJECTS.astype(np.uint16), np.dstack([OBJECTS, OBJECTS, 0 * OBJECTS])):
        Image.fromarray(wrong).save(file)
        with pytest.raises(UserError, match=r"mask\.png is not a mask"):
            read_objects(file)


def test_voc_is_the_images_that_its_list_names(tmp_path: Path) -> None:
    for name in ("2007_1", "2007_2", "2007_3"):
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        write_palette(tmp_path / "SegmentationObject" / f"{name}.png", OBJECTS)
    listing = tmp_path / "ImageSets" / "Segmentation" / "val.txt"
    with pytest.raises(UserError, match=r"val\.txt does not exist"):
        labeled_images(tmp_path)
    listing.parent.mkdir(parents=True)
    listing.write_text("2007_3\n2007_1\n")
    found = list(labeled_images(tmp_path))
    assert len(found) == 2
    for _, objects in found:
        np.testing.assert_array_equal(objects, OBJECTS)
    (tmp_path / "JPEGImages" / "2007_1.jpg").unlink()
    with pytest.raises(UserError, match=r"2007_1\.jpg does not exist"):
        list(labeled_images(tmp_path))


@pytest.mark.parametrize(
    ("images", "masks", "option"),
    [
        ("images", "instances", None),
        ("images", "masks", None),
        ("images/car", "masks/car", None),
        ("JPEGImages/480p/car", "Annotations/480p/car", None),
        ("any/where", "elsewhere/where", "elsewhere"),
    ],
)
def test_the_layout_is_told_from_the_folder(tmp_path: Path, images: str, masks: str, option: str | None) -> None:
    for number in range(3):
        write_image(tmp_path / images / f"{number:05d}.jpg")
        write_palette(tmp_path / masks / f"{number:05d}.png", np.roll(OBJECTS, number, axis=1))
    if "480p" in images:
        (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
        (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("car\n")
    data = tmp_path / "any" if option else tmp_path
    found = list(labeled_images(data, str(tmp_path / option) if option else None))
    assert len(found) == 3
    for number, (image, objects) in enumerate(found):
        assert image.shape == (*OBJECTS.shape, 3)
        np.testing.assert_array_equal(objects, np.roll(OBJECTS, number, axis=1))
    (tmp_path / masks / "00001.png").unlink()
    with pytest.raises(UserError, match=r"00001\.png does not exist"):
        list(labeled_images(data, str(tmp_path / option) if option else None))


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "1.jpg", (4, 32))
    write_palette(tmp_path / "masks" / "1.png", OBJECTS)
    with pytest.raises(UserError, match=r"1\.png is 2x32.* 4x32"):
        list(labeled_images(tmp_path))


def test_what_holds_no_labeled_images_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no labeled images"):
        labeled_images(tmp_path)
    with pytest.raises(UserError, match="holds no images"):
        labeled_images(tmp_path, str(tmp_path))
    with pytest.raises(UserError, match="--masks"):
        labeled_images(TABLE)


def test_a_bag_gives_the_frames_that_have_a_mask() -> None:
    found = list(islice(labeled_images(TABLE, "/ground_truth/mask/compressed", "/camera/image_raw/compressed"), 4))
    assert len(found) == 4
    for image, objects in found:
        assert image.shape[:2] == objects.shape
        assert set(np.unique(objects)) == set(range(objects.max() + 1)), "numbered from 1"


def test_the_official_layout_has_the_sequences_of_its_list(tmp_path: Path) -> None:
    for name in ("bear", "car", "dog"):
        for number in (3, 1, 2):
            write_image(tmp_path / "JPEGImages" / "480p" / name / f"{number:05d}.jpg")
        (tmp_path / "Annotations" / "480p" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"2017/val\.txt does not exist"):
        open_video_folder(tmp_path)
    listing = tmp_path / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("dog\nbear\n")
    sequences = open_video_folder(tmp_path)
    assert [sequence.name for sequence in sequences] == ["dog", "bear"]
    assert [mask.relative_to(tmp_path) for _, mask in sequences[0].files] == [
        Path("Annotations", "480p", "dog", f"{number:05d}.png") for number in (1, 2, 3)
    ]
    listing.write_text("dog\nelk\n")
    with pytest.raises(UserError, match="480p/elk holds no images"):
        open_video_folder(tmp_path)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no videos with masks"):
        open_video_folder(tmp_path)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    with pytest.raises(UserError, match="images holds no sequence"):
        open_video_folder(tmp_path)


def test_real_masks_are_read(test_data: Path) -> None:
    videos = open_video_folder(test_data / "davis2016")
    assert len(videos) == 10
    assert max(len(sequence.files) for sequence in videos) == 60
    for _, objects in islice(labeled_images(test_data / "davis2016"), 6):
        assert set(np.unique(objects)) == {0, 1}
    for _, objects in islice(labeled_images(test_data / "coco_objects"), 6):
        assert set(np.unique(objects)) == set(range(objects.max() + 1))
        areas = np.bincount(objects.ravel())[1:]
        assert (np.diff(areas) <= 0).all(), "the largest object is the first"
