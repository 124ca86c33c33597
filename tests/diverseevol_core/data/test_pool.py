from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diverseevol_core.config import PoolConfig
from diverseevol_core.data.pool import PreparedPool, prepare_pool
from diverseevol_core.data.pool_tables import HOLDOUT_SCHEMA, POOL_SCHEMA, QUARANTINE_SCHEMA, read_token_table
from diverseevol_core.data.reading import iter_rows
from diverseevol_core.data.samples import Rejection, SourceRow
from diverseevol_core.data.tokens import marked_text
from diverseevol_core.errors import ContractError, PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

Fields = dict[str, object]


def alpaca_rows(n_rows: int) -> list[Fields]:
    return [
        {"instruction": f"Count to {i}.", "input": "", "output": f"{i} " * (i % 7 + 1), "source": f"s{i % 3}"}
        for i in range(n_rows)
    ]


@pytest.fixture
def prepare(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., PreparedPool]:
    def run(
        fields: Sequence[Fields | SourceRow], seed: int = 0, max_tokens: int = 256, name: str = "", **config: object
    ) -> PreparedPool:
        rows = [row if isinstance(row, SourceRow) else SourceRow(i, row) for i, row in enumerate(fields)]
        folder = tmp_path / (name or f"pool{len(list(tmp_path.iterdir()))}")
        pool_config = PoolConfig(uri="rows.jsonl", **{"holdout": 1, **config})
        return prepare_pool(
            rows, config=pool_config, max_tokens=max_tokens, tokenizer=tokenizer, seed=seed, folder=folder
        )

    return run


def pool_table(pool: PreparedPool) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in pool.pool_paths])


def all_samples(pool: PreparedPool) -> pl.DataFrame:
    return pl.concat([pool_table(pool).drop("pool_row"), pl.read_parquet(pool.holdout_path).drop("holdout_row")])


def ids(pool: PreparedPool) -> set[str]:
    return set(pool_table(pool)["sample_id"])


def holdout_ids(pool: PreparedPool) -> set[str]:
    return set(pl.read_parquet(pool.holdout_path)["sample_id"])


def test_a_pool_keeps_its_rows_in_source_order_with_dense_numbers(prepare: Callable[..., PreparedPool]):
    pool = prepare(alpaca_rows(20), holdout=5)
    table, held_out = pool_table(pool), pl.read_parquet(pool.holdout_path)
    rows = [row for row in alpaca_rows(20) if row["instruction"] not in set(held_out["instruction"])]
    assert table["pool_row"].to_list() == list(range(15))
    assert held_out["holdout_row"].to_list() == list(range(5))
    assert table["instruction"].to_list() == [row["instruction"] for row in rows]
    assert table["source"].to_list() == [row["source"] for row in rows]
    assert [json.loads(text) for text in table["original"]] == rows
    assert table["messages"].null_count() == 15


def test_files_have_the_documented_columns_and_nothing_else_lies_beside_them(prepare: Callable[..., PreparedPool]):
    pool = prepare(alpaca_rows(20), holdout=5)
    assert sorted(path.name for path in pool.folder.iterdir()) == sorted(path.name for path in pool.paths)
    assert pq.read_schema(pool.pool_paths[0]) == POOL_SCHEMA
    assert pq.read_schema(pool.holdout_path) == HOLDOUT_SCHEMA
    assert pq.read_schema(pool.quarantine_path) == QUARANTINE_SCHEMA


def test_tokens_lie_in_pool_order_and_agree_with_the_pool(
    prepare: Callable[..., PreparedPool], tokenizer: PreTrainedTokenizerFast
):
    pool = prepare(alpaca_rows(20), holdout=5)
    table, tokens = pool_table(pool), read_token_table(pool.token_paths)
    assert tokens.n_tokens.tolist() == table["n_tokens"].to_list()
    for row, output in zip(tokens.rows(range(15)), table["output"], strict=True):
        assert marked_text(row, tokenizer).endswith(f"### Response:⟦{output}</s>⟧")
    trained = [int(row.is_trained.sum()) for row in tokens.rows(range(15))]
    assert trained == table["n_answer_tokens"].to_list()
    assert read_token_table([pool.holdout_token_path]).n_rows == 5


def test_conversations_are_kept_as_messages(prepare: Callable[..., PreparedPool]):
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
    pool = prepare([{"conversations": turns}, {"conversations": ["Good", "day"]}])
    table = all_samples(pool)
    assert [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}] in table["messages"].to_list()
    assert table.select("instruction", "input", "output").null_count().row(0) == (2, 2, 2)
    assert (pool.summary.format, pool.summary.template) == ("conversations", "chat")


def test_exact_duplicates_keep_their_first_occurrence_and_are_counted(prepare: Callable[..., PreparedPool]):
    rows = alpaca_rows(3)
    again = {"output": rows[0]["output"], "instruction": rows[0]["instruction"], "source": "elsewhere"}
    pool = prepare([*rows, again, again])
    assert sorted(all_samples(pool)["source"]) == ["s0", "s1", "s2"]
    assert pool.summary.n_duplicate_rows == 2


