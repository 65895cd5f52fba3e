"""What learns on the robot: step after step, in any order of mishaps, killed anywhere; without ROS and training."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dino_ros.errors import UserError
from dino_ros.learning import learner as module
from dino_ros.learning.jobs import Job, end_left_over
from dino_ros.learning.latency import REST, LatencyWatch
from dino_ros.learning.learner import (
    COLLECTING,
    ILL,
    REVERTING,
    SEEN_IN_DISTILLATION,
    SWAPPING,
    TRAINING,
    TRIAL,
    Learner,
    Report,
    Settings,
)

GIVEN = "/students/given.onnx"
BETTER = {"agreement": 0.7, "steadiness": 0.9, "sound": 1.0}
WORSE = {"agreement": 0.5, "steadiness": 0.9, "sound": 1.0}
SETTINGS = Settings(fewest=5, trial=3)


class Node:
    """A perception node: takes a student a moment after it was asked, or refuses."""

    def __init__(self, model: str = GIVEN) -> None:
        self.model = model
        self.refuses = ""
        self.deaf = 0
        self.ill = ""
        self.well = {model}
        """Students that do well however ill the others do."""
        self.latency: float | None = 20.0
        self.asked: list[str] = []
        self._answer: str | None = None

    def ask(self, model: str) -> bool:
        if self.deaf:
            self.deaf -= 1
            return False
        self.asked.append(model)
        self._answer = self.refuses
        if not self.refuses:
            assert model == GIVEN or Path(model).read_text() == "student", "never half a student"
            self.model = model
        return True

    def answer(self) -> str | None:
        return self._answer

    def report(self) -> Report:
        return Report(self.model, self.latency, "" if self.model in self.well else self.ill)


class Images:
    """A reservoir of which images were kept is but a number."""

    def __init__(self, kept: int = 0) -> None:
        self.kept = kept

    def count(self, part: str) -> int:
        return self.kept

    def snapshot(self, folder: Path) -> None:
        (folder / "train").mkdir(parents=True)
        for number in range(self.kept):
            (folder / "train" / f"{number}.jpg").touch()


class Training:
    """Stands for the commands: each makes its product, a moment later, or fails."""

    def __init__(self) -> None:
        self.scores = {"running": WORSE, "candidate": BETTER}
        self.fails = ""
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], folder: Path) -> "Training.Work":
        self.commands.append([*command])
        return Training.Work(self, [*command])

    class Work:
        def __init__(self, training: "Training", command: list[str]) -> None:
            self._training = training
            self._command = command
            self._written = False
            self.paused = self.killed = False

        def ended(self) -> int | None:
            if self.paused:
                return None
            if self._training.fails:
                return 1
            product = Path(self._command[self._command.index("--out") + 1])
            judges = "judge" in self._command
            if not self._written:  # it ends a moment after its product is there
                module.write_whole(product, json.dumps(self._training.scores).encode() if judges else b"student")
                self._written = True
                return None
            return 0

        def said(self) -> str:
            return self._training.fails

        def pause(self, paused: bool) -> None:
            self.paused = paused

        def end(self) -> None:
            self.killed = True


class Robot:
    """All of it; `run` lets seconds pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node, self.images, self.training = Node(), Images(), Training()
        self.start()

    def start(self, settings: Settings = SETTINGS) -> None:
        self.learner = Learner(self.folder, self.images, self.node, settings, self.training)  # type: ignore[arg-type]

    def run(self, until: Callable[[], bool], pause: bool = False) -> None:
        for _ in range(200):
            if until():
                return
            self.learner.tick(self.node.report(), pause)
        pytest.fail(f"still {self.learner.state}")

    def reach(self, step: str) -> None:
        self.run(lambda: self.learner.state.step == step)

    def see(self, count: int = 5) -> None:
        """New images, after some seconds in which the latency becomes known."""
        for _ in range(6):
            self.learner.tick(self.node.report())
        self.images.kept += count + 10

    def finish_round(self) -> str:
        number = self.learner.state.round
        self.see()
        self.run(lambda: self.learner.state.round > number and self.learner.state.step == COLLECTING)
        return self.learner.state.outcome


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


