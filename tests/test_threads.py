"""A run on a CPU takes the cores that are free, unless somebody says how many."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode

from dino_train.machine import threads
from dino_train.machine.threads import busy_cores, choose_threads, free_threads
from dino_train.objectives.methods import build_objective
from dino_train.recipes.files import load_recipe
from dino_train.training.fit_to_machine import step_operations


@pytest.mark.parametrize(
    ("loadavg", "busy"),
    [
        ("0.00 0.10 0.20 1/300 99", 0.0),  # this process alone
        ("1.90 0.50 0.10 1/300 99", 0.0),  # what kept the machine busy has ended
        ("0.10 0.50 0.10 7/300 99", 0.1),  # what runs now has just begun
        ("5.05 4.68 4.18 7/300 99", 5.05),
    ],
)
def test_load_is_what_lasts_and_goes_on(loadavg: str, busy: float) -> None:
    assert busy_cores(loadavg) == busy


@pytest.mark.parametrize(
    ("cores", "load", "all_cores", "free"),
    [
        (2, 0.0, 2, 2),
        (2, 0.3, 2, 2),
        (2, 1.2, 2, 1),
        (2, 9.0, 2, 1),
        (8, 2.0, 8, 6),
        (2, 32.0, 64, 1),
        (8, 16.0, 64, 6),
    ],
)
def test_threads_by_what_is_free(cores: int, load: float, all_cores: int, free: int) -> None:
    assert free_threads(cores, load, all_cores) == free


def test_who_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    load = tmp_path / "loadavg"
    load.write_text("64.0 64.0 64.0 65/300 99")
    monkeypatch.setattr(threads, "LOADAVG", load)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        with caplog.at_level(logging.INFO):
            assert choose_threads(None, 1e12) == torch.get_num_threads() == 1
        (line,) = caplog.messages
        assert line == "Using 1 of 3 cores, since other programs keep 64.0 busy: --machine.threads takes more."
        assert choose_threads(2, 1e12) == torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert choose_threads(None, 1e12) == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("recipe", "takes"), [("smoke", 1), ("robot_bag", 8), ("small_moco", 8)])
def test_a_small_model_takes_one_of_idle_cores(
    recipe: str, takes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tmp_path / "loadavg"
    load.write_text("0.0 0.0 0.0 1/300 99")
    monkeypatch.setattr(threads, "LOADAVG", load)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    settings, _ = load_recipe(recipe).resolve(1000)
    try:
        assert choose_threads(None, step_operations(build_objective(settings, False), settings)) == takes
    finally:
        torch.set_num_threads(before)


def test_operations_of_a_step_are_those_that_torch_counts() -> None:
    """Within half: heads and products of attention are left out, and the teacher counts as if it learned."""
    recipe, _ = load_recipe("robot_bag").resolve(1000)
    recipe = dataclasses.replace(recipe, batch_size=2)
    objective = build_objective(recipe, False)
    crops = [torch.randn(4, 3, 64, 64), torch.randn(4, 3, 32, 32)]
    with FlopCounterMode(display=False) as counter:
        loss, _ = objective(crops, objective.schedule(0, 100, 10))
        loss.backward()
    assert step_operations(objective, recipe) == pytest.approx(counter.get_total_flops(), rel=0.5)


def test_threads_that_wait_leave_their_core_to_others() -> None:
    """What OpenMP itself says of how its threads wait, once a command has imported torch."""
    command = (
        "import sys; from dino_train import cli; sys.argv[1:] = ['export', 'none', '--out', 'none.onnx']; cli.main()"
    )
    decided = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in decided}
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in done.stderr, done.stderr
