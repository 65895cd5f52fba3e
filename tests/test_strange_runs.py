"""What happens to a run: its data changes, its folder cannot be written, its files are damaged, it is stopped."""

import contextlib
import logging
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bags import raw, write_topics
from shapes import write_shapes
from tiny_recipe import RECIPE

from dino_ros.errors import UserError
from dino_ros.files import check_replaceable, check_writable, remove_leftovers, replacing, write_whole
from dino_train import cli
from dino_train.cli import run
from dino_train.commands import pretrain
from dino_train.commands.export import default_out
from dino_train.commands.training_run import arrange
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.images import decode
from dino_train.data.listing import as_started, fingerprint, keep_listing, list_images
from dino_train.data.loader import EpochSampler, crop_loader
from dino_train.data.selection import SelectionParameters
from dino_train.machine import distributed
from dino_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dino_train.models.weight_files import find_weights, is_checkpoint, read_weights
from dino_train.recipes.files import read_settings
from dino_train.runs.log import LAST_NAME, RunLog, epoch_name
from dino_train.training import trainer
from dino_train.training.checks import check_no_run, same_data

CPU = MachineConfig(device="cpu", workers=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return write_shapes(tmp_path / "images", 70)


def a_checkpoint(images: int = 70, fingerprint: str = "") -> Checkpoint:
    weights = {"student.weight": torch.arange(3000.0).reshape(50, 60), "center": torch.ones(7)}
    return Checkpoint(
        recipe=RECIPE,
        data=DataConfig(["images"]),
        machine=CPU,
        evaluation=EvaluationConfig(),
        images=images,
        step=3,
        steps_per_epoch=5,
        objective=weights,
        optimizer={},
        scaler={},
        seconds=1.0,
        fingerprint=fingerprint,
    )


# ---- the data changes --------------------------------------------------------------------------------------------


def test_the_files_of_a_folder_keep_their_numbers(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is removed, one renamed to the front, one replaced, one new: the others are drawn as they would have been."""
    caplog.set_level(logging.INFO)
    before = open_frames([images])
    expected = keep_listing(before, tmp_path)
    pictures = [before[number] for number in range(70)]
    assert as_started(open_frames([images]), expected, tmp_path).sources[0].files[3] == "0003.png"
    (images / "0003.png").unlink()
    (images / "0050.png").rename(images / "0000a.png")
    shutil.copy(images / "0001.png", images / "0060.png")
    shutil.copy(images / "0002.png", images / "zz.png")

    caplog.clear()
    after = as_started(open_frames([images]), expected, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "images: 2 gone since the run was started, and left out: 0003.png, 0050.png",
        "images: 1 changed since the run was started: 0060.png",
        "images: 2 new since the run was started, and not used: 0000a.png, zz.png",
    ]
    orders = [[*EpochSampler(frames, RECIPE)] for frames in (before, after)]
    assert orders[0] == orders[1]
    for number in range(70):
        if number in (3, 50):
            with pytest.raises(UserError, match=rf"00{number:02}\.png cannot be read \(No such file"):
                after[number]
        else:
            np.testing.assert_array_equal(after[number], pictures[1 if number == 60 else number])


def test_a_listing_holds_any_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"\xff.png", "ü\n.png".encode()):
        (tmp_path / "images" / "x.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3)))[1].tobytes())
        (tmp_path / "images" / "x.png").rename(
            Path(bytes(tmp_path).decode()) / "images" / name.decode("utf-8", "surrogateescape")
        )
    expected = keep_listing(open_frames([tmp_path / "images"]), tmp_path)
    (tmp_path / "images" / "ü\n.png").unlink()
    assert len(as_started(open_frames([tmp_path / "images"]), expected, tmp_path)) == 2


def test_other_data_that_changed_is_refused_by_name(images: Path, tmp_path: Path) -> None:
    def bag(values: range) -> MixedFrames:
        shutil.rmtree(tmp_path / "bag", ignore_errors=True)
        frames = [raw("rgb8", np.full((12, 16, 3), 9 * value, np.uint8)) for value in values]
        bag = write_topics(tmp_path / "bag", {"/camera": frames})
        return open_frames([images, bag], selection=SelectionParameters(1))

    expected = keep_listing(bag(range(5)), tmp_path)
    assert fingerprint(list_images(bag(range(5)))) == expected
    with pytest.raises(UserError, match=r"bag /camera is not what it was .* 5 images, and has 6 now"):
        as_started(bag(range(6)), expected, tmp_path)
    for damaged in (b"", b"{}", b"[1]", b'[{"name": "images"}]'):
        (tmp_path / "images.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"The data, 76 images, is not that with which"):
            as_started(bag(range(6)), expected, tmp_path)


def test_a_checkpoint_of_format_3_knows_only_how_many_images_there_were(images: Path, tmp_path: Path) -> None:
    save_checkpoint(a_checkpoint(70), tmp_path / "old.pt")
    fields = torch.load(tmp_path / "old.pt", weights_only=True)
    del fields["fingerprint"]
    torch.save({**fields, "format_version": 3}, tmp_path / "old.pt")
    old = load_checkpoint(tmp_path / "old.pt")
    frames = open_frames([images])
    assert same_data(frames, old, tmp_path) is frames
    (images / "0000.png").unlink()
    with pytest.raises(UserError, match="69 images, but 70"):
        same_data(open_frames([images]), old, tmp_path)


class Failing:
    """Numbered images, every third of which cannot be read."""

    name = "failing"
    sources = (range(24),)
    weights = (1.0,)

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> np.ndarray:
        if index % 3 == 0:
            raise UserError(f"image {index} does not decode")
        return np.full((40, 40, 3), index, np.uint8)


def test_all_workers_know_which_images_are_bad(tmp_path: Path) -> None:
    """Over three epochs each is named once."""
    frames = Failing()
    said = logging.FileHandler(tmp_path / "said")  # of all workers
    logging.getLogger("dino_train.data.loader").addHandler(said)
    recipe = type(RECIPE)(crops=RECIPE.crops, epochs=3, batch_size=4)
    loader = crop_loader(frames, recipe, EpochSampler(frames, recipe), workers=2)  # type: ignore[arg-type]
    assert len([*loader]) == 18
    logging.getLogger("dino_train.data.loader").removeHandler(said)
    said.close()
    named = sorted(int(line.split()[3]) for line in (tmp_path / "said").read_text().splitlines())
    assert named == [*range(0, 24, 3)]
    assert loader.dataset.bad.nonzero().ravel().tolist() == [*range(0, 24, 3)]  # type: ignore[attr-defined]


def test_bad_images_are_counted_at_the_end_of_each_epoch(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(0, 70, 7):
        (images / f"{number:04d}.png").write_bytes(b"no image")
    short = type(RECIPE)(RECIPE.backbone, RECIPE.crops, RECIPE.optimizer, epochs=2, batch_size=35, dino=RECIPE.dino)
    trainer.train(short, DataConfig([str(images)]), tmp_path / "run", CPU, EvaluationConfig(every=0))
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not decode" in line for line in said) == 10
    totals = [line for line in said if line.startswith("epoch")]
    assert totals == [f"epoch {n}: 10 of 70 images cannot be read; others take their place" for n in (1, 2)]


def test_a_folder_of_corrupt_files_is_no_data(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(36):
        (images / f"{number:04d}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="More than 50% of the 70 images of images cannot be read"):
        run(["data", str(images), "--out", str(tmp_path / "sheet.png")])
    assert sum("does not decode" in record.getMessage() for record in caplog.records) == 36
    assert "36" in capsys.readouterr().out


def test_a_small_file_of_a_huge_image_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"bomb\.jpg is of 30000x30000 pixels"):
        decode(bytes(jpeg), "bomb.jpg")


# ---- files are damaged -------------------------------------------------------------------------------------------


def test_flipped_bytes_are_found(tmp_path: Path) -> None:
    """Anywhere in the file: it is refused, or what is read is what was written."""
    path = tmp_path / "last.pt"
    save_checkpoint(a_checkpoint(), path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused: list[str] = []
    for at in rng.integers(0, len(content), 300).tolist():
        path.write_bytes(content[:at] + bytes([content[at] ^ int(rng.integers(1, 256))]) + content[at + 1 :])
        try:
            is_checkpoint(path)
            weights = read_weights(path).state
            loaded = load_checkpoint(path)
        except UserError as error:
            refused.append(str(error))
            continue
        assert loaded.step == 3
        for name, tensor in a_checkpoint().objective.items():
            assert torch.equal(tensor, loaded.objective[name]), at
            assert torch.equal(tensor, weights[f"objective.{name}"]), at
    assert len(refused) > 150, "weights are most of the file"
    assert all(str(path) in sentence and "\n" not in sentence for sentence in refused)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("read", [load_checkpoint, read_weights])
def test_a_refused_pickle_gets_no_advice_to_execute_it(
    read: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"format_version": 4, "weights": Runs()}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt .*tensors and plain values") as caught:
        read(tmp_path / "theirs.pt")  # type: ignore[operator]
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_a_pipe_is_no_weights_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt is neither a file nor a folder"):
        find_weights(str(tmp_path / "weights.pt"))
    for option in ("--config", "--resume", "--out"):
        with pytest.raises(UserError, match=r"weights\.pt"):
            run(["pretrain", *([] if option == "--resume" else ["x"]), option, str(tmp_path / "weights.pt")])


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 64))])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (BOMB.encode(), r"refers to parts of itself"),
        (bytes(range(256)), "is not valid YAML"),
        (b"\x7fELF\x00\x00", "is not valid YAML"),
        (b"[" * 5000, "is nested more than 20 deep"),
        (b"a: 2001-99-99", "is not valid YAML"),
        (b"- 1\n- 2", "has no settings"),
        (b"", "has no settings"),
        (b"# " + bytes(2_000_000), "is too large"),
    ],
    ids=["aliases", "bytes", "program", "deep", "date", "list", "empty", "large"],
)
def test_what_is_no_recipe_gets_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    for reads in (
        lambda: read_settings(tmp_path / "recipe.yaml"),
        lambda: run(["pretrain", "x", "--config", str(tmp_path / "recipe.yaml")]),
        lambda: run(["pretrain", "x", "--optimizer", str(tmp_path / "recipe.yaml")]),
        lambda: run(["pretrain", "x", f"--optimizer={tmp_path / 'recipe.yaml'}"]),
    ):
        with pytest.raises(UserError, match=rf"recipe\.yaml {sentence}") as caught:
            reads()
        assert "\n" not in str(caught.value)


# ---- the folder cannot be written --------------------------------------------------------------------------------


def test_where_nothing_can_be_written(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "run", "Not a directory"),
        (Path("/proc/run"), ""),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=rf"cannot be written into \(.*{reason}.*another --out"):
            check_writable(out)
        with pytest.raises(UserError, match="cannot be written into"):
            run(["pretrain", str(images), "--out", str(out)])
    with pytest.raises(UserError, match="images is a folder"):
        check_replaceable(images)
    check_writable(tmp_path / "not" / "there")
    assert not (tmp_path / "not").exists()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files cannot grow beyond 10 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / LAST_NAME
    save_checkpoint(a_checkpoint(), path)
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=r"last\.pt cannot be written \(File too large\): make room, then resume"):
        save_checkpoint(a_checkpoint(images=1), path)
    assert load_checkpoint(path).images == 70
    with pytest.raises(OSError, match="File too large") as caught:
        write_whole(tmp_path / "report.html", bytes(20_000))
    assert caught.value.filename == str(tmp_path / "report.html")
    assert {file.name for file in tmp_path.iterdir()} == {LAST_NAME}
    with RunLog(tmp_path, 0) as run_log, pytest.raises(OSError, match=r"File too large.*log\.jsonl"):
        run_log.write({"step": 1, "epoch": 1, **{f"value {number}": number for number in range(1000)}})


def test_other_errors_of_the_system_get_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: object) -> None:
        (tmp_path / "file").write_text("")
        with replacing(tmp_path / "file" / "report.html"):
            pass

    monkeypatch.setattr(cli.report, "run", refuse)
    monkeypatch.setattr("sys.argv", ["dino-train", "report", "run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_temporary_files_of_killed_processes_go(tmp_path: Path) -> None:
    running, gone = f".last.{os.getpid()}.tmp.pt", ".last.4194399.tmp.pt"
    for name in (running, gone, ".hidden.tmp.pt", "last.pt"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {running, ".hidden.tmp.pt", "last.pt"}


# ---- it is stopped, and goes on ----------------------------------------------------------------------------------


def test_a_run_without_a_step_can_be_started_again(images: Path, tmp_path: Path) -> None:
    for name in (epoch_name(0), "best.pt", "non_finite.pt"):
        (tmp_path / name).write_bytes(b"")
    check_no_run(tmp_path)
    for name in (LAST_NAME, epoch_name(2)):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match="already holds a run"):
            check_no_run(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("steps", [0, 1])
def test_what_to_do_after_ctrl_c(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"

    def train(*arguments: object) -> None:
        out.mkdir()
        if steps:
            (out / LAST_NAME).write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr("sys.argv", ["dino-train", "pretrain", "x", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said == (
        f"Stopped. Go on with: dino-train pretrain --resume '{out}'\n"
        if steps
        else "Stopped before the first checkpoint: start it again with the same command.\n"
    )


@pytest.mark.parametrize(
    "options",
    [["--epochs", "9"], ["--config", "smoke"], ["--out=x"], ["--dino.out_dim", "9"], ["--weight", "{a: 2}"]],
    ids=lambda options: options[0],
)
def test_resume_takes_no_other_recipe(options: list[str]) -> None:
    with pytest.raises(UserError, match=rf"--resume goes on with .* leave {options[0].split('=')[0]} out"):
        run(["pretrain", "--resume", "runs/none", *options])
    with pytest.raises(UserError, match="There is no checkpoint runs/none"):
        run(["pretrain", "--resume", "runs/none", "--machine.workers", "1"])


def test_options_win_over_the_recipe_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []
    monkeypatch.setattr(pretrain, "run", parsed.append)
    recipe = ["--config", "smoke"]
    for words in (
        [*recipe, "--epochs", "7", "--dino.out_dim", "33", "--topic", "/a", "/b", "--", "bag"],
        ["bag", "--epochs", "7", *recipe, "--dino.out_dim", "33", "--topic", "/a", "/b"],
        ["--dino.out_dim", "33", "--topic", "/a", "/b", "--config=smoke", "bag", "--epochs", "7"],
    ):
        run(["pretrain", *words])
        (options,) = parsed
        assert (options.epochs, options.dino.out_dim, options.data, options.topic) == (  # type: ignore[attr-defined]
            7, 33, ["bag"], ["/a", "/b"]
        )  # fmt: skip
        assert options.crops.global_crops_size == 32  # type: ignore[attr-defined]
        parsed.clear()
    with pytest.raises(UserError, match="no recipe ''"):
        arrange(["pretrain", "bag", "--config"])


def test_a_run_of_less_than_a_step_is_refused(images: Path, tmp_path: Path) -> None:
    few = type(RECIPE)(RECIPE.backbone, RECIPE.crops, epochs=0.01, batch_size=10, dino=RECIPE.dino)
    with pytest.raises(UserError, match=r"epochs is 0\.01, less than a step .* 7: choose at least 0\.14"):
        trainer.train(few, DataConfig([str(images)]), tmp_path / "run", CPU, EvaluationConfig(every=0))
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_processes_is_said_by_the_main_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait to be ended by torchrun, and speak only if they are not: then the error is theirs alone."""
    waited: list[str] = []
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: waited.append(capsys.readouterr().err))
    monkeypatch.setattr("sys.argv", ["dino-train", "report", "/nowhere"])
    for rank, waits in (("0", 0), ("1", 1)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            cli.main()
        assert capsys.readouterr().err.startswith("dino-train: /nowhere")
        assert waited == [""] * waits


def test_students_of_different_precision_have_different_names(tmp_path: Path) -> None:
    save_checkpoint(a_checkpoint(), tmp_path / "last.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "vit.pth")
    names = {
        (weights, precision): default_out(str(weights), precision)
        for weights in (tmp_path / "last.pt", tmp_path / "vit.pth", "vit_tiny")
        for precision in ("fp32", "fp16", "int8")
    }
    assert {path.name for path in names.values()} == {
        f"{stem}{ending}.onnx" for stem in ("student", "vit", "vit_tiny") for ending in ("", "_fp16", "_int8")
    }


def test_an_error_of_the_main_process_is_raised_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def broadcast(objects: list[object]) -> None:
        if processes.main:
            told[:] = objects
        else:
            objects[:] = told

    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", broadcast)
    for failure in (UserError("no data"), None):
        opened = []
        for rank in (0, 1):
            processes = distributed.Processes(rank, 2, torch.device("cpu"))
            with (
                pytest.raises(UserError, match="no data") if failure else contextlib.nullcontext(),
                distributed.main_first(processes),
            ):
                opened.append(rank)
                if failure:
                    raise failure
        assert opened == ([0] if failure else [0, 1])