def test_a_better_student_takes_over_and_stays_after_a_restart(robot: Robot) -> None:
    assert robot.finish_round() == "the learnt student took over"
    first = robot.node.model
    assert Path(first) == robot.folder / "round_00001" / "student.onnx"
    assert robot.learner.state.good == first
    assert robot.learner.state.given == GIVEN
    assert not (robot.folder / "round_00001" / "images").exists()
    robot.finish_round()
    assert Path(robot.node.model) == robot.folder / "round_00002" / "student.onnx"
    assert not Path(first).exists()
    head = next(command for command in robot.training.commands[2:] if "head" in command)
    assert head[1:5] == ["-m", "dino_train", "head", first]
    robot.node.model = GIVEN  # the robot was switched off and on
    robot.start()
    robot.run(lambda: robot.learner.state.step == COLLECTING and robot.node.model != GIVEN)
    assert robot.node.model == robot.learner.state.good


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ({**WORSE, "agreement": 0.505}, "agree no better"),
        ({**BETTER, "steadiness": 0.8}, "less steady"),
        ({**BETTER, "sound": 0.5}, "fewer of its masks are sound"),
    ],
)
def test_a_student_that_is_no_better_is_never_set(robot: Robot, candidate: dict[str, float], reason: str) -> None:
    robot.training.scores["candidate"] = candidate
    assert reason in robot.finish_round()
    assert not robot.node.asked
    assert not [*robot.folder.glob("round_*")]
    for _ in range(20):
        robot.learner.tick(robot.node.report())
    assert robot.learner.state.round == 1, "nothing new was seen"


def test_training_that_fails_is_said_and_begun_again_with_more_images(robot: Robot) -> None:
    robot.training.fails = "No object was found."
    assert robot.finish_round() == "`dino_train head` failed with exit code 1: No object was found."
    robot.training.fails = ""
    assert "took over" in robot.finish_round()


def test_a_node_that_does_not_hear_yet_is_asked_again(robot: Robot) -> None:
    robot.node.deaf = 7
    assert "took over" in robot.finish_round()
    assert len(robot.node.asked) == 1


def test_a_node_that_refuses_keeps_its_student(robot: Robot) -> None:
    robot.node.refuses = "no memory"
    assert "refused the learnt student: no memory" in robot.finish_round()
    assert robot.node.model == robot.learner.state.good == GIVEN


@pytest.mark.parametrize("sign", ["ill", "slow"])
def test_a_student_that_does_badly_on_trial_is_taken_back(robot: Robot, sign: str) -> None:
    robot.see()
    robot.reach(TRIAL)
    learnt = robot.node.model
    if sign == "ill":
        robot.node.ill = "no masks"
    else:
        robot.node.latency = 40.0
    robot.reach(REVERTING)
    robot.reach(COLLECTING)
    assert robot.node.asked == [learnt, GIVEN]
    assert robot.node.model == robot.learner.state.good == GIVEN
    assert "did badly" in robot.learner.state.outcome


def test_short_illness_and_silence_end_no_trial(robot: Robot) -> None:
    robot.see()
    robot.reach(TRIAL)
    for report in (
        [Report()] * 20 + [Report(robot.node.model, None)] * 20 + [Report(robot.node.model, 9.0, "x")] * (ILL - 1)
    ):
        robot.learner.tick(report)
        assert robot.learner.state.step == TRIAL
    robot.reach(COLLECTING)
    assert "took over" in robot.learner.state.outcome


def test_a_node_that_crashes_on_trial_gets_no_such_student_again(robot: Robot) -> None:
    robot.see()
    robot.reach(TRIAL)
    robot.node.model = GIVEN
    robot.reach(COLLECTING)
    assert "went back" in robot.learner.state.outcome
    assert robot.node.model == robot.learner.state.good == GIVEN


