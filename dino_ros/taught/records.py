"""The file of a taught object, and the pictures and masks of its looks beside it.

    objects/
      cup.json              what was shown, when and how, for which student; at its end the prototypes
      cup/look_1.jpg        the picture of the first look
      cup/look_1.png        its mask: 255 on what was shown
      cup/look_1_found.jpg  what `dino-ros teach` draws of it, for people

A file names only pictures that are there: they are written before it, and removed after it.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dino_ros.errors import UserError, quoted
from dino_ros.files import write_whole
from dino_ros.taught.looks import Look, Prototypes
from dino_ros.taught.pictures import read_picture

FORMAT_VERSION = 1
FILE_TYPE = np.dtype("<f2")
"""Of prototypes in the file: as many digits as matter, on every machine in the same order."""
LOOK_FILE = re.compile(r"look_(\d+)(_found)?\.(jpg|png)")
"""Names of the files of a look."""


@dataclass(frozen=True)
class LookRecord:
    """What the file says of a look, for a person to read."""

    shows_it: bool
    """Whether it shows the object, or something that is not to be taken for it."""
    how: str
    """How it was taught: click, box, mask, object or file."""
    taught: str
    """When: UTC, as in 2026-11-27T05:14:37Z."""
    picture: str
    """Its JPEG, as a path from the folder; the mask has the same name as a PNG."""

    @property
    def number(self) -> int:
        """Of the look among those at its object, from 1; not those that were taken back."""
        found = LOOK_FILE.fullmatch(Path(self.picture).name)
        if not found:
            raise ValueError(f"{quoted(self.picture)} is no picture of a look")
        return int(found[1])


@dataclass(frozen=True, eq=False)
class TaughtObject:
    """An object as its file describes it."""

    name: str
    student: str
    """Name of the file of the student whose tokens these are."""
    student_sha256: str
    """Of that student's weights, or of its file where it does not tell."""
    embed_dim: int
    """C of its tokens."""
    records: tuple[LookRecord, ...]
    looks: tuple[Look, ...]
    """As many as records, in their order; the first one shows the object."""


def object_file(folder: Path, name: str) -> Path:
    """What is remembered of an object."""
    return folder / f"{name}.json"


def object_names(folder: Path) -> list[str]:
    """The names of the objects in a folder, sorted; none if there is no such folder."""
    return sorted(file.stem for file in folder.glob("[A-Za-z]*.json"))


def write_object(folder: Path, one: TaughtObject) -> None:
    """Write the file of an object whose pictures are there. Raises OSError if it cannot be written."""
    values = {
        "format_version": FORMAT_VERSION,
        "name": one.name,
        "student": one.student,
        "student_sha256": one.student_sha256,
        "embed_dim": one.embed_dim,
        "looks": [asdict(record) for record in one.records],
        "prototypes": [{"inside": _encoded(look.inside), "outside": _encoded(look.outside)} for look in one.looks],
    }
    write_whole(object_file(folder, one.name), (json.dumps(values, indent=2) + "\n").encode())


def read_object(folder: Path, name: str, prototypes: bool = True) -> TaughtObject:
    """The object of this name; without `prototypes` its looks have none, so that they need not be readable.

    Raises UserError if its file is damaged or has a newer format, or if a picture is missing or does not decode.
    """
    file = object_file(folder, name)
    try:
        values: dict[str, Any] = json.loads(file.read_bytes())
        version = int(values["format_version"])
        if version > FORMAT_VERSION:
            raise UserError(f"{file} has format {version}, this dino_ros reads {FORMAT_VERSION}: update dino_ros.")
        if values["name"] != name:
            raise ValueError(f"it is of {quoted(str(values['name']))}")
        records = tuple(LookRecord(**record) for record in values["looks"])
        if not records or not records[0].shows_it:
            raise ValueError("its first look does not show it")
        dim = int(values["embed_dim"])
        looks = []
        for number, record in enumerate(records):
            mask = read_picture(mask_file(folder, name, record.number))[:, :, 0].copy()
            picture = read_picture(picture_file(folder, name, record.number))
            if mask.shape != picture.shape[:2]:
                raise ValueError(f"picture and mask of look {record.number} differ in size")
            of = values["prototypes"][number] if prototypes else {}
            inside, outside = (_decoded(of.get(part), dim) for part in ("inside", "outside"))
            if prototypes and not len(inside.tokens):
                raise ValueError("its prototypes are incomplete")
            looks.append(Look(picture, mask, inside, outside, bool(record.shows_it)))
        return TaughtObject(name, str(values["student"]), str(values["student_sha256"]), dim, records, tuple(looks))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged ({error}): put a copy back, or remove it and teach the object again."
        ) from error


def picture_file(folder: Path, name: str, number: int) -> Path:
    """The picture of a look."""
    return folder / name / f"look_{number}.jpg"


def mask_file(folder: Path, name: str, number: int) -> Path:
    """The mask of a look."""
    return picture_file(folder, name, number).with_suffix(".png")


def found_file(folder: Path, name: str, number: int) -> Path:
    """What `dino-ros teach` draws of a look."""
    return folder / name / f"look_{number}_found.jpg"


def remove_pictures(folder: Path, name: str, number: int | None = None) -> None:
    """Remove what is beside an object's file of one look, or of all; what others put there stays."""
    place = folder / name
    for file in [*place.glob("look_*")]:
        found = LOOK_FILE.fullmatch(file.name)
        if found and number in (None, int(found[1])):
            file.unlink()
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()


def as_saved(look: Look) -> Look:
    """A look with the prototypes that will be read when it is saved."""
    inside, outside = (
        Prototypes(*(values.astype(FILE_TYPE).astype(np.float32) for values in (of.tokens, of.weights)))
        for of in (look.inside, look.outside)
    )
    return Look(look.picture, look.mask, inside, outside, look.shows_it)


def _encoded(prototypes: Prototypes) -> dict[str, str]:
    parts = {"tokens": prototypes.tokens, "weights": prototypes.weights}
    return {name: base64.b64encode(values.astype(FILE_TYPE).tobytes()).decode() for name, values in parts.items()}


def _decoded(encoded: Any, dim: int) -> Prototypes:
    """The prototypes of `dim` channels; none of None."""
    parts = encoded or {"tokens": "", "weights": ""}
    tokens, weights = (
        np.frombuffer(base64.b64decode(parts[name], validate=True), FILE_TYPE).astype(np.float32)
        for name in ("tokens", "weights")
    )
    if len(tokens) != len(weights) * dim or not (np.isfinite(tokens).all() and np.isfinite(weights).all()):
        raise ValueError("its prototypes are incomplete")
    return Prototypes(tokens.reshape(-1, dim), weights)
