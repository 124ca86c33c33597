from __future__ import annotations

import pytest

from diverseevol_core.config import EvaluationConfig, ModelConfig, PoolConfig, SelectionConfig, TrainingConfig
from diverseevol_core.contracts import ArtifactRef, BaseModelRef
from tasks.step_inputs import EvaluationInput, InitialSelectionInput, PoolInput, SelectionInput, TrainInput


def ref(step="pool", digest="a", path="pools/x"):
    return ArtifactRef(step=step, key="0" * 64, path=path, digest=digest * 64, bytes=1, rows=1)


BASE = BaseModelRef(name="m", revision=None, digest="b" * 64, tokenizer_digest="c" * 64)
TRAIN = TrainInput(
    base=BASE, pool=ref(), selection=ref("select"), model=ModelConfig(), training=TrainingConfig(), seed=0
)
SELECT = SelectionInput(
    pool=ref(), selected=ref("select"), embeddings=ref("embed"), selection=SelectionConfig(), round=1, seed=0
)


def changed(value, **fields):
    return value.model_copy(update=fields)


@pytest.mark.parametrize(
    "other",
    [
        changed(TRAIN, training=TrainingConfig(epochs=4)),
        changed(TRAIN, seed=1),
        changed(TRAIN, model=ModelConfig(dtype="float32")),
        changed(TRAIN, selection=ref("select", "d")),
        changed(TRAIN, base=changed(BASE, digest="d" * 64)),
    ],
)
def test_whatever_decides_a_checkpoint_changes_its_key(other):
    assert other.identity.key != TRAIN.identity.key


@pytest.mark.parametrize(
    "same",
    [
        changed(TRAIN, pool=ref(path="elsewhere")),
        changed(TRAIN, base=changed(BASE, name="/another/folder", revision="main")),
        changed(TRAIN, model=ModelConfig(name="/another/folder")),
    ],
)
def test_names_and_places_change_no_key(same):
    assert same.identity.key == TRAIN.identity.key


def test_the_number_of_rounds_changes_no_selection():
    longer = changed(SELECT, selection=SelectionConfig(rounds=20, initial_size=7))
    assert longer.identity.key == SELECT.identity.key
    assert changed(SELECT, selection=SelectionConfig(budget=7)).identity.key != SELECT.identity.key
    assert changed(SELECT, round=2).identity.key != SELECT.identity.key


def test_a_pool_is_its_content_and_settings_not_its_address():
    given = PoolInput(pool=PoolConfig(uri="a.json"), model=ModelConfig(), base=BASE, source_digest="e" * 64, seed=0)
    assert changed(given, pool=PoolConfig(uri="s3://b/c.json")).identity.key == given.identity.key
    assert changed(given, pool=PoolConfig(uri="a.json", holdout=5)).identity.key != given.identity.key
    assert changed(given, model=ModelConfig(max_tokens=64)).identity.key != given.identity.key


def test_random_draws_of_the_diversity_step_do_not_change_an_evaluation():
    given = EvaluationInput(checkpoint=ref("train"), pool=ref(), evaluation=EvaluationConfig(), seed=0)
    assert changed(given, evaluation=EvaluationConfig(random_draws=5)).identity.key == given.identity.key
    assert changed(given, evaluation=EvaluationConfig(confidence=0.9)).identity.key != given.identity.key


def test_steps_of_equal_content_have_different_keys():
    initial = InitialSelectionInput(pool=ref(), initial_size=5, seed=0)
    assert len({value.identity.key for value in (TRAIN, SELECT, initial)}) == 3


def test_an_option_left_at_its_default_takes_no_part_in_a_key():
    assert changed(SELECT, selection=SelectionConfig(trim_ratio=0.0)).identity.key == SELECT.identity.key
    assert changed(SELECT, selection=SelectionConfig(trim_ratio=0.1)).identity.key != SELECT.identity.key
    assert "trim_ratio" not in SELECT.identity.config
