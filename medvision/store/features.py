"""Feature tables: one vector per window of a slide, as Zarr, with the windows beside them as Parquet.

A table is a folder of three things, which the `ResultStore` publishes whole or not at all:

    features.zarr     array (n, d), float32 or float16, Zarr format 3; a window that could not be read is NaN throughout
    windows.parquet   n rows: index, row, column, cell_row, cell_column, tissue, read
    features.json     what slide and trunk it is of (`FeatureInfo`)

Rows are in row-major order of the lattice of windows: from left to right, then from top to bottom, as a page is read.
Windows without tissue are left out, not filled in. `row` and `column` are the level-0 pixel of a window's upper left
corner, which may lie outside the slide; `cell_row` and `cell_column` its place in the lattice; `tissue` the share of
its cell that is tissue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from medvision.core.errors import StoreError, UsageError
from medvision.core.features import FeatureSource
from medvision.core.results import FloatArray
from medvision.store.records import Record

ARRAY = "features.zarr"
WINDOWS = "windows.parquet"
INFO = "features.json"
CHUNK_ROWS = 2048
"""Rows of one file of the array: some megabytes, whatever the trunk."""

FeatureType = Literal["float32", "float16"]


class FeatureInfo(Record):
    """What a feature table is of. Shapes and positions as (rows, columns); the slide's in level-0 pixels."""

    schema_version: Literal[1] = 1
    slide: str
    slide_digest: str
    slide_shape: tuple[int, int]
    slide_spacing_um: tuple[float, float]
    source: FeatureSource
    lattice: tuple[int, int]
    """Rows and columns of the lattice of windows over the whole slide."""
    order: Literal["row-major"] = "row-major"
    dtype: FeatureType
    windows: int
    unread: int


@dataclass(frozen=True, eq=False)
class WindowTable:
    """The windows of a table, all arrays (n,), in row-major order of their cells."""

    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    cell_row: npt.NDArray[np.int64]
    cell_column: npt.NDArray[np.int64]
    tissue: npt.NDArray[np.float32]
    read: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """A feature table on disk: its description and windows; the vectors are read when asked for."""

    folder: Path
    info: FeatureInfo
    windows: WindowTable

    def __len__(self) -> int:
        return len(self.windows)

    def vectors(self, rows: Sequence[int] | npt.NDArray[np.int64] | slice | None = None) -> FloatArray:
        """The vectors `(n, d)` as float32, all or those of some rows; NaN throughout for an unread window."""
        array = _open_array(self.folder / ARRAY)
        if rows is None:
            found = array[:]
        else:
            found = array[rows] if isinstance(rows, slice) else array.oindex[np.asarray(rows, np.int64)]
        return np.asarray(found, np.float32)


def write_features(folder: Path, info: FeatureInfo, vectors: FloatArray, windows: WindowTable) -> None:
    """Write a table's files into `folder`, a chunk of rows at a time: `vectors` may be a memory map of any length.

    Equal input gives equal bytes.

    Raises:
        UsageError: if lengths differ, rows are not in row-major order, or a value is too large for float16.
    """
    if not len(vectors) == len(windows) == info.windows:
        raise UsageError(f"{len(vectors)} vectors, {len(windows)} windows and {info.windows} stated differ")
    place = windows.cell_row * info.lattice[1] + windows.cell_column
    if np.any(np.diff(place) <= 0):
        raise UsageError("rows of a feature table must be in row-major order of their cells, each cell once")
    array = _create_array(folder / ARRAY, info)
    limit = float(np.finfo(info.dtype).max)
    for start in range(0, len(vectors), CHUNK_ROWS):
        part = np.asarray(vectors[start : start + CHUNK_ROWS], np.float32)
        largest = float(np.nanmax(np.abs(part), initial=0.0))
        if largest > limit:
            raise UsageError(f"a feature of {largest:g} does not fit {info.dtype}; store float32")
        array[start : start + len(part)] = part.astype(info.dtype)
    _write_windows(folder / WINDOWS, info, windows)
    (folder / INFO).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_features(folder: Path) -> FeatureTable:
    """The feature table in `folder`; its vectors stay on disk.

    Raises:
        StoreError: if a file is missing, damaged or of another table.
    """
    try:
        info = FeatureInfo.model_validate_json((folder / INFO).read_bytes())
    except OSError as error:
        raise StoreError(
            f"{folder / INFO}: cannot be read ({error.strerror}); a feature table has it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{folder / INFO}: {where}: {first['msg']}") from error
    windows = _read_windows(folder / WINDOWS)
    shape = tuple(_open_array(folder / ARRAY).shape)
    if shape != (info.windows, info.source.dimension) or len(windows) != info.windows:
        raise StoreError(
            f"{folder}: {ARRAY} is {shape} and {WINDOWS} has {len(windows)} rows, "
            f"but {INFO} says {(info.windows, info.source.dimension)}"
        )
    return FeatureTable(folder, info, windows)


def _create_array(path: Path, info: FeatureInfo) -> Any:
    import zarr

    dimension = info.source.dimension
    return zarr.create_array(
        store=path,
        shape=(info.windows, dimension),
        chunks=(min(CHUNK_ROWS, max(info.windows, 1)), dimension),
        dtype=info.dtype,
        fill_value=float("nan"),
        zarr_format=3,
        dimension_names=["window", "feature"],
        attributes={
            "slide": info.slide,
            "slide_digest": info.slide_digest,
            "model": info.source.trunk,
            "model_digest": info.source.digest,
            "spacing_um": info.source.spacing_um,
        },
    )


def _open_array(path: Path) -> Any:
    import zarr

    try:
        return zarr.open_array(store=path, mode="r", zarr_format=3)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: not a readable Zarr array ({error})") from error


def _write_windows(path: Path, info: FeatureInfo, windows: WindowTable) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "index": np.arange(len(windows), dtype=np.int64),
        "row": windows.row,
        "column": windows.column,
        "cell_row": windows.cell_row,
        "cell_column": windows.cell_column,
        "tissue": windows.tissue,
        "read": windows.read,
    }
    said = {
        "slide": info.slide,
        "slide_digest": info.slide_digest,
        "model": info.source.trunk,
        "model_digest": info.source.digest,
        "spacing_um": f"{info.source.spacing_um:g}",
        "window_px": str(info.source.window_px),
        "stride_px": str(info.source.stride_px),
    }
    table = pa.table(columns).replace_schema_metadata(said)
    parquet.write_table(table, path, compression="zstd")


def _read_windows(path: Path) -> WindowTable:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # One file on a local disk: the reader's own threads would outlive the call for nothing.
        table = parquet.read_table(path, use_threads=False)
        columns = {name: table.column(name).to_numpy() for name in WindowTable.__dataclass_fields__}
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(f"{path}: not the windows of a feature table ({error})") from error
    return WindowTable(**columns)