def test_rows_that_cannot_train_are_quarantined_with_their_reason_and_original(
    prepare: Callable[..., PreparedPool],
):
    bad: list[Fields | SourceRow] = [
        {"instruction": "a", "output": ""},
        {"instruction": "long " * 200, "output": "b"},
        {"instruction": "a", "output": 3},
        {"instruction": "a\ud800", "output": "b"},
        SourceRow(8, None, Rejection("invalid_json", "line 9, column 1: Expecting value"), "{oops"),
    ]
    pool = prepare([*alpaca_rows(4), *bad])
    table = pl.read_parquet(pool.quarantine_path)
    assert table["source_row"].to_list() == [4, 5, 6, 7, 8]
    reasons = ["empty_answer", "prompt_too_long", "wrong_type", "invalid_unicode", "invalid_json"]
    assert table["reason"].to_list() == reasons
    assert pool.summary.quarantined_by_reason == dict.fromkeys(sorted(reasons), 1)
    assert json.loads(table["original"][3]) == bad[3]
    assert table["original"][4] == "{oops"
    assert all(table["detail"].str.len_chars() > 0)


row_fields = st.fixed_dictionaries(
    {"instruction": st.sampled_from(["a", "b", "", None, 3]), "output": st.sampled_from(["x", "y", " ", None])}
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(row_fields, max_size=30), st.integers(1, 3), st.none() | st.integers(1, 4))
def test_every_row_read_is_accounted_for_exactly_once(
    prepare: Callable[..., PreparedPool], rows: list[Fields], holdout: int, limit: int | None
):
    pool = prepare([*rows, *alpaca_rows(5)], holdout=holdout, limit=limit)
    summary = pool.summary
    assert summary.n_read_rows == len(rows) + 5
    assert summary.n_read_rows == (
        summary.n_pool_rows
        + summary.n_holdout_rows
        + summary.n_duplicate_rows
        + summary.n_limited_rows
        + summary.n_quarantined_rows
    )
    assert summary.n_holdout_rows == holdout
    assert summary.n_quarantined_rows == pl.read_parquet(pool.quarantine_path).height
    assert len(ids(pool)) == summary.n_pool_rows
    assert ids(pool).isdisjoint(holdout_ids(pool))


def test_held_out_and_kept_samples_do_not_depend_on_file_order(prepare: Callable[..., PreparedPool]):
    rows = alpaca_rows(60)
    shuffled = random.Random(5).sample(rows, k=60)
    first, second = prepare(rows, holdout=10, limit=20), prepare(shuffled, holdout=10, limit=20)
    assert holdout_ids(first) == holdout_ids(second)
    assert ids(first) == ids(second)
    assert first.summary == second.summary.model_copy(update={"n_sources": first.summary.n_sources})


def test_another_seed_holds_out_other_samples(prepare: Callable[..., PreparedPool]):
    pools = [prepare(alpaca_rows(60), seed=seed, holdout=10) for seed in (0, 1)]
    assert holdout_ids(pools[0]) != holdout_ids(pools[1])


def test_a_larger_holdout_or_limit_keeps_what_a_smaller_one_had(prepare: Callable[..., PreparedPool]):
    rows = alpaca_rows(60)
    assert holdout_ids(prepare(rows, holdout=5)) < holdout_ids(prepare(rows, holdout=10))
    assert ids(prepare(rows, holdout=5, limit=10)) < ids(prepare(rows, holdout=5, limit=20))


def test_every_sample_is_equally_likely_to_be_held_out(prepare: Callable[..., PreparedPool]):
    # 40 seeds x 10 of 20: each sample is held out 20 times on average, with a standard deviation of 3.2; a bound of 14
    # is over four deviations wide for all 20 samples, and the seeds are fixed.
    rows = alpaca_rows(20)
    counts = dict.fromkeys(all_samples(prepare(rows))["sample_id"], 0)
    for seed in range(40):
        for name in holdout_ids(prepare(rows, seed=seed, holdout=10)):
            counts[name] += 1
    assert all(6 <= count <= 34 for count in counts.values())


def test_a_limit_above_what_there_is_keeps_all(prepare: Callable[..., PreparedPool]):
    summary = prepare(alpaca_rows(10), limit=1_000).summary
    assert (summary.n_pool_rows, summary.n_limited_rows) == (9, 0)


def test_equal_input_gives_equal_bytes(prepare: Callable[..., PreparedPool]):
    first, second = (prepare([*alpaca_rows(30), {"instruction": "a"}], holdout=5) for _ in range(2))
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_summary_describes_the_pool_and_not_the_held_out_rows(prepare: Callable[..., PreparedPool]):
    pool = prepare(alpaca_rows(30), holdout=28)
    table = pool_table(pool)
    assert pool.summary.tokens.total == table["n_tokens"].sum()
    assert pool.summary.answer_tokens.max == table["n_answer_tokens"].max()
    assert pool.summary.n_sources == table["source"].n_unique()


