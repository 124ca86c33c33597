from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diverseevol_core.errors import ContractError
from diverseevol_core.fingerprint import canonical_json, drift, fingerprint

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
keys = st.text(alphabet='ab."\\é', max_size=3)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
objects = st.dictionaries(keys, values, max_size=4)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def test_canonical_json_of_a_case_made_by_hand():
    value = {"b": [1, 2.5, None, True], "a": {"é": "ü\n"}, "B": "x"}
    assert canonical_json(value) == '{"B":"x","a":{"é":"ü\\n"},"b":[1,2.5,null,true]}'.encode()


def test_a_fingerprint_is_the_sha256_of_the_canonical_bytes_for_all_time():
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()
    # Written down, so that a change of the format cannot pass unseen: it would orphan every stored artifact.
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@given(values)
def test_the_order_of_keys_does_not_count_and_json_reads_the_same_value_back(value: Any):
    assert canonical_json(reordered(value)) == canonical_json(value)
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@given(values, values)
def test_fingerprints_are_equal_exactly_for_equal_json(left: Any, right: Any):
    are_equal = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (fingerprint(left) == fingerprint(right)) == are_equal


def test_numbers_of_other_types_are_other_values():
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", [1], None)}) == 6


def test_lone_surrogates_have_a_fingerprint():
    assert fingerprint("\ud800") != fingerprint("\ud801")


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", float("nan"), float("inf"), -float("inf"), {"a": {"b": object()}}, [1, {2}], 1j, range(3)],
)
def test_what_json_cannot_hold_is_refused(value: object):
    with pytest.raises(ContractError, match="cannot be fingerprinted"):
        fingerprint(value)


@pytest.mark.parametrize("key", [1, 1.5, True, None])
def test_keys_that_json_would_turn_into_text_are_refused_at_any_depth(key: object):
    with pytest.raises(ContractError, match="should be str"):
        fingerprint([{"a": ({key: 1},)}])


def test_a_value_that_holds_itself_is_refused():
    value: dict[str, object] = {}
    value["self"] = value
    with pytest.raises(ContractError, match="cannot be fingerprinted"):
        fingerprint(value)


def test_drift_lists_each_differing_leaf_by_its_dotted_name():
    stored = {"seed": 1, "pool": {"uri": "a", "fields": {}}, "old": [1, 2], "same": {"x": None}}
    given_ = {"seed": 1.0, "pool": {"uri": "ü", "fields": {"q": "question"}}, "same": {"x": None}, "new": False}
    assert [str(each) for each in drift(stored, given_)] == [
        "new: stored absent, given false",
        "old: stored [1, 2], given absent",
        "pool.fields: stored {}, given absent",
        'pool.fields.q: stored absent, given "question"',
        'pool.uri: stored "a", given "ü"',
        "seed: stored 1, given 1.0",
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [({"a.b": 1}, {"a": {"b": 1}}), ({"": {"a": 1}}, {"a": 1}), ({'"a.b"': 1}, {"a.b": 1}), ({"a": {}}, {"a": "{}"})],
)
def test_objects_whose_dotted_names_look_alike_still_drift(left: dict[str, Any], right: dict[str, Any]):
    assert drift(left, right)


@settings(max_examples=50)
@given(objects, objects)
def test_there_is_no_drift_exactly_between_objects_of_one_fingerprint(left: dict[str, Any], right: dict[str, Any]):
    assert drift(left, copy.deepcopy(left)) == []
    assert drift(left, reordered(left)) == []
    assert (drift(left, right) == []) == (fingerprint(left) == fingerprint(right))


@settings(max_examples=50)
@given(objects, objects)
def test_drift_the_other_way_round_swaps_the_sides(left: dict[str, Any], right: dict[str, Any]):
    there, back = drift(left, right), drift(right, left)
    assert [(each.field, each.stored, each.given) for each in there] == [
        (each.field, each.given, each.stored) for each in back
    ]
