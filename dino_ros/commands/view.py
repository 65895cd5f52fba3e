"""`dino-ros view`: a page in a browser on what a student sees, in a recording or on a running robot."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from threading import Thread

from dino_ros.commands.student_options import add_model
from dino_ros.errors import UserError
from dino_ros.view.scene import Viewed

DESCRIPTION = """\
Serve a page for a browser: camera, mask, objects, attention of each head, the
features as colors, sliders for the mask, and at a click how alike everything is
to that point. Name what you click, and it is found in the frames that follow.
Of a recording, without ROS, or of a running node, whose student and engine it
shows. Open within seconds, until Ctrl-C.

    dino-ros view drive.mcap --topic /front/image_raw
"""

NOTICED = 0.2
"""Seconds until Ctrl-C is seen at the latest: threads of ROS may get the signal, which wakes nobody."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", type=Path, help="bag, video or folder of images to play (default: show a running node)"
    )
    parser.add_argument(
        "--topic", help="the bag's or the node's camera, such as /front/image_raw, where it has several"
    )
    parser.add_argument(
        "--node", default="/dino/perception", help="the running node to show, where it has another name"
    )
    parser.add_argument(
        "--objects",
        type=Path,
        metavar="FOLDER",
        help="folder of taught objects, for a recording; a node has its own (default: as the node's taught_folder, "
        "dino_objects in ROS_HOME)",
    )
    add_model(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve; 0.0.0.0 lets everybody on the network look and set, but not teach",
    )
    parser.add_argument("--port", type=int, default=8080, help="set it where another program has the port")


def run(options: argparse.Namespace) -> int:
    from dino_ros.view.server import Server

    viewed = _recording(options) if options.path else _node(options)
    try:
        server = Server(viewed, options.host, options.port)
    except UserError:
        viewed.close()
        raise
    # In a thread of its own: Ctrl-C would break off what the server does with a request that comes in.
    serving = Thread(target=server.serve_forever)
    serving.start()
    try:
        print(f"Open {server.url} in a browser. Nothing is computed until somebody looks; Ctrl-C ends it.", flush=True)
        if options.host not in ("127.0.0.1", "localhost"):
            print(
                "Everybody on the network can open the page and set the mask's parameters; this machine alone teaches.",
                flush=True,
            )
        while serving.is_alive():
            serving.join(NOTICED)
    finally:
        server.shutdown()
        viewed.close()  # first, so that no answer waits for it
        server.server_close()
    return 0


def _recording(options: argparse.Namespace) -> Viewed:
    from dino_ros.images.sources import open_source
    from dino_ros.nodes.topics import RESERVED
    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.taught.object_files import check_object_name, objects_folder
    from dino_ros.view.player import Player
    from dino_ros.view.teaching import Teaching

    source = open_source(options.path, options.topic)
    perceiver = Perceiver.load(options.model, options.backend, report=lambda line: print(line, flush=True))
    print(f"Playing {source.name} through {perceiver.path.stem}: {perceiver.chosen}.")
    teaching = Teaching(perceiver, objects_folder(options.objects or ""), partial(check_object_name, reserved=RESERVED))
    for sentence in teaching.refused:
        print(sentence, flush=True)
    return Player(source, perceiver, teaching)


def _node(options: argparse.Namespace) -> Viewed:
    try:
        from dino_ros.nodes.running_node import open_node
    except ImportError as error:
        raise UserError(
            f"To show a running node takes ROS 2 ({error}): source its setup.bash, or give the path of a recording."
        ) from error
    print(f"Showing {options.node}{f', {options.topic}' if options.topic else ''}.")
    return open_node(options.node, options.topic)
