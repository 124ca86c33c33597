from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from diverseevol_core.data.embedding_table import ParquetEmbeddings, write_embedding_part
from diverseevol_core.errors import ConfigError, ContractError
from diverseevol_core.selection import greedy, picking, screening, small_pools
from diverseevol_core.selection import k_center as k_center_module
from diverseevol_core.selection.greedy import Limits
from diverseevol_core.selection.k_center import KCenterStrategy, k_center
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions

STREAMED = 1
HELD = 2**31
SIZES = ("LARGEST_VALUES", "LARGEST_PRODUCTS", "LARGEST_BUDGET")


def take_way(monkeypatch, way):
    """Send calls through one of the three ways of the engine, whatever their size; return their memory budget."""
    for name in SIZES:
        monkeypatch.setattr(small_pools, name, 1 << 60 if way == "small" else -1)
    return STREAMED if way == "streamed" else HELD


@pytest.fixture(params=["small", "held", "streamed"])
def memory(request, monkeypatch):
    return take_way(monkeypatch, request.param)


@pytest.fixture(params=["small", "held"])
def each_way(request, monkeypatch):
    take_way(monkeypatch, request.param)


@pytest.fixture
def small_working_set(monkeypatch):
    """Make sweeps and re-reads happen on pools of a few hundred rows."""

    def shrink(active_rows):
        monkeypatch.setattr(greedy, "ACTIVE_ROWS", active_rows)
        monkeypatch.setattr(k_center_module, "ACTIVE_ROWS", active_rows)
        monkeypatch.setattr(greedy, "ACTIVE_PER_PICK", 0)
        monkeypatch.setattr(k_center_module, "ACTIVE_PER_PICK", 0)
        monkeypatch.setattr(picking, "SWEEP_ROWS", 257)

    return shrink


