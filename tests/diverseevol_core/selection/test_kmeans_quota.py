from __future__ import annotations

import numpy as np
import torch

from diverseevol_core.selection.kmeans_quota import KMeansQuotaStrategy, cluster
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions

LABELS = np.repeat([0, 1, 2], [100, 60, 40])


def separated(seed=0):
    rng = np.random.default_rng(seed)
    return (20.0 * np.eye(3)[LABELS] + 0.1 * rng.standard_normal((200, 3))).astype(np.float32)


def test_every_cluster_gives_its_share():
    # More clusters than groups: whichever rows start them, no cluster spans two groups after the first step.
    query = Query(200, np.array([0, 199]), 99, 4, ArrayEmbeddings(separated()))
    picks = KMeansQuotaStrategy(SelectionOptions(kmeans_clusters=40)).select(query)
    shares = np.bincount(LABELS[picks.pool_rows])
    assert shares.sum() == 99
    assert np.abs(shares - np.array([49.5, 30.0, 19.5])).max() <= 20


def test_clusters_of_well_separated_groups_do_not_mix():
    labels = cluster(torch.from_numpy(separated()), 30, np.random.default_rng(0))
    groups = [set(labels[group == LABELS].tolist()) for group in range(3)]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
