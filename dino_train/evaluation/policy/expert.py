"""The tasks, and a scripted expert that does them: it knows where things are, and looks only at how they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dino_train.evaluation.policy.arm import CLOSED, GOAL, OPEN, SIDE, State, Vector

REACHED, PUSHED, LIFTED = 0.02, 0.04, 0.06
"""Success, in meters: how close the fingertips come to the middle of the cube's top, how close the cube comes to the
middle of the mark, and how much air is below the cube."""
STEPS = 20
"""Steps after which a trial has failed."""

_HOVER = 0.13  # height at which the hand moves over the cube
_LOW = 0.022  # height at which it pushes and grasps
_CONTACT = SIDE / 2 + 0.01  # distance from the cube's middle at which the fingers touch it
_ADVANCE = 0.03  # how far the cube is pushed in a step
_BEHIND = SIDE / 2 + 0.04  # distance from the cube's middle where a push begins
_ALIGNED = 0.03  # how far from its way the hand does not push at all


@dataclass(frozen=True)
class Task:
    """A task of the arm."""

    succeeded: Callable[[State], bool]
    expert: Callable[[State], Vector]
    """Gives the action [4]: from the hand to where it shall go in meters, and the distance between the fingers."""


def _top(state: State) -> Vector:
    top: Vector = state.cube + np.array([0, 0, SIDE / 2])
    return top


def _reach(state: State) -> Vector:
    return _action(state, _top(state), CLOSED)


def _push(state: State) -> Vector:
    """Go behind the cube, down, and push it towards the mark; the less straight behind it the hand is, the less far.

    What to do changes little where the state does, so that it can be cloned.
    """
    ahead = np.array(GOAL) - state.cube[:2]
    left = float(np.linalg.norm(ahead))
    ahead /= max(left, 1e-9)
    seen = state.hand[:2] - state.cube[:2]
    along, aside = float(seen @ ahead), abs(float(seen[0] * ahead[1] - seen[1] * ahead[0]))
    not_behind = float(np.hypot(aside, max(0.0, along + SIDE / 2)))
    ready = 1 - np.clip((not_behind + state.hand[2] - _LOW - 0.005) / _ALIGNED, 0, 1)
    way = ready * (min(_ADVANCE, left) - _CONTACT) - (1 - ready) * _BEHIND
    return _action(state, np.array([*state.cube[:2] + way * ahead, _LOW + _funnel(not_behind)]), CLOSED)


def _pick(state: State) -> Vector:
    """Go down to the cube, close the fingers, and lift; open them where they hold nothing."""
    off = float(np.linalg.norm(state.hand[:2] - state.cube[:2]))
    if abs(state.hand[2] - state.cube[2]) < 0.015 and off < 0.02:
        if state.opening > SIDE + 0.012:
            return _action(state, state.cube, CLOSED)
        return _action(state, state.hand + np.array([0, 0, _HOVER]), CLOSED)
    return _action(state, state.cube + np.array([0, 0, _funnel(off)]), OPEN)


def _funnel(off: float) -> float:
    """How far above a place to stay, at a distance from it: down to it as in a funnel."""
    return min(4 * max(0.0, off - 0.005), _HOVER)


def _action(state: State, hand: Vector, opening: float) -> Vector:
    return np.append(hand - state.hand, opening)


TASKS: Mapping[str, Task] = {
    "reach": Task(lambda state: bool(np.linalg.norm(state.hand - _top(state)) < REACHED), _reach),
    "push": Task(lambda state: bool(np.linalg.norm(state.cube[:2] - GOAL) < PUSHED), _push),
    "pick": Task(lambda state: bool(state.cube[2] - SIDE / 2 > LIFTED), _pick),
}