@pytest.mark.parametrize("step", [COLLECTING, SWAPPING, TRIAL, REVERTING])
def test_what_the_user_sets_is_left_alone(robot: Robot, step: str) -> None:
    robot.see()
    robot.node.ill = "no masks" if step == REVERTING else ""
    robot.reach(step)
    robot.node.model = "/students/mine.onnx"
    asked = len(robot.node.asked)
    robot.node.ill, robot.images.kept = "", 0
    for _ in range(10):
        robot.learner.tick(robot.node.report())
    assert len(robot.node.asked) == asked
    assert robot.learner.state.good == robot.learner.state.given == "/students/mine.onnx"


def test_the_learnt_student_comes_back_after_a_restart_amid_training(robot: Robot) -> None:
    robot.finish_round()
    learnt = robot.node.model
    robot.see()
    robot.run(lambda: robot.learner.job is not None)
    robot.node.model = GIVEN
    robot.start()
    robot.run(lambda: robot.node.model == learnt)
    assert robot.learner.state.step == TRAINING
    robot.reach(TRIAL)


def test_a_learnt_student_that_is_gone_gives_way_to_the_given_one(robot: Robot) -> None:
    robot.finish_round()
    robot.node.model, robot.node.refuses = GIVEN, "there is no such file"
    robot.start()
    robot.reach(SWAPPING)
    robot.reach(COLLECTING)
    assert robot.learner.state.good == robot.node.model == GIVEN


def test_training_pauses_while_the_robot_is_slow_or_somebody_says_so(robot: Robot) -> None:
    robot.see()
    robot.run(lambda: robot.learner.job is not None)
    robot.learner.tick(robot.node.report(), pause=True)
    assert robot.learner.doing == "training: learning a head (paused)"
    for _ in range(10):
        robot.learner.tick(robot.node.report(), pause=True)
    assert robot.learner.state.step == TRAINING
    robot.run(lambda: robot.learner.doing == "training: judging")
    robot.run(lambda: robot.learner.doing == TRIAL)


def test_latency_pauses_after_three_high_reports_and_for_a_while() -> None:
    watch = LatencyWatch(1.5)
    for latency in (20.0, None, 21.0, 19.0, 20.0, 20.0):
        watch.without_training(latency)
    assert watch.normal == 20.0
    assert [watch.while_training(latency) for latency in (31.0, 31.0, 29.0, 31.0, 31.0)] == [False] * 5
    assert watch.while_training(31.0)
    assert [watch.while_training(20.0) for _ in range(REST)] == [True] * (REST - 1) + [False]


def test_students_are_distilled_from_the_teacher_and_get_a_head(robot: Robot) -> None:
    robot.start(Settings(learn="student", teacher="big.pt", fewest=5, trial=3))
    robot.see()
    robot.run(lambda: bool(robot.training.commands))
    folder = robot.folder / "round_00001"
    expected = [
        "dino_train",
        "distill",
        str(folder / "images" / "train"),
        "--config",
        "robot_bag",
        "--teacher",
        "big.pt",
    ]
    epochs = math.ceil(SEEN_IN_DISTILLATION / 15)  # of the images that were seen
    assert robot.training.commands[0][2:] == [*expected, "--epochs", str(epochs), "--out", str(folder / "run")]
    (folder / "run").mkdir()
    (folder / "run" / "last.pt").write_text("")
    robot.start(Settings(learn="student", teacher="big.pt", fewest=5, trial=3))
    robot.run(lambda: len(robot.training.commands) == 2)
    assert robot.training.commands[1][2:] == ["dino_train", "distill", "--resume", str(folder / "run")]
    for name in ("student.onnx", "teacher.onnx"):  # without what was written after them, the last may be missing
        (folder / "run" / name).write_text("student")
    robot.start(Settings(learn="student", teacher="big.pt", fewest=5, trial=3))
    robot.run(lambda: len(robot.training.commands) == 3)
    assert robot.training.commands[2] == robot.training.commands[1]
    (folder / "run" / "comparison.json").write_text("{}")
    robot.start(Settings(learn="student", teacher="big.pt", fewest=5, trial=3))
    robot.reach(TRIAL)
    head, judge = robot.training.commands[3:]
    assert head[2:5] == ["dino_train", "head", str(folder / "run" / "student.onnx")]
    assert judge[judge.index("--referee") + 1] == str(folder / "run" / "teacher.onnx")


