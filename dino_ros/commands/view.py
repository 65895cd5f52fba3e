"""`dino-ros view`: a page in a browser on what a student sees in a recording."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="bag, video or folder of images to play, without ROS")
    parser.add_argument("--topic", help="image topic of the bag; may be left out if it has only one")
    parser.add_argument("--model", default="", help="student file, or the name of a bundled student")
    parser.add_argument("--backend", default="auto", help="engine that runs the student")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve; 0.0.0.0 lets everybody on the network look and set"
    )
    parser.add_argument("--port", type=int, default=8080, help="set it where another program has the port")


def run(options: argparse.Namespace) -> int:
    from dino_ros.images.sources import open_source
    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.view.player import Player
    from dino_ros.view.server import Server

    source = open_source(options.path, options.topic)
    perceiver = Perceiver.load(options.model, options.backend, report=lambda line: print(line, flush=True))
    player = Player(source, perceiver)
    server = Server(player, options.host, options.port)
    print(f"Playing {player.name} through {perceiver.path.stem}: {perceiver.chosen}.")
    print(f"Open {server.url} in a browser. It plays while somebody looks; Ctrl-C ends it.", flush=True)
    if options.host not in ("127.0.0.1", "localhost"):
        print("Everybody on the network can open the page and set the mask's parameters.", flush=True)
    try:
        server.serve_forever()
    finally:
        player.close()
        server.server_close()
    return 0
