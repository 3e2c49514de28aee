"""Feature tables: what is written is read, in reading order, and nothing doubtful is written or read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from pyarrow import parquet

from medvision.core.digest import digest_file
from medvision.core.errors import StoreError, UsageError
from medvision.core.features import FeatureSource
from medvision.store.features import (
    ARRAY,
    CHUNK_ROWS,
    INFO,
    WINDOWS,
    FeatureInfo,
    WindowTable,
    read_features,
    write_features,
)
from medvision.store.manifest import files_of


def source(dimension: int = 5) -> FeatureSource:
    return FeatureSource(
        trunk="toy",
        digest="d" * 64,
        dimension=dimension,
        window_px=64,
        spacing_um=0.5,
        stride_px=64,
        minimum_tissue=0.1,
    )


def info(windows: int, dtype: str = "float32", unread: int = 0) -> FeatureInfo:
    return FeatureInfo.model_validate(
        {
            "slide": "a.svs",
            "slide_digest": "s" * 64,
            "slide_shape": (640, 640),
            "slide_spacing_um": (0.25, 0.25),
            "source": source(),
            "lattice": (100, 100),
            "dtype": dtype,
            "windows": windows,
            "unread": unread,
        }
    )


def windows(cells: list[tuple[int, int]]) -> WindowTable:
    rows, columns = np.array(cells, np.int64).reshape(-1, 2).T
    return WindowTable(
        row=rows * 128.0,
        column=columns * 128.0,
        cell_row=rows,
        cell_column=columns,
        tissue=np.full(len(rows), 0.5, np.float32),
        read=np.ones(len(rows), bool),
    )


CELLS = [(0, 1), (0, 3), (1, 0), (2, 2)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    vectors[2] = np.nan
    table = replace(windows(CELLS), read=np.array([True, True, False, True]))
    write_features(tmp_path, info(4, unread=1), vectors, table)
    found = read_features(tmp_path)
    assert found.info == info(4, unread=1)
    np.testing.assert_array_equal(found.vectors(), vectors)
    np.testing.assert_array_equal(found.vectors([3, 0]), vectors[[3, 0]])
    np.testing.assert_array_equal(found.vectors(slice(1, 3)), vectors[1:3])
    for name in WindowTable.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found.windows, name), getattr(table, name))


def test_other_programs_read_it_too(tmp_path: Path) -> None:
    vectors = np.arange(20, dtype=np.float32).reshape(4, 5)
    write_features(tmp_path, info(4, "float16"), vectors, windows(CELLS))
    array = zarr.open_array(tmp_path / ARRAY, mode="r")
    assert (array.shape, array.dtype) == ((4, 5), np.float16)
    assert array.attrs["model_digest"] == "d" * 64
    table = parquet.read_table(tmp_path / WINDOWS, use_threads=False)
    assert table.column_names == ["index", "row", "column", "cell_row", "cell_column", "tissue", "read"]
    assert table.schema.metadata[b"slide"] == b"a.svs"
    assert table.column("row").to_pylist() == [0.0, 0.0, 128.0, 256.0]


def test_equal_tables_have_equal_bytes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_features(folder, info(4), vectors, windows(CELLS))
        digests.append({file: digest_file(folder / file) for file in files_of(folder)})
    assert digests[0] == digests[1]


def test_a_long_table_is_cut_into_chunks(tmp_path: Path) -> None:
    count = CHUNK_ROWS + 7
    cells = [(k // 100, k % 100) for k in range(count)]
    vectors = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    write_features(tmp_path, info(count), vectors, windows(cells))
    assert len([name for name in files_of(tmp_path) if name.startswith(f"{ARRAY}/c/")]) == 2
    np.testing.assert_array_equal(read_features(tmp_path).vectors(), vectors)


def test_a_slide_without_tissue_has_an_empty_table(tmp_path: Path) -> None:
    write_features(tmp_path, info(0), np.zeros((0, 5), np.float32), windows([]))
    found = read_features(tmp_path)
    assert len(found) == 0
    assert found.vectors().shape == (0, 5)


@pytest.mark.parametrize("cells", [[(1, 0), (0, 0), (2, 0), (3, 0)], [(0, 0), (0, 0), (2, 0), (3, 0)]])
def test_rows_out_of_reading_order_are_refused(tmp_path: Path, cells: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match="row-major"):
        write_features(tmp_path, info(4), np.zeros((4, 5), np.float32), windows(cells))


def test_a_value_beyond_float16_is_refused(tmp_path: Path) -> None:
    vectors = np.full((4, 5), 70_000, np.float32)
    with pytest.raises(UsageError, match="float32"):
        write_features(tmp_path, info(4, "float16"), vectors, windows(CELLS))


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    write_features(tmp_path, info(4), np.zeros((4, 5), np.float32), windows(CELLS))
    with pytest.raises(StoreError, match=r"features\.json"):
        read_features(tmp_path / "nowhere")
    good = (tmp_path / INFO).read_text()
    (tmp_path / INFO).write_text(good.replace('"windows": 4', '"windows": 3'))
    with pytest.raises(StoreError, match="has 4 rows"):
        read_features(tmp_path)
    (tmp_path / INFO).write_text(good)
    (tmp_path / WINDOWS).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(StoreError, match="not the windows"):
        read_features(tmp_path)


def test_sources_say_where_they_differ() -> None:
    other = source().model_copy(update={"spacing_um": 0.25, "trunk": "another"})
    assert source().differences(source()) == ()
    assert source().differences(other) == ("trunk toy instead of another", "spacing_um 0.5 instead of 0.25")
