from __future__ import annotations

import numpy as np
import pytest
import torch

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.sources import (
    ArrayEmbeddings,
    MappedEmbeddings,
    as_source,
    block_rows,
    check_finite,
    part_of,
    rescale,
    unit_rows,
)


def test_blocks_join_to_the_array_and_rows_gather_it():
    values = np.arange(30.0, dtype=np.float32).reshape(10, 3)
    source = ArrayEmbeddings(values, 4)
    starts, blocks = zip(*source.blocks(), strict=True)
    assert starts == (0, 4, 8)
    np.testing.assert_array_equal(np.concatenate(blocks), values)
    np.testing.assert_array_equal(source.rows(np.array([7, 0, 7])), values[[7, 0, 7]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_their_values(dtype):
    tensor = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    source = as_source(tensor)
    taken = source.rows(np.arange(6))
    assert taken.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_array_equal(taken, tensor.double().numpy())


@pytest.mark.parametrize("values", [np.ones(3), np.ones((2, 0)), np.ones((2, 2), dtype=complex)])
def test_what_is_no_matrix_of_numbers_is_refused(values):
    with pytest.raises(ContractError, match="embeddings have"):
        ArrayEmbeddings(values)


def test_a_mapped_source_sees_each_row_through_the_function():
    source = MappedEmbeddings(ArrayEmbeddings(np.eye(3)), lambda vectors: 2.0 * vectors[:, :2], 2)
    assert source.n_pool == 3
    assert source.rows(np.array([1])).tolist() == [[0.0, 2.0]]
    assert next(iter(source.blocks()))[1].shape == (3, 2)
    assert part_of(source, 0) == "the array in memory"


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_unit_rows_have_length_one_at_any_scale(scale):
    values = np.random.default_rng(0).standard_normal((5, 4)) * scale
    values[2] = 0.0
    lengths = np.linalg.norm(unit_rows(values), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1], rtol=1e-15)


def test_rescaling_is_a_power_of_two():
    source, exponent = rescale(ArrayEmbeddings(np.array([[3e30], [1.0]], np.float32)))
    assert 0.5 <= source.rows(np.array([0]))[0, 0] < 1.0
    assert np.ldexp(source.rows(np.array([0]))[0, 0], exponent) == np.float32(3e30)


def test_blocks_fit_the_cache():
    assert block_rows(1) == 4096
    assert block_rows(576) == 1820
    assert block_rows(100_000) == 256


def test_finite_values_pass():
    check_finite(np.ones((2, 2)), 0, ArrayEmbeddings(np.ones((2, 2))))
