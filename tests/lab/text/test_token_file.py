import operator
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from falloff.lab.text.token_file import open_tokens

NUMBERS = np.arange(5000, dtype="<u2")


@pytest.fixture
def tokens(tmp_path):
    (tmp_path / "tokens.bin").write_bytes(NUMBERS.tobytes())
    return open_tokens(tmp_path / "tokens.bin", "<u2", 1000, 4000)


def test_reads_as_an_array_does(tokens):
    expected = NUMBERS[1000:4000]
    assert len(tokens) == tokens.size == 3000
    assert np.array_equal(tokens, expected)
    assert np.array_equal(tokens[-17:], expected[-17:])  # the last window
    assert np.array_equal(tokens[np.array([[5, 6], [2999, 0]])], expected[np.array([[5, 6], [2999, 0]])])
    assert type(tokens[5:9]) is np.ndarray
    assert tokens.tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        tokens[5:9][0] = 1


def test_pickled_by_path(tokens):
    stored = pickle.dumps(tokens)
    assert len(stored) < 500
    again = pickle.loads(stored)
    assert np.array_equal(again, tokens)
    assert len(pickle.dumps(again)) < 500
    assert np.array_equal(pickle.loads(pickle.dumps(tokens[3:5])), tokens[3:5])
    assert np.array_equal(pickle.loads(pickle.dumps(tokens + 1)), NUMBERS[1000:4000] + 1)


def test_an_empty_part(tmp_path):
    (tmp_path / "tokens.bin").touch()
    assert open_tokens(tmp_path / "tokens.bin", "<u4", 0, 0).dtype == np.dtype("<u4")


def test_opened_by_a_spawned_process(tokens):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(operator.getitem, tokens, slice(10, 20)).result(timeout=120)
    assert found.tolist() == NUMBERS[1010:1020].tolist()
