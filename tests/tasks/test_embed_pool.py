from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from diverseevol_core.config import EmbeddingConfig, ModelConfig, PoolConfig
from diverseevol_core.contracts import ArtifactRef, EmbeddingSummary
from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.storage.artifacts import read_manifest, read_summary
from tasks import embed_pool as module
from tasks import pool_parts
from tasks.base_model import resolve_base_model
from tasks.embed_pool import embed_pool
from tasks.pool_reading import embedding_parts
from tasks.prepare_pool import digest_source, prepare_pool
from tasks.settings import load_settings
from tasks.step_inputs import EmbedInput, PoolInput
from tasks.workspace import current_workspace, open_workspace, use_workspace

PART = 16


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(pool_parts, "ROWS_PER_PART", PART)


@pytest.fixture
def embedded(monkeypatch):
    """Note how many rows each call of the model embeds; the given call ends the process."""
    calls: list[int] = []
    embed_rows = module.embed_rows
    dies_at: list[int] = []

    def counted(model, tokens, rows, **given):
        if dies_at and len(calls) == dies_at[0]:
            dies_at.clear()
            raise Killed
        calls.append(rows.size)
        return embed_rows(model, tokens, rows, **given)

    monkeypatch.setattr(module, "embed_rows", counted)
    return calls, dies_at


@pytest.fixture
def make_input(tiny_model, tmp_path):
    def make(n_rows=70):
        import json

        path = tmp_path / f"{n_rows}.jsonl"
        lines = [
            {"instruction": f"Add {row} and 7.", "input": "", "output": "x" * (row % 9 + 1)} for row in range(n_rows)
        ]
        path.write_text("\n".join(json.dumps(line) for line in lines))
        model = ModelConfig(name=str(tiny_model), max_tokens=128)
        base = resolve_base_model.fn(model)
        config = PoolConfig(uri=str(path), holdout=2)
        pool = prepare_pool.fn(
            PoolInput(pool=config, model=model, base=base, source_digest=digest_source.fn(config.uri), seed=0)
        )
        return EmbedInput(base=base, checkpoint=None, pool=pool, embedding=EmbeddingConfig(), seed=0)

    return make


def vectors_of(ref: ArtifactRef) -> np.ndarray:
    source = ParquetEmbeddings(embedding_parts(current_workspace(), ref))
    return np.array(source.rows(np.arange(source.n_pool)))


def withdraw(ref: ArtifactRef) -> None:
    current_workspace().store.delete(f"{ref.path}/manifest.json")


def forget_known_vectors() -> None:
    for folder in current_workspace().store.local_path("artifacts/embed").glob("known-*"):
        shutil.rmtree(folder)


def test_a_killed_embedding_goes_on_after_its_last_whole_part_on_another_machine(make_input, embedded, tmp_path):
    calls, dies_at = embedded
    step_input = make_input()
    dies_at.append(3)
    with pytest.raises(Killed):
        embed_pool.fn(step_input)
    calls.clear()
    elsewhere = load_settings().model_copy(update={"scratch": tmp_path / "scratch of another machine"})
    with use_workspace(open_workspace(elsewhere)):
        ref = embed_pool.fn(step_input)
        # 68 rows: five parts; three of them were whole, though the last may still have been on its way to the store.
        assert calls in ([PART, 4], [PART, PART, 4])
        found = vectors_of(ref)
    names = [info.path for info in current_workspace().store.objects(ref.path)]
    assert not [name for name in names if "unfinished" in name]

    current_workspace().store.delete(f"{ref.path}/manifest.json")
    forget_known_vectors()
    again = embed_pool.fn(step_input)
    assert again.digest == ref.digest
    np.testing.assert_array_equal(vectors_of(again), found)


def test_a_part_damaged_after_the_crash_is_embedded_again(make_input, embedded, tmp_path):
    calls, dies_at = embedded
    step_input = make_input()
    dies_at.append(4)
    with pytest.raises(Killed):
        embed_pool.fn(step_input)
    part = next((tmp_path / "store" / "artifacts" / "embed").glob("*/part-00001.parquet"))
    content = part.read_bytes()
    part.unlink()
    part.write_bytes(content[:-1] + b"!")
    shutil.rmtree(tmp_path / "scratch")
    calls.clear()
    embed_pool.fn(step_input)
    assert calls in ([PART, 4], [PART, PART, 4])


def test_several_devices_share_the_parts_and_give_the_same_bytes(make_input, embedded, monkeypatch):
    calls, _ = embedded
    step_input = make_input()
    alone = embed_pool.fn(step_input)
    withdraw(alone)
    calls.clear()
    shared = load_settings().model_copy(update={"embedding_devices": "cpu, cpu"})
    with use_workspace(open_workspace(shared)):
        together = embed_pool.fn(step_input)
    assert sorted(calls) == [4, PART, PART, PART, PART]
    assert together.digest == alone.digest
    manifest = read_manifest(current_workspace().store, together.path)
    assert manifest.environment.device == "cpu,cpu"


def test_an_error_on_one_device_ends_the_step(make_input, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("broken")

    monkeypatch.setattr(module, "embed_rows", broken)
    settings = load_settings().model_copy(update={"embedding_devices": "cpu,cpu"})
    with use_workspace(open_workspace(settings)), pytest.raises(ValueError, match="broken"):
        embed_pool.fn(make_input())


def test_a_pool_that_grew_costs_its_growth(make_input, embedded):
    calls, _ = embedded
    small, grown = make_input(70), make_input(72)
    first = embed_pool.fn(small)
    calls.clear()
    second = embed_pool.fn(grown)
    assert sum(calls) <= 4, "two new rows, and two that were held out before"
    summary = EmbeddingSummary.model_validate_json(read_summary(current_workspace().store, second))
    assert summary.reused_rows == 70 - sum(calls)
    grown_vectors = vectors_of(second)
    calls.clear()
    withdraw(first)
    embed_pool.fn(small)
    assert sum(calls) <= 4

    withdraw(second)
    forget_known_vectors()
    fresh = embed_pool.fn(grown)
    # Float rounding of other batch shapes; see tests/diverseevol_core/models/test_forward.py.
    np.testing.assert_allclose(vectors_of(fresh), grown_vectors, rtol=0, atol=1e-5)


def test_vectors_of_other_tokens_settings_or_models_are_never_taken_over(make_input, embedded):
    calls, _ = embedded
    step_input = make_input()
    embed_pool.fn(step_input)
    calls.clear()
    other = step_input.model_copy(update={"embedding": EmbeddingConfig(pooling="last_token")})
    embed_pool.fn(other)
    assert sum(calls) == step_input.pool.rows


def test_a_damaged_earlier_embedding_is_not_used(make_input, embedded, tmp_path):
    calls, _ = embedded
    first = embed_pool.fn(make_input(70))
    path = current_workspace().store.local_path(first.path) / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink()
    path.write_bytes(content)
    calls.clear()
    embed_pool.fn(make_input(72))
    assert sum(calls) == 70


def test_parts_cover_every_row_once():
    parts = pool_parts.plan_parts(2 * PART + 3)
    assert [dataclasses.astuple(part) for part in parts] == [(0, 0, PART), (1, PART, PART), (2, 2 * PART, 3)]
    assert np.concatenate([part.rows for part in parts]).tolist() == list(range(2 * PART + 3))
