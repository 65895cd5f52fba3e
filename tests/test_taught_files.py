"""What a folder of taught objects remembers: through restarts, kills, damage, and other students."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from students import INFO, changed

import dino_ros.files
from dino_ros.errors import UserError
from dino_ros.taught.looks import Look, look_at
from dino_ros.taught.object_files import TaughtObjects, check_object_name
from dino_ros.taught.pictures import read_mask, write_picture

INFO_A, INFO_B = (changed(weights={"source": "none", "sha256": letter * 64}) for letter in "ab")
STUDENT = Path("student.onnx")


def tokens_of(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patch tokens [4, 6, 3] of a picture of 32x48 pixels: the mean colors."""
    return rgb.reshape(4, 8, 6, 8, 3).mean(axis=(1, 3), dtype=np.float32)


def look(seed: int, shows_it: bool = True) -> Look:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(64, 192, (4, 6, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 16:40] = 255
    return look_at(tokens_of(rgb), rgb, mask, shows_it)


def load(folder: Path) -> TaughtObjects:
    return TaughtObjects.load(folder, INFO_A, STUDENT)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_same(one: TaughtObjects, other: TaughtObjects) -> None:
    assert {name: len(looks) for name, looks in one.looks.items()} == {
        name: len(looks) for name, looks in other.looks.items()
    }
    for name, looks in one.looks.items():
        assert one.records[name] == other.records[name]
        for ours, theirs in zip(looks, other.looks[name], strict=True):
            assert ours.shows_it == theirs.shows_it
            np.testing.assert_array_equal(ours.mask, theirs.mask)
            for mine, its in ((ours.inside, theirs.inside), (ours.outside, theirs.outside)):
                np.testing.assert_array_equal(mine.tokens, its.tokens)
                np.testing.assert_array_equal(mine.weights, its.weights)


def test_a_restart_finds_the_same_to_the_bit(tmp_path: Path) -> None:
    objects, first = load(tmp_path / "new" / "objects"), look(0)
    objects.add("cup", first, "click")
    before = objects.looks
    objects.add("cup", look(1, shows_it=False), "box")
    objects.add("bottle", look(2), "mask")
    assert [*objects.looks] == ["bottle", "cup"]
    assert [*before] == ["cup"], "a snapshot stays"
    assert_same(objects, load(objects.folder))
    saved = objects.looks["cup"][0]
    assert [*saved.inside.tokens.shape] == [6, 3]
    np.testing.assert_array_equal(saved.inside.tokens, first.inside.tokens.astype(np.float16))
    again = load(objects.folder).looks["cup"][0].picture.astype(int)
    assert np.abs(again - first.picture).mean() < 6, "JPEG of noise in blocks"
    described = json.loads((objects.folder / "cup.json").read_text())
    assert list(described)[-1] == "prototypes"
    assert described["looks"][1]["shows_it"] is False
    assert described["looks"][1]["how"] == "box"


def test_the_last_look_is_taken_back_and_objects_are_forgotten(tmp_path: Path) -> None:
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    once = files(tmp_path)
    objects.add("cup", look(1), "click")
    objects.undo("cup")
    assert files(tmp_path) == once
    assert_same(objects, load(tmp_path))
    (tmp_path / "cup" / "note.txt").write_text("the user's own")
    objects.undo("cup")
    assert not objects.looks
    assert files(tmp_path) == ["cup/note.txt"]
    for change in (objects.undo, objects.forget):
        with pytest.raises(UserError, match="There is no object 'cup'"):
            change("cup")


@pytest.mark.parametrize("done", range(3))
def test_a_process_that_dies_between_two_files_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """A look is three files: two are pictures, the last one names them."""
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    replace, renamed = os.replace, 0

    def dies(source: Path, target: Path) -> None:
        nonlocal renamed
        if renamed == done:
            raise KeyboardInterrupt
        renamed += 1
        replace(source, target)

    monkeypatch.setattr(dino_ros.files.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        objects.add("cup", look(1), "click")
    monkeypatch.undo()
    survivor = load(tmp_path)
    assert not survivor.refused
    assert_same(objects, survivor)
    assert len(survivor.looks["cup"]) == 1
    survivor.add("cup", look(2), "click")
    assert_same(survivor, load(tmp_path))
    assert files(tmp_path) == ["cup.json", *(f"cup/look_{n}.{kind}" for n in (1, 2) for kind in ("jpg", "png"))]


def test_objects_of_another_student_are_refused_until_they_are_made_again(tmp_path: Path) -> None:
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    objects.add("cup", look(1, shows_it=False), "click")
    int8 = changed(weights=INFO_A.weights, precision="int8", foreground_head={"images": 1})
    assert [*TaughtObjects.load(tmp_path, int8, STUDENT).looks] == ["cup"]
    other = TaughtObjects.load(tmp_path, INFO_B, Path("my other.onnx"))
    assert not other.looks
    (sentence,) = other.refused
    assert f"dino-ros teach --again {tmp_path} --model 'my other.onnx'" in sentence
    before = files(tmp_path)
    for change in (lambda: other.add("cup", look(0), "click"), lambda: other.undo("cup")):
        with pytest.raises(UserError, match=r"cannot be used with my other\.onnx"):
            change()
    assert files(tmp_path) == before
    other.teach_again("cup", lambda rgb: tokens_of(255 - rgb))
    assert_same(other, TaughtObjects.load(tmp_path, INFO_B, STUDENT))
    assert [one.shows_it for one in other.looks["cup"]] == [True, False]
    assert other.records["cup"] == objects.records["cup"], "when and how it was taught"
    assert len(load(tmp_path).refused) == 1, "now it is the first student's turn"


def test_a_look_made_again_is_the_look_that_was_made(tmp_path: Path) -> None:
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    direct = objects.looks["cup"][0]
    objects.teach_again("cup", tokens_of)
    again = objects.looks["cup"][0]
    for ours, theirs in ((direct.inside, again.inside), (direct.outside, again.outside)):
        np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=0.05)  # of JPEG
        np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_a_student_that_does_not_tell_its_weights_is_known_by_its_file(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text(name)
    TaughtObjects.load(tmp_path / "objects", INFO, tmp_path / "one").add("cup", look(0), "click")
    assert TaughtObjects.load(tmp_path / "objects", INFO, tmp_path / "one").looks
    assert not TaughtObjects.load(tmp_path / "objects", INFO, tmp_path / "other").looks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(format_version=2), "update dino_ros"),
        (lambda values: values.update(name="mug"), "is damaged"),
        (lambda values: values.pop("looks"), "is damaged"),
        (lambda values: values["looks"][0].update(shows_it=False), "is damaged"),
        (lambda values: values["looks"][0].update(picture="../../etc/passwd"), "is damaged"),
        (lambda values: values["looks"].append(values["looks"][0]), "is damaged"),
        (lambda values: values["prototypes"][0]["inside"].update(tokens="AAAA"), "is damaged"),
        (lambda values: values["prototypes"][0].update(inside=None), "is damaged"),
        (lambda values: values["prototypes"][0]["outside"].update(weights="@"), "is damaged"),
        (lambda values: values.update(looks=3), "is damaged"),
    ],
)
def test_one_damaged_object_does_not_hide_the_others(tmp_path: Path, change: object, said: str) -> None:
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    objects.add("pen", look(1), "click")
    values = json.loads((tmp_path / "cup.json").read_text())
    change(values)  # type: ignore[operator]
    (tmp_path / "cup.json").write_text(json.dumps(values))
    damaged = load(tmp_path)
    assert [*damaged.looks] == ["pen"]
    (sentence,) = damaged.refused
    assert sentence.startswith(str(tmp_path / "cup.json"))
    assert said in sentence
    damaged.forget("cup")
    assert not [file for file in files(tmp_path) if "cup" in file]


