from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.errors import ConfigError, ContractError
from diverseevol_core.keys import artifact_path, checked_slug, round_path, run_path, step_key

DIGEST = "0123456789abcdef" * 4
BASE: dict[str, Any] = {"step": "embed", "version": 1, "config": {"a": 1, "b": [2]}, "inputs": {"pool": DIGEST}}


def test_a_key_is_the_same_for_ever():
    # Written out, so that a change of the format cannot pass unseen: it would orphan every stored artifact.
    text = f'{{"config":{{"a":1,"b":[2]}},"inputs":{{"pool":"{DIGEST}"}},"step":"embed","version":1}}'
    assert step_key(**BASE) == hashlib.sha256(text.encode()).hexdigest()


def test_a_key_does_not_depend_on_the_order_of_settings_or_inputs():
    one = step_key("train", 1, {"a": 1, "b": 2}, {"x": DIGEST, "y": DIGEST})
    assert step_key("train", 1, {"b": 2, "a": 1}, {"y": DIGEST, "x": DIGEST}) == one


@pytest.mark.parametrize(
    "change",
    [
        {"step": "train"},
        {"version": 2},
        {"config": {"a": 1, "b": [3]}},
        {"config": {"a": 1}},
        {"config": {"a": 1.0, "b": [2]}},
        {"inputs": {"pool": DIGEST[::-1]}},
        {"inputs": {"pools": DIGEST}},
        {"inputs": {}},
        {"config": {"a": 1, "b": [2], "pool": DIGEST}, "inputs": {}},
    ],
)
def test_everything_that_decides_a_result_is_in_its_key(change: dict[str, Any]):
    assert step_key(**{**BASE, **change}) != step_key(**BASE)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x", {1: 2}])
def test_a_setting_without_stable_text_is_refused(value: object):
    with pytest.raises(ContractError):
        step_key("train", 1, {"a": value}, {})  # type: ignore[dict-item]


def test_paths_are_those_of_the_documented_layout():
    assert artifact_path("pool", DIGEST) == f"pools/{DIGEST[:32]}"
    assert artifact_path("embed", DIGEST) == f"artifacts/embed/{DIGEST[:32]}"
    assert run_path("demo") == "runs/demo"
    assert [round_path("demo", number) for number in (0, 3, 10, 123)] == [
        "runs/demo/round=00",
        "runs/demo/round=03",
        "runs/demo/round=10",
        "runs/demo/round=123",
    ]


@pytest.mark.parametrize("name", ["a", "0", "dolly-k-center-1", "v1.2_x", "a" * 64])
def test_plain_names_are_kept(name: str):
    assert checked_slug(name, "run name") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/a",
        "a..b",
        "-a",
        "a-",
        ".a",
        "a.",
        "A",
        "é",
        "a b",
        "a\n",
        "a\0",
        "a" * 65,
        "²",
    ],
)
def test_names_that_could_leave_a_folder_or_confuse_one_are_refused(name: str):
    for use in (lambda: checked_slug(name, "run name"), lambda: run_path(name), lambda: round_path(name, 0)):
        with pytest.raises(ConfigError, match=re.escape(f"run name={name!r}")):
            use()


@given(st.text(alphabet="aB0._-/\\ \n", max_size=8))
def test_every_accepted_name_is_one_safe_part_of_a_path(name: str):
    try:
        path = run_path(name)
    except ConfigError:
        return
    assert path.split("/") == ["runs", name]
    assert name not in {"", ".", ".."}
    assert set(name) <= set("a0._-")
