"""From what the camera saw to a better student on the robot: one step after another, each of which may be the last.

    collecting ──> training ──> swapping ──> trial ──> collecting
                                   │           │
                                   └─> reverting <─┘

What must survive a kill or a power cut is in `state.json`, which is replaced whole at each change of step, and in the
files that the steps make, each of which appears whole under its name. Every step can be begun again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dino_ros.errors import UserError
from dino_ros.files import remove_leftovers, write_whole
from dino_ros.learning.judge import Scores, why_no_better
from dino_ros.learning.latency import LatencyWatch
from dino_ros.learning.reservoir import HELD_BACK, TRAINED_ON, Reservoir
from dino_ros.learning.subjects import HEAD, STUDENT

COLLECTING, TRAINING, SWAPPING, TRIAL, REVERTING = "collecting", "training", "swapping", "trial", "reverting"
RUNNING, CANDIDATE = "running", "candidate"
"""Whose scores a judgment gives, as `dino-ros judge` writes them."""
WORK = {"distill": "distilling a student", "head": "learning a head", "judge": "judging"}
"""What the commands of a round do."""
FEWEST_HELD_BACK = 10
"""Images that a judgment needs, at least."""
ILL = 5
"""Reports of ill health, or of high latency, that end a trial."""
SEEN_IN_DISTILLATION = 4000
"""Images that a student sees while it is distilled, the same ones again and again."""
PATIENCE = 600
"""Reports after which an unanswered request is made again: building an engine takes minutes."""


class Work(Protocol):
    """A command that runs; see `jobs.Job`."""

    paused: bool

    def ended(self) -> int | None:
        """The exit code, None while it runs."""

    def said(self) -> str:
        """The last line of its output."""

    def pause(self, paused: bool) -> None:
        """Stop it where it is, or let it go on."""

    def end(self) -> None:
        """Kill it."""


class Robot(Protocol):
    """What runs the student."""

    def ask(self, model: str) -> bool:
        """Request that it runs the student of this file; whether it hears."""

    def answer(self) -> str | None:
        """Why the latest request was refused, empty if it was granted; None while it is not answered."""


@dataclass(frozen=True)
class Settings:
    """How to learn."""

    learn: str = HEAD
    """HEAD or STUDENT."""
    teacher: str = ""
    """What a STUDENT is distilled from, as `dino-train distill --teacher` takes it."""
    fewest: int = 200
    """Images that must have been kept since the last round before the next."""
    trial: int = 30
    """Reports with frames for which a new student must do well."""
    slowdown: float = 1.5
    """Factor by which latency may rise."""


@dataclass(frozen=True)
class Report:
    """What the robot says of itself, once a second."""

    model: str = ""
    """Path of the student that runs; empty while nothing is heard."""
    latency: float | None = None
    """In ms; None if no frame was processed."""
    ill: str = ""
    """What is wrong with what it makes of the frames that come in; empty if nothing is."""


@dataclass(frozen=True)
class State:
    """What is remembered."""

    step: str = COLLECTING
    round: int = 0
    """Number of the latest round of training."""
    kept: int = 0
    """How many images had been kept when it began."""
    given: str = ""
    """The student that the user gave."""
    good: str = ""
    """The student that did well last: the given one, or a learnt one."""
    candidate: str = ""
    """The one that is to take its place, or is on trial."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of the latest judgment: those of the running student and of the candidate."""
    outcome: str = ""
    """What came of the latest round, in a sentence."""


