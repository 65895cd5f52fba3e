"""Behavior cloning on frozen features: a small network learns what the expert does from where an encoder sees what.

What is learned by heart does not carry over: 50 demonstrations have 50 places of the cube, and a head that is told what
an image shows recognizes each scene. So the policy is given places alone, and of an encoder only the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dino_ros.images.sampling import evenly_spaced
from dino_ros.perception.perceiver import Perception
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.policy.arm import CLOSED, OPEN, STRIDE, State, Vector

COMPONENTS = 64
"""Principal components that each patch token is reduced to: the policies are of one size."""
LOOKED_AT = 100
"""Demonstrated images that the components are fitted on."""
GLANCES, WIDTH = 16, 256
"""Places that the policy attends to, and neurons of its layers."""
ITERATIONS, BATCH, RATE, WEIGHT_DECAY = 1500, 64, 3e-3, 1e-2
PATCH = 16
"""Side of the patches of pixels that stand for tokens in the baseline."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Moment:
    """What was seen and done in a step of a demonstration."""

    state: State
    image: Image
    action: Vector


@dataclass(frozen=True)
class Seen:
    """What a policy gets of an image."""

    vector: NDArray[np.float32]
    """[V]"""
    tokens: NDArray[np.float32]
    """[h, w, C]; h is 0 where there are none."""


class Eye(Protocol):
    """How a policy sees: of the state it may only take what its name says."""

    def __call__(self, state: State, look: Callable[[], Image], /) -> Seen:
        """Return what is seen; `look` renders the camera's image."""


def blind(state: State, look: Callable[[], Image]) -> Seen:
    """See nothing but the arm's own joints: the least that a policy with a camera has to surpass."""
    return Seen(state.body.astype(np.float32), np.empty((0, 0, 1), np.float32))


def true_place(state: State, look: Callable[[], Image]) -> Seen:
    """See exactly where the cube is: the most that features can tell."""
    return Seen(np.append(state.body, state.cube).astype(np.float32), np.empty((0, 0, 1), np.float32))


class EncoderEye:
    """See the patch tokens of an encoder, reduced to their principal components."""

    def __init__(self, encoder: Encoder, images: Sequence[Image]) -> None:
        """Fit the components on LOOKED_AT of the images."""
        self._encoder = encoder
        fitted = [self._tokens(images[i]) for i in evenly_spaced(len(images), LOOKED_AT)]
        self._components = Components(np.concatenate([tokens.reshape(-1, tokens.shape[-1]) for tokens in fitted]))

    def __call__(self, state: State, look: Callable[[], Image]) -> Seen:
        return Seen(state.body.astype(np.float32), self._components(self._tokens(look())))

    def _tokens(self, image: Image) -> NDArray[np.float32]:
        tokens = self._encoder(image, ("features",)).features
        assert tokens is not None  # they were asked for
        return tokens


class Components:
    """The first principal components of vectors, COMPONENTS at most, scaled so that their mean variance is 1."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Fit them on vectors [N, C]; of many, on some thousands."""
        some = vectors[evenly_spaced(len(vectors), 5000)].astype(float)
        self._mean = some.mean(axis=0)
        _, lengths, axes = np.linalg.svd(some - self._mean, full_matrices=False)
        spread = np.sqrt((lengths[:COMPONENTS] ** 2).mean() / len(some))
        self._axes = axes[:COMPONENTS].T / max(spread, 1e-9)

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce vectors [..., C] to [..., K]."""
        reduced: NDArray[np.float32] = ((vectors - self._mean) @ self._axes).astype(np.float32)
        return reduced


class Pixels:
    """An `Encoder` that learned nothing: the pixels of patches are the tokens."""

    def __call__(self, image: Image, outputs: object = ()) -> Perception:
        """Return the pixels of PATCH x PATCH parts [h, w, PATCH * PATCH * 3]."""
        rows, columns = (side // PATCH for side in image.shape[:2])
        parts = image[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2)
        return Perception(parts.reshape(rows, columns, -1).astype(np.float32), None, None, mask=None)


class Head(nn.Module):
    """The policy's network: a few glances at the patch tokens, and two hidden layers.

    A glance is attention over the tokens with a learned query, and tells where it found what it looks for: the mean
    position of the attention (spatial softmax, Levine et al. 2016, "End-to-End Training of Deep Visuomotor Policies").
    """

    def __init__(self, vector: int, tokens: int) -> None:
        """For vectors of `vector` numbers and tokens of `tokens`."""
        super().__init__()
        self.glances = nn.Linear(tokens, GLANCES)
        self.layers = nn.Sequential(
            nn.Linear(vector + 2 * GLANCES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 4)
        )

    def forward(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """From vectors [B, V] and tokens [B, h, w, C] to [B, 4]: ways in units of STRIDE, the logit of open fingers."""
        rows, columns = tokens.shape[1:3]
        places = torch.cartesian_prod(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)).view(-1, 2)
        attention = self.glances(tokens.flatten(1, 2)).softmax(dim=1).transpose(1, 2)  # [B, GLANCES, h * w]
        actions: Tensor = self.layers(torch.cat([vectors, (attention @ places).flatten(1)], dim=1))
        return actions


class Policy:
    """What was cloned: an eye and a head."""

    def __init__(self, eye: Eye, demonstrations: Sequence[Moment], seed: int) -> None:
        """Clone the demonstrations by AdamW: the absolute error of the way, and cross-entropy for the fingers."""
        self._eye = eye
        seen = [eye(moment.state, lambda image=moment.image: image) for moment in demonstrations]  # type: ignore[misc]
        vectors = np.stack([one.vector for one in seen])
        self._mean, self._spread = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), 1e-3)
        tokens = torch.from_numpy(np.stack([one.tokens for one in seen]))
        inputs = torch.from_numpy((vectors - self._mean) / self._spread)
        actions = torch.from_numpy(np.stack([moment.action for moment in demonstrations])).float()
        ways, opened = actions[:, :3] / STRIDE, (actions[:, 3:] > OPEN / 2).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._head = Head(inputs.shape[1], tokens.shape[-1])
            optimizer = torch.optim.AdamW(self._head.parameters(), RATE, weight_decay=WEIGHT_DECAY)
            decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
            for _ in range(ITERATIONS):
                batch = torch.randint(len(actions), (BATCH,))
                found = self._head(inputs[batch], tokens[batch])
                loss = functional.l1_loss(found[:, :3], ways[batch])
                loss += functional.binary_cross_entropy_with_logits(found[:, 3:], opened[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                decay.step()

    @torch.inference_mode()
    def __call__(self, state: State, look: Callable[[], Image]) -> Vector:
        """Return the action [4] for what is seen now; the fingers open or close, and nothing between."""
        seen = self._eye(state, look)
        vector = torch.from_numpy((seen.vector - self._mean) / self._spread)[None]
        *way, opened = self._head(vector, torch.from_numpy(seen.tokens)[None])[0].tolist()
        return np.array([*(STRIDE * part for part in way), OPEN if opened > 0 else CLOSED])
