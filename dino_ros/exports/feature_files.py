"""The files that features are exported to: a Zarr group, or a folder of Parquet files; both grow by whole parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import remove_leftovers, replacing

ROWS = 32
"""Frames of a part, which is also a chunk: a few megabytes, so that a sequence is read with few files."""

Columns = dict[str, NDArray[Any]]
"""Arrays [n, ...] by name, one row a frame."""


class FeatureFile(Protocol):
    """Where features go."""

    def begin(self) -> None:
        """Make it, unless it is there already."""

    def write(self, start: int, rows: Columns) -> None:
        """Write rows from number `start`, a multiple of ROWS, on; those that are there from it on are replaced."""

    def finish(self, count: int) -> None:
        """Remove what is left of rows after the first `count`."""


def open_feature_file(path: Path, description: Mapping[str, object]) -> FeatureFile:
    """What writes a `.zarr` or a `.parquet`, which may not exist yet; `description` becomes its metadata.

    Raises UserError for another suffix, and where the library is not installed.
    """
    if path.suffix == ".zarr":
        return ZarrFile(path, description)
    if path.suffix == ".parquet":
        return ParquetFile(path, description)
    raise UserError(f"--out {path} ends neither in .zarr nor in .parquet: the ending chooses the format.")


class ZarrFile:
    """A Zarr group with an array for each column; a chunk holds ROWS frames."""

    def __init__(self, path: Path, description: Mapping[str, object]) -> None:
        try:
            import zarr
        except ImportError as error:
            raise UserError("Writing .zarr needs the package zarr: run `pip install 'dino_ros[zarr]'`.") from error
        self._open: Any = zarr.open_array
        self._path = path
        self._open_group: Any = zarr.open_group
        self._description = dict(description)

    def begin(self) -> None:
        group = self._open_group(str(self._path), mode="a")
        group.attrs["dino_ros"] = self._description

    def write(self, start: int, rows: Columns) -> None:
        for name, values in rows.items():
            array = self._open(
                str(self._path / name),
                mode="a",
                shape=(0, *values.shape[1:]),
                chunks=(ROWS, *values.shape[1:]),
                dtype=values.dtype,
            )
            array.resize((start + len(values), *values.shape[1:]))
            array[start:] = values

    def finish(self, count: int) -> None:
        for folder in sorted(path for path in self._path.iterdir() if path.is_dir()):
            array = self._open(str(folder), mode="a")
            array.resize((count, *array.shape[1:]))


class ParquetFile:
    """A folder of Parquet files of ROWS frames each, as pyarrow, pandas and Spark read it; tensors are flat lists."""

    def __init__(self, path: Path, description: Mapping[str, object]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(
                "Writing .parquet needs the package pyarrow: run `pip install 'dino_ros[parquet]'`."
            ) from error
        self._arrow: Any = pyarrow
        self._path = path
        self._metadata = {"dino_ros": json.dumps(description)}

    def begin(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._path)

    def write(self, start: int, rows: Columns) -> None:
        columns = {name: self._column(values) for name, values in rows.items()}
        table = self._arrow.table(columns).replace_schema_metadata(self._metadata)
        with replacing(self._path / f"part_{start // ROWS:06d}.parquet") as temporary:
            self._arrow.parquet.write_table(table, temporary, compression="zstd")

    def _column(self, values: NDArray[Any]) -> Any:
        if values.ndim == 1:
            return self._arrow.array(values)
        flat = self._arrow.array(np.ascontiguousarray(values).reshape(-1))
        return self._arrow.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))

    def finish(self, count: int) -> None:
        for file in self._path.glob("part_*.parquet"):
            if int(file.stem.partition("_")[2]) * ROWS >= count:
                file.unlink()
