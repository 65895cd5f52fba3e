"""What the tests of `dino-ros view` ask its server with, in place of a browser."""

import base64
import contextlib
import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.view.scene import LAYERS


class Page:
    """Asks a server on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, headers: Mapping[str, str] = {}) -> tuple[int, Any, bytes]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    def post(self, path: str, values: Any) -> tuple[int, Any]:
        """Status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, json.dumps(values), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        return answer.status, told

    def frame(self, **query: Any) -> Any:
        """The next frame; without `after` the one in view, or the first. Of all layers unless told otherwise."""
        query.setdefault("layers", ",".join(LAYERS))
        for _ in range(20):
            told = json.loads(self.get(f"/frame?{urlencode(query)}")[2])
            if "camera" in told or "after" in query:
                return told
        raise AssertionError(told)

    @staticmethod
    def pixels(url: str) -> NDArray[Any]:
        """BGR or BGRA of a data URL."""
        data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))


def cosine(features: NDArray[Any], row: int, column: int) -> NDArray[Any]:
    """Cosine similarity [h, w] of all tokens [h, w, C] to one, in float64."""
    tokens = features.astype(np.float64)
    return np.asarray(
        tokens @ tokens[row, column] / (np.linalg.norm(tokens, axis=-1) * np.linalg.norm(tokens[row, column]))
    )


def unanswered(request: Callable[[], Any]) -> None:
    """Ask a server that may end meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        request()