class Learner:
    """Trains, judges and swaps students; `tick` does what is due.

    Only frames held back decide, and only a student that is better in them is put on trial. Whatever fails is said in
    `state.outcome`, and the good student stays or comes back. Raises UserError for a state that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        reservoir: Reservoir,
        robot: Robot,
        settings: Settings,
        start: Callable[[Sequence[str], Path], Work],
    ) -> None:
        self.folder = folder
        self.reservoir = reservoir
        self.robot = robot
        self.settings = settings
        self.state = read_state(folder)
        self.watch = LatencyWatch(settings.slowdown)
        self.job: Work | None = None
        self._start = start
        self._at = 0
        """Which of the round's commands the job is."""
        self._work = ""
        """What the job does, of WORK."""
        self._asked = ""
        self._waited = 0
        self._well = self._ill = 0
        self._steps = {
            COLLECTING: self._collect,
            TRAINING: self._train,
            SWAPPING: self._swap,
            TRIAL: self._try,
            REVERTING: self._revert,
        }
        remove_leftovers(folder)
        self._clean_up()

    @property
    def doing(self) -> str:
        """The step, and what is computed, in words."""
        if self.job is None:
            return self.state.step
        return f"{self.state.step}: {self._work}{' (paused)' if self.job.paused else ''}"

    def tick(self, report: Report, pause: bool = False) -> None:
        """Do what is due, given what the robot says; `pause` keeps the training paused.

        Whatever it raises, such as OSError on a full disk, leaves the step to be tried again at the next call.
        """
        if self.job is not None:
            self.job.pause(self.watch.while_training(report.latency) or pause)
        elif self.state.step == COLLECTING or self.watch.normal is None:
            self.watch.without_training(report.latency)
        self._steps[self.state.step](report)

    def stop(self) -> None:
        """Kill what is running; the step begins again at the next start."""
        if self.job is not None:
            self.job.end()
            self.job = None

    def _change(self, **fields: object) -> None:
        """Remember a change: it is on disk before anything is done about it."""
        state = dataclasses.replace(self.state, **fields)  # type: ignore[arg-type]
        write_whole(self.folder / "state.json", json.dumps(dataclasses.asdict(state), indent=1).encode())
        self.state = state
        self._asked, self._well, self._ill = "", 0, 0

    def _collect(self, report: Report) -> None:
        state = self.state
        if not report.model:
            return
        if report.model not in (state.given, state.good):  # the user has chosen another
            self._change(given=report.model, good=report.model)
        elif report.model != state.good:  # the robot was started again, with what the user gave it
            self._change(step=SWAPPING, candidate=state.good)
        elif (
            self.reservoir.kept - state.kept >= self.settings.fewest
            and self.reservoir.count(HELD_BACK) >= FEWEST_HELD_BACK
        ):
            self._change(step=TRAINING, round=state.round + 1, kept=self.reservoir.kept, candidate="")

    def _train(self, report: Report) -> None:
        """Make the round's files one after another, each by a command unless it is there."""
        if report.model == self.state.given != self.state.good:  # the robot was started again meanwhile
            self._ask(self.state.good)
        folder = self._round(self.state.round)
        images = folder / "images"
        if not images.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self.reservoir.snapshot(images)
        commands = self._commands(folder)
        if self.job is not None:
            if (code := self.job.ended()) is None:
                return  # also where its product is there already: it may have more to do
            said, self.job = self.job.said(), None
            command, product = commands[self._at]
            if code or not product.exists():
                self._end_round(f"`{' '.join(command[:2])}` failed with exit code {code}: {said}")
                return
        due = [number for number, (_, product) in enumerate(commands) if not product.exists()]
        if not due:
            self._decide(folder)
        # What the latency is without training must be known first, if frames are processed at all.
        elif report.latency is None or self.watch.normal is not None:
            self._at = due[0]
            command, _ = commands[self._at]
            self._work = WORK[command[1]]
            self.job = self._start([sys.executable, "-m", *command], folder)

    def _commands(self, folder: Path) -> list[tuple[list[str], Path]]:
        """The commands of a round in their order, and the file that each makes."""
        images, candidate, scores = folder / "images", folder / "student.onnx", folder / "scores.json"
        trained_on, run = images / TRAINED_ON, folder / "run"
        student, referee = self.state.good, self.state.good
        commands = []
        if self.settings.learn == STUDENT:
            # Where a student fails, so do the methods that look at its features: the teacher's say what is better.
            student, referee = str(run / "student.onnx"), str(run / "teacher.onnx")
            distill = ["dino_train", "distill", *self._distillation(run, trained_on)]
            commands.append((distill, run / "comparison.json"))  # of the two files, so they are whole
        head = ["dino_train", "head", student, str(trained_on), "--replace", "--out", str(candidate)]
        judge = ["dino_ros.cli", "judge", self.state.good, str(candidate), "--referee", referee]
        judge += ["--images", str(images / HELD_BACK), "--out", str(scores)]
        return [*commands, (head, candidate), (judge, scores)]

    def _distillation(self, run: Path, images: Path) -> list[str]:
        """What `dino-train distill` is told: to go on with the run, where it has a checkpoint."""
        if (run / "last.pt").exists():
            return ["--resume", str(run)]
        epochs = math.ceil(SEEN_IN_DISTILLATION / len([*images.iterdir()]))
        recipe = ["--config", "robot_bag", "--teacher", self.settings.teacher, "--epochs", str(epochs)]
        return [str(images), *recipe, "--out", str(run)]

    def _decide(self, folder: Path) -> None:
        scores = json.loads((folder / "scores.json").read_text())
        reason = why_no_better(Scores(**scores[RUNNING]), Scores(**scores[CANDIDATE]))
        if reason:
            self._end_round(f"not better than the running student: {reason}", scores=scores)
        else:
            self._change(step=SWAPPING, candidate=str(folder / "student.onnx"), scores=scores)

    def _swap(self, report: Report) -> None:
        state = self.state
        if report.model == state.candidate:
            self._change(step=TRIAL)
        elif report.model and report.model not in (state.given, state.good):
            self._end_round("another student was set on the node meanwhile")
        elif report.model and (reason := self._ask(state.candidate)):
            self._give_up(f"the node refused the learnt student: {reason}")

    def _ask(self, model: str) -> str:
        """Request a student, once until it is answered or patience ends; returns why it was refused, if it was."""
        self._waited += 1
        if self._asked != model or self._waited > PATIENCE:
            if self.robot.ask(model):
                self._asked, self._waited = model, 0
            return ""
        return self.robot.answer() or ""

    def _try(self, report: Report) -> None:
        state = self.state
        if not report.model:
            return
        if report.model != state.candidate:
            if report.model in (state.given, state.good):
                self._give_up("the node went back to the former student")
            else:
                self._end_round("another student was set on the node meanwhile")
            return
        high = self.watch.is_high(report.latency)
        self._ill += bool(report.ill or high)
        self._well += report.latency is not None and not report.ill and not high
        if self._ill >= ILL:
            self._give_up(f"the learnt student did badly: {report.ill or 'latency rose'}")
        elif self._well >= self.settings.trial:
            self._end_round("the learnt student took over", good=state.candidate)

    def _give_up(self, outcome: str) -> None:
        """Return to the good student; to the given one, if it is the good one that failed."""
        state = self.state
        good = state.given if state.candidate == state.good else state.good
        self._change(step=REVERTING, good=good, outcome=outcome)

    def _revert(self, report: Report) -> None:
        state = self.state
        if report.model == state.good or (report.model and report.model not in (state.given, state.candidate)):
            self._end_round(state.outcome)
        elif report.model and (reason := self._ask(state.good)):
            if state.good != state.given:
                self._change(good=state.given)
            else:  # whatever runs is what there is
                self._end_round(f"{state.outcome}; nor does the node take {state.good} back: {reason}")

    def _end_round(self, outcome: str, **fields: object) -> None:
        self._change(step=COLLECTING, candidate="", outcome=outcome, **fields)
        self._clean_up()

    def _round(self, number: int) -> Path:
        return self.folder / f"round_{number:05d}"

    def _clean_up(self) -> None:
        """Remove what rounds left behind, except the good student and what the present step needs."""
        for folder in self.folder.glob("round_*"):
            if folder == self._round(self.state.round) and self.state.step != COLLECTING:
                continue
            if folder in (Path(self.state.good).parent, Path(self.state.given).parent):
                shutil.rmtree(folder / "images", ignore_errors=True)
                shutil.rmtree(folder / "run", ignore_errors=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def read_state(folder: Path) -> State:
    """The state in a folder, or the first one. Raises UserError, naming the file, if it cannot be read."""
    path = folder / "state.json"
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be used ({error}): delete it to begin again.") from error
