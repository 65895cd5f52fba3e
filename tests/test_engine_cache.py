"""The cache of engines: every way in which an engine is stale, two processes at once, a read-only folder.

The build is a stand-in that returns a few bytes.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dino_ros.backends.engine_cache import (
    EngineKey,
    EngineRecord,
    engine_file,
    open_engine,
    record_file,
    why_not_own,
)
from dino_ros.errors import UserError

KEY = EngineKey(
    student="5" * 64,
    precision="fp16",
    height=224,
    width=224,
    largest_batch=1,
    variant="tensorrt",
    version="10.3.0",
    device="Orin (nvgpu)",
    capability="8.7",
)


class Builder:
    """Counts its builds, each of other bytes, and keeps what is reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.builds = 0
        self.heard: list[str] = []

    def build(self) -> bytes:
        self.builds += 1
        return f"engine {self.builds}".encode()

    def open(self, key: EngineKey = KEY, load: Callable[[bytes], bytes] = bytes) -> tuple[bytes, EngineRecord]:
        return open_engine(key, "engine of s.onnx", self.build, load, self.heard.append, self.folder)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "engines")


def test_an_engine_is_built_once(builder: Builder) -> None:
    built, found = builder.open(), builder.open()
    assert built == found
    assert (built[0], builder.builds, builder.heard) == (b"engine 1", 1, [])
    values = json.loads(record_file(builder.folder, KEY).read_text())
    assert values["key"] == dataclasses.asdict(KEY)
    assert (values["bytes"], values["seconds"]) == (8, 0.0)
    assert not list(builder.folder.glob("*.tmp"))


@pytest.mark.parametrize(
    "change",
    [
        {"student": "6" * 64},
        {"largest_batch": 4},
        {"variant": "tensorrt_rtx"},
        {"device": "Thor"},
        {"capability": "11.0"},
    ],
    ids=str,
)
def test_engines_that_may_be_needed_side_by_side_do_not_replace_each_other(
    builder: Builder, change: dict[str, object]
) -> None:
    other = dataclasses.replace(KEY, **change)  # type: ignore[arg-type]
    for _ in range(2):
        assert builder.open()[0] == b"engine 1"
        assert builder.open(other)[0] == b"engine 2"
    assert (builder.builds, builder.heard) == (2, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "10.13.0"}, "version 10.3.0, not 10.13.0"),
        ({"precision": "fp32"}, "precision fp16, not fp32"),
        ({"height": 448}, "height 224, not 448"),
        ({"student": "5" * 16 + "6" * 48}, f"student {'5' * 64}, not {'5' * 16}{'6' * 48}"),
        ({"device": "Orin_nvgpu_"}, "device Orin (nvgpu), not Orin_nvgpu_"),
    ],
    ids=str,
)
def test_an_engine_of_another_key_is_replaced(builder: Builder, change: dict[str, object], reason: str) -> None:
    builder.open()
    other = dataclasses.replace(KEY, **change)  # type: ignore[arg-type]
    assert other.name == KEY.name
    assert builder.open(other)[0] == b"engine 2"
    assert len(builder.heard) == 1
    assert f"engine of s.onnx in the cache is not used: it was built for {reason}." in builder.heard[0]
    assert builder.open(other)[0] == b"engine 2"
    assert builder.builds == 2


def truncate(folder: Path) -> None:
    file = engine_file(folder, KEY)
    file.write_bytes(file.read_bytes()[:-1])


def rewrite_record(text: str) -> Callable[[Path], None]:
    return lambda folder: void(record_file(folder, KEY).write_text(text))


def void(value: object) -> None:
    """Turns a call that returns something into a statement."""