def clusters(n, dim, seed=0, dtype=np.float32):
    """Anisotropic clusters with heavy tails, exact duplicates and near-duplicates, as embeddings have."""
    rng = np.random.default_rng(seed)
    scales = np.exp(-np.arange(dim) / max(dim / 4, 1))
    centres = rng.standard_normal((max(n // 50, 1), dim)) * 3
    rows = centres[rng.integers(len(centres), size=n)] + rng.standard_t(4, (n, dim))
    rows *= scales
    copies = max(n // 50, 1)
    rows[-copies:] = rows[:copies]
    rows[-2 * copies : -copies] = rows[:copies] + 1e-7 * rng.standard_normal((copies, dim))
    return rows.astype(dtype)


def assert_same(picks, expected):
    assert picks.pool_rows.tolist() == expected.rows.tolist()
    np.testing.assert_array_equal(picks.distances, expected.distances)
    assert picks.nearest_selected_rows.tolist() == expected.nearest.tolist()
    assert picks.covering_radius_before == expected.before
    assert picks.covering_radius_after == expected.after


def _torture_sets():
    rng = np.random.default_rng(5)
    base = clusters(600, 24)
    third = base.copy()
    third[400:] = third[:200]
    near = base.copy()
    near[300:] = near[:300] * (1 + 1e-7)
    near_copies = np.repeat(rng.standard_normal((1, 24)), 600, axis=0)
    near_copies += 1e-7 * rng.standard_normal(near_copies.shape)
    zeros = base.copy()
    zeros[::3] = 0.0
    decades = rng.standard_normal((600, 24)) * 10.0 ** rng.uniform(-9, 0, (600, 1))
    return {
        "a third duplicates": third,
        "near-duplicates": near,
        "near-copies of one row": near_copies.astype(np.float32),
        "zero rows": zeros,
        "all equal": np.full((300, 8), 0.3, np.float32),
        "all zero": np.zeros((300, 8), np.float32),
        "few distinct rows": base[rng.integers(7, size=300)],
        "integer grid with mass ties": rng.integers(0, 3, (600, 4)).astype(np.float32),
        "bfloat16 grid": torch.from_numpy(base).bfloat16().float().numpy(),
        "offset of 1,000": base + np.float32(1000.0),
        "offset of a million in float64": base.astype(np.float64) + 1e6,
        "scale 1e-18": base * np.float32(1e-18),
        "scale 1e17": base * np.float32(1e17),
        "scale 1e-40, subnormal": base * np.float32(1e-40),
        "scale 1e-200 in float64": base.astype(np.float64) * 1e-200,
        "scale 1e200 in float64": base.astype(np.float64) * 2.0**600,
        "norms over nine decades": decades.astype(np.float32),
        "one dimension": rng.standard_normal((500, 1)).astype(np.float32),
        "one dimension with ties": rng.integers(0, 50, (500, 1)).astype(np.float64),
        "independent sphere": rng.standard_normal((600, 64)).astype(np.float32),
    }


TORTURE = _torture_sets()


@pytest.mark.parametrize("n_selected", [1, 60], ids=["cold", "warm"])
@pytest.mark.parametrize("name", TORTURE)
def test_torture_sets_give_the_oracles_picks_and_distances(name, n_selected, memory, oracle, small_working_set):
    small_working_set(64)
    values = TORTURE[name]
    exponent = 0
    if name == "scale 1e200 in float64":
        exponent = 600
    selected = np.random.default_rng(1).choice(len(values), n_selected, replace=False)
    picks = k_center(values, selected, 150, memory_budget_bytes=memory)
    expected = oracle(np.ldexp(values, -exponent) if exponent else values, selected, 150)
    if name in ("scale 1e200 in float64", "scale 1e-200 in float64"):
        # Squares leave float64 in the oracle; compare with the oracle of the data scaled by a power of two.
        shift = exponent or -664
        expected = oracle(np.ldexp(values, -shift), selected, 150)
        assert picks.pool_rows.tolist() == expected.rows.tolist()
        np.testing.assert_array_equal(picks.distances, np.ldexp(expected.distances, shift))
    elif name == "scale 1e-40, subnormal":
        assert picks.pool_rows.tolist() == expected.rows.tolist()
        np.testing.assert_array_equal(picks.distances, expected.distances)
    else:
        assert_same(picks, expected)


@st.composite
def pools(draw):
    n, dim = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 3, 7, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "grid", "equal", "duplicates", "near", "decades"]))
    rows = rng.standard_normal((n, dim))
    if kind == "grid":
        rows = rng.integers(-2, 3, (n, dim)).astype(float)
    elif kind == "equal":
        rows = np.repeat(rows[:1], n, axis=0)
    elif kind == "duplicates":
        rows = rows[rng.integers(max(n // 3, 1), size=n)]
    elif kind == "near":
        rows = rows[rng.integers(max(n // 3, 1), size=n)] * (1 + 1e-7 * rng.standard_normal((n, 1)))
    elif kind == "decades":
        rows *= 10.0 ** rng.uniform(-9, 9, (n, 1))
    if draw(st.booleans()):
        rows[rng.integers(n, size=max(n // 5, 1))] = 0.0
    # A power of two keeps the oracle free of underflow and exact ties exact ties.
    scale = 2.0 ** draw(st.integers(-66, 66))
    offset = draw(st.sampled_from([0.0, 0.0, 1000.0, -1e5]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = ((rows + offset) * scale).astype(dtype)
    n_selected = draw(st.integers(1, n))
    selected = rng.permutation(n)[:n_selected]
    budget = draw(st.one_of(st.just(n - n_selected), st.integers(0, n - n_selected)))
    return values, selected, budget, draw(st.integers(1, 80)), draw(st.sampled_from(["small", "held", "streamed"]))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pools())
def test_any_pool_gives_the_oracles_picks(oracle, pool):
    values, selected, budget, rows_per_block, way = pool
    with pytest.MonkeyPatch.context() as patch:
        memory = take_way(patch, way)
        picks = k_center(ArrayEmbeddings(values, rows_per_block), selected, budget, memory_budget_bytes=memory)
    assert_same(picks, oracle(values, selected, budget))


@pytest.mark.parametrize("low_precision", [True, False])
def test_screen_precision_changes_no_pick(low_precision, oracle, each_way, monkeypatch):
    monkeypatch.setattr(screening, "has_fast_bfloat16", lambda: low_precision)
    values = clusters(3000, 48)
    selected = np.random.default_rng(2).choice(3000, 300, replace=False)
    assert_same(k_center(values, selected, 200), oracle(values, selected, 200))


@pytest.mark.parametrize("active_rows", [1, 2, 33, 5000])
def test_size_of_the_working_set_changes_no_pick(active_rows, memory, oracle, small_working_set):
    small_working_set(active_rows)
    values = clusters(900, 16, seed=3)
    picks = k_center(values, [5, 800, 17], 60, memory_budget_bytes=memory)
    assert_same(picks, oracle(values, [5, 800, 17], 60))


@pytest.mark.parametrize("rows_per_block", [1, 7, 100, 10_000])
def test_block_size_changes_no_pick(rows_per_block, oracle, each_way):
    values = clusters(700, 12, seed=4)
    picks = k_center(ArrayEmbeddings(values, rows_per_block), [1, 2, 3], 100)
    assert_same(picks, oracle(values, [1, 2, 3], 100))


def test_thread_count_changes_no_pick(oracle, each_way):
    values = clusters(4000, 64, seed=5)
    selected = np.arange(0, 4000, 20)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found.append(k_center(values, selected, 150))
    torch.set_num_threads(before)
    for picks in found:
        assert_same(picks, oracle(values, selected, 150))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_float_dtype_is_taken_at_its_own_values(dtype, oracle, each_way):
    tensor = torch.from_numpy(clusters(500, 16)).to(getattr(torch, dtype))
    expected = oracle(tensor.double().numpy(), [0, 9], 80)
    assert_same(k_center(tensor, [0, 9], 80), expected)
    if dtype != "bfloat16":
        assert_same(k_center(tensor.numpy(), [0, 9], 80, memory_budget_bytes=STREAMED), expected)


def test_memory_maps_are_read_in_place(tmp_path, oracle):
    values = clusters(500, 16)
    np.save(tmp_path / "pool.npy", values)
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    assert_same(k_center(mapped, [3], 50, memory_budget_bytes=STREAMED), oracle(values, [3], 50))


def test_near_duplicates_do_not_become_nan_and_win(each_way):
    """The published implementation expands the square unclamped: its first picks are the near-copies (NaN)."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, 32)).astype(np.float32)
    values[-80:] = values[0] + 1e-4 * rng.standard_normal((80, 32)).astype(np.float32)
    picks = k_center(values, [0], 20)
    assert np.isfinite(picks.distances).all()
    assert picks.pool_rows.max() < 2920


def test_no_row_is_picked_twice_when_distinct_rows_run_out(each_way):
    values = np.repeat(np.arange(4.0, dtype=np.float32)[:, None], 5, axis=1).repeat(6, axis=0)
    picks = k_center(values, [0], 23)
    assert sorted(picks.pool_rows.tolist()) == list(range(1, 24))
    assert picks.pool_rows[3:].tolist() == sorted(picks.pool_rows[3:].tolist())
    assert (picks.distances[3:] == 0.0).all()
    assert picks.covering_radius_after == 0.0


def test_distances_fall_and_the_first_is_the_covering_radius(each_way):
    values = clusters(1000, 20)
    picks = k_center(values, [4, 5], 100)
    assert (np.diff(picks.distances) <= 0).all()
    assert picks.covering_radius_before == picks.distances[0]
    assert picks.covering_radius_after <= picks.distances[-1]


def test_a_budget_of_zero_measures_the_radius_only(oracle, each_way):
    values = clusters(200, 5)
    assert_same(k_center(values, [1], 0), oracle(values, [1], 0))


def test_one_row_that_is_selected_leaves_nothing(each_way):
    picks = k_center(np.ones((1, 3), np.float32), [0], 0)
    assert picks.pool_rows.size == 0
    assert picks.covering_radius_before == picks.covering_radius_after == 0.0


def test_an_interrupted_call_resumes_from_its_picks(oracle):
    values = clusters(800, 16)
    whole = k_center(values, [7, 70], 90)
    for n_done in (0, 1, 40, 90):
        resumed = k_center(values, [7, 70], 90, prefix_rows=whole.pool_rows[:n_done])
        assert_same(resumed, oracle(values, [7, 70], 90))


def test_progress_is_reported_and_an_exception_in_it_cancels(each_way):
    values = clusters(300, 8)
    seen = []
    k_center(values, [0], 10, on_step=lambda done, budget: seen.append((done, budget)))
    assert seen == [(done, 10) for done in range(11)]

    def cancel(done, _budget):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        k_center(values, [0], 10, on_step=cancel)


def test_few_rows_are_settled_and_one_pass_is_made():
    values = clusters(6000, 64)
    selected = np.arange(0, 6000, 12)
    for memory in (HELD, STREAMED):
        work = k_center(values, selected, 200, memory_budget_bytes=memory).work
        assert work.passes == 1
        assert work.rows_refreshed < 3000
        assert work.pairs < 3 * work.rows_refreshed


def test_cosine_is_euclidean_on_unit_rows(oracle):
    values = clusters(400, 12).astype(np.float64)
    values[5] = 0.0
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    expected = oracle(unit, [0, 1], 40)
    for memory in (HELD, STREAMED):
        picks = k_center(values, [0, 1], 40, metric="cosine", memory_budget_bytes=memory)
        assert picks.pool_rows.tolist() == expected.rows.tolist()
        # Unit rows are rounded in another order than the engine rounds them: a few float64 units in the last place.
        np.testing.assert_allclose(picks.distances, expected.distances, rtol=1e-13)


def test_weights_multiply_distances(memory, oracle, small_working_set):
    small_working_set(16)
    values = clusters(400, 12)
    weights = np.random.default_rng(3).uniform(0, 2, 400)
    weights[::7] = 0.0
    picks = k_center(values, [0, 1], 120, limits=Limits(weights=weights), memory_budget_bytes=memory)
    expected = oracle(values, [0, 1], 120, weights**2)
    assert picks.pool_rows.tolist() == expected.rows.tolist()
    np.testing.assert_array_equal(picks.distances, expected.distances)
    assert picks.covering_radius_before is None


def test_quotas_and_exclusions_are_kept_and_otherwise_the_farthest_row_wins(memory, small_working_set):
    small_working_set(8)
    values = clusters(120, 6)
    groups = np.arange(120) % 3
    quotas = np.array([5, 0, 10])
    excluded = np.array([2, 5, 8])
    limits = Limits(excluded_rows=excluded, groups=groups, quotas=quotas)
    picks = k_center(values, [0], 15, limits=limits, memory_budget_bytes=memory)
    left, chosen = quotas.copy(), [0]
    for row in picks.pool_rows:
        distances = np.linalg.norm(values[:, None].astype(float) - values[chosen][None], axis=2).min(axis=1)
        distances[chosen], distances[excluded], distances[left[groups] == 0] = -1, -1, -1
        assert row == distances.argmax()
        chosen.append(int(row))
        left[groups[row]] -= 1
    assert left.tolist() == [0, 0, 0]


def test_quotas_that_leave_too_few_rows_are_an_error():
    limits = Limits(groups=np.zeros(10, np.int64), quotas=np.array([2]))
    with pytest.raises(ContractError, match="budget=3 exceeds the 2 rows"):
        k_center(clusters(10, 2), [0], 3, limits=limits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_selected", [True, False])
def test_values_that_are_not_finite_are_named_before_any_pick(bad, memory, is_selected):
    values = clusters(300, 6)
    values[[40, 250], 2] = bad
    steps = []
    with pytest.raises(ContractError, match=r"pool_row \[40, 250\] \(in the array in memory\)"):
        k_center(
            values, [40 if is_selected else 1], 5, memory_budget_bytes=memory, on_step=lambda *step: steps.append(step)
        )
    assert steps == []


def test_the_file_part_with_a_nan_is_named(tmp_path, memory):
    values = clusters(300, 6)
    values[[40, 250], 2] = np.nan
    for number, start in enumerate((0, 200)):
        rows = values[start : start + 200]
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 6)
        pq.write_table(pa.table([column], names=["embedding"]), tmp_path / f"{number}.parquet", row_group_size=100)
    for selected in (1, 250):
        source = ParquetEmbeddings(sorted(tmp_path.glob("*.parquet")))
        # A block is 100 rows of the file, or the whole pool once it is in memory.
        with pytest.raises(ContractError, match=r"pool_row \[40(, 250)?\] \(in 0\.parquet"):
            k_center(source, [selected], 5, memory_budget_bytes=memory)


def test_files_give_the_picks_of_the_array(tmp_path, memory, oracle, small_working_set):
    small_working_set(64)
    values = clusters(3000, 20)
    for start in (0, 1500):
        write_embedding_part(
            tmp_path / f"{start}.parquet",
            pool_rows=np.arange(start, start + 1500),
            sample_ids=[""] * 1500,
            n_tokens=np.ones(1500),
            embeddings=values[start : start + 1500],
        )
    source = ParquetEmbeddings(list(tmp_path.glob("*.parquet")))
    assert_same(k_center(source, [7, 9], 150, memory_budget_bytes=memory), oracle(values, [7, 9], 150))


@pytest.mark.parametrize(
    ("selected", "budget", "message"),
    [
        ([], 3, "n_selected=0"),
        ([0, 0], 3, r"repeats rows \[0\]"),
        ([-1], 3, r"\[-1\], outside 0 to n_pool - 1 = 9"),
        ([10], 3, r"\[10\], outside"),
        ([0.5], 3, "dtype float64"),
        ([0], 10, "budget=10 should be between 0 and the 9 candidates left"),
        ([0], -1, "budget=-1"),
    ],
)
def test_impossible_calls_are_refused_with_both_numbers(selected, budget, message):
    with pytest.raises(ContractError, match=message):
        k_center(clusters(10, 3), selected, budget)


def test_a_prefix_longer_than_the_budget_is_refused():
    with pytest.raises(ContractError, match="budget"):
        k_center(clusters(10, 3), [0], 1, prefix_rows=[1, 2])


def test_an_unusable_device_is_a_config_error():
    with pytest.raises(ConfigError, match="device='warp'"):
        k_center(clusters(10, 3), [0], 1, device="warp")


def test_results_do_not_depend_on_a_lower_matmul_precision(oracle, each_way):
    values = clusters(2500, 96)
    selected = np.arange(0, 2500, 5)
    torch.set_float32_matmul_precision("medium")
    try:
        picks = k_center(values, selected, 200)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_same(picks, oracle(values, selected, 200))


def test_the_strategy_applies_its_options():
    values = clusters(200, 8)
    scores = {"quality": np.linspace(1.0, 2.0, 200)}
    query = Query(200, np.array([0, 1]), 10, 0, ArrayEmbeddings(values), scores, np.array(["a", "b"] * 100))
    plain = KCenterStrategy(SelectionOptions()).select(query)
    assert plain.pool_rows.tolist() == k_center(values, [0, 1], 10).pool_rows.tolist()
    options = SelectionOptions(weight_column="quality", quota_by_source=True, trim_ratio=0.1)
    strategy = KCenterStrategy(options)
    assert strategy.needs == {"embeddings", "sources", "scores:quality"}
    picks = strategy.select(query)
    assert np.bincount(picks.pool_rows % 2).tolist() == [5, 5]


def test_the_registry_and_the_contract_import_no_torch():
    code = (
        "import sys; import diverseevol_core.selection.registry as r, diverseevol_core.selection.strategy; "
        "r.strategy_names(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
