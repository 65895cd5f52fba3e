"""A folder of taught objects: what a robot remembers of what it was shown."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError, quoted
from dino_ros.files import file_sha256, named_path, remove_leftovers
from dino_ros.student import DEFAULT_STUDENT, MODELS, StudentInfo
from dino_ros.taught.looks import Look, look_at
from dino_ros.taught.pictures import write_picture
from dino_ros.taught.records import (
    LookRecord,
    TaughtObject,
    as_saved,
    mask_file,
    object_file,
    object_names,
    picture_file,
    read_object,
    remove_pictures,
    write_object,
)

LONGEST_NAME = 64
"""Characters of an object's name, which becomes that of files and topics."""

See = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From an image, RGB [H, W, 3], to a student's patch tokens [h, w, C]."""


class TaughtObjects:
    """The objects of a folder that were taught for one student. One thread changes them; any may read `looks`.

    They are saved before `looks` changes, and are there as they will be read: what is found before a restart is found
    after it.
    """

    def __init__(self, folder: Path, info: StudentInfo, student: Path) -> None:
        """Those of a new folder, which is made with the first object; of one that may hold some: `load`."""
        self.folder = folder
        self.refused: tuple[str, ...] = ()
        """A sentence for each object of the folder that cannot be used: why, and what to do."""
        self._student = student
        self._embed_dim = info.embed_dim
        self._student_sha256 = str(info.weights.get("sha256") or file_sha256(student))
        self._set({})

    @classmethod
    def load(cls, folder: Path, info: StudentInfo, student: Path) -> TaughtObjects:
        """The objects in a folder, which may not exist yet, for the student in this file; a student of other precision
        or with another head is the same if its weights are.

        Those that cannot be used, because they were taught for another student or are damaged, are in `refused`.
        """
        objects = cls(folder, info, student)
        read = {}
        refused = []
        for name in object_names(folder):
            try:
                read[name] = objects._usable(read_object(folder, name))
            except UserError as error:
                refused.append(str(error))
        objects.refused = tuple(refused)
        objects._set(read)
        return objects

    @property
    def looks(self) -> Mapping[str, tuple[Look, ...]]:
        """The looks at each object, by its name; changes make a new mapping and leave this one as it is."""
        return self._looks

    @property
    def records(self) -> Mapping[str, tuple[LookRecord, ...]]:
        """What the files say of each of `looks`."""
        return {name: self._objects[name].records for name in self._looks}

    def add(self, name: str, look: Look, how: str) -> None:
        """Add a look at an object, known or new, and save it; `how` it was taught: click, box, mask, object or file.

        Raises UserError for a name that no object can have, for a look at what an unknown object is not, and where the
        folder holds an object of that name that cannot be used; OSError if it cannot be written.
        """
        check_object_name(name)
        known = self._known(name, "take another name")
        if known is None and not look.shows_it:
            raise UserError(f"There is no object {name} yet: show it before what is not to be taken for it.")
        records, looks = (known.records, known.looks) if known else ((), ())
        number = records[-1].number + 1 if records else 1
        picture = picture_file(self.folder, name, number)
        picture.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(picture.parent)
        write_picture(picture, look.picture)
        write_picture(mask_file(self.folder, name, number), look.mask)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = LookRecord(look.shows_it, how, now, picture.relative_to(self.folder).as_posix())
        self._save(name, (*records, record), (*looks, as_saved(look)))

    def undo(self, name: str) -> None:
        """Take back the last look at an object, which goes with its only one.

        Raises UserError if there is none, or only one that cannot be used.
        """
        known = self._known(name, "forget it")
        if known is None or len(known.looks) == 1:
            self.forget(name)
            return
        self._save(name, known.records[:-1], known.looks[:-1])
        remove_pictures(self.folder, name, known.records[-1].number)

    def forget(self, name: str) -> None:
        """Remove an object and its pictures, even one that cannot be used. Raises UserError if there is none."""
        if name not in object_names(self.folder):
            taught = ", ".join(object_names(self.folder)) or "nothing"
            raise UserError(f"There is no object {quoted(name)} in {self.folder}: taught there: {taught}.")
        object_file(self.folder, name).unlink()
        remove_pictures(self.folder, name)
        self._set({other: one for other, one in self._objects.items() if other != name})

    def teach_again(self, name: str, see: See) -> None:
        """Make the looks at an object again, from their pictures, for this student, whose tokens `see` returns.

        Raises UserError if the object's file or a picture cannot be read.
        """
        old = read_object(self.folder, name, prototypes=False)
        made = (look_at(see(look.picture), look.picture, look.mask, look.shows_it) for look in old.looks)
        self._save(name, old.records, tuple(map(as_saved, made)))

    def _save(self, name: str, records: tuple[LookRecord, ...], looks: tuple[Look, ...]) -> None:
        one = TaughtObject(name, self._student.name, self._student_sha256, self._embed_dim, records, looks)
        write_object(self.folder, one)
        self._set({**self._objects, name: one})

    def _known(self, name: str, otherwise: str) -> TaughtObject | None:
        """The object of that name, if there is one. Raises UserError for one that cannot be used."""
        known = self._objects.get(name)
        if known is None and name in object_names(self.folder):
            raise UserError(
                f"{object_file(self.folder, name)} holds an object that cannot be used with {self._student.name}: make "
                f"it again with `{self._again}`, or {otherwise}."
            )
        return known

    def _set(self, objects: dict[str, TaughtObject]) -> None:
        self._objects = objects
        self._looks = MappingProxyType({name: objects[name].looks for name in sorted(objects)})

    def _usable(self, one: TaughtObject) -> TaughtObject:
        """The object; raises UserError if it was taught for another student."""
        if (one.student_sha256, one.embed_dim) != (self._student_sha256, self._embed_dim):
            raise UserError(
                f"{object_file(self.folder, one.name)} was taught for another student, {quoted(one.student)}, not for "
                f"{self._student.name}: make it again from its pictures with `{self._again}`."
            )
        return one

    @property
    def _again(self) -> str:
        """The command that makes the folder's objects again for this student."""
        return shlex.join(["dino-ros", "teach", "--again", str(self.folder), *_model_option(self._student)])


def objects_folder(name: str | Path = "") -> Path:
    """The folder of taught objects that a user names; empty for `dino_objects` in ROS_HOME, which is ~/.ros unless set.

    Raises UserError if nobody can tell whether it exists.
    """
    return named_path(name or Path(os.environ.get("ROS_HOME") or "~/.ros") / "dino_objects")


def check_object_name(name: str, reserved: Collection[str] = ()) -> None:
    """Raise UserError for a name that no object can have, since no topic can, or since it is `reserved`."""
    if not re.fullmatch(rf"[A-Za-z][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}", name):
        raise UserError(
            f"{quoted(name)} cannot be the name of an object: take at most {LONGEST_NAME} letters, digits and _, and a "
            "letter first."
        )
    if name in reserved:
        raise UserError(f"{name} cannot be the name of an object, because a topic of the node has it: take another.")


def _model_option(student: Path) -> list[str]:
    """The option of commands that names a student; none for the bundled one that they take anyway."""
    if student.parent != MODELS:
        return ["--model", str(student)]
    return [] if student.stem == DEFAULT_STUDENT else ["--model", student.stem]
