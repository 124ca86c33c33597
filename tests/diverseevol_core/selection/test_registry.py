from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from diverseevol_core.errors import ConfigError
from diverseevol_core.selection import registry
from diverseevol_core.selection.registry import make_strategy, strategy_names
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions
from diverseevol_core.selection.uniform import RandomStrategy


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_obeys_the_contract(name):
    rng = np.random.default_rng(0)
    columns = ("max_logit", "logit_margin", "entropy_nats")
    query = Query(
        90,
        np.array([3, 60]),
        25,
        11,
        ArrayEmbeddings(rng.standard_normal((90, 6)).astype(np.float32)),
        {column: rng.random(90) for column in columns},
        np.array(["a", "b", "c"] * 30),
        np.arange(90),
    )
    strategy = make_strategy(name, SelectionOptions())
    assert strategy.name == name
    steps = []
    picks = strategy.select(query, on_step=lambda *step: steps.append(step))
    again = make_strategy(name, SelectionOptions()).select(query)
    assert picks.pool_rows.dtype == np.int64
    assert len(set(picks.pool_rows.tolist()) - {3, 60}) == 25
    assert picks.pool_rows.tolist() == again.pool_rows.tolist()
    assert picks.distances.shape == picks.nearest_selected_rows.shape == (25,)
    assert all(budget == 25 and 0 <= done <= 25 for done, budget in steps)
    empty = strategy.select(Query(90, np.arange(90), 0, 0, query.embeddings, query.scores))
    assert empty.pool_rows.size == 0


@pytest.mark.parametrize(
    ("name", "hint"), [("k_centre", "did you mean k_center?"), ("Random", "random"), ("zzz", "choose one of k_center")]
)
def test_unknown_names_are_answered_with_near_matches(name, hint):
    with pytest.raises(ConfigError, match=hint.replace("?", r"\?")):
        make_strategy(name, SelectionOptions())


@pytest.fixture
def third_party(monkeypatch):
    module = types.ModuleType("thirdparty_strategies")
    module.good = lambda _options: RandomStrategy()
    module.hollow = lambda _options: object()
    monkeypatch.setitem(sys.modules, "thirdparty_strategies", module)
    entries = [
        EntryPoint(name, f"thirdparty_strategies:{target}", registry.ENTRY_POINT_GROUP)
        for name, target in [("longest", "good"), ("hollow", "hollow"), ("absent", "absent"), ("random", "hollow")]
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)


@pytest.mark.usefixtures("third_party")
def test_other_packages_add_strategies_but_never_replace_ours():
    assert "longest" in strategy_names()
    assert isinstance(make_strategy("longest", SelectionOptions()), RandomStrategy)
    assert isinstance(make_strategy("random", SelectionOptions()), RandomStrategy)
    assert strategy_names().count("random") == 1


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(("name", "message"), [("hollow", "lacks"), ("absent", "cannot be built")])
def test_broken_third_party_strategies_are_config_errors(name, message):
    with pytest.raises(ConfigError, match=message):
        make_strategy(name, SelectionOptions())
