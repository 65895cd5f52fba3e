"""Many bags: opened by several processes, each once; what they keep open and unpacked; the order of draws."""

import collections
import os
import shlex
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rich")

from bags import encoded, write_bag, write_topics
from rosbags.convert import cli as convert

from dino_ros.errors import UserError
from dino_ros.images import bag_files
from dino_ros.images.bag_files import MessageReader, find_messages
from dino_train.data import chunk_order, index, selection
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames
from dino_train.data.chunk_order import BATCHES, ChunkOrder, compressed_chunks
from dino_train.data.frames import open_frames
from dino_train.data.selection import SelectionParameters
from dino_train.machine import workers
from dino_train.machine.workers import in_parallel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dino_ros" / "recordings"


@pytest.fixture
def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each bag that any process walked, and for each topic whose thumbnails it made."""
    log = tmp_path / "walked"
    log.touch()
    open_bag, thumbnails = index.open_bag, BagFrames.thumbnails

    def note(name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    monkeypatch.setattr(index, "open_bag", lambda path: note(path.name) or open_bag(path))
    monkeypatch.setattr(BagFrames, "thumbnails", lambda frames: note(frames.name) or thumbnails(frames))
    return log


def several(folder: Path, count: int, first: int = 0) -> list[Path]:
    paths = [folder / f"bag{number}" for number in range(first, first + count)]
    for path in paths:
        write_bag(path, frames=3)
    return paths


@pytest.mark.parametrize("cores", [1, 3])
def test_a_new_bag_costs_only_itself(tmp_path: Path, walked: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    paths = several(tmp_path, 4)

    def opened() -> tuple[list[str], list[str]]:
        frames = open_frames(paths, ["/raw"], selection=SelectionParameters())
        lines = walked.read_text().split("\n")[:-1]
        walked.write_text("")
        return [source.name for source in frames.sources], sorted(lines)

    names, lines = opened()
    assert names == [f"bag{number} /raw" for number in range(4)], "in the order in which they were given"
    assert lines == sorted(["bag0", "bag1", "bag2", "bag3", *names])
    assert opened() == (names, [])
    paths += several(tmp_path, 1, first=4)
    assert opened() == ([*names, "bag4 /raw"], ["bag4", "bag4 /raw"])


def test_a_bag_that_was_opened_before_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bag"
    write_bag(path)
    first = open_frames([path], selection=SelectionParameters())
    monkeypatch.setattr(MessageReader, "read", None)
    monkeypatch.setattr(selection, "difference", None)
    again = open_frames([path], selection=SelectionParameters())
    assert [len(source) for source in again.sources] == [len(source) for source in first.sources] == [5, 5]


def test_after_a_stop_what_was_done_is_kept(tmp_path: Path, walked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed at one bag: the error says what to do, and the next time goes on from there."""
    monkeypatch.setattr(workers, "cores", lambda: 2)
    paths = several(tmp_path, 4)
    bits = BagFrames._sensor_bits

    def kill(frames: BagFrames) -> int:
        if frames.path.name == "bag3":
            os.kill(os.getpid(), signal.SIGKILL)
        return bits(frames)

    with monkeypatch.context() as patch:
        patch.setattr(BagFrames, "_sensor_bits", kill)
        with pytest.raises(UserError, match=r"killed while opening recordings.*is kept"):
            open_frames(paths)
    walked.write_text("")
    assert len(open_frames(paths).sources) == 8
    assert len(walked.read_text().split()) <= 2, "that bag, and one that another worker was busy with"


def test_of_several_bad_bags_the_first_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    paths = several(tmp_path, 1)
    for name in ("b.mcap", "c.mcap"):
        (tmp_path / name).write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(UserError, match=r"b\.mcap cannot be read as a bag"):
        open_frames([*paths, tmp_path / "b.mcap", tmp_path / "c.mcap"])


def test_workers_work_for_one_another_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    here = os.getpid()
    assert here not in set(in_parallel(_process, range(4), "counting"))
    assert set(in_parallel(_process, [0], "counting")) == {here}, "one item is not worth a process"


def _process(_: int) -> int:
    return os.getpid()


