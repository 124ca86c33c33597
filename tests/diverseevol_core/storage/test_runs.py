from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import (
    ArtifactRef,
    EvaluationSummary,
    Interval,
    RoundRecord,
    RoundRefs,
    SelectionSummary,
    TrainingSummary,
)
from diverseevol_core.errors import ConfigDriftError, ConfigError, DamagedArtifactError
from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import claim_run, list_runs, read_config, read_round, require_round, write_round

INTERVAL = Interval(value=1.0, low=0.5, high=2.0)


def ref(digit: str) -> ArtifactRef:
    return ArtifactRef(step="train", key=digit * 64, path=f"artifacts/train/{digit * 32}", digest=digit * 64, bytes=1)


def record(run: str = "demo", number: int = 0, checkpoint: str = "c", day: int = 1) -> RoundRecord:
    return RoundRecord(
        run=run,
        round=number,
        config_fingerprint="f" * 64,
        n_selected=5,
        refs=RoundRefs(pool=ref("a"), selection=ref("b"), checkpoint=ref(checkpoint), evaluation=ref("e")),
        files={"selection": ("artifacts/x/selection.parquet",)},
        seconds={"train": 1.5},
        finished_at=datetime(2025, 1, day, tzinfo=UTC),
        selection=SelectionSummary(round=number, strategy="random", n_selected=5, n_added=5),
        training=TrainingSummary(
            n_samples=5, optimizer_steps=1, trained_tokens=9, micro_batch_rows=1, final_loss_nats=1.0, curve=()
        ),
        evaluation=EvaluationSummary(
            rows=1, tokens=1, answer_bytes=1, loss_nats=INTERVAL, perplexity=INTERVAL, bits_per_byte=INTERVAL
        ),
    )


def test_a_claimed_name_gives_back_its_config_and_may_be_claimed_again_with_it(store: ObjectStore):
    config = RunConfig.model_validate({"seed": 3, "pool": {"fields": {"instruction": "frage é"}}})
    assert read_config(store, "demo") is None
    claim_run(store, "demo", config)
    claim_run(store, "demo", config)
    assert read_config(store, "demo") == config
    assert list_runs(store) == ["demo"]


def test_drift_is_listed_field_by_field_and_the_stored_config_kept(store: ObjectStore):
    first = RunConfig.model_validate({"selection": {"budget": 40}, "pool": {"fields": {"a.b": "c"}}})
    claim_run(store, "demo", first)
    second = {"seed": 9, "selection": {"budget": 50, "whiten_components": 8}, "pool": {"fields": {"a.b": "d"}}}
    with pytest.raises(ConfigDriftError) as caught:
        claim_run(store, "demo", RunConfig.model_validate(second))
    assert str(caught.value).splitlines()[1:] == [
        '  pool.fields."a.b": stored "c", given "d"',
        "  seed: stored 0, given 9",
        "  selection.budget: stored 40, given 50",
        "  selection.whiten_components: stored null, given 8",
    ]
    assert read_config(store, "demo") == first


@pytest.mark.parametrize("run", ["../x", "a/b", "", ".", "UPPER", "-x", "x" * 65, "a..b", "a\n", "é"])
def test_a_run_name_that_is_no_slug_is_refused_before_anything_is_written(run: str, folder_store: ObjectStore):
    for use in (
        lambda: claim_run(folder_store, run, RunConfig()),
        lambda: read_config(folder_store, run),
        lambda: read_round(folder_store, run, 0),
        lambda: write_round(folder_store, record(run)),
    ):
        with pytest.raises(ConfigError, match="folder name"):
            use()
    assert list_runs(folder_store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"seed": -1}', b'{"of_a_later_version": 1}', b"[]"])
def test_a_damaged_config_is_never_taken_for_a_missing_one(content: bytes, folder_store: ObjectStore):
    folder_store.write_bytes("runs/demo/config.json", content)
    with pytest.raises(ConfigError, match="damaged or of another version"):
        claim_run(folder_store, "demo", RunConfig())
    assert folder_store.read_bytes("runs/demo/config.json") == content


def test_a_round_record_comes_back_as_it_was_written(store: ObjectStore):
    assert read_round(store, "demo", 3) is None
    write_round(store, record(number=3))
    assert read_round(store, "demo", 3) == require_round(store, "demo", 3) == record(number=3)
    assert [info.path for info in store.objects("runs/demo")] == ["runs/demo/round=03/manifest.json"]


def test_repeating_a_round_keeps_the_time_of_its_first_record(store: ObjectStore):
    write_round(store, record(day=1))
    write_round(store, record(day=2))
    assert require_round(store, "demo", 0) == record(day=1)


def test_a_round_with_other_artifacts_replaces_its_record(store: ObjectStore):
    write_round(store, record(day=1))
    write_round(store, record(day=2, checkpoint="d"))
    assert require_round(store, "demo", 0) == record(day=2, checkpoint="d")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", b'{"run": "demo"'])
def test_a_damaged_record_counts_as_missing_and_is_written_again(content: bytes, folder_store: ObjectStore):
    folder_store.write_bytes("runs/demo/round=00/manifest.json", content)
    assert read_round(folder_store, "demo", 0) is None
    with pytest.raises(DamagedArtifactError, match="run round 0 first"):
        require_round(folder_store, "demo", 0)
    write_round(folder_store, record())
    assert require_round(folder_store, "demo", 0) == record()


def test_runs_are_listed_by_name_and_stray_files_are_not_runs(store: ObjectStore):
    for run in ("b", "a", "a-1"):
        claim_run(store, run, RunConfig())
    store.write_bytes("runs/notes.txt", b"1")
    assert list_runs(store) == ["a", "a-1", "b"]


def test_an_empty_store_has_no_runs(store: ObjectStore):
    assert list_runs(store) == []
