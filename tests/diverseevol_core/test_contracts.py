from __future__ import annotations

import numpy as np

from diverseevol_core.contracts import TokenStatistics


def test_statistics_of_a_hand_made_case():
    statistics = TokenStatistics.of(np.arange(1, 22, dtype=np.int32))
    assert statistics == TokenStatistics(total=231, min=1, mean=11.0, p50=11.0, p95=20.0, max=21)


def test_totals_do_not_overflow_the_32_bits_of_a_count():
    n_tokens = np.full(3, 2**30, dtype=np.int32)
    assert TokenStatistics.of(n_tokens).total == 3 * 2**30
