"""A simulated arm at a table with a cube, seen by a camera: the Franka Panda that comes with PyBullet.

Positions are in meters in the arm's frame: x away from its base, y to its left, z up from the table's top.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError

try:
    import pybullet
    import pybullet_data
except ImportError as error:
    raise UserError(
        "The simulated arm needs PyBullet: pip install 'dino_ros[simulation]', in Python 3.11 or older."
    ) from error

Vector = NDArray[np.float64]

STRIDE = 0.06
"""How far the hand moves in a step at most."""
SIDE = 0.045
"""Of the cube."""
OPEN, CLOSED = 0.08, 0.0
"""Distance between the fingers."""
GOAL = (0.64, 0.0)
"""x and y of the middle of the mark on the table."""
IMAGE = (240, 320)
"""Height and width of the camera's images, pixels."""

CUBE_AREAS = {
    "reach": ((0.36, -0.22), (0.60, 0.22)),
    "push": ((0.40, -0.14), (0.50, 0.14)),
    "pick": ((0.40, -0.18), (0.58, 0.18)),
}
"""Where the cube is at first, by task: the least and the greatest x and y of its middle."""

_HOME = (0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785)
_FORCES = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0, 30.0, 30.0)  # of the joints and fingers, newton meters and newtons
_JOINTS = (*range(7), 9, 10)
_FINGERTIPS = 11  # a link between them
_DOWN = (1.0, 0.0, 0.0, 0.0)
_STEPS_OF_PHYSICS = 60  # 1/240 s each: the policy acts four times a second
_EYE, _LOOKED_AT, _FIELD_OF_VIEW = (1.05, 0.0, 0.62), (0.48, 0.0, 0.06), 38.0
_SPREAD = np.array([0.04, 0.08, 0.04])  # how far from its usual place the hand is at first


@dataclass(frozen=True)
class State:
    """Where things are: the scripted expert knows it, a policy has to see it."""

    joints: Vector
    """[7] angles in radians."""
    hand: Vector
    """[3], the point between the fingertips."""
    opening: float
    """Distance between the fingers."""
    cube: Vector
    """[3], its middle."""

    @property
    def body(self) -> Vector:
        """[11], what an arm knows of itself without a camera: joints, hand and opening."""
        return np.array([*self.joints, *self.hand, self.opening])


