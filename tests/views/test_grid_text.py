import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from falloff import T5Bias
from falloff.views.grid_text import parse_grid

THREE = [[0, None, None], [1, 0, None], [2, 1, 0]]


def cells_of(text):
    return [[None if cell is None else cell.value for cell in row] for row in parse_grid(text)]


PASTED = {
    "label, position, bar": "(q) 0 | 0 X X\n(u) 1 | 1 0 X\n(e) 2 | 2 1 0",
    "the same under a header and a ruler": "        0 1 2\n-------------\n(q) 0 | 0 X X\n(u) 1 | 1 0 X\n(e) 2 | 2 1 0",
    "the same with a bar in the header": "      | (q) (u) (e)\n------+----\n(q) 0 | 0 X X\n(u) 1 | 1 0 X\n(e) 2 | 2 1 0",
    "the same in one line": "(q) 0 | 0 X X (u) 1 | 1 0 X (e) 2 | 2 1 0",
    "the same without bars": "(q) 0 0 X X\n(u) 1 1 0 X\n(e) 2 2 1 0",
    "in one line without bars": "(q) 0 0 X X (u) 1 1 0 X (e) 2 2 1 0",
    "label, then cells between bars": "(q) 0 | X | X\n(u) 1 | 0 | X\n(e) 2 | 1 | 0",
    "the same with bars at the end": "(q) 0 | X | X |\n(u) 1 | 0 | X |\n(e) 2 | 1 | 0 |",
    "the same, in one line": "(q) 0 | X | X (u) 1 | 0 | X (e) 2 | 1 | 0",
    "label and position between bars": "(q) 0 | 0 | X | X\n(u) 1 | 1 | 0 | X\n(e) 2 | 2 | 1 | 0",
    "words before one bar": "q | 0 X X\nu | 1 0 X\ne | 2 1 0",
    "labels alone": "(q) 0 X X\n(u) 1 0 X\n(e) 2 1 0",
    "labels with commas": "(q), 0, X, X\n(u), 1, 0, X\n(e), 2, 1, 0",
    "bars alone": "0 | X | X\n1 | 0 | X\n2 | 1 | 0",
    "bars and rulers of boxes": "\u250c\u2500\u252c\u2500\u2510\n"
    "\u2502 0 \u2502 X \u2502 X \u2502\n\u251c\u2500\u2500\u2524\n\u2502 1 \u2502 0 \u2502 X \u2502\n"
    "\u2502 2 \u2502 1 \u2502 0 \u2502\n\u2514\u2500\u2534\u2500\u2518",
    "one line": "0 X X 1 0 X 2 1 0",
    "one line with commas": "0, X, X, 1, 0, X, 2, 1, 0",
    "one line with bars": "| 0 | X | X | 1 | 0 | X | 2 | 1 | 0 |",
    "semicolons between rows": "0 X X; 1 0 X; 2 1 0",
    "semicolons between rows of commas": "0, X, X; 1, 0, X; 2, 1, 0;",
    "semicolons at the ends of lines": "0 X X;\n1 0 X;\n2 1 0",
    "in brackets, as MATLAB": "A = [0 X X; 1 0 X; 2 1 0]",
    "in brackets over lines": "[0 X X;\n 1 0 X;\n 2 1 0]",
    "a triangle": "0\n1 0\n2 1 0\n",
    "a triangle with commas": "0\n1, 0\n2, 1, 0\n",
    "a triangle with bars": "0 |\n1 | 0 |\n2 | 1 | 0 |",
    "a triangle with labels": "(q) 0\n(u) 1 0\n(e) 2 1 0",
    "a triangle with words": "q 0\nu 1 0\ne 2 1 0",
    "a triangle below its header": "  q u e\nq 0\nu 1 0\ne 2 1 0",
    "a triangle by semicolons": "0; 1 0; 2 1 0",
    "as falloff shows it": "query \\ key  0  1  2\n          0  0\n          1  1  0\n          2  2  1  0",
    "Markdown": "|   | q | u | e |\n|---|---|---|---|\n| q | 0 | X | X |\n| u | 1 | 0 | X |\n| e | 2 | 1 | 0 |",
    "Markdown without labels": "| 0 | 1 | 2 |\n|:-:|:-:|:-:|\n| 0 | X | X |\n| **1** | 0 | X |\n| 2 | `1` | 0 |",
    "Markdown with nothing for masked": "| q | u | e |\n|--|--|--|\n| 0 | | |\n| 1 | 0 | |\n| 2 | 1 | 0 |",
    "in a fence": "```text\n0 X X\n1 0 X\n2 1 0\n```",
    "LaTeX": "\\begin{bmatrix}\n0 & -\\infty & -\\infty \\\\\n1 & 0 & -\\infty \\\\[2pt]\n2 & 1 & 0\n\\end{bmatrix}",
    "a table of LaTeX": "\\begin{tabular}{c|ccc}\n & q & u & e \\\\ \\hline\nq & $u_0$ & $\\times$ & \\text{X} \\\\\n"
    "u & $u_{1}$ & $u_0$ & X \\\\\ne & $u_2$ & $u_1$ & $u_0$ \\\\ \\bottomrule\n\\end{tabular}",
    "LaTeX in one line": "$\\left[\\begin{array}{ccc} 0 & X & X \\\\ 1 & 0 & X \\\\ 2 & 1 & 0 \\end{array}\\right]$",
    "a list of Python": "[[0, None, None], [1, 0, None], [2, 1, 0]]",
    "an assignment": "grid = [\n    [0, 'X', 'X'],\n    [1, 0, \"X\"],\n    [2, 1, 0],\n]",
    "infinities of Python": "[[0, float('-inf'), -np.inf], [1, 0, -math.inf], [2, 1, 0]]",
    "JSON": "[[0, null, null], [1, 0, null], [2, 1, 0]]",
    "indices": "u_0 X X\nu_1 u_0 X\nu_2 u_1 u_0",
    "small indices": "u\u2080 X X\nu\u2081 u\u2080 X\nu\u2082 u\u2081 u\u2080",
    "sums": "q_0.k_0+u_0 X X\nq_1.k_0+u_1 q_1.k_1+u_0 X\nq_2.k_0+u_2 q_2.k_1+u_1 q_2.k_2+u_0",
    "sums with blanks": "q_0 . k_0 + u_0 | X | X\nq_1 . k_0 + u_1 | q_1 . k_1 + u_0 | X\n"
    "q_2 . k_0 + u_2 | q_2 . k_1 + u_1 | q_2 . k_2 + u_0",
    "infinity signs": "0 \u221e -\u221e\n1 0 \u2212\u221e\n2 1 0",
    "dashes": "0 \u2013 \u2014\n1 0 -\n2 1 0",
    "infinity": "0 -inf -INF\n1 0 -inf\n2 1 0",
    "from an editor": "\r\n0\u00a0X\u00a0X\r\n1\u00a00\u00a0X\r\n\r\n2\u00a01\u00a00\r\n",
}