def test_open_files_are_bounded(tmp_path: Path) -> None:
    def open_of_bags() -> int:
        links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        return sum(str(tmp_path) in os.readlink(link) for link in links if os.path.lexists(link))

    bags = []
    for number in range(6):
        path = write_topics(
            tmp_path / f"{number}",
            {"/camera": [encoded("png", np.full((8, 8, 3), number, np.uint8))]},
            ["mcap", "sqlite3"][number % 2],
        )
        file = next(file for file in path.iterdir() if file.suffix != ".yaml")
        chunks: list[tuple[int, ...]] = []
        bags.append(([file], chunks, list(find_messages([file], chunks))))
    reader = MessageReader(open_files=2)
    before = open_of_bags()
    for number in [0, 1, 2, 3, 4, 5, 5, 4, 0, 3]:
        files, chunks, (message,) = bags[number]
        data = reader.read(files, chunks, message.offset, message.size, message.chunk)
        png = np.frombuffer(data[data.index(b"\x89PNG") :], np.uint8)
        assert cv2.imdecode(png, cv2.IMREAD_COLOR)[0, 0, 0] == number
        assert open_of_bags() - before <= 2
    reader.forget([file for files, _, _ in bags for file in files])
    assert open_of_bags() == before


def test_chunks_are_unpacked_once_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    noise = [encoded("png", rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)) for _ in range(30)]
    path = write_topics(tmp_path / "bag", {"/camera": noise}, "mcap", "storage")
    ((frames,), _) = open_bag_frames(path)
    chunks = len(frames.chunks) - 1
    assert chunks >= 4
    unpacked: list[int] = []
    decompress = bag_files.decompress

    def count(compression: str, data: bytes) -> bytes:
        content = decompress(compression, data)
        unpacked.append(len(content))
        return content

    monkeypatch.setattr(bag_files, "decompress", count)
    messages = [row.item() for row in frames._messages]

    def counted(room: int) -> int:
        unpacked.clear()
        reader = MessageReader(unpacked_bytes=room)
        for number in rng.permutation(30).tolist() * 2:
            _, *place = messages[number]
            assert len(reader.read(frames._files, frames.chunks, *place)) == place[1]
            assert sum(map(len, reader._unpacked.values())) == reader._unpacked_size
            assert reader._unpacked_size <= room or len(reader._unpacked) == 1
        return len(unpacked)

    total = int(frames.chunks["unpacked"].sum())
    assert counted(total) == chunks
    assert sum(unpacked) == total
    assert counted(total // 2) > chunks
    assert counted(0) > 2 * chunks, "the last one alone"


def test_of_bz2_the_command_that_converts_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"/camera": [encoded("png", np.full((8, 8, 3), number, np.uint8)) for number in range(3)]}
    slow = write_topics(tmp_path / "a slow.bag", images, "ros1", "bz2")
    open_frames([write_topics(tmp_path / "quick.bag", images, "ros1", "lz4")])
    assert not caplog.text
    open_frames([slow])
    command = shlex.split(caplog.text.split("`")[1])
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        convert.main()
    ((frames,), _) = open_bag_frames(tmp_path / "a slow")
    assert [int(frames[number][0, 0, 0]) for number in range(3)] == [0, 1, 2]
    assert not frames.chunks["compression"].any()


def test_where_compressed_images_lie(tmp_path: Path) -> None:
    """Two topics of a bag share its chunks; another bag's are others; what is not compressed has none."""
    rng = np.random.default_rng(0)
    noise = [encoded("png", rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)) for _ in range(40)]
    packed = [
        write_topics(tmp_path / name, {"/left": noise, "/right": noise}, "mcap", "storage") for name in ("a", "b")
    ]
    plain = write_topics(tmp_path / "plain", {"/left": noise[:3]})
    frames = open_frames([packed[0], plain, packed[1]])
    chunk_of, size = compressed_chunks(frames.sources)
    left, right, none, *others = np.split(chunk_of, np.cumsum([40, 40, 3, 40]))
    assert set(left.tolist()) == set(right.tolist())
    assert len(set(left.tolist())) > 2
    assert none.tolist() == [-1] * 3
    assert not set(left.tolist()) & set(np.concatenate(others).tolist())
    assert size == pytest.approx(2 * 2 * sum(len(data) for _, (_, data) in noise), rel=0.1)
    selected = open_frames([packed[0]], ["/left"], selection=SelectionParameters(255))  # keeps the first frame alone
    assert compressed_chunks(selected.sources)[0].tolist() == left[:1].tolist()


CHUNKS, PER_CHUNK, ALONE, BATCH = 600, 20, 2000, 10