class Arm:
    """The arm, the table and the cube, in the world of the process's first PyBullet pybullet."""

    def __init__(self) -> None:
        pybullet.setGravity(0, 0, -9.81)
        self._table = self._box((0.5, 0.6, 0.02), (0.45, 0.0, -0.02))
        mark = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=(0.04, 0.04, 0.001), rgbaColor=(1, 1, 1, 1))
        pybullet.createMultiBody(baseVisualShapeIndex=mark, basePosition=(*GOAL, 0.0))
        self._cube = self._box((SIDE / 2,) * 3, (0.5, 0.0, SIDE / 2), mass=0.1)
        pybullet.changeDynamics(self._cube, -1, lateralFriction=1.0)
        self._arm = pybullet.loadURDF(f"{pybullet_data.getDataPath()}/franka_panda/panda.urdf", useFixedBase=True)
        for finger in _JOINTS[7:]:
            pybullet.changeDynamics(self._arm, finger, lateralFriction=2.0)
        self._light = (1.0, 1.0, 1.0)
        self._begin = pybullet.saveState()
        self._view = pybullet.computeViewMatrix(_EYE, _LOOKED_AT, (0, 0, 1))
        self._projection = pybullet.computeProjectionMatrixFOV(_FIELD_OF_VIEW, IMAGE[1] / IMAGE[0], 0.05, 5.0)

    def reset(self, task: str, rng: np.random.Generator) -> None:
        """Begin a task anew: the cube's place, the colors, the light and where the hand begins are drawn from `rng`."""
        pybullet.restoreState(self._begin)  # with it goes what the solver remembers of trials before
        place = rng.uniform(*CUBE_AREAS[task])
        turned = pybullet.getQuaternionFromEuler((0, 0, rng.uniform(-0.25, 0.25)))
        pybullet.resetBasePositionAndOrientation(self._cube, (*place, SIDE / 2), turned)
        cube, table = rng.uniform((0, 0.6, 0.5), (1, 1, 1)), rng.uniform((0, 0, 0.35), (1, 0.35, 0.8))
        pybullet.changeVisualShape(self._cube, -1, rgbaColor=(*colorsys.hsv_to_rgb(*cube), 1))
        pybullet.changeVisualShape(self._table, -1, rgbaColor=(*colorsys.hsv_to_rgb(*table), 1))
        self._light = tuple(rng.uniform((-0.5, -1.5, 1.0), (1.5, 1.5, 2.0)))
        self._set_joints((*_HOME, OPEN / 2, OPEN / 2))
        hand = self.state().hand + rng.uniform(-_SPREAD, _SPREAD)
        self._set_joints((*self._angles(hand), OPEN / 2, OPEN / 2))

    def state(self) -> State:
        """Where things are now."""
        positions = [state[0] for state in pybullet.getJointStates(self._arm, _JOINTS)]
        hand = pybullet.getLinkState(self._arm, _FINGERTIPS, computeForwardKinematics=True)[4]
        cube, _ = pybullet.getBasePositionAndOrientation(self._cube)
        return State(np.array(positions[:7]), np.array(hand), sum(positions[7:]), np.array(cube))

    def image(self) -> NDArray[np.uint8]:
        """What the camera sees now: RGB, [*IMAGE, 3]."""
        height, width = IMAGE
        pixels = pybullet.getCameraImage(
            width,
            height,
            self._view,
            self._projection,
            lightDirection=self._light,
            renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
        )[2]
        return np.asarray(pixels, np.uint8).reshape(height, width, 4)[..., :3].copy()

    def act(self, action: Vector) -> None:
        """Do a step of an action [4]: the hand's way, of which it goes STRIDE, and the distance of the fingers."""
        hand = self.state().hand + shortened(action)[:3]
        hand[2] = max(hand[2], 0.01)
        finger = float(np.clip(action[3], CLOSED, OPEN)) / 2
        pybullet.setJointMotorControlArray(
            self._arm,
            _JOINTS,
            pybullet.POSITION_CONTROL,
            targetPositions=(*self._angles(hand), finger, finger),
            forces=_FORCES,
        )
        for _ in range(_STEPS_OF_PHYSICS):
            pybullet.stepSimulation()

    def _angles(self, hand: Vector) -> tuple[float, ...]:
        """Joint angles that bring the hand there, pointing down."""
        solution = pybullet.calculateInverseKinematics(
            self._arm, _FINGERTIPS, tuple(hand), _DOWN, maxNumIterations=100, residualThreshold=1e-5
        )
        return tuple(solution[:7])

    def _set_joints(self, positions: tuple[float, ...]) -> None:
        for joint, position in zip(_JOINTS, positions, strict=True):
            pybullet.resetJointState(self._arm, joint, position)

    def _box(self, half: tuple[float, ...], place: tuple[float, ...], mass: float = 0.0) -> int:
        collision = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half)
        visual = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=half)
        body: int = pybullet.createMultiBody(mass, collision, visual, place)
        return body


def shortened(action: Vector) -> Vector:
    """The action [4] with no longer a way than STRIDE."""
    distance = float(np.linalg.norm(action[:3]))
    return np.append(action[:3] * min(1.0, STRIDE / max(distance, 1e-9)), action[3])


@contextmanager
def simulated_arm() -> Iterator[Arm]:
    """An arm; one at a time."""
    pybullet.connect(pybullet.DIRECT)
    try:
        yield Arm()
    finally:
        pybullet.disconnect()
