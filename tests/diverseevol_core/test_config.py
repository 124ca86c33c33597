from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from diverseevol_core.config import RunConfig
from diverseevol_core.errors import ContractError


def with_setting(name: str, value: object) -> dict[str, Any]:
    """Nest a dotted setting."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def all_settings(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= all_settings(field.annotation, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


def test_defaults_are_those_of_the_paper():
    config = RunConfig()
    selection, training = config.selection, config.training
    assert (selection.strategy, selection.initial_size, selection.budget, selection.rounds) == (
        "k_center",
        100,
        100,
        10,
    )
    assert (training.epochs, training.learning_rate, training.scheduler) == (3, 2e-5, "cosine")
    assert (training.warmup_ratio, training.weight_decay, training.global_batch_size) == (0.03, 0.0, 64)
    assert (config.model.max_tokens, config.model.dtype) == (512, "bfloat16")
    assert (config.embedding.pooling, config.embedding.dtype, selection.metric) == ("mean", "float32", "euclidean")
    assert selection.whiten_components is None


def test_the_published_run_selects_1100_samples():
    config = RunConfig()
    assert [config.n_selected(number) for number in (0, 1, 10)] == [100, 200, 1100]


@pytest.mark.parametrize("round_number", [-1, 11])
def test_a_round_outside_the_run_has_no_size(round_number: int):
    with pytest.raises(ContractError, match=f"round={round_number} is outside 0 to selection.rounds=10"):
        RunConfig().n_selected(round_number)


def test_a_config_comes_back_from_its_json_with_its_fingerprint():
    config = RunConfig.model_validate(
        {"seed": 5, "pool": {"fields": {"instruction": "frage é"}, "limit": 2000}, "training": {"learning_rate": 1e-3}}
    )
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert RunConfig.model_validate_json(config.model_dump_json()).fingerprint == config.fingerprint


def test_spelling_out_a_default_does_not_change_the_fingerprint():
    spelt = {"seed": "0", "training": {"epochs": 3.0, "weight_decay": 0}, "selection": {"whiten_components": None}}
    assert RunConfig.model_validate(spelt).fingerprint == RunConfig().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"pool": {"uri": "b.jsonl"}},
        {"pool": {"fields": {"instruction": "q"}}},
        {"model": {"revision": "v1"}},
        {"training": {"warmup_ratio": 0.05}},
        {"embedding": {"pooling": "last_token"}},
        {"selection": {"budget": 50}},
        {"evaluation": {"diversity": False}},
    ],
)
def test_every_setting_is_part_of_the_identity(change: dict[str, Any]):
    assert RunConfig.model_validate(change).fingerprint != RunConfig().fingerprint


def test_the_fingerprint_is_the_same_in_another_process():
    code = "from diverseevol_core.config import RunConfig; print(RunConfig(seed=3).fingerprint)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == RunConfig(seed=3).fingerprint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("seed", 2**31), ("seed", 1.5),
        ("pool.uri", ""), ("pool.format", "xml"), ("pool.holdout", 0), ("pool.limit", 0),
        ("model.name", ""), ("model.max_tokens", 7), ("model.dtype", "float16"),
        ("training.epochs", 0), ("training.learning_rate", 0.0), ("training.learning_rate", 1.0),
        ("training.warmup_ratio", 1.1), ("training.weight_decay", -0.1), ("training.global_batch_size", 0),
        ("training.max_grad_norm", 0.0), ("selection.budget", 0), ("selection.rounds", -1), ("selection.rounds", 1001),
        ("selection.initial_size", 0), ("selection.metric", "dot"), ("selection.whiten_components", 0),
        ("evaluation.confidence", 1.0), ("evaluation.bootstrap_resamples", 99), ("evaluation.random_draws", 1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_the_name_of_its_setting(name: str, value: object):
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(with_setting(name, value))
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()] == [name]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
@pytest.mark.parametrize("name", ["training.weight_decay", "training.max_grad_norm", "training.learning_rate"])
def test_numbers_that_json_cannot_hold_are_refused_before_they_are_stored(name: str, value: object):
    with pytest.raises(ValidationError):
        RunConfig.model_validate(with_setting(name, value))


@pytest.mark.parametrize("name", ["sed", "selection.budgets", "training.lr", "device"])
def test_an_unknown_setting_is_refused(name: str):
    with pytest.raises(ValidationError, match="Extra inputs"):
        RunConfig.model_validate(with_setting(name, 1))


def test_a_selection_beyond_the_limit_of_the_pool_names_both_numbers():
    exact = {"pool": {"limit": 1100}}
    assert RunConfig.model_validate(exact).pool.limit == 1100
    with pytest.raises(ValidationError, match=r"1100 samples .* pool\.limit=1099; lower selection\.budget"):
        RunConfig.model_validate({"pool": {"limit": 1099}})


def test_configs_do_not_change():
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.selection.budget = 3  # type: ignore[misc]


def test_every_setting_has_a_default_and_a_description():
    for name, field in all_settings(RunConfig).items():
        assert not field.is_required(), name
        assert field.description, name
        assert field.description.endswith("."), name
    json.dumps(RunConfig.model_json_schema())
