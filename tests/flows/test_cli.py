from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import claim_run
from flows.cli import main


@pytest.fixture(autouse=True)
def _embedded_home_here(tmp_path, monkeypatch, request):
    """Run each command in its own folder; a Prefect server is given by the tests that need one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Prefect's console still writes to an earlier test's stderr
    if "prefect_server" not in request.fixturenames:
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")


@pytest.fixture
def config_file(tmp_path, small_config):
    def write(**groups):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_config(**groups).model_dump(mode="json")))
        return str(path)

    return write


def test_run_ends_with_one_line_of_json_and_the_rest_on_stderr(command, error_of, config_file, prefect_server):
    status, out, err = command("run", config_file(), "--name", "a", "--set", "selection.rounds=1", "--json")
    assert status == 0
    result = json.loads(out)
    assert result.keys() == {"run", "root", "rounds", "mlflow_run_id", "seconds"}
    assert (result["run"], result["rounds"]) == ("a", 1)
    assert "Held-out likelihood" in err

    status, out, _ = command("rounds", "a", "--json")
    states = json.loads(out)
    assert [state["state"] for state in states] == ["finished", "finished"]
    assert states[1]["record"]["n_selected"] == 11
    assert Path(states[1]["uris"]["checkpoint"]).is_dir()

    for name in ("alpaca", "jsonl", "messages", "parquet"):
        status, out, _ = command("export", "a", "--round", 1, "--format", name, "--out", f"out.{name}")
        assert (status, out.strip()) == (0, f"wrote 11 samples to out.{name}")
    rows = json.loads(Path("out.alpaca").read_text())
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["instruction"] for row in rows] == [line["instruction"] for line in lines]
    assert lines[0].keys() == {"instruction", "input", "output", "source"}
    selection = pl.read_parquet(Path(states[1]["uris"]["selection"]) / "selection.parquet")
    assert pl.read_parquet("out.parquet")["sample_id"].to_list() == selection["sample_id"].to_list()

    assert command("export", "a", "--round", 1, "--published-layout", "--out", "published")[0] == 0
    labeled = json.loads(Path("published/data/rd_1_labeled.json").read_text())
    unlabeled = json.loads(Path("published/data/rd_1_unlabeled.json").read_text())
    assert [row["instruction"] for row in labeled] == [line["instruction"] for line in lines]
    assert len(labeled) + len(unlabeled) == states[1]["record"]["refs"]["pool"]["rows"]

    assert "is not finished" in error_of("export", "a", "--round", 2, "--out", "x")
    assert "runs there: a" in error_of("rounds", "b")
    assert "selection.budget: stored 5, given 4" in error_of(
        "run", config_file(), "--name", "a", "--set", "selection.rounds=1", "--set", "selection.budget=4"
    )


def test_plan_reports_rows_steps_and_an_example_without_writing_anything(command, config_file, tmp_path):
    status, out, _ = command("plan", config_file())
    assert status == 0
    for expected in ("exact duplicates dropped", "tokens a sample", "seconds each", "⟦", "### Response:"):
        assert expected in out
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    status, out, _ = command("plan", config_file(), "--json")
    planned = json.loads(out)
    pool = planned["pool"]
    assert pool["n_read_rows"] == 120
    assert pool["n_pool_rows"] + pool["n_holdout_rows"] + pool["n_duplicate_rows"] + pool["n_quarantined_rows"] == 120
    assert {step["step"]: step["times"] for step in planned["steps"]} == {
        "prepare pool": 1, "train": 3, "embed": 3, "evaluate": 3, "select": 3
    }  # fmt: skip


POOLS = {
    "empty file": ("rows.jsonl", "", "holds no rows"),
    "truncated JSON": ("rows.json", '[{"instruction": "a", "output": "b"}, {"instr', r"rows.json"),
    "wrong fields": ("rows.jsonl", '{"a": "x", "b": "y"}\n' * 20, "pool.fields"),
    "unknown ending": ("rows.txt", "hello", ".jsonl"),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_bad_pools_are_named_before_anything_is_computed(verb, case, error_of, config_file, tmp_path, request):
    if verb == "run":
        request.getfixturevalue("prefect_server")
    name, content, expected = POOLS[case]
    (tmp_path / name).write_text(content)
    message = error_of(verb, config_file(pool={"uri": str(tmp_path / name)}))
    assert expected in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "selection.budget=60"], "lower selection.budget"),
        (["--set", "selection.strategy=k_centre"], "k_center"),
        (["--set", "selection.budgte=5"], "did you mean budget"),
        (["--set", "selection.budget=-1"], "selection.budget=-1"),
        (["--set", "selection.budget"], "not of the form field=value"),
        (["--set", "model.name=./no-such-model"], "model.name='./no-such-model'"),
        (["--set", "model.name=nobody/no-such-model"], "neither a folder"),
        (["--set", "pool.uri=missing.jsonl"], "missing.jsonl"),
        (["--set", "pool.holdout=119"], "pool.holdout=119"),
        (["--name", "../escape"], "--name='../escape'"),
        (["--root", "s3://user:secret@bucket/x"], "credentials"),
        (["--root", "nosuchscheme://bucket/x"], "nosuchscheme"),
    ],
)
def test_bad_settings_are_named_with_their_value_and_a_way_out(words, expected, error_of, config_file):
    message = error_of("plan", config_file(), *words)
    assert expected in message
    assert "secret" not in message


def test_plan_names_the_drift_of_a_run_name_that_is_taken(error_of, config_file, small_config, tmp_path):
    claim_run(ObjectStore(str(tmp_path / "store")), "taken", small_config())
    message = error_of("plan", config_file(), "--name", "taken", "--set", "selection.budget=4")
    assert "belongs to a run with another config" in message
    assert "selection.budget" in message


def test_a_run_name_that_leaves_the_store_is_refused(error_of, config_file, tmp_path):
    assert "not usable as a folder name" in error_of("rounds", "../../etc")
    assert "not usable as a folder name" in error_of("run", config_file(), "--name", "../escape")
    assert not (tmp_path / "escape").exists()


def test_a_store_that_cannot_be_written_is_named_before_anything_is_computed(
    error_of, config_file, tmp_path, monkeypatch, prefect_server
):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    assert "could not write" in error_of("run", config_file(), "--root", blocked / "store")
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    read_only.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr("pathlib.Path.write_bytes", _permission_denied)  # root may write anywhere
    assert "permission denied" in error_of("plan", config_file(), "--root", read_only)


def _permission_denied(self, _):
    raise PermissionError(13, "Permission denied", str(self))


def test_config_files_that_cannot_be_read_are_named(error_of, tmp_path):
    (tmp_path / "broken.yaml").write_text("selection: [1,")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "does not exist" in error_of("plan", "absent.yaml")
    assert "is not YAML" in error_of("plan", "broken.yaml")
    assert "holds a list" in error_of("plan", "list.yaml")


def write_embeddings(path, vectors, **columns):
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({**columns, "embedding": column}), path)


def test_select_picks_the_farthest_rows_of_any_table(command, tmp_path):
    vectors = np.array([[0, 0], [1, 0], [9, 0], [0, 5], [0, 0]], np.float32)
    write_embeddings(tmp_path / "v.parquet", vectors, sample_id=list("abcde"))
    (tmp_path / "start.txt").write_text("0\n")
    words = ["select", "--embeddings", "v.parquet", "--selected", "start.txt", "--budget", 3, "--out", "picks.parquet"]
    assert command(*words)[0] == 0
    picks = pl.read_parquet("picks.parquet")
    assert picks["pool_row"].to_list() == [2, 3, 1]
    assert picks["sample_id"].to_list() == ["c", "d", "b"]
    assert picks["distance"].to_list() == [9.0, 5.0, 1.0]
    assert picks["nearest_selected_row"].to_list() == [0, 0, 0]
    (tmp_path / "start.txt").write_text("a  # by name\n\n")
    assert json.loads(command(*words, "--json")[1])["covering_radius_after"] == 0.0


def test_select_names_what_is_wrong_with_its_input(error_of, tmp_path):
    vectors = np.array([[0, 0], [np.nan, 0], [9, 0]], np.float32)
    write_embeddings(tmp_path / "v.parquet", vectors)
    (tmp_path / "start.txt").write_text("0\n")
    (tmp_path / "far.txt").write_text("7\n")
    words = ["select", "--embeddings", "v.parquet", "--budget", 1, "--out", "picks.parquet", "--selected"]
    assert "1" in error_of(*words, "start.txt")
    assert "row 7" in error_of(*words, "far.txt")
    assert "names no Parquet file" in error_of(
        "select", "--embeddings", "no.parquet", "--budget", 1, "--out", "x", "--selected", "start.txt"
    )


@pytest.mark.parametrize("verb", ["run", "plan", "rounds", "export", "select", "ui"])
def test_every_command_has_help_with_an_example(verb, command):
    status, out, _ = command(verb, "--help")
    assert status == 0
    assert f"diverseevol {verb}" in " ".join(out.split())


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(Exception, match="does not exist"):
        main(["plan", "absent.yaml", "--debug"])