def test_truncated_answers_are_counted(prepare: Callable[..., PreparedPool]):
    long = [{"instruction": f"{i}", "output": "word " * 400} for i in range(4)]
    pool = prepare([*alpaca_rows(4), *long], max_tokens=128, holdout=2)
    n_tokens = pool_table(pool)["n_tokens"]
    assert pool.summary.n_truncated_rows == (n_tokens == 128).sum() >= 2
    assert n_tokens.max() == 128


def test_a_holdout_as_large_as_the_pool_is_an_error_with_both_numbers(prepare: Callable[..., PreparedPool]):
    with pytest.raises(PoolError, match=r"pool.holdout=4 leaves nothing of the 4 usable samples .*below 4"):
        prepare(alpaca_rows(4), holdout=4)


def test_a_pool_without_a_usable_row_says_why_each_row_fell(prepare: Callable[..., PreparedPool]):
    with pytest.raises(PoolError, match=r"none of the 3 rows .* 3 empty_answer \(row 0: output is empty\)"):
        prepare([{"instruction": "a", "output": ""}] * 3)


def test_a_source_without_rows_or_readable_rows_is_an_error(prepare: Callable[..., PreparedPool]):
    with pytest.raises(PoolError, match=r"pool.uri=rows.jsonl holds no rows"):
        prepare([])
    with pytest.raises(PoolError, match=r"none of the first 2 rows .*invalid_json: line 1"):
        prepare([SourceRow(i, None, Rejection("invalid_json", f"line {i + 1}"), "{") for i in range(2)])


def test_a_failed_preparation_leaves_no_spool_behind(prepare: Callable[..., PreparedPool], tmp_path: Path):
    with pytest.raises(PoolError):
        prepare(alpaca_rows(4), holdout=4, name="failed")
    assert not (tmp_path / "failed" / "spool.parquet").exists()


def test_a_folder_with_parquet_files_is_refused(prepare: Callable[..., PreparedPool]):
    prepare(alpaca_rows(4), name="twice")
    with pytest.raises(ContractError, match="holds Parquet files already"):
        prepare(alpaca_rows(4), name="twice")


def test_steps_report_the_rows_read_so_far(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    steps: list[int] = []
    prepare_pool(
        (SourceRow(i, row) for i, row in enumerate(alpaca_rows(5_000))),
        config=PoolConfig(holdout=10),
        max_tokens=128,
        tokenizer=tokenizer,
        seed=0,
        folder=tmp_path / "pool",
        on_step=steps.append,
    )
    assert steps == sorted(steps)
    assert steps[-1] == 5_000
    assert len(steps) > 1


def test_rows_are_read_as_a_stream(prepare: Callable[..., PreparedPool], tmp_path: Path, tokenizer):
    alive = 0
    most_alive = 0

    class Counted(dict[str, object]):
        def __init__(self, fields: Fields) -> None:
            nonlocal alive, most_alive
            super().__init__(fields)
            alive += 1
            most_alive = max(most_alive, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    rows = (SourceRow(i, Counted(fields)) for i, fields in enumerate(alpaca_rows(12_000)))
    prepare_pool(
        rows, config=PoolConfig(holdout=1), max_tokens=128, tokenizer=tokenizer, seed=0, folder=tmp_path / "stream"
    )
    assert most_alive < 6_000


def test_importing_the_data_room_needs_neither_torch_nor_transformers():
    code = (
        "import sys, diverseevol_core.data.pool, diverseevol_core.data.reading, diverseevol_core.data.export;"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("alpaca_5k.json", ("alpaca", 5_000, 0, 2)),
        ("dolly_3k.json", ("alpaca", 2_996, 2, 0)),
        ("gsm8k_test.jsonl", ("prompt_completion", 1_319, 0, 0)),
        ("lima_1030_conversations.jsonl", ("conversations", 1_030, 0, 0)),
    ],
)
def test_real_data_sets_are_recognised_and_counted(
    real_data: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    file: str,
    expected: tuple[str, int, int, int],
):
    path = real_data / file
    with path.open("rb") as opened:
        summary = prepare_pool(
            iter_rows(opened, "jsonl" if path.suffix == ".jsonl" else "json", name=file),
            config=PoolConfig(uri=file),
            max_tokens=512,
            tokenizer=tokenizer,
            seed=0,
            folder=tmp_path / "pool",
        ).summary
    n_empty_answers = summary.quarantined_by_reason.get("empty_answer", 0)
    assert (summary.format, summary.n_read_rows, summary.n_duplicate_rows, n_empty_answers) == expected
    assert set(summary.quarantined_by_reason) <= {"empty_answer", "prompt_too_long"}
