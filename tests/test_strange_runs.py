"""What happens to a run: its folder cannot be written, its files are damaged, it is stopped, its settings are odd."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shapes import write_shapes
from tiny_recipe import CPU, RECIPE, a_checkpoint

from dino_ros.errors import UserError
from dino_ros.files import check_replaceable, check_writable, remove_leftovers, replacing, write_whole
from dino_train import cli
from dino_train.cli import run
from dino_train.commands import pretrain
from dino_train.commands.export import default_out
from dino_train.commands.training_run import arrange
from dino_train.config import DataConfig, EvaluationConfig
from dino_train.machine import distributed
from dino_train.models.checkpoint import load_checkpoint, save_checkpoint
from dino_train.models.weight_files import find_weights, is_checkpoint, read_weights
from dino_train.recipes.files import read_settings
from dino_train.runs.log import LAST_NAME, RunLog, epoch_name
from dino_train.training import trainer
from dino_train.training.checks import check_no_run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return write_shapes(tmp_path / "images", 70)


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
    host = os.uname().nodename
    running, gone = f".last.{host}.{os.getpid()}.tmp.pt", f".last.{host}.4194399.tmp.pt"
    elsewhere = ".last.another-host.4194399.tmp.pt"  # on a disk that hosts share
    for name in (running, gone, elsewhere, ".hidden.tmp.pt", "last.pt"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {running, elsewhere, ".hidden.tmp.pt", "last.pt"}


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
    with pytest.raises(UserError, match=r"epochs is 0\.01, less than a step .* 7: give --epochs 0\.14 or more"):
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
