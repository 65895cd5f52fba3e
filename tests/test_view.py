"""`dino-ros view` without a browser: what its server answers, and what it refuses."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

from clients_view import Page, cosine, unanswered

from dino_ros.backends import Backend
from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_ros.taught.object_files import TaughtObjects, check_object_name
from dino_ros.view import server as server_module
from dino_ros.view.player import Player
from dino_ros.view.scene import parts
from dino_ros.view.server import Server
from dino_ros.view.teaching import Teaching


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Five frames of noise, each with a bright square elsewhere."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        image = np.random.default_rng(number).integers(0, 60, (64, 96, 3), dtype=np.uint8)
        image[16:32, 16 * number : 16 * number + 16] = (20, 90, 250)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def taught_player(recording: Path, student: Path) -> Player:
    perceiver = Perceiver.load(student, "onnxruntime")
    return Player(open_source(recording), perceiver, Teaching(perceiver, recording / "objects", check_object_name))


@pytest.fixture
def page(recording: Path, student: Path) -> Iterator[Page]:
    player = taught_player(recording, student)
    server = Server(player, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield Page(server.server_address[1])
    player.close()
    server.shutdown()
    server.server_close()


def test_frames_come_in_order_and_stop_at_a_pause(page: Page) -> None:
    first = page.frame()
    second = page.frame(after=first["number"])
    assert second["number"] > first["number"]
    page.post("/pause", {"paused": True})
    held = page.frame()
    assert "camera" not in page.frame(after=held["number"] + 1)
    page.post("/step", {})
    stepped = page.frame(after=held["number"])
    while stepped["stamp"] == held["stamp"]:
        stepped = page.frame(after=stepped["number"])
    assert (stepped["width"], stepped["height"]) == (96, 64)
    assert stepped["paused"] is True


def test_only_layers_that_are_asked_for(page: Page) -> None:
    told = page.frame(layers="mask", x=0.5, y=0.5)
    assert {"mask", "objects", "attention", "features", "similarity"} & told.keys() == {"mask"}


def test_similarities_are_the_cosines_of_the_features(page: Page, recording: Path, student: Path) -> None:
    page.post("/pause", {"paused": True})
    page.post("/step", {})
    frame = page.frame(x=0.4, y=0.4)
    files = sorted(recording.iterdir())
    bgr = np.asarray(cv2.imread(str(files[round(frame["stamp"] / 1e9 * 30)])), dtype=np.uint8)
    features = Perceiver.load(student, "onnxruntime")(np.ascontiguousarray(bgr[:, :, ::-1]), ["features"]).features
    assert features is not None
    expected = cosine(features, int(0.4 * features.shape[0]), int(0.4 * features.shape[1]))
    np.testing.assert_allclose(frame["similarities"], expected, atol=1e-3)


def test_a_paused_frame_is_masked_anew(page: Page) -> None:
    page.post("/pause", {"paused": True})
    page.post("/step", {})
    assert page.post("/parameters", {"mask_method": "attention", "mask_refine": False})[0] == 200
    masks = []
    for mass in (0.05, 0.95):
        status, told = page.post("/parameters", {"mask_attention_mass": mass})
        assert (status, told["parameters"]["mask_attention_mass"]) == (200, mass)
        masks.append(page.pixels(page.frame()["mask"])[:, :, 3])
    assert (masks[0] > 0).sum() < (masks[1] > 0).sum()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mask_steady": 2.0}, "mask_steady"),
        ({"mask_steady": "0.5"}, "mask_steady"),
        ({"mask_components": 1.5}, "mask_components"),
        ({"mask_refine": 1}, "mask_refine"),
        ({"mask_method": "magic"}, "mask_method"),
        ({"mask_attention_head": 60}, "mask_attention_head"),
        ({"model": "/etc/passwd"}, "model"),
        ([1], "object"),
    ],
)
def test_only_parameters_of_the_mask_within_their_range(page: Page, values: Any, named: str) -> None:
    before = page.frame()["values"]
    status, told = page.post("/parameters", values)
    assert status == 400
    assert named in told["error"]
    assert page.frame()["values"] == before


def paused_frame(page: Page) -> Any:
    """The first frame: its square, of 2x2 patches, is 16 to 32 pixels down at the left."""
    page.post("/pause", {"paused": True})
    page.post("/step", {})
    frame = page.frame()
    while frame["stamp"] != 0:
        page.post("/step", {})
        frame = page.frame(after=frame["number"])
    return frame


def test_what_is_clicked_and_named_is_found_in_this_frame_and_the_next(
    page: Page, student: Path, recording: Path
) -> None:
    frame = paused_frame(page)
    assert (frame["looks"], "found" in frame) == ({}, False)
    status, pointed = page.post("/point_out", {"number": frame["number"], "x": 0.1, "y": 0.4})
    assert status == 200
    assert page.pixels(pointed["picture"]).shape[2] == 3
    assert page.post("/teach", {"shown": pointed["shown"], "name": "square", "shows_it": True})[0] == 200
    here = page.frame()
    assert here["looks"] == {"square": 1}
    x, y, width, height = here["found"]["square"]["boxes"][0]
    assert here["found"]["square"]["score"] > 0.5
    assert abs(np.array([x, y, x + width, y + height]) - [0, 16, 16, 32]).max() <= 8
    painted = page.pixels(here["taught"])[:, :, 3] > 0
    assert painted[20:28, 4:12].all()
    assert painted.mean() < 0.1
    page.post("/step", {})
    there = page.frame(after=here["number"])["found"]["square"]["boxes"][0]
    assert abs(there[0] - 16) <= 8

    # It is what a node reads, and what another program taught meanwhile is not lost.
    TaughtObjects.load(recording / "objects", read_student(student), student).undo("square")
    pointed = page.post("/point_out", {"number": frame["number"], "x": 0.1, "y": 0.4})[1]
    assert page.post("/teach", {"shown": pointed["shown"], "name": "again", "shows_it": True})[0] == 200
    assert page.frame()["looks"] == {"again": 1}
    objects = TaughtObjects.load(recording / "objects", read_student(student), student)
    assert [(one.how, one.shows_it) for one in objects.records["again"]] == [("click", True)]
    assert objects.looks["again"][0].mask[20:28, 4:12].all(), "of the frame that was clicked, not of the one in view"


def test_looks_add_up_are_taken_back_and_forgotten(page: Page) -> None:
    frame = paused_frame(page)
    for place, shows_it in (({"x": 0, "y": 0.2, "width": 0.2, "height": 0.4}, True), ({"x": 0.9, "y": 0.9}, False)):
        pointed = page.post("/point_out", {"number": frame["number"], **place})[1]
        assert page.post("/teach", {"shown": pointed["shown"], "name": "square", "shows_it": shows_it})[0] == 200
    assert page.frame()["looks"] == {"square": 2}
    assert page.post("/undo", {"name": "square"})[0] == 200
    assert page.frame()["looks"] == {"square": 1}
    assert page.post("/forget", {"name": "square"})[0] == 200
    last = page.frame()
    assert (last["looks"], "found" in last) == ({}, False)


@pytest.mark.parametrize(
    ("path", "values", "said"),
    [
        ("/point_out", {"number": 10**9, "x": 0.5, "y": 0.5}, "This frame is gone"),
        ("/point_out", {"number": 1, "x": 1.5, "y": 0.5}, "from 0 to 1"),
        ("/point_out", {"number": 1, "x": True, "y": 0.5}, "from 0 to 1"),
        ("/point_out", {"number": "1", "x": 0.5, "y": 0.5}, "number is '1'"),
        ("/teach", {"shown": 0, "name": "cup"}, "pointed out"),
        ("/teach", {"shown": 0, "name": "../cup"}, "cannot be the name of an object"),
        ("/teach", {"shown": 0, "name": ["cup"]}, "has no name"),
        ("/undo", {"name": "cup"}, "There is no object 'cup'"),
        ("/forget", {"name": "../../cup"}, "There is no object"),
    ],
)
def test_what_cannot_be_taught_is_said_in_a_sentence(page: Page, path: str, values: Any, said: str) -> None:
    status, told = page.post(path, values)
    assert status == 400
    assert said in told["error"]


def test_strangers_on_the_network_change_no_files(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = server_module.Handler
    monkeypatch.setattr(handler, "setup", lambda self: (setattr(self, "client_address", ("192.0.2.7", 1)), base(self)))
    base = handler.__mro__[1].setup  # type: ignore[attr-defined]
    assert json.loads(page.get("/about")[2])["teaches"] is False
    for path in server_module.TEACHING:
        status, told = page.post(path, {"number": 1, "shown": 1, "x": 0.5, "y": 0.5, "name": "cup"})
        assert (status, "ssh -L" in told["error"]) == (400, True), path
    assert page.post("/parameters", {"mask_steady": 0.25})[0] == 200


def test_crumbs_of_a_mask_get_no_box() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 5:25] = mask[20:30, 40:45] = 255
    mask[35, 35] = 255
    assert parts(mask) == [[5, 5, 20, 10], [40, 20, 5, 10]]
    assert parts(np.zeros_like(mask)) == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_names_of_others_are_refused(page: Page, host: str, status: int) -> None:
    assert page.get("/about", {"Host": host})[0] == status


def test_forms_of_others_change_nothing(page: Page) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port)
    connection.request("POST", "/parameters", json.dumps({"mask_steady": 0.1}), {"Content-Type": "text/plain"})
    assert connection.getresponse().status == 400
    assert page.frame()["values"]["mask_steady"] != 0.1


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/page.js", 200), ("/../setup.py", 404), ("/frame?x=2&y=0", 400), ("/frame?layers=magic", 400)],
)
def test_pages(page: Page, path: str, status: int) -> None:
    answered, headers, _ = page.get(path)
    assert answered == status
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


class Lone:
    """An engine that, once `waits` is set, stays in a call until a second thread comes, or half a second."""

    description = ""

    def __init__(self, engine: Backend) -> None:
        self._engine = engine
        self._inside = 0
        self.waits = False
        self.entered, self.met = threading.Event(), threading.Event()

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self._inside += 1
        if self._inside > 1:
            self.met.set()
        if self.waits:
            self.entered.set()
            self.met.wait(0.5)
        self._inside -= 1
        return self._engine(images, outputs)


def test_one_thread_at_a_time_runs_the_engine(recording: Path) -> None:
    perceiver = Perceiver.load("table_vit_micro_8", "onnxruntime")
    perceiver.backend = engine = Lone(perceiver.backend)
    player = Player(open_source(recording), perceiver, Teaching(perceiver, recording / "objects", check_object_name))
    player.set_parameters({"mask_method": "attention"})
    assert player.scene(0, 30.0, ())
    player.pause(True)
    engine.waits = True
    player.step()
    assert engine.entered.wait(10)
    player.set_parameters({"mask_method": "foreground"})  # of which the frame in view lacks the student's output
    player.close()
    assert not engine.met.is_set()


def test_the_server_ends_after_the_threads_that_answer() -> None:
    entered, answered = threading.Event(), threading.Event()

    class Slow:
        def scene(self, *asked: Any) -> None:
            entered.set()
            answered.wait(0.3)  # a server that does not wait ends meanwhile
            answered.set()

        def __getattr__(self, name: str) -> Any:
            return lambda: {}

    server = Server(Slow(), "127.0.0.1", 0)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asking = threading.Thread(target=unanswered, args=(lambda: Page(server.server_address[1]).frame(after=0),))
    asking.start()
    assert entered.wait(10)
    server.shutdown()
    server.server_close()
    assert answered.is_set()
    asking.join()


def test_a_port_in_use(page: Page) -> None:
    with pytest.raises(UserError, match=f"Port {page.port} is in use"):
        Server(None, "127.0.0.1", page.port)  # type: ignore[arg-type]


def test_a_video_without_ros(tmp_path: Path, student: Path) -> None:
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (96, 64))
    for number in range(3):
        writer.write(np.full((64, 96, 3), 80 * number, np.uint8))
    writer.release()
    # Ctrl-C as in a terminal: a shell that runs the tests in the background has SIGINT ignored.
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    block = interruptible + "import sys; sys.modules['rclpy'] = None; from dino_ros.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        block,
        "view",
        video,
        "--model",
        student,
        "--backend",
        "onnxruntime",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("Open http://localhost:"))
        frame = Page(int(line.split(":")[2].partition("/")[0])).frame()
        assert (frame["width"], frame["height"]) == (96, 64)
        process.send_signal(2)
        assert process.wait(20) == 130
    finally:
        process.kill()
