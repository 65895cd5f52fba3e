"""The input size that an export chooses for a camera, against a search through every grid."""

from fractions import Fraction

import pytest

from dino_ros.errors import UserError
from dino_train.export.input_size import Camera, input_size, parse_camera

PATCHES = (8, 14, 16, 32)
CAMERAS = [
    *(Camera(640, 480), Camera(320, 240), Camera(160, 120), Camera(2592, 1944)),  # 4:3
    *(Camera(1280, 720), Camera(854, 480), Camera(3840, 2160), Camera(424, 240)),  # 16:9
    *(Camera(752, 480), Camera(1280, 800), Camera(720, 540), Camera(1280, 1024), Camera(612, 512), Camera(800, 800)),
    *(Camera(1344, 376), Camera(3840, 640), Camera(4000, 40), Camera(33, 32)),  # side by side, panoramas, tiny
]


def distance(height: int, width: int, camera: Camera) -> Fraction:
    """How many times one aspect is the other, 1 or more, exactly."""
    ratio = Fraction(width * camera.height, height * camera.width)
    return max(ratio, 1 / ratio)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("camera", CAMERAS, ids=str)
def test_no_grid_of_as_many_patches_is_closer_to_the_camera(camera: Camera, patch: int) -> None:
    height, width = input_size(camera, patch)
    assert (height % patch, width % patch) == (0, 0)
    assert height <= camera.height
    assert width <= camera.width
    most = min((224 // patch) ** 2, (camera.height // patch) * (camera.width // patch))
    patches = height * width // patch**2
    assert 0.875 * most <= patches <= most
    others = [
        (distance(h, w, camera), -h * w // patch**2)
        for h in range(patch, camera.height + 1, patch)
        for w in range(patch, min(camera.width, most * patch**2 // h) + 1, patch)
        if h * w >= 0.875 * most * patch**2
    ]
    assert (distance(height, width, camera), -patches) == min(others)


@pytest.mark.parametrize("patch", PATCHES)
def test_an_upright_camera_gets_the_upright_size(patch: int) -> None:
    for camera in CAMERAS:
        height, width = input_size(camera, patch)
        assert input_size(Camera(camera.height, camera.width), patch) == (width, height)


@pytest.mark.parametrize(
    ("camera", "patch", "size"),
    [
        ("640x480", 16, (192, 256)),
        ("640x480", 14, (196, 252)),
        ("640x480", 8, (192, 256)),
        ("854x480", 14, (168, 294)),
        ("1920x1080", 16, (160, 288)),
        ("500x500", 14, (224, 224)),
        ("64x48", 8, (48, 64)),
    ],
)
def test_sizes_of_common_cameras(camera: str, patch: int, size: tuple[int, int]) -> None:
    assert input_size(parse_camera(camera), patch) == size


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_ordinary_cameras_are_hardly_squashed(patch: int) -> None:
    """Large enough for the square, and of any aspect from 1:1 to 2:1: a grid that is close always exists."""
    for width in range(480, 961, 10):
        camera = Camera(width, 480)
        assert distance(*input_size(camera, patch), camera) < 1.08


def test_a_patch_of_any_size_has_a_grid() -> None:
    """However narrow the camera: the smallest share of patches can always be reached."""
    for patch in range(7, 225):
        for camera in (Camera(patch * rows, 10**5) for rows in range(1, 224 // patch + 1)):
            assert input_size(camera, patch)[1] % patch == 0


@pytest.mark.parametrize("text", ["640", "640x", "640*480", "-640x480", "640x480x3", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--camera .*is not WIDTHxHEIGHT"):
        parse_camera(text)


@pytest.mark.parametrize("camera", ["640x13", "13x480", "0x0"])
def test_a_camera_smaller_than_a_patch_is_refused(camera: str) -> None:
    with pytest.raises(UserError, match=f"A camera of {camera} is smaller than a patch of 14x14 pixels"):
        input_size(parse_camera(camera), 14)