class Killed(BaseException):
    """What a kill looks like from within: nothing more is done."""


@pytest.mark.parametrize(
    ("ends", "off"), [("better", False), ("worse", False), ("ill", False), ("refused", False), ("better", True)]
)
def test_killed_at_any_change_of_a_file_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, off: bool
) -> None:
    """Before and after each file that is written or folder that is removed; where the robot is switched off, the node
    starts again with what the user gave it."""
    left = [0]

    def dying(work: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            for done in (False, True):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                if not done:
                    result = work(*arguments, **options)
            return result

        return call

    monkeypatch.setattr("os.fsync", lambda number: None)  # it takes most of the time
    monkeypatch.setattr(module, "write_whole", dying(module.write_whole))
    monkeypatch.setattr(module.shutil, "rmtree", dying(module.shutil.rmtree))
    kills = 0
    while True:
        kills += 1
        robot = Robot(tmp_path / str(kills))
        robot.folder.mkdir()
        robot.finish_round()  # there is a learnt student already
        first = robot.node.model
        robot.node.well.add(first)
        robot.training.scores["candidate"] = WORSE if ends == "worse" else BETTER
        left[0] = kills
        try:
            robot.see()
            robot.reach(TRAINING)
            if ends != "worse":
                robot.reach(SWAPPING)
            robot.node.ill = "no masks" if ends == "ill" else ""
            robot.node.refuses = "no memory" if ends == "refused" else ""
            robot.reach(COLLECTING)
        except Killed:
            pass
        survived, left[0] = left[0] > 0, 0
        robot.node.refuses = ""
        if off:
            robot.node.model = GIVEN
        robot.start()
        assert Path(robot.learner.state.good).is_file(), "the good student is there at any time"
        for _ in range(30):
            robot.learner.tick(robot.node.report())
        state = robot.learner.state
        assert state.step == COLLECTING, state
        assert robot.node.model == state.good
        assert Path(state.good).is_file()
        assert state.good == first or ends != "worse"
        if survived:
            break
    assert kills > 4


def test_a_state_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json cannot be used"):
        Robot(tmp_path)


def test_a_job_runs_at_the_lowest_priority_pauses_and_says_why_it_failed(tmp_path: Path) -> None:
    code = "import os, sys; print('started', os.nice(0), flush=True); sys.stdin.read(); sys.exit('no data')"
    job = Job([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    job.pause(True)
    state = Path("/proc", str(job._process.pid), "stat")
    until(lambda: state.read_text().split()[2] == "T")
    job.pause(False)
    until(lambda: state.read_text().split()[2] != "T")
    assert job.ended() is None
    job.end()
    assert job.ended() == -9
    job = Job([sys.executable, "-c", code], tmp_path)
    until(lambda: job.ended() is not None)
    assert job.ended() == 1
    assert job.said() == "no data"
    assert (tmp_path / "job.log").read_text().startswith("started 19\n")


def test_a_job_that_was_left_over_is_ended(tmp_path: Path) -> None:
    start = f"Job(['sleep', '60'], Path({str(tmp_path)!r})); os._exit(0)"
    imports = "import os; from pathlib import Path; from dino_ros.learning.jobs import Job"
    subprocess.run([sys.executable, "-c", f"{imports}; {start}"], check=True)
    until(lambda: bool((tmp_path / "job.lock").read_text()))
    number = int((tmp_path / "job.lock").read_text())
    assert Path("/proc", str(number), "comm").read_text() in ("sleep\n", "nice\n", "sh\n")
    end_left_over(tmp_path)
    until(lambda: not Path("/proc", str(number)).exists() or _is_zombie(number))
    end_left_over(tmp_path)  # nothing is left


def _is_zombie(number: int) -> bool:
    return Path("/proc", str(number), "stat").read_text().split()[2] == "Z"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
