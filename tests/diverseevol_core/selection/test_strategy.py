from __future__ import annotations

import pickle

import numpy as np
import pytest

from diverseevol_core.errors import ConfigError, ContractError
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import (
    EmbeddingSource,
    Query,
    SelectionOptions,
    candidate_rows,
    check_query,
    check_selection,
)
from diverseevol_core.selection.uniform import RandomStrategy
from diverseevol_core.selection.vendi import VendiStrategy


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "manhattan"},
        {"trim_ratio": 1.0},
        {"whiten_components": 0},
        {"whiten_components": 3, "pca_components": 3},
        {"vendi_draws": 0},
        {"memory_budget_bytes": 0},
    ],
)
def test_impossible_options_name_the_setting(options):
    with pytest.raises(ConfigError, match=f"selection.{next(iter(options))}"):
        SelectionOptions(**options)


def test_default_options_are_the_published_ones():
    options = SelectionOptions()
    assert options.metric == "euclidean"
    assert options.whiten_components is options.pca_components is options.weight_column is None
    assert options.trim_ratio == 0.0


def test_candidates_are_the_rest_in_order():
    assert candidate_rows(6, np.array([4, 0])).tolist() == [1, 2, 3, 5]


def test_selected_rows_of_any_integer_type_are_taken():
    assert check_selection(300, np.array([200], np.uint8), 1).dtype == np.int64
    assert check_selection(3, [], 3).tolist() == []


def test_a_matrix_of_selected_rows_is_refused():
    with pytest.raises(ContractError, match=r"shape \(1, 2\)"):
        check_selection(5, [[0, 1]], 1)


def test_embeddings_of_another_pool_are_refused():
    source = ArrayEmbeddings(np.ones((4, 2)))
    query = Query(5, np.empty(0, int), 1, 0, source)
    with pytest.raises(ContractError, match="embeddings has 4 rows and n_pool=5"):
        check_query(VendiStrategy(SelectionOptions()), query)
    assert check_query(RandomStrategy(), query).size == 0


def test_missing_embeddings_are_named():
    with pytest.raises(ContractError, match="vendi needs embeddings"):
        check_query(VendiStrategy(SelectionOptions()), Query(5, np.empty(0, int), 1, 0))


def test_errors_survive_pickling():
    with pytest.raises(ContractError) as caught:
        check_selection(3, [7], 1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_arrays_are_embedding_sources():
    assert isinstance(ArrayEmbeddings(np.ones((2, 2))), EmbeddingSource)
