"""What the server answers to requests that its page would not send, without a browser."""

import json

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from falloff.explore.app import create_app


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
        return asked | {"id": identity, "value": values.get(identity["name"])}

    outputs = [dict(zip(("id", "property"), one.split("."), strict=True)) for one in found.strip(".").split("...")]
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
        ("saved.figure", ATTENTION | {"seed": {}}),
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
