from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tgo.pipeline.labelling.score_reader import NO_NAME, encode, numbers, rows_ok


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_numbers_are_those_of_the_rows_and_nan_where_null(kind: pa.DataType) -> None:
    values = [1.5, None, -2.0, 3.25, None, 0.0, 7.0, 8.0, None, 10.0]
    whole = pa.array(values, kind)
    column = pa.chunked_array([whole.slice(3, 6), whole.slice(0, 0), whole.slice(1)])
    wanted = [float("nan") if value is None else value for value in values[3:9] + values[1:]]
    found = numbers(column)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert len(numbers(pa.chunked_array([], kind))) == 0
    assert np.isnan(numbers(pa.chunked_array([pa.nulls(3, kind)]))).all()


def test_rows_are_usable_whose_status_is_ok_however_it_is_stored() -> None:
    status = pa.array(["ok", None, "failed", "ok", "ok", None])
    for column in (status, status.dictionary_encode()):
        table = pa.table({"status": pa.chunked_array([column.slice(1), column])})
        wanted = [False, False, True, True, False, True, False, False, True, True, False]
        assert rows_ok(table).tolist() == wanted


def test_names_and_index_give_the_rows_back() -> None:
    names = pa.array(["b", None, "a", "b", None])
    for column in (names, names.dictionary_encode()):
        values, index = encode(pa.chunked_array([column, column.slice(2)]))
        found = [values[int(code)].as_py() for code in index]
        assert found == ["b", NO_NAME, "a", "b", NO_NAME, "a", "b", NO_NAME]
