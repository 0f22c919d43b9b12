"""The Exercises page: solved, failed, handed out by its address; and the box that checks a grid."""

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from falloff.exercises import make_exercise


def verdict(page, name):
    page.locator(f"#{name} > *").first.wait_for()
    return page.locator(f"#{name}").inner_text()


def test_a_wrong_bucket_is_found_by_a_click(visit):
    query, key = make_exercise("grid", 3).answer
    tab = visit(390)
    page = tab.open("/exercises?kind=grid&seed=3")
    other = next(place for place in range(query + 1) if place != key)
    page.get_by_role("button", name=f"Query {query}, key {other}:").click()
    assert verdict(page, "verdict").startswith("Wrong.")
    page.get_by_role("button", name=f"Query {query}, key {key}:").click()
    page.locator("#verdict .right").wait_for()
    assert f"offset {query - key}" in verdict(page, "verdict")


@pytest.mark.parametrize("kind", ["match", "share", "property"])
def test_the_other_kinds_are_solved_and_failed(visit, kind):
    seed = next(seed for seed in range(9) if make_exercise(kind, seed).answer)
    drawn = make_exercise(kind, seed)
    tab = visit()
    page = tab.open(f"/exercises?kind={kind}&seed={seed}")
    page.get_by_role("button", name="Check", exact=True).click()
    unanswered = "Wrong." if kind == "property" else "answer: got nothing"
    assert verdict(page, "verdict").startswith(unanswered)
    groups = page.locator("main fieldset")
    if kind == "property":
        for name in ("diagonals", "symmetric", "monotone"):
            if name in drawn.answer:
                groups.nth(0).locator(f"input[value={name}]").check()
    else:
        for place, bucket in enumerate(drawn.answer if kind == "match" else [drawn.answer]):
            groups.nth(place).locator(f"input[value='{bucket}']").check()
    page.get_by_role("button", name="Check", exact=True).click()
    page.locator("#verdict .right").wait_for()
    assert tab.faults() == []


def test_the_link_to_another_exercise_keeps_the_kind(visit):
    tab = visit()
    page = tab.open("/exercises?kind=share&seed=7")
    page.get_by_role("link", name="Another one").click()
    page.get_by_role("heading", name="seed 8").wait_for()
    assert page.url.endswith("/exercises?kind=share&seed=8")


def test_an_address_without_an_exercise_says_what_one_looks_like(visit):
    page = visit().open("/exercises?kind=riddle&seed=%3Cb%3E")
    assert "expected" in page.locator("[role=alert]").first.text_content()


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("(q) 0 | 0 X X X (u) 1 | 1 0 X X (e) 2 | 2 1 0 X (r) 3 | 2 2 1 0", "Right: all 4 x 4 cells."),
        ("0 X X X\n1 0 X X\n3 1 0 X\n2 2 1 0", "Query 2, key 0 reads 3, but offset 2 has bucket 2"),
        ("no grid at all", "expected"),
    ],
)
def test_a_pasted_grid_is_checked(visit, grid, said):
    tab = visit()
    page = tab.open("/exercises")
    page.get_by_label("The grid").fill(grid)
    page.get_by_role("button", name="Check the grid").click()
    assert said in verdict(page, "pasted-said")
