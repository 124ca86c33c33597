"""Every published strategy through the flow, and scores beside embeddings of the same pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from diverseevol_core.contracts import EmbeddingSummary, ScoresSummary
from diverseevol_core.errors import ConfigError
from diverseevol_core.schemas import SCORE_COLUMNS
from diverseevol_core.storage.artifacts import read_manifest, read_summary
from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.evolve import evolve
from flows.parameters import EvolveParameters

pytestmark = pytest.mark.usefixtures("prefect_server")

WITHOUT_EVALUATION = {"diversity": False, "bootstrap_resamples": 100, "random_draws": 2}


@pytest.fixture
def one_round(tmp_path, small_config):
    """Run round 0 and 1 with a strategy; return the store and the record of round 1."""

    def run(name="a", **selection):
        selection = {"initial_size": 6, "budget": 5, "rounds": 1, **selection}
        config = small_config(selection=selection, evaluation=WITHOUT_EVALUATION)
        evolve(EvolveParameters(name=name, config=config))
        store = ObjectStore(str(tmp_path / "store"))
        return store, read_round(store, name, 1)

    return run


def table_of(store, ref):
    return pl.read_parquet(store.local_path(ref.path) / "*.parquet")


@pytest.mark.parametrize(
    ("strategy", "column", "descending"),
    [("least_confidence", "max_logit", False), ("margin", "logit_margin", False), ("entropy", "entropy_nats", True)],
)
def test_an_uncertainty_strategy_takes_the_extreme_candidates_of_its_column(one_round, strategy, column, descending):
    store, record = one_round(strategy=strategy)
    assert record.refs.embeddings is None
    scores = table_of(store, record.refs.scores)
    assert scores.columns == ["pool_row", "sample_id", *SCORE_COLUMNS]
    assert scores["pool_row"].to_list() == list(range(scores.height))
    assert scores["ifd"].null_count() == scores.height
    picks = table_of(store, record.refs.selection)
    start, added = (picks.filter(pl.col("added_in_round") == number)["pool_row"].to_list() for number in (0, 1))
    candidates = scores.filter(~pl.col("pool_row").is_in(start)).sort(column, descending=descending)
    assert added == candidates["pool_row"].head(5).to_list()


@pytest.mark.parametrize("strategy", ["k_center", "random", "vendi", "facility_location", "kmeans_quota"])
def test_strategies_that_need_no_scores_never_pay_for_them(one_round, strategy):
    store, record = one_round(strategy=strategy)
    assert record.refs.scores is None
    assert (record.refs.embeddings is None) == (strategy == "random")
    assert table_of(store, record.refs.selection).height == 11
    assert not store.objects("artifacts/score")


def test_weighted_k_center_embeds_and_scores_in_one_pass_with_the_bytes_of_a_plain_embedding(one_round):
    store, plain = one_round("plain")
    store.delete(f"{plain.refs.embeddings.path}/manifest.json")  # so that the next run must embed again
    store, weighted = one_round("weighted", weight_column="answer_tokens")
    assert weighted.refs.embeddings.digest == plain.refs.embeddings.digest
    seconds = [read_manifest(store, ref.path).finished_at for ref in (weighted.refs.embeddings, weighted.refs.scores)]
    assert all(earlier < later for earlier, later in pairwise(seconds)), "scoring left the embedding behind"
    summary = ScoresSummary.model_validate_json(read_summary(store, weighted.refs.scores))
    assert summary.rows == weighted.refs.pool.rows
    assert summary.means.keys() == set(SCORE_COLUMNS) - {"ifd"}
    plain_rows, weighted_rows = (table_of(store, record.refs.selection)["pool_row"] for record in (plain, weighted))
    assert plain_rows.to_list() != weighted_rows.to_list()


def test_ifd_is_scored_when_a_strategy_asks_for_it(one_round):
    store, record = one_round(weight_column="ifd")
    ifd = table_of(store, record.refs.scores)["ifd"]
    assert ifd.null_count() == 0
    assert np.isfinite(ifd.to_numpy()).all()


def test_a_score_that_does_not_exist_is_named_before_anything_runs(one_round):
    with pytest.raises(ConfigError, match=r"weight_column=entrpy .*'entrpy', which does not exist; choose one of max_"):
        one_round(weight_column="entrpy")


def test_a_pool_that_grew_embeds_only_what_is_new(tmp_path, small_config, make_rows):
    base = {"selection": {"rounds": 0, "initial_size": 6}, "evaluation": {"diversity": True}}
    for name, n_rows in (("small", 90), ("grown", 100)):
        path = make_rows(n_rows)
        config = small_config(pool={"uri": str(path), "holdout": 10}, **base)
        evolve(EvolveParameters(name=name, config=config))
    store = ObjectStore(str(tmp_path / "store"))
    found = [info.path for info in store.objects("artifacts/embed") if info.path.endswith("summary.json")]
    summaries = [EmbeddingSummary.model_validate_json(store.read_bytes(path)) for path in found]
    small, grown = sorted(summaries, key=lambda summary: summary.rows)
    assert (small.rows, small.reused_rows) == (80, 0)
    # Which rows are held out depends on the pool: of its 90 rows, those of the earlier 80 are known.
    assert grown.rows == 90
    assert 65 <= grown.reused_rows <= 80


@pytest.fixture
def make_rows(tmp_path):
    import json

    def make(n_rows):
        path = tmp_path / f"{n_rows}.jsonl"
        lines = [
            {"instruction": f"Add {row} and {row + 1}.", "input": "", "output": str(2 * row + 1)}
            for row in range(n_rows)
        ]
        path.write_text("\n".join(json.dumps(line) for line in lines))
        return path

    return make
