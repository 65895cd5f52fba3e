"""Labels from recordings: COCO's as pycocotools reads them, YOLO's as a reader written here does, and interruptions."""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pycocotools")
pytest.importorskip("onnx")

import yaml
from pycocotools.coco import COCO
from pycocotools.mask import decode, frPyObjects, merge
from scipy.ndimage import binary_fill_holes

from dino_ros.errors import UserError
from dino_ros.exports.annotate import annotate
from dino_ros.exports.labels import coco_annotations, mask_of, polygons, run_lengths, yolo_lines
from dino_ros.exports.recordings import Recordings
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver

MASK = MaskParameters("attention", attention_mass=0.5)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve images of two bright squares that wander."""
    folder = tmp_path_factory.mktemp("film")
    for number in range(12):
        image = np.full((64, 96, 3), 20, np.uint8)
        image[8 : 8 + 20, 8 + number : 28 + number] = 255
        image[40:56, 70 - number : 88 - number] = 255
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def run(student: Path, film: Path, out: Path, format: str = "coco", rate: float = 0.0) -> int:
    perceiver = Perceiver.load(student, "onnxruntime")
    return annotate(perceiver, Recordings([film], None, rate), out, MASK, format, "png", lambda line: None)


def as_the_node(student: Path, film: Path) -> list[np.ndarray]:
    perceiver, maker = Perceiver.load(student, "onnxruntime"), MaskMaker()
    request = perceiver.request(["objects"], MASK)
    found = []
    for frame in Recordings([film], None, 0).sources[0]:
        image = perceiver.prepare_image(frame.rgb(), frame.stamp)
        result = perceiver.infer([image.input], sorted(request.student_outputs))[0]
        found.append(perceiver.finish(result, image, request, maker).objects)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".progress" not in path.parts
    }


def test_coco_holds_the_objects_of_the_node(student: Path, film: Path, tmp_path: Path) -> None:
    assert run(student, film, tmp_path / "out") == 12
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["object"]
    frames = as_the_node(student, film)
    tracks: dict[int, set[int]] = {}
    for image_id, objects in zip(coco.getImgIds(), frames, strict=True):
        image = coco.loadImgs([image_id])[0]
        stored = cv2.imread(str(tmp_path / "out" / "images" / image["file_name"]))
        assert stored.shape[:2] == objects.shape == (image["height"], image["width"])
        found = coco.loadAnns(coco.getAnnIds([image_id]))
        assert len(found) == len(np.unique(objects)) - 1
        for annotation, number in zip(found, np.unique(objects)[1:], strict=True):
            inside = objects == number
            assert np.array_equal(coco.annToMask(annotation) > 0, inside)
            assert annotation["area"] == cv2.countNonZero(inside.astype(np.uint8))
            assert tuple(annotation["bbox"]) == cv2.boundingRect(inside.astype(np.uint8))
            tracks.setdefault(int(number), set()).add(annotation["track_id"])
    assert len(tracks) > 1
    assert all(len(ids) == 1 for ids in tracks.values())


def test_coco_polygons_fill_to_the_same_objects(student: Path, film: Path, tmp_path: Path) -> None:
    run(student, film, tmp_path / "out", "coco_polygons")
    coco = COCO(tmp_path / "out" / "annotations.json")
    for image_id, objects in zip(coco.getImgIds(), as_the_node(student, film), strict=True):
        found = coco.loadAnns(coco.getAnnIds([image_id]))
        for annotation, number in zip(found, np.unique(objects)[1:], strict=True):
            assert isinstance(annotation["segmentation"], list)
            assert np.array_equal(coco.annToMask(annotation) > 0, objects == number)


def test_yolo_holds_the_outlines(student: Path, film: Path, tmp_path: Path) -> None:
    run(student, film, tmp_path / "out", "yolo")
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data["names"] == {0: "object"}
    assert "path" not in data, "Ultralytics takes it from the working directory, and the folder of the file without it"
    images = sorted((tmp_path / "out" / data["train"]).iterdir())
    for image, objects in zip(images, as_the_node(student, film), strict=True):
        drawn = np.zeros(objects.shape, np.uint8)
        for line in (tmp_path / "out" / "labels" / f"{image.stem}.txt").read_text().splitlines():
            kind, *values = line.split()
            places = np.array(values, float).reshape(-1, 2) * objects.shape[::-1] - 0.5
            assert kind == "0"
            cv2.fillPoly(drawn, [np.round(places).astype(np.int32)], 1)
        assert jaccard(drawn > 0, objects > 0) >= 0.99


@pytest.mark.parametrize("format", ["coco", "yolo"])
@pytest.mark.parametrize("stopped", [0, 5])
def test_an_interrupted_run_goes_on(
    student: Path, film: Path, tmp_path: Path, format: str, stopped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops between an image's files and the note that they are complete."""
    run(student, film, tmp_path / "whole", format)
    from dino_ros.exports import annotate as module

    keep = module.Journal.keep

    def stop(journal: object, position: object) -> None:
        if position.written > stopped:
            raise KeyboardInterrupt
        keep(journal, position)

    with monkeypatch.context() as patch:
        patch.setattr(module.Journal, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            run(student, film, tmp_path / "halves", format)
    assert not (tmp_path / "halves" / "annotations.json").exists()
    for _ in range(2):  # the second time there is nothing left to do
        assert run(student, film, tmp_path / "halves", format) == 12
        assert contents(tmp_path / "halves") == contents(tmp_path / "whole")


def test_other_settings_and_other_folders_are_refused(student: Path, film: Path, tmp_path: Path) -> None:
    run(student, film, tmp_path / "out")
    with pytest.raises(UserError, match=r"out was begun with other settings \(rate was 0.0, and is 5"):
        run(student, film, tmp_path / "out", rate=5)
    with pytest.raises(UserError, match="holds files that are not of"):
        run(student, film, film)


def test_the_rate_is_that_of_the_recording(film: Path) -> None:
    assert [chosen.number for chosen in Recordings([film], None, 10)] == [0, 3, 6, 9]
    assert [chosen.number for chosen in Recordings([film], None, 1000)] == list(range(12))
    with pytest.raises(UserError, match="--rate is -1"):
        Recordings([film], None, -1)


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_and_outlines_of_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < 0.5
    assert np.array_equal(mask_of(run_lengths(mask), 17, 23), mask)
    filled = merge(frPyObjects(polygons(mask), 17, 23))
    assert np.array_equal(decode(filled) > 0, binary_fill_holes(mask))
    objects = np.zeros((17, 23), np.uint16)
    objects[0, 0] = 1  # a single pixel
    objects[16, 3:5] = 2
    assert [len(line.split()) for line in yolo_lines(objects)] == [7, 7]
    assert coco_annotations(objects)[1]["bbox"] == [3, 16, 2, 1]
    assert coco_annotations(np.zeros((3, 4), np.uint16)) == []