def epochs(monkeypatch: pytest.MonkeyPatch, room: int, count: int) -> tuple[ChunkOrder, np.ndarray, np.ndarray]:
    """An order of images in chunks of a megabyte, and of some in none; the chunk of each; epochs [count, N]."""
    monkeypatch.setattr(chunk_order, "UNPACKED_BYTES", room * 2**20)
    chunk_of = np.repeat(np.arange(CHUNKS, dtype=np.int32), PER_CHUNK)
    chunk_of = np.concatenate([chunk_of, np.full(ALONE, -1, np.int32)])
    order = ChunkOrder(chunk_of, CHUNKS * 2**20, BATCH)
    rng = np.random.default_rng(1)
    return order, chunk_of, np.stack([order.shuffle(np.arange(len(chunk_of)), rng) for _ in range(count)])


def test_an_epoch_by_chunks_is_a_fair_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    order, chunk_of, orders = epochs(monkeypatch, room=60, count=200)
    assert order.stretch == 0.05
    total = len(chunk_of)
    assert (np.sort(orders, axis=1) == np.arange(total)).all(), "each image once"
    places = np.argsort(orders, axis=1)  # of each image in each epoch
    # Each image comes at every place equally often: means and spreads of uniform numbers, and as many in each tenth.
    assert abs(places.mean(axis=0) / total - 0.5).max() < 5 * 12**-0.5 / 200**0.5
    tenths = np.stack([np.bincount(places[:, image] * 10 // total, minlength=10) for image in range(0, total, 50)])
    chi_squared = ((tenths - 20) ** 2 / 20).sum(axis=1)  # of 9 degrees of freedom: mean 9, variance 18
    assert abs(chi_squared.mean() - 9) < 4 * (18 / len(tenths)) ** 0.5
    # Chunks do not stay together from epoch to epoch, and images without one are mixed among the others.
    neighbors = chunk_of[orders[:, 1:]][chunk_of[orders[:, :-1]] == 7]
    assert len(set(neighbors.tolist())) > CHUNKS / 2
    alone = (chunk_of[orders] < 0)[:, : total // BATCH * BATCH].reshape(-1, BATCH).sum(axis=1)
    assert alone.var() == pytest.approx(BATCH * ALONE / total * (1 - ALONE / total), rel=0.1), "binomial"


def test_frames_of_a_chunk_are_spread_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little room there is: that they come together would save unpacking, and make batches of one moment."""
    order, chunk_of, orders = epochs(monkeypatch, room=1, count=5)
    assert order.stretch == BATCHES * BATCH / len(chunk_of)
    batches = chunk_of[orders].reshape(-1, BATCH)
    siblings = [
        sum(n * (n - 1) for chunk, n in collections.Counter(row).items() if chunk >= 0) for row in batches.tolist()
    ]
    # Images of the same chunk that an image meets in its batch; the chunk's own make its stretch longer by as many.
    expected = (PER_CHUNK - 1) * BATCH / (BATCHES * BATCH + PER_CHUNK)
    assert np.sum(siblings) / (5 * CHUNKS * PER_CHUNK) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("processes", [1, 4])
def test_chunks_are_met_again_while_they_are_kept(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """Of images in a chunk, the first is unpacked for, and few others; in any order each would be."""
    _, chunk_of, orders = epochs(monkeypatch, room=60, count=1)
    (chunks,) = chunk_of[orders]
    unpacked = 0
    for process in range(processes):  # batches are dealt out to the loader's workers in turn
        kept: dict[int, None] = {}
        for batch in chunks[: len(chunks) // BATCH * BATCH].reshape(-1, BATCH)[process::processes].tolist():
            for chunk in filter(lambda chunk: chunk >= 0, batch):
                unpacked += chunk not in kept
                kept.pop(chunk, None)
                kept[chunk] = None
                if len(kept) > 60:
                    kept.pop(next(iter(kept)))
    assert unpacked <= 1.1 * CHUNKS * processes
    assert unpacked < CHUNKS * PER_CHUNK / 4


def test_without_compressed_chunks_the_order_is_a_plain_permutation() -> None:
    images = np.arange(50)
    order = ChunkOrder(np.full(50, -1, np.int32), 0, 8)
    assert np.array_equal(order.shuffle(images, np.random.default_rng(3)), np.random.default_rng(3).permutation(images))
