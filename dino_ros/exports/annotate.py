"""Masks of recordings as labels for a detector, in COCO's format or YOLO's, with the images beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.exports.journal import Journal, Position
from dino_ros.exports.labels import CATEGORY, coco_annotations, mask_of, polygons, yolo_lines
from dino_ros.exports.perceive import announce, perceive, student_settings
from dino_ros.exports.recordings import Recordings
from dino_ros.files import check_writable, remove_leftovers, replacing, write_whole
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.progress import Progress

FORMATS = ("coco", "coco_polygons", "yolo")
IMAGE_FORMATS = ("jpg", "png")
JPEG_QUALITY = 95
SHEET = (4, 4)
"""Columns and rows of the contact sheet."""
TILE = 360
"""Width of an image on it, in pixels."""


def annotate(
    perceiver: Perceiver,
    recordings: Recordings,
    out: Path,
    mask: MaskParameters,
    format: str,
    image_format: str,
    report: Report,
) -> int:
    """Write images, labels and contact_sheet.png into the folder `out`; returns the number of images.

    Goes on where an interrupted call stopped. Raises UserError if `out` holds something else, or was begun with other
    settings, or if no frame decodes.
    """
    check_writable(out)
    request = perceiver.request(["objects"], mask)
    settings = {
        **student_settings(perceiver),
        **recordings.settings(),
        "mask": dataclasses.asdict(request.mask),
        "format": format,
        "image_format": image_format,
    }
    progress_folder = out / ".progress"
    if out.is_dir() and any(out.iterdir()) and not progress_folder.is_dir():
        raise UserError(f"{out} holds files that are not of `dino-ros annotate`: give another --out.")
    announce(perceiver, request, recordings, out, report)
    journal = Journal(progress_folder / "position.npz", settings)
    position = journal.read(out)
    if position.tried:
        report(f"Going on after {position.written} images.")
    journal.keep(position)
    images, labels, names = out / "images", out / "labels", recordings.names
    for folder in (images, *([labels] if format == "yolo" else [])):
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
    records = progress_folder / "images.jsonl"
    cut(records, position.written)
    progress = Progress(recordings.frames, report)
    with records.open("a") as lines:
        for chosen, rgb, perception in perceive(perceiver, request, recordings, position):
            assert perception.objects is not None
            name = f"{names[chosen.recording]}_{chosen.number:06d}"
            write_image(images / f"{name}.{image_format}", rgb)
            if format == "yolo":
                text = "".join(f"{line}\n" for line in yolo_lines(perception.objects))
                write_whole(labels / f"{name}.txt", text.encode())
            record = {
                "file_name": f"{name}.{image_format}",
                "height": rgb.shape[0],
                "width": rgb.shape[1],
                "recording": chosen.recording,
                "stamp": chosen.frame.stamp,
                "objects": coco_annotations(perception.objects),
            }
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            journal.keep(position)
            progress(chosen.passed, position.written)
    journal.keep(position)
    if not position.written:
        raise UserError(f"No frame of {', '.join(recordings.paths)} decodes: see the warnings above.")
    if format == "yolo":
        write_whole(out / "data.yaml", DATA_YAML.encode())
    else:
        write_coco(out / "annotations.json", records, recordings, settings)
    write_contact_sheet(out / "contact_sheet.png", records, images, position)
    return position.written


DATA_YAML = f"""\
# For YOLO. The labels are masks that nobody has checked: look at contact_sheet.png, and give `val` images that
# a person has labeled.
train: images
val: images
names:
  0: {CATEGORY}
