"""The server of the page: files, frames as JSON, and parameters. Only this machine reaches it unless told otherwise."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import math
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dino_ros.errors import UserError
from dino_ros.masks.parameters import RULES, MaskParameters
from dino_ros.view.scene import LAYERS, Place, Viewed

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
LONGEST_WAIT = 1.0
"""Seconds that a request for the next frame waits."""
TEACHING = ("/point_out", "/teach", "/undo", "/forget")
"""Requests about taught objects."""
LARGEST_BODY = 10_000
"""Bytes of a request."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"


class Server(ThreadingHTTPServer):
    """Serves the page on what is viewed. Raises UserError if the address cannot be used."""

    daemon_threads = False  # Python would end one amid OpenCV, which aborts the process

    def __init__(self, viewed: Viewed, host: str, port: int) -> None:
        self.viewed = viewed
        self._host = host
        self._connections: set[Any] = set()
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"Port {port} is in use: end the other program, or choose another with --port."
                ) from error
            raise UserError(f"{host}:{port} cannot be served ({error}): correct --host or --port.") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """End the connections, which browsers keep open, and wait for the threads that answer them."""
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    @property
    def url(self) -> str:
        """Where to point a browser on this machine."""
        host = "localhost" if self._host in ("127.0.0.1", "0.0.0.0") else self._host
        return f"http://{host}:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the page was closed
            super().handle()

    def do_GET(self) -> None:
        if not self._from_here():
            return
        parts = urlsplit(self.path)
        if parts.path in FILES:
            name, kind = FILES[parts.path]
            self._send((resources.files("dino_ros.view") / name).read_bytes(), kind)
        elif parts.path == "/about":
            viewed = self.server.viewed
            about = {"name": viewed.name, "recording": viewed.recording, "teaches": self._same_machine()}
            self._send_json({**about, "parameters": parameter_rows()})
        elif parts.path == "/frame":
            self._send_frame(parse_qs(parts.query))
        elif parts.path == "/favicon.ico":
            self._send(b"", "image/x-icon", HTTPStatus.NO_CONTENT)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page: open /.")

    def do_POST(self) -> None:
        if not self._from_here():
            return
        # Pages of others may send forms, but not JSON: a browser asks first, and is not answered.
        length = self.headers.get("Content-Length", "")
        if (
            self.headers.get_content_type() != "application/json"
            or not length.isdecimal()
            or int(length) > LARGEST_BODY
        ):
            self.close_connection = True
            self._refuse(HTTPStatus.BAD_REQUEST, "The request is not JSON: send application/json of less than 10 kB.")
            return
        try:
            values = json.loads(self.rfile.read(int(length)))
            if not isinstance(values, dict):
                raise UserError("The request is not a JSON object: send names and values.")
            answer: dict[str, Any] = {}
            if self.path in TEACHING:
                answer = self._teach(values)
            elif self.path == "/parameters":
                self.server.viewed.set_parameters(checked(values))
            elif self.path == "/pause":
                self.server.viewed.pause(values.get("paused") is True)
            elif self.path == "/step":
                self.server.viewed.step()
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "There is no such page: open /.")
                return
        except (UserError, ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._send_json({**answer, "parameters": self.server.viewed.parameters()})

    def _teach(self, values: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked of the taught objects, which are files of this machine: strangers have no say in them."""
        if not self._same_machine():
            raise UserError("Objects are taught from the machine that serves the page: open it there, or by `ssh -L`.")
        viewed = self.server.viewed
        if self.path == "/point_out":
            return viewed.point_out(a_number(values, "number"), place(values)).encoded()
        name = values.get("name")
        if not isinstance(name, str) or not name:
            raise UserError("The object has no name: type one.")
        if self.path == "/teach":
            viewed.teach(a_number(values, "shown"), name, values.get("shows_it") is not False)
        elif self.path == "/undo":
            viewed.undo(name)
        else:
            viewed.forget(name)
        return {}

    def _same_machine(self) -> bool:
        """Whether the page is open on this machine, or reaches it through a tunnel that ends here."""
        client, own = self.client_address[0], self.connection.getsockname()[0]
        return client == own or ipaddress.ip_address(client).is_loopback

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every frame helps nobody."""

    def _send_frame(self, query: dict[str, list[str]]) -> None:
        try:
            after = int(query.get("after", ["0"])[0])
            point = (float(query["x"][0]), float(query["y"][0])) if "x" in query and "y" in query else None
            if point and not all(0 <= value <= 1 for value in point):
                raise ValueError("x and y must be from 0 to 1")
            layers = set(query.get("layers", [""])[0].split(",")) - {""}
            if unknown := layers - set(LAYERS):
                raise ValueError(f"there is no layer {', '.join(sorted(unknown))}")
        except ValueError as error:
            self._refuse(
                HTTPStatus.BAD_REQUEST,
                f"The request cannot be read ({error}): ask with numbers, and layers of {', '.join(LAYERS)}.",
            )
            return
        viewed = self.server.viewed
        scene = viewed.scene(after, LONGEST_WAIT, layers)
        frame = scene.encoded(layers, point) if scene else {}
        about = {"status": viewed.status(), "paused": viewed.paused(), "values": viewed.parameters()}
        self._send_json(
            {
                **frame,
                **about,
                "looks": viewed.taught(),
                "learner": viewed.learner(),
                "waiting_for": viewed.waiting_for(),
            }
        )

    def _from_here(self) -> bool:
        """Whether the page was opened by an address; a name might be a stranger's that was made to point here."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if host not in ("localhost", socket.gethostname().lower()):
                ipaddress.ip_address(host)
        except ValueError:
            self.close_connection = True
            self._refuse(HTTPStatus.FORBIDDEN, "Open the page by localhost, this machine's name, or its IP address.")
            return False
        return True

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send_json({"error": why}, status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)


def parameter_rows() -> list[dict[str, Any]]:
    """The parameters of the mask for the page: name, description, type, bounds and choices."""
    return [
        {
            "name": f"mask_{name}",
            "description": rule.description,
            "type": type(getattr(MaskParameters, name)).__name__,
            "bounds": rule.bounds,
            "choices": rule.choices,
        }
        for name, rule in RULES.items()
    ]


def a_number(values: dict[str, Any], name: str) -> int:
    """A whole number of a request. Raises UserError if it has none of that name."""
    value = values.get(name)
    if type(value) is not int:
        raise UserError(f"{name} is {value!r}: it must be a whole number.")
    return value


def place(values: dict[str, Any]) -> Place:
    """The point or the box of a request. Raises UserError unless it is inside the image."""
    sides = [values.get("x"), values.get("y"), values.get("width", 0), values.get("height", 0)]
    if not all(type(side) in (int, float) and 0 <= side <= 1 for side in sides):
        raise UserError("The place cannot be read: x and y, and width and height of a box, must be from 0 to 1.")
    return Place(*map(float, sides))


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the types of the mask's parameters.

    Raises UserError for a name that is none of them, and for a value of another type or out of its range.
    """
    typed = {}
    for name, value in values.items():
        field = name.removeprefix("mask_")
        if field == name or field not in RULES:
            known = ", ".join(f"mask_{known}" for known in RULES)
            raise UserError(f"{name} is not a parameter that can be set here: choose among {known}.")
        wanted = type(getattr(MaskParameters, field))
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise UserError(f"{name} is {value!r}: it must be a {wanted.__name__}.")
        RULES[field].check(name, value)
        typed[name] = value
    return typed