@pytest.mark.parametrize("name", PASTED)
def test_what_people_paste(name):
    assert cells_of(PASTED[name]) == THREE


def test_what_arrays_print():
    values = np.array([[0.0, -np.inf], [-0.5, 0.0]])
    masked = np.ma.masked_invalid(values)
    expected = [[0, None], [-0.5, 0]]
    tensors = (values, torch.tensor(values), torch.tensor(values)[None])
    for pasted in (str(values), repr(values), str(masked), repr(masked.tolist()), *map(repr, tensors)):
        assert cells_of(pasted) == expected, pasted
    causal = torch.tril(T5Bias(1).bucket(torch.arange(12)[:, None] - torch.arange(12)))
    assert cells_of(str(causal)) == causal.tolist()


def test_a_square_is_likelier_than_a_triangle():
    assert len(parse_grid(" ".join(["0"] * 36))) == 6  # as many as in a triangle of eight


def test_digits_decide_the_tolerance_wherever_they_stand():
    (_, _), (value, _) = parse_grid("[[0, None], [-0.25, 0]]")
    assert (value.value, value.half_unit) == (-0.25, 0.005)


REFUSED = {
    "": "got nothing",
    "---\n": "got no row of cells",
    "hello": "row 0, column 0 reads 'hello'",
    "0 X\n1 \x00": "binary",
    "The offset is 3.\nSo the bucket is 2.": "row 1 has 5 cells and row 0 has 4",
    "what is bucket 3 ?": "1 rows of 5 cells",
    "a b c d": "1 rows of 4 cells",
    "0 1 2 3 4": "1 rows of 5 cells",
    "0; 1; 2": "1 rows of 3 cells",
    "0 1 0 2 1 0": "1 rows of 6 cells",  # a triangle in one line: or six numbers
    "[[0, 1], [2]]": "row 1 has 1 cells and row 0 has 2",
    "[[0, 1, 2], [2, 3, 4]]": "2 rows of 3 cells",
    "[]": "got no row of cells|without a cell",
    "[[], []]": "got a row without a cell",
    "[0.1, 0.2": "reads|1 rows",
    "[[1, inf], [0, 1]]": "reads 'inf'",
    "[[1, nan], [0, 1]]": "reads 'nan'",
    "{'a': [[0, 1], [1, 0]]}": "expected",
    "0 & 1 \\\\ 2": "row 1 has 1 cells",
    "\\begin{matrix} a & b \\\\ c & d \\end{matrix}": "reads 'a'",
    "| a | b |\n|---|---|\n| c | d |": "reads 'a'",
    "(q) 0 | X (u) 1": "row 1 has 1 cells and row 0 has 2",
    "(q) (u)": "expected|reads",
    "|": "got no number",
    "1 | 2": "1 rows of 2 cells",
    "0 X\n1 u_": "reads 'u_'",
    "0 X\n1 (0)": "reads '\\(0\\)'",
    "0 X\n1 u_9999999999": "reads 'u_9999999999'",
    "0 X\n1 \u0663": "reads",
    "0 X\n1 1__": "reads '1__'",
    "*": "reads",
    "X": "got no number",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_grid_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        parse_grid(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "mark", ["[", "]", "[[", "(", "|", "&", "\\\\", ";", ",", "-", "$", "{", "\\begin{", "u_", "\n", "'", '"']
)
def test_long_text_of_one_mark_is_refused_fast(mark):
    with pytest.raises(ValueError, match="expected"):
        parse_grid("0 " + mark * 20000 + " 1")


PIECES = [
    "0",
    "1",
    "X",
    "-",
    "(u)",
    "u",
    "|",
    ";",
    ",",
    "&",
    "[",
    "]",
    "\\\\",
    "\n",
    " ",
    "\t",
    "---",
    "$",
    "u_2",
    "-inf",
    '"',
    "1e5",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60))
@example("[")
@example("\\begin{")
def test_any_text_is_a_grid_or_refused_in_one_line(text):
    grid, said = (), ""
    try:
        grid = parse_grid(text)
    except ValueError as error:
        said = str(error)
    assert bool(grid) == (not said)
    assert len(said.splitlines()) <= 1
    assert {len(row) for row in grid} <= {len(grid)}