"""
"""Without `path`, which Ultralytics takes from the working directory: so its folders are those beside the file."""


def cut(records: Path, count: int) -> None:
    """Remove the lines of a file after the first `count`: those of frames that were not finished."""
    with records.open("a+b") as file:
        file.seek(0)
        for _ in range(count):
            file.readline()
        file.truncate(file.tell())


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB image [H, W, 3] whole, as the suffix says: JPEG or PNG."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    write_whole(path, encoded[1].tobytes())


def read_records(records: Path) -> Iterator[dict[str, Any]]:
    """Yield what was noted of each image."""
    with records.open() as lines:
        yield from map(json.loads, lines)


def write_coco(path: Path, records: Path, recordings: Recordings, settings: dict[str, object]) -> None:
    """Write COCO's instances JSON, line by line: a long recording's labels need not fit into memory.

    `track_id` is the same for an object in all frames of its recording, and no other's.
    """
    with_polygons = settings["format"] == "coco_polygons"
    info = {"description": "Masks of dino_ros: proposals that nobody has checked", "version": "1.0", **settings}
    head = {
        "info": info,
        "licenses": [],
        "categories": [{"id": 1, "name": CATEGORY, "supercategory": ""}],
    }
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write(json.dumps(head)[:-1] + ', "images": [')
        for number, record in enumerate(read_records(records), start=1):
            image = {name: value for name, value in record.items() if name not in ("objects", "recording")}
            image |= {"id": number, "recording": recordings.names[record["recording"]]}
            file.write((",\n" if number > 1 else "\n") + json.dumps(image))
        file.write('], "annotations": [')
        written = 0
        tracks: dict[tuple[int, int], int] = {}
        for number, record in enumerate(read_records(records), start=1):
            for found in record["objects"]:
                track = tracks.setdefault((record["recording"], found.pop("number")), len(tracks) + 1)
                written += 1
                if with_polygons:
                    inside = mask_of(found["segmentation"]["counts"], record["height"], record["width"])
                    found["segmentation"] = polygons(inside)
                annotation = {"id": written, "image_id": number, "category_id": 1, "track_id": track, **found}
                file.write((",\n" if written > 1 else "\n") + json.dumps(annotation))
        file.write("]}\n")


def write_contact_sheet(path: Path, records: Path, images: Path, position: Position) -> None:
    """Write a PNG of evenly spaced images with their objects in color, numbered."""
    numbers = evenly_spaced(position.written, SHEET[0] * SHEET[1])
    tiles = []
    for number in numbers:
        record = next(islice(read_records(records), number, None))
        tiles.append(_tile(cv2.imread(str(images / record["file_name"])), record))  # type: ignore[arg-type]
    height = max(tile.shape[0] for tile in tiles)
    padded = [cv2.copyMakeBorder(tile, 0, height - tile.shape[0], 0, 0, cv2.BORDER_CONSTANT) for tile in tiles]
    padded += [np.zeros_like(padded[0])] * (-len(padded) % SHEET[0])
    rows = [np.hstack(padded[start : start + SHEET[0]]) for start in range(0, len(padded), SHEET[0])]
    write_whole(path, cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def _tile(bgr: NDArray[np.uint8], record: dict[str, Any]) -> NDArray[np.uint8]:
    """An image with its objects, TILE pixels wide."""
    drawn = bgr.copy()
    places = []
    for found in record["objects"]:
        inside = mask_of(found["segmentation"]["counts"], record["height"], record["width"])
        hue = np.uint8(found["number"] * 67 % 180)
        color = cv2.cvtColor(np.array([[[hue, 255, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
        drawn[inside] = (0.5 * drawn[inside] + 0.5 * color).astype(np.uint8)
        places.append((found["bbox"], str(found["number"]), tuple(color.tolist())))
    scale = TILE / bgr.shape[1]
    tile = cv2.resize(drawn, (TILE, max(1, round(bgr.shape[0] * scale))), interpolation=cv2.INTER_AREA)
    for box, text, color in places:
        left, top, width, height = (round(side * scale) for side in box)
        cv2.rectangle(tile, (left, top), (left + width - 1, top + height - 1), color, 1)
        cv2.putText(tile, text, (left + 2, top + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return tile.astype(np.uint8, copy=False)