DAMAGE = {
    "engine truncated": (truncate, "it is damaged"),
    "engine of another build": (lambda f: void(engine_file(f, KEY).write_bytes(b"engine 7")), "it is damaged"),
    "record missing": (lambda f: record_file(f, KEY).unlink(), "missing or damaged"),
    "record cut off": (rewrite_record('{"key": {"student": "55'), "missing or damaged"),
    "record of no object": (rewrite_record("[1, 2]"), "missing or damaged"),
    "record lacks fields": (rewrite_record('{"key": {"student": "5"}}'), "missing or damaged"),
    "record not text": (lambda f: void(record_file(f, KEY).write_bytes(b"\xff\xfe\x00")), "missing or damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_engine_is_replaced(builder: Builder, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    _, first = builder.open()
    damage(builder.folder)
    data, second = builder.open()
    assert (data, builder.builds, len(builder.heard)) == (b"engine 2", 2, 1)
    assert reason in builder.heard[0]
    assert first.build != second.build
    assert builder.open() == (data, second)


STRANGER = 54321
"""Number of a user who is neither root nor the one who runs the tests."""


PLACES = {"engine": engine_file, "record": record_file, "folder": lambda folder, key: folder}


@pytest.mark.parametrize("place", PLACES)
def test_an_engine_of_another_user_is_not_loaded(builder: Builder, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.open()
    if os.geteuid() == 0:
        os.chown(PLACES[place](builder.folder, KEY), STRANGER, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert builder.open()[0] == b"engine 2"
    assert len(builder.heard) == 1
    assert re.search(r"is not used: \S* belongs to another user \(number \d+\); remove it", builder.heard[0])


@pytest.mark.parametrize("place", PLACES)
def test_an_engine_that_everybody_may_write_is_not_loaded(builder: Builder, place: str) -> None:
    builder.open()
    path = PLACES[place](builder.folder, KEY)
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    assert builder.open()[0] == b"engine 2"
    assert len(builder.heard) == 1
    assert f"is not used: everybody may write to {path}; take that away with `chmod o-w`." in builder.heard[0]
    path.chmod(mode)
    assert builder.open()[0] == b"engine 2"


def test_engines_of_root_and_those_in_a_folder_such_as_tmp_are_loaded(builder: Builder) -> None:
    built = builder.open()
    builder.folder.chmod(0o1777)
    assert builder.open() == built
    root = Path("/").stat()
    assert root.st_uid == 0
    assert why_not_own(Path("/"), root) == ""


def test_a_missing_engine_is_built_silently(builder: Builder) -> None:
    builder.open()
    engine_file(builder.folder, KEY).unlink()
    assert builder.open()[0] == b"engine 2"
    assert builder.heard == []


def test_an_engine_that_does_not_load_is_not_kept(builder: Builder) -> None:
    def refuse(data: bytes) -> bytes:
        raise UserError("It does not load.")

    with pytest.raises(UserError, match="It does not load"):
        builder.open(load=refuse)
    assert not list(builder.folder.glob("*.engine"))


def test_an_engine_that_cannot_be_kept_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    builder = Builder(tmp_path / "file" / "engines")
    for build in (1, 2):
        assert builder.open()[0] == f"engine {build}".encode()
        assert len(builder.heard) == build  # one warning each time
    assert re.search(r"engine of s\.onnx .*engines \(Not a directory\)", builder.heard[0])


def start_node(folder: Path, log: Path, heard: Path, seconds: float) -> None:
    def build() -> bytes:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(seconds)
        return b"the engine"

    def report(sentence: str) -> None:
        with heard.open("a") as file:
            file.write(sentence + "\n")

    data, _ = open_engine(KEY, "engine of s.onnx", build, bytes, report, folder)
    assert data == b"the engine"


def test_two_processes_build_once(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    paths = (tmp_path / "engines", tmp_path / "log", tmp_path / "heard")
    nodes = [processes.Process(target=start_node, args=(*paths, 1.0)) for _ in range(3)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert [node.exitcode for node in nodes] == [0, 0, 0]
    assert paths[1].read_text() == "built\n"


def test_a_killed_builder_blocks_nobody(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    paths = (tmp_path / "engines", tmp_path / "log", tmp_path / "heard")
    killed = processes.Process(target=start_node, args=(*paths, 60.0))
    killed.start()
    while not paths[1].exists():
        time.sleep(0.01)
    waiting = processes.Process(target=start_node, args=(*paths, 0.0))
    waiting.start()
    while not (paths[2].exists() and paths[2].read_text()):  # it is made before it is written
        time.sleep(0.01)
    assert "Another process is building the engine of s.onnx" in paths[2].read_text()
    killed.kill()
    waiting.join(30)
    assert waiting.exitcode == 0
    assert paths[1].read_text() == "built\n" * 2
