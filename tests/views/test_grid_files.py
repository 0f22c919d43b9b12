import pytest

from falloff.views.grid_files import read_grid


def cells_of(path):
    return [[None if cell is None else cell.value for cell in row] for row in read_grid(path)]


THREE = [[0, None, None], [1, 0, None], [2, 1, 0]]


@pytest.mark.parametrize(
    "text",
    [
        "0,X,X\n1,0,X\n2,1,0\n",
        "0,x,x\r\n1,0,x\r\n2,1,0",
        "0;-;-\n1;0;-\n2;1;0\n",
        "0\t\t\n1\t0\t\n2\t1\t0\n",
        "0,,\n1,0,\n2,1,0\n",
        "  0 X X\n\n  1 0 X\n  2 1 0\n\n",
        "0  -   x\n1  0   -\n2  1   0\n",
        "\ufeff0,X,X\n1,0,X\n2,1,0\n",
        '"0","X","X"\n"1","0","X"\n"2","1","0"\n',
        "0.0,X,X\n1.0,0,X\n2e0,1,+0\n",
        # labels
        "u,e,r\n0,X,X\n1,0,X\n2,1,0\n",
        "0,1,2\n0,X,X\n1,0,X\n2,1,0\n",
        "u,0,X,X\ne,1,0,X\nr,2,1,0\n",
        "q,u,e,r\nu,0,X,X\ne,1,0,X\nr,2,1,0\n",
        ",u,e,r\nu,0,,\ne,1,0,\nr,2,1,0\n",
        "  u e r\nu 0 X X\ne 1 0 X\nr 2 1 0\n",
        ",0,1,2\n0,0,,\n1,1,0,\n2,2,1,0\n",  # as pandas writes it
        "  0 1 2\n0 0 X X\n1 1 0 X\n2 2 1 0\n",
        ",x,-,u\nx,0,,\n-,1,0,\nu,2,1,0\n",
        ",in,1998,X\nin,0,,\n1998,1,0,\nX,2,1,0\n",  # the same tokens along both edges, whatever they look like
        "  u e r\n0 0 X X\n1 1 0 X\n2 2 1 0\n",
    ],
)
def test_ways_to_write_the_same_grid(tmp_path, text):
    path = tmp_path / "grid.csv"
    path.write_bytes(text.encode())
    assert cells_of(path) == THREE


def test_masked_corners_are_no_labels(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("X 0 1\n0 0 X\n1 1 0\n")
    assert cells_of(path) == [[None, 0, 1], [0, 0, None], [1, 1, 0]]


def test_a_row_that_is_masked_whole_is_still_a_row(tmp_path):
    path = tmp_path / "grid.tsv"
    path.write_text("\t\n1\t0\n")
    assert cells_of(path) == [[None, None], [1, 0]]


def test_digits_decide_the_tolerance(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("0,-\u2212\n".replace("-\u2212", "\u2212") + "\u22120.25,1e-2\n", encoding="utf-8")
    (zero, masked), (value, small) = read_grid(path)
    assert (zero.half_unit, masked) == (0.5, None)
    assert (value.value, value.half_unit, small.half_unit) == (-0.25, 0.005, 0.005)


HOSTILE = {
    "empty": (b"", "got nothing"),
    "blank": (b" \n\n \n", "got nothing"),
    "ragged": (b"0 X\n1 0 2\n", "row 1 has 3 cells and row 0 has 2"),
    "a broken staircase": (b"0\n1 0\n2 1\n", "row 1 has 2 cells and row 0 has 1, .*write X for a masked cell"),
    "wide": (b"0 X X\n1 0 X\n", "2 rows of 3 cells, expected a square"),
    "tall": (b"0 X\n1 0\n2 1\n", "3 rows of 2 cells, expected a square"),
    "text": (b"0 X\n1 zero\n", "row 1, column 1 reads 'zero'"),
    # A label row or column must be recognisable as one: text is no grid because a number ends it.
    "two words over a number": (b"hello\nworld 1\n", "row 1 has 2 cells and row 0 has 1"),
    "a table of one cell": (b"name score\nann 1\n", "row 0, column 0 reads 'name'"),
    "a word before a number": (b"hello 1\n", "1 rows of 2 cells, expected a square"),
    "a word over a number": (b"hello\n1\n", "2 rows of 1 cells, expected a square"),
    "a word over two numbers": (b"hello\n0 1\n", "row 1 has 2 cells and row 0 has 1"),
    "a number over a number": (b"0\n0\n", "2 rows of 1 cells, expected a square"),
    "other labels on either edge": (b"the cat\nsat 1 0\ndown 2 1\n", "row 1 has 3 cells and row 0 has 2"),
    "a table with other labels": (b"who,ann,bob\nsum,1,0\ntotal,2,1\n", "row 0, column 0 reads 'who'"),
    "a row too many": (b"0 X oops\n0 X X\n1 0 X\n2 1 0\n", "4 rows of 3 cells, expected a square"),
    "a column too many": (b"u 0 X\n1 1 0\n", "2 rows of 3 cells, expected a square"),
    "prose": (b"To be or not\nto be that is\n", "2 rows of 4 cells"),
    "letter o": (b"O X\n1 0\n", "row 0, column 0 reads 'O'"),
    "header and text": (b"u e\n0 X\none 0\n", "row 2, column 0 reads 'one'"),
    "labels and text": (b",u,e\nu,0,X\ne,1,null\n", "row 2, column 2 reads 'null'"),
    "nan": (b"0 nan\n1 0\n", "reads 'nan'"),
    "infinite": (b"0 +inf\n1 0\n", "reads '.inf'"),
    "decimal comma": (b"0;0,5\n1;0\n", "reads '0,5'"),
    "two numbers": (b"0,1 2\n1,0\n", "reads '1 2'"),
    "underscore": (b"0 X\n1_0 0\n", "reads '1_0'"),
    "huge number": (b"0 X\n" + b"9" * 400 + b" 0\n", "row 1, column 0 reads '9{20}...'"),
    "huge exponent": (b"0 X\n1e999 0\n", "reads '1e999'"),
    "nul": (b"0 X\n1\x00 0\n", "binary"),
    "png": (b"\x89PNG\r\n\x1a\n\x00\x00", "binary"),
    "utf-16": ("0 X\n1 0\n".encode("utf-16"), "binary"),
    "latin-1": ("é\n".encode("latin-1"), "binary"),
    "open quote": (b'"0,X\n1,0\n', "cannot be read as CSV"),
    "too large": (b"0 " * (5 << 20), "more than 8 MiB"),
    "too many positions": (b"0," * 1999 + b"0\n", "1 rows of 2000 cells"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_grid_is_refused(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "grid.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_grid(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_grid(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError):
        read_grid(tmp_path)
