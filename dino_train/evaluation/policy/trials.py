"""Policies tried out: demonstrations of the expert, and how often what was cloned from them succeeds."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.pictures.attention_pictures import write_picture
from dino_train.evaluation.policy.arm import Arm, State, Vector, shortened, simulated_arm
from dino_train.evaluation.policy.cloning import EncoderEye, Image, Moment, Pixels, Policy, blind, true_place
from dino_train.evaluation.policy.expert import STEPS, TASKS, Task
from dino_train.machine.progress import watched

log = logging.getLogger(__name__)

SHAKEN, SHAKE = 0.5, 0.01
"""Share of the demonstrated steps in which the hand is pushed off its way, and by how much (standard deviation in
meters along each axis): the policy learns how to come back (DART, Laskey et al. 2017)."""
PICTURES = 6
"""Images of a film strip."""

Driver = Callable[[State, Callable[[], Image]], Vector]
"""What drives the arm: from the state and a look through the camera to an action."""


@dataclass(frozen=True)
class PolicyScore:
    """How often a policy succeeded in a task."""

    task: str
    encoder: str
    succeeded: int
    trials: int
    seconds: float
    """What it took to look, to learn and to try."""

    @property
    def success(self) -> float:
        """Share of the trials."""
        return self.succeeded / self.trials

    @property
    def standard_error(self) -> float:
        """Of the share: the spread of a mean of so many trials."""
        return math.sqrt(self.success * (1 - self.success) / self.trials)


def evaluate_policies(
    encoders: Mapping[str, Encoder],
    tasks: Sequence[str],
    demonstrations: int,
    trials: int,
    seed: int,
    pictures: Path | None = None,
) -> Iterator[PolicyScore]:
    """Score the expert, a policy for each encoder, and the baselines, in each task; yields each score once it is there.

    All policies clone the same demonstrations and are tried in the same scenes, which no demonstration has. Writes a
    film strip of everyone's first trial into the folder `pictures`.
    """
    with simulated_arm() as arm:
        for name in tasks:
            shown = demonstrate(arm, name, demonstrations, seed)
            start = time.monotonic()
            for number, (label, driver) in enumerate(drivers(TASKS[name], encoders, shown, seed), start=1):
                scenes = [np.random.default_rng([seed, 1, trial]) for trial in range(trials)]
                done = [attempt(arm, name, driver, scene) for scene in watched(scenes, f"{name}, {label}", trials)]
                if pictures:
                    file = f"{name}_{number:02}_{re.sub(r'[^a-z0-9]+', '_', Path(label).stem.lower())}.png"
                    write_picture(pictures / file, film_strip(arm, name, driver, np.random.default_rng([seed, 1, 0])))
                score = PolicyScore(name, label, sum(done), trials, time.monotonic() - start)
                log.info("%s, %s: %d of %d succeeded", name, label, score.succeeded, trials)
                yield score
                start = time.monotonic()


def drivers(
    task: Task, encoders: Mapping[str, Encoder], shown: Sequence[Moment], seed: int
) -> Iterator[tuple[str, Driver]]:
    """What is compared, by name: the expert, and the policies, each cloned when its turn comes."""
    yield "expert", lambda state, look: task.expert(state)
    yield "true place of the cube", Policy(true_place, shown, seed)
    for name, encoder in {**encoders, "pixels' PCA": Pixels()}.items():
        yield name, Policy(EncoderEye(encoder, [moment.image for moment in shown]), shown, seed)
    yield "no image", Policy(blind, shown, seed)


def demonstrate(arm: Arm, name: str, demonstrations: int, seed: int) -> list[Moment]:
    """The steps of the expert's demonstrations of a task, one after the other.

    The arm is shaken at times, but the actions are those that the expert wanted.
    """
    task, shown = TASKS[name], []
    for number in watched(range(demonstrations), f"{name}, demonstrations", demonstrations):
        rng = np.random.default_rng([seed, 0, number])

        def show(state: State, look: Callable[[], Image], rng: np.random.Generator = rng) -> Vector:
            action = task.expert(state)
            shown.append(Moment(state, look(), action))
            push = rng.normal(0, SHAKE, 3) if rng.random() < SHAKEN else np.zeros(3)
            shaken: Vector = shortened(action) + np.append(push, 0)
            return shaken

        attempt(arm, name, show, rng)
    return shown


def attempt(arm: Arm, name: str, driver: Driver, rng: np.random.Generator) -> bool:
    """Try a task once, in a scene drawn from `rng`; returns whether it succeeded within STEPS steps."""
    arm.reset(name, rng)
    for _ in range(STEPS):
        arm.act(driver(arm.state(), arm.image))
        if TASKS[name].succeeded(arm.state()):
            return True
    return False


def film_strip(arm: Arm, name: str, driver: Driver, rng: np.random.Generator) -> Image:
    """An attempt in evenly spaced images side by side, the first and the last among them."""
    images: list[Image] = []

    def filmed(state: State, look: Callable[[], Image]) -> Vector:
        images.append(look())
        return driver(state, look)

    attempt(arm, name, filmed, rng)
    images.append(arm.image())
    return np.hstack([images[round(i)] for i in np.linspace(0, len(images) - 1, PICTURES)])
