"""What the server answers to requests that its page would not send, without a browser."""

import json

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from falloff.explore.app import create_app
from falloff.ops.cpu import unavailable


@pytest.fixture(scope="module")
def app():
    return create_app(files=True)


def post(app, output, values):
    """Send a callback its fields: `values` by name, or by type the list of (id, value) of fields that match any id."""
    (found,) = [one for one in app.callback_map if output in one]

    def field(asked):
        if not asked["id"].startswith("{"):
            return asked | {"value": values.get(asked["id"])}
        identity = json.loads(asked["id"])
        if ["ALL"] in identity.values():
            return [{"id": own, "property": "value", "value": value} for own, value in values.get(identity["type"], ())]
        return asked | {"id": identity, "value": values.get(identity.get("name", identity["type"]))}

    parts = [part.rsplit(".", 1) for part in found.strip(".").replace('["MATCH"]', '"alibi"').split("...")]
    outputs = [{"id": json.loads(own) if own[0] == "{" else own, "property": name} for own, name in parts]
    sent = {
        "output": found,
        "outputs": outputs if found.startswith("..") else outputs[0],
        "changedPropIds": [],
        **{kind: [field(asked) for asked in app.callback_map[found][kind]] for kind in ("inputs", "state")},
    }
    return app.server.test_client().post("/_dash-update-component", json=sent)


ATTENTION = {"one-scheme": "alibi", "heads": 2, "length": 16, "spread": 0, "head": 0, "seed": 0}


@pytest.mark.parametrize(
    ("output", "values"),
    [
        ("weights.figure", ATTENTION | {"seed": [1]}),
        ("weights.figure", ATTENTION | {"one-scheme": ["alibi"]}),
        ("weights.figure", ATTENTION | {"heads": 10**400}),
        ("saved.figure", ATTENTION | {"count": 1, "seed": {}}),
        ("comparison.children", {"compared": None, "compare-trained": 16}),
        ("place.options", {"checkpoint": 7}),
        ("place.options", {"checkpoint": "\0"}),
        ("page.children", {"address": "http://["}),
        ("page.children", {"address": 7}),
        ("pasted-said.children", {"pasted": 7, "pasted-scheme": "t5"}),
        ("verdict.children", {"exercise": None}),
        ("verdict.children", {"exercise": {"kind": "property", "seed": 0}}),
        ("cards.children", {"schemes": 7}),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(app, output, values):
    answer = post(app, output, values)
    if answer.status_code == 200:
        assert "expected" in answer.text or "No " in answer.text
    else:
        assert answer.status_code == 400
        assert "a value that the page cannot use" in answer.text


def test_the_right_values_are_answered(app):
    answer = post(app, "weights.figure", ATTENTION)
    assert answer.status_code == 200
    assert answer.json["response"]["weights"]["figure"]["data"]


def test_a_request_has_a_largest_size(app):
    answer = app.server.test_client().post(
        "/_dash-update-component", data=b" " * (2**24 + 1), content_type="application/json"
    )
    assert answer.status_code == 413


def test_a_cleared_number_starts_anew_when_another_scheme_is_chosen(app):
    own = {"part": "number", "scheme": "t5", "type": "setting"}
    numbers = [(own | {"name": "num_buckets"}, None), (own | {"name": "max_distance"}, 77)]
    answer = post(app, "cards.children", {"schemes": ["t5", "alibi"], "setting": numbers})
    assert answer.status_code == 200
    shown = json.dumps(answer.json["response"]["cards"])
    assert '"value": 77' in shown
    assert '"value": 32' in shown  # num_buckets as published


SCHEME = {"heads": 2, "trained": 16, "positions": 4, "head": 0, "seed": 0, "axis": "linear", "cells": "value"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"head": 5}, "There are 2 heads, from 0 on: head 1 is shown."),
        ({"axis": "log"}, "The logarithmic axis begins at offset 1"),
    ],
)
def test_what_a_figure_leaves_out_is_said(app, changed, said):
    own = {"type": "curves", "scheme": "alibi"}
    answer = post(app, '"type":"curves"', SCHEME | changed | {"curves": own}).json["response"]
    (words,) = [part["children"] for identity, part in answer.items() if '"said"' in identity]
    assert said in json.dumps(words) if said else not any(words)


@pytest.mark.parametrize(("field", "said"), [(5, "head 1 is shown"), (1, None)])
def test_the_attention_page_says_which_head_it_shows(app, field, said):
    answer = post(app, "weights.figure", ATTENTION | {"head": field}).json["response"]
    assert said in json.dumps(answer["attention-said"]) if said else answer["attention-said"]["children"] is None
    assert "th nearest" not in json.dumps(answer)


def test_nothing_is_counted_before_it_is_asked_for(app):
    (callback,) = [one for one in app._callback_list if "saved.figure" in one["output"]]
    assert callback["prevent_initial_call"]
    assert post(app, "saved.figure", ATTENTION).json["response"] == {}


@pytest.mark.skipif(unavailable() is not None, reason="no CPU kernels")
def test_another_theme_costs_no_new_count(app, monkeypatch):
    first = post(app, "saved.figure", ATTENTION | {"count": 1})
    assert "the blocks are those of head 0" in first.text
    monkeypatch.setattr("falloff.explore.attention.skipped_work", None)
    again = post(app, "saved.figure", ATTENTION | {"count": 1, "theme": "dark"})
    curves = [answer.json["response"]["saved"]["figure"]["data"][0]["y"] for answer in (first, again)]
    assert curves[0] == curves[1]


def test_the_sliders_of_the_two_queries_end_where_their_numbers_do(app):
    answer = post(app, "cards.children", {"schemes": ["fire"]}).json["response"]
    assert json.dumps(answer, sort_keys=True).count('"high": 255, "low": 4,') == 2
