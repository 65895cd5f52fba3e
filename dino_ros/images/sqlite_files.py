"""Files of SQLite3: their topics and messages, and what a killed recorder left beside them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dino_ros.files import cache_folder, replacing
from dino_ros.images.bag_records import Connection, Message, summed

log = logging.getLogger(__name__)

SELECT_CONNECTIONS = "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
SELECT_DEFINITIONS = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
SELECT_COUNTS = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
SELECT_OFFSETS = "SELECT topic_id, timestamp, id, length(data) FROM messages ORDER BY timestamp"
SELECT_DATA = "SELECT data FROM messages WHERE id = ?"


def complete_database(file: Path) -> Path:
    """The .db3 itself, or a complete copy in the user's cache if its recorder was killed.

    SQLite3 keeps what it has not yet written into a database in a file beside it, and would write into the folder to
    read both. Raises OSError or sqlite3.Error if no copy can be made.
    """
    beside = [file.with_name(file.name + end) for end in ("-wal", "-journal")]
    beside = [other for other in beside if other.is_file() and other.stat().st_size]
    if not beside:
        return file
    states = [(other.name, other.stat().st_size, other.stat().st_mtime_ns) for other in (file, *beside)]
    digest = hashlib.sha256(repr((str(file.resolve()), states)).encode(errors="surrogateescape")).hexdigest()
    copy = cache_folder("recordings") / f"{digest[:16]}.db3"
    if not copy.is_file():
        log.warning("%s was not closed by its recorder: it is completed in a copy, %s", file, copy)
        with tempfile.TemporaryDirectory() as folder:
            for other in (file, *beside):
                shutil.copyfile(other, Path(folder) / other.name)
            with replacing(copy) as temporary, closing(sqlite3.connect(Path(folder) / file.name)) as database:
                database.execute("PRAGMA journal_mode = DELETE").fetchall()
                shutil.copyfile(Path(folder) / file.name, temporary)
    return copy


def messages(file: Path, chunk: int) -> Iterator[Connection | Message]:
    """Yield the connections of a file, then its messages in order of time, as those of that chunk."""
    with closing(open_database(file)) as database:
        connections = _connections(database)
        yield from connections.values()
        for topic, time, row, size in database.execute(SELECT_OFFSETS):
            if topic in connections:
                yield Message(connections[topic], time, row, size, chunk)


def _connections(database: sqlite3.Connection) -> dict[int, Connection]:
    definitions: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(sqlite3.OperationalError):  # the table came with ROS 2 Iron
        definitions = {kind: (text, form) for kind, form, text in database.execute(SELECT_DEFINITIONS)}
    return {
        number: Connection(topic, kind, serialization, *definitions.get(kind, ()))
        for number, topic, kind, serialization in database.execute(SELECT_CONNECTIONS)
    }


def summary(file: Path) -> dict[Connection, int]:
    """Every connection of a file and how many messages it has."""
    with closing(open_database(file)) as database:
        counts = dict(database.execute(SELECT_COUNTS))
        return summed((one, counts.get(number, 0)) for number, one in _connections(database).items())


def open_database(file: Path) -> sqlite3.Connection:
    """Open a file for reading; bytes of texts that are not UTF-8 are replaced."""
    # Immutable: otherwise SQLite locks the file and writes next to it.
    database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    # Images are read once, and hundreds of files may be open: not 2 MB of pages for each. Mapping files into memory
    # would save 35 us a frame of 1280x720, but a file that is cut short while it is read would end the process.
    database.execute("PRAGMA cache_size = -64")
    database.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
    return database
