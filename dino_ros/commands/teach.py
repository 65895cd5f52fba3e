"""`dino-ros teach`: an object by pictures of it, so that the node finds it by name."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dino_ros.commands.student_options import add_model
from dino_ros.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.taught.object_files import TaughtObjects

DESCRIPTION = """\
Show pictures of an object, and the node finds it by name. Takes seconds.
Best is a whole frame of the camera, with a mask, a box or a point: then the
student sees the object at its size and among its surroundings, which tell it
apart. A picture alone is taken for a crop that the object fills. Looks add up:
teach from several sides, and with --not what is mistaken for it.

    dino-ros teach cup --like frame.jpg --box 310,160,90,120 --out objects
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="what to call it: letters, digits and _")
    parser.add_argument(
        "--like", type=Path, nargs="+", metavar="PICTURE", help="pictures of the object; each is a look"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--mask",
        type=Path,
        help="image of the picture's size, white on the object and black elsewhere, or transparent elsewhere: the best "
        "way, where you can draw one",
    )
    where.add_argument(
        "--box",
        type=numbers("X,Y,W,H"),
        metavar="X,Y,W,H",
        help="box around the object, in pixels; the student's own mask tells what in it is the object",
    )
    where.add_argument(
        "--click",
        type=numbers("X,Y"),
        metavar="X,Y",
        help="point on the object, in pixels; takes what the features hold together there, which may be a part or more",
    )
    parser.add_argument(
        "--not", dest="shows_it", action="store_false", help="the pictures show what is not to be taken for the object"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of taught objects, old and new")
    parser.add_argument("--list", type=Path, metavar="FOLDER", help="say what is taught there, and what cannot be used")
    parser.add_argument("--undo", type=Path, metavar="FOLDER", help="take back the last look at NAME there")
    parser.add_argument("--forget", type=Path, metavar="FOLDER", help="remove the object NAME from there")
    parser.add_argument(
        "--again",
        type=Path,
        metavar="FOLDER",
        help="make all looks there again, from their pictures, for another --model",
    )
    add_model(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.student import find_student, read_student
    from dino_ros.taught.object_files import TaughtObjects

    ways = (options.out, options.list, options.undo, options.forget, options.again)
    folders = [folder for folder in ways if folder]
    if len(folders) != 1:
        raise UserError("Name one folder: --out to teach, or --list, --undo, --forget or --again.")
    student = find_student(options.model)
    objects = TaughtObjects.load(folders[0], read_student(student), student)
    if options.list:
        show(objects)
    elif options.undo:
        objects.undo(options.name or "")
        left = len(objects.looks.get(options.name, ()))
        done = f"{looks(left)} left" if left else "forgotten, since that was its only look"
        print(f"{options.name}: {done}.")
    elif options.forget:
        objects.forget(options.name or "")
        print(f"{options.name} is forgotten.")
    elif options.again:
        teach_again(objects, options)
    else:
        teach(objects, options)
    return 0


def teach(objects: TaughtObjects, options: argparse.Namespace) -> None:
    from dino_ros.nodes.topics import RESERVED
    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.perception.pointing import patch_tokens
    from dino_ros.taught.looks import look_at
    from dino_ros.taught.object_files import check_object_name
    from dino_ros.taught.pictures import read_picture

    name = options.name or ""
    check_object_name(name, RESERVED)
    if not options.like:
        raise UserError(f"Nothing shows {name}: give pictures with --like.")
    how = next((way for way in ("mask", "box", "click") if getattr(options, way)), "file")
    if how != "file" and len(options.like) > 1:
        raise UserError(f"--{how} is about one picture: give one --like, and run the command again for the next.")
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    for file in options.like:
        rgb = read_picture(file)
        try:
            mask = object_mask(perceiver, rgb, options)
            objects.add(name, look_at(patch_tokens(perceiver, rgb), rgb, mask, options.shows_it), how)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        drawn = draw_look(objects, name, -1, perceiver)
        what = "is" if options.shows_it else "is not"
        say(f"{name} {what} what fills {(mask > 0).mean():.0%} of {file}: look at {drawn}.")
    say(f"{looks(len(objects.looks[name]))} at {name}. To find it on a robot:")
    say(f"  ros2 launch dino_ros perception.launch.py taught_folder:={shlex.quote(str(objects.folder.resolve()))}")


def object_mask(perceiver: Perceiver, rgb: NDArray[np.uint8], options: argparse.Namespace) -> NDArray[np.uint8]:
    """The mask [H, W] of what the options point out in a picture, RGB [H, W, 3]."""
    from dino_ros.perception.pointing import object_at_point, object_in_box
    from dino_ros.taught.pictures import read_mask

    if options.mask:
        return read_mask(options.mask)
    if options.click:
        return object_at_point(perceiver, rgb, *options.click)
    return object_in_box(perceiver, rgb, *(options.box or (0, 0, rgb.shape[1], rgb.shape[0])))


def draw_look(objects: TaughtObjects, name: str, index: int, perceiver: Perceiver) -> Path:
    """Draw one of the looks at an object, and what is found in its picture by all looks so far; returns the file."""
    from dino_ros.perception.pointing import patch_tokens
    from dino_ros.taught.background import Background
    from dino_ros.taught.finder import Finder
    from dino_ros.taught.pictures import draw_found, write_picture
    from dino_ros.taught.records import found_file

    look = objects.looks[name][index]
    finder = Finder(objects.looks, Background(perceiver.info.embed_dim))
    found = finder(patch_tokens(perceiver, look.picture))[name]
    file = found_file(objects.folder, name, objects.records[name][index].number)
    write_picture(file, draw_found(look, found))
    return file


def teach_again(objects: TaughtObjects, options: argparse.Namespace) -> None:
    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.perception.pointing import patch_tokens
    from dino_ros.taught.records import object_names

    names = object_names(objects.folder)
    if not names:
        raise UserError(f"Nothing is taught in {objects.folder}: name the folder that was --out.")
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    for name in names:
        objects.teach_again(name, partial(patch_tokens, perceiver))
        say(f"{name}: {looks(len(objects.looks[name]))} made again for {perceiver.path.name}.")
    for name in names:
        for index in range(len(objects.looks[name])):
            draw_look(objects, name, index, perceiver)


def show(objects: TaughtObjects) -> None:
    for name, records in objects.records.items():
        ways = ", ".join(record.how if record.shows_it else f"not: {record.how}" for record in records)
        say(f"{name}: {looks(len(records))} ({ways}), the last at {records[-1].taught}")
    for sentence in objects.refused:
        say(sentence)
    if not objects.looks and not objects.refused:
        say(f"Nothing is taught in {objects.folder}.")


def looks(count: int) -> str:
    return f"{count} look" if count == 1 else f"{count} looks"


def numbers(names: str) -> Callable[[str], tuple[float, ...]]:
    """A type of options: as many numbers as there are names, with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != len(names.split(",")) or not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"{text} is not {names} in pixels")
        return values

    return parse


say = partial(print, flush=True)
