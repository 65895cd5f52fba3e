"""Numbers of objects that were out of view: who gets one back, and who must not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import rectangle

from dino_ros.images.stamps import SECOND
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.memory import LOST, Memory
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver

SIZE, GRID = (120, 160), (12, 16)
FRAME = SECOND // 10
GROUND, *KINDS = np.random.default_rng(3).normal(size=(7, 24))
TOKENS = dict(zip("abcd", KINDS, strict=False)) | {"e": KINDS[0], "f": KINDS[0] + 0.5 * KINDS[5]}
"""What the student says of each kind of object: of a and e the same, of f something like it."""
MASK = MaskParameters("foreground", steady=0.0, remember=10.0)

Place = tuple[int, int]


class Camera:
    """Shows objects of 30 pixels, by name, at places; says which number each gets."""

    def __init__(self, named: bool = False) -> None:
        self.maker, self.named, self.stamp = MaskMaker(), named, 100 * SECOND
        self.random = np.random.default_rng(0)

    def __call__(self, passed: int = FRAME, **objects: Place) -> dict[str, int]:
        """Numbers by name; what comes after an underscore in a name is the color, else all are red."""
        self.stamp += passed
        image = np.full((*SIZE, 3), 110, np.uint8)
        features = GROUND + 0.3 * self.random.normal(size=(*GRID, 24))
        soft = np.zeros(GRID, np.float32)
        for name, (top, left) in objects.items():
            kind, _, color = name.partition("_")
            image[rectangle(*SIZE, top, left, top + 30, left + 30)] = (40, 40, 220) if color else (220, 40, 40)
            there = rectangle(*GRID, top // 10, left // 10, top // 10 + 3, left // 10 + 3)
            features[there] = TOKENS[kind] + 0.3 * self.random.normal(size=(int(there.sum()), 24))
            soft[there] = 1
        outputs = {"features": features.astype(np.float32), "foreground": soft}
        view = self.maker.see(SIZE, image, self.stamp, MASK, True, outputs["features"])
        if self.named:
            made = self.maker.make_named({"it": soft}, view, MASK, True)["it"].objects
        else:
            made = self.maker.make(outputs, view, MASK, True).objects
        assert made is not None
        numbers = {name: int(made[top + 15, left + 15]) for name, (top, left) in objects.items()}
        assert {*np.unique(made)} == {0, *numbers.values()}
        assert len({*numbers.values()}) == len(objects)
        return numbers


LEFT, RIGHT, MIDDLE, CORNER = (10, 10), (10, 110), (50, 60), (80, 10)


@pytest.mark.parametrize("named", [False, True])
def test_what_comes_back_elsewhere_gets_its_number_and_what_is_new_gets_another(named: bool) -> None:
    camera = Camera(named)
    assert camera(a=LEFT, b=RIGHT) == {"a": 1, "b": 2}
    camera()
    camera()
    numbers = camera(b=LEFT, a=MIDDLE, c=RIGHT)
    assert (numbers["a"], numbers["b"]) == (1, 2)
    assert camera(passed=3 * SECOND, c=LEFT) == {"c": numbers["c"]}  # the camera itself was gone
    assert camera(c=LEFT, d=RIGHT)["d"] not in numbers.values()


def test_what_is_in_view_keeps_its_number_though_it_looks_like_one_that_was_lost() -> None:
    camera = Camera()
    camera(a=LEFT)
    camera()
    assert camera(b=LEFT) == {"b": 2}
    assert camera(a=LEFT) == {"a": 2}  # it overlaps, so it is the same whatever it looks like
    assert camera(a=LEFT, b=RIGHT)["a"] == 2


def test_of_two_that_are_alike_one_gets_the_number() -> None:
    camera = Camera()
    camera(a=LEFT)
    camera()
    numbers = camera(a=RIGHT, a_blue=CORNER)
    assert numbers["a"] == 1
    assert numbers["a_blue"] != 1


def test_one_that_is_less_like_the_lost_one_than_what_stayed_is_new() -> None:
    """Two of the same are in view and one leaves; what then comes is like it, but the other is more so."""
    alone, beside = Camera(), Camera()
    assert (alone(a=LEFT), alone(), alone(f=RIGHT)) == ({"a": 1}, {}, {"f": 1})
    assert beside(a=LEFT, e=CORNER) == {"a": 1, "e": 2}
    beside(e=CORNER)
    assert beside(e=CORNER, f=RIGHT) == {"e": 2, "f": 3}


@pytest.mark.parametrize(("seconds", "number"), [(9.9, 1), (10.1, 2)])
def test_it_is_remembered_for_so_many_seconds(seconds: float, number: int) -> None:
    camera = Camera()
    camera(a=LEFT)
    assert camera(a=LEFT) == {"a": 1}
    camera()
    assert camera(passed=round(seconds * SECOND) - FRAME, a=RIGHT) == {"a": number}


def test_a_recording_that_is_played_again_starts_anew() -> None:
    camera = Camera()
    camera(a=LEFT, b=RIGHT)
    camera(passed=-2 * SECOND)  # an empty frame: the loop is noticed, though nothing is in view
    assert not {*camera(passed=4 * SECOND, a=LEFT, b=RIGHT).values()} & {1, 2}


def test_colors_tell_apart_what_is_of_one_shape() -> None:
    camera = Camera()
    assert camera(a=LEFT, a_blue=RIGHT) == {"a": 1, "a_blue": 2}
    camera()
    assert camera(a=RIGHT, a_blue=LEFT) == {"a": 1, "a_blue": 2}


def test_another_student_and_a_file() -> None:
    camera = Camera()
    camera(a=LEFT, b=RIGHT)
    camera()
    camera.maker = MaskMaker.recall(camera.maker.memory())
    assert camera(b=CORNER) == {"b": 2}
    camera.maker.forget()
    assert camera(b=CORNER) == {"b": 2}  # it overlaps
    assert camera(b=CORNER, a=LEFT)["a"] != 1


def test_tokens_of_another_length_are_those_of_another_student() -> None:
    memory, objects, image = Memory(), np.ones((6, 8), np.uint16), np.zeros((6, 8, 3), np.uint8)
    assert memory.see(objects, np.ones((3, 4, 5), np.float32), image) == {}
    assert memory.see(2 * objects, np.ones((3, 4, 7), np.float32), image) == {}
    assert memory.numbers.tolist() == [2]


def test_memory_is_bounded_and_keeps_what_was_seen_last() -> None:
    memory, random = Memory(), np.random.default_rng(1)
    kinds: list[NDArray[np.float32]] = []
    for number in range(1, 4 * LOST):
        kinds.append(random.normal(size=(1, 1, 64)).astype(np.float32))
        memory.move_on(number * SECOND, 3600)
        assert memory.see(np.full((4, 4), number, np.uint16), kinds[-1], np.zeros((4, 4, 3), np.uint8)) == {}
    assert sorted(memory.numbers.tolist()) == [*range(3 * LOST - 1, 4 * LOST)]
    for last, found in ((4 * LOST - 10, True), (5, False)):
        back = memory.see(np.full((4, 4), 9000 + last, np.uint16), kinds[last - 1], np.zeros((4, 4, 3), np.uint8))
        assert back == ({9000 + last: last} if found else {})


def test_a_part_of_it_is_known_by_the_last_look_at_it() -> None:
    """Of an object with two sides one goes first; by the other alone it is known again."""
    memory, image = Memory(), np.zeros((4, 8, 3), np.uint8)
    both = np.stack([np.tile(TOKENS[side], (4, 4, 1)) for side in "ab"], axis=1).reshape(4, 8, 24).astype(np.float32)
    whole, half = np.ones((4, 8), np.uint16), np.pad(np.ones((4, 3), np.uint16), ((0, 0), (5, 0)))
    for frame in range(20):
        memory.move_on(frame * FRAME, 10)
        memory.see(whole if frame < 19 else half, both, image)
    memory.see(0 * whole, both, image)
    assert memory.see(2 * half, both, image) == {2: 1}


def test_on_a_rendered_table_two_leave_and_come_back_at_each_other_s_place() -> None:
    pytest.importorskip("pybullet")
    from tables import NAMES, render, visit

    perceiver, maker = Perceiver.load("table_vit_micro_8", "onnxruntime"), MaskMaker()
    left, right, far = (-0.25, -0.1), (0.25, -0.1), (0.0, 0.18)
    stays = [
        (1, left, 0.3, -1, 1),
        (4, right, 0.0, -1, 1),
        (1, right, 2.0, 3, 5),
        (4, left, 1.0, 3, 5),
        (8, far, 0.0, 3, 5),
    ]
    visits = [visit(index, *where_and_when) for index, *where_and_when in stays]
    seen = []
    times = (0.0, 2.0, 4.0)
    for time, table in zip(times, render(visits, [stay[0] for stay in stays], times, 1, (320, 240)), strict=True):
        request = perceiver.request(["objects"])
        image = perceiver.prepare_image(table.rgb, round((9 + time) * SECOND))
        result = perceiver.infer([image.input], sorted(request.student_outputs))[0]
        objects = perceiver.finish(result, image, request, maker).objects
        assert objects is not None
        seen.append({name: int(np.bincount(objects[mask]).argmax()) for name, mask in table.masks.items()})
    before, between, after = seen
    assert {*before} == {NAMES[1], NAMES[4]}
    assert 0 not in before.values()
    assert between == {}
    assert {name: after[name] for name in before} == before
    assert after[NAMES[8]] not in {0, *before.values()}