def test_a_file_cut_short_and_a_missing_picture_are_told(tmp_path: Path) -> None:
    objects = load(tmp_path)
    objects.add("cup", look(0), "click")
    objects.add("pen", look(1), "click")
    whole = (tmp_path / "cup.json").read_bytes()
    (tmp_path / "cup.json").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pen" / "look_1.jpg").unlink()
    cup, pen = load(tmp_path).refused
    assert "cup.json is damaged" in cup
    assert "There is no image" in pen


def test_what_an_object_is_not_needs_an_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no object cup yet"):
        load(tmp_path).add("cup", look(0, shows_it=False), "click")
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["", "2cups", "my cup", "cup/..", "../cup", "_cup", "Tasse\n", "größe", "c" * 65])
def test_names_that_no_topic_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of an object"):
        load(tmp_path).add(name, look(0), "click")
    assert not files(tmp_path)


def test_names_of_topics_are_refused() -> None:
    check_object_name("cup_2", reserved={"objects"})
    with pytest.raises(UserError, match="a topic of the node has it"):
        check_object_name("objects", reserved={"objects"})


def test_a_mask_is_bright_or_opaque(tmp_path: Path) -> None:
    import cv2

    expected = np.zeros((20, 30), np.uint8)
    expected[5:15, 10:20] = 255
    write_picture(tmp_path / "bright.png", expected)
    write_picture(tmp_path / "labels.png", expected // 255)
    rgba = np.dstack([np.full((20, 30, 3), 255, np.uint8), expected])
    rgba[5:15, 10:20, :3] = 3
    cv2.imwrite(str(tmp_path / "cut_out.png"), rgba)
    cv2.imwrite(str(tmp_path / "opaque.png"), np.dstack([expected] * 3 + [np.full_like(expected, 255)]))
    for name in ("bright", "labels", "cut_out", "opaque"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), expected, name)
