"""Score samples by what the model predicts: largest logit, margin, entropy, perplexity and IFD, one number a sample.

The transformer runs once a batch, and its states can be pooled to embeddings in the same pass. The language-model head
then runs over chunks of positions small enough for the CPU's cache, and every score comes from one exponential and one
`topk(2)` of a chunk; the published implementation keeps all logits and sorts the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diverseevol_core.config import Pooling, ScorePositions
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models.batching import PaddedBatch
from diverseevol_core.models.embedding import check_finite, check_poolable, pooled
from diverseevol_core.models.forward import last_states, run_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The head reads its whole weight once a chunk: per position 0.88 ms at 42 positions, 0.55 at 128 (vocabulary 49,152).
_CHUNK_BYTES = {"cpu": 48 << 20, "cuda": 256 << 20}
# What follows is quickest on slices that stay in a core's cache.
_SLICE_ROWS = 16
_BLOCK = 64
_MEANS = ("max_logit", "max_probability", "logit_margin", "entropy_nats")
_SUMS = (*_MEANS, "n_positions", "loss_sum", "n_losses", "answer_loss_sum")


@dataclass(frozen=True, slots=True)
class RowScores:
    """Scores of `n` rows: `columns` maps names of `schemas.SCORES` to `(n,)` arrays; `vectors` is `(n, dim)` or None.

    Means are float64; `ifd` is NaN where it was not asked for.
    """

    columns: dict[str, np.ndarray]
    vectors: np.ndarray | None


def score_rows(
    model: PreTrainedModel,
    tokens: TokenTable,
    rows: np.ndarray,
    *,
    positions: ScorePositions,
    batch_tokens: int,
    device: str,
    pooling: Pooling | None = None,
    ifd_start_token: int | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> RowScores:
    """Score some rows of a token table.

    Args:
        model: a causal language model in evaluation mode on `device`.
        tokens: the table.
        rows: `(n,)` table rows in any order.
        positions: `all` takes the means over every position of a sample and its perplexity over every token but the
            first, as published; `answer` over the positions that predict trained tokens, and over these tokens.
        batch_tokens: padded tokens in a batch.
        device: the model's device.
        pooling: also pool the states of the same pass; None leaves `vectors` out.
        ifd_start_token: also compute IFD, with this token in place of the prompt; it costs a second pass over answers.
        on_rows: called with (rows, tokens) done so far.

    Returns:
        Scores in the order of `rows`.

    Raises:
        ContractError: there are no rows, or a row has no trained token after its first.
        ModelError: a score is not finite, or the model computes logits in a way that is not known here.

    Reference:
        Wu et al. 2023, arXiv:2311.08182 (max logit, margin and entropy, over all positions); Li et al. 2024,
        arXiv:2308.12032 (IFD: mean answer loss given the prompt over mean answer loss without it).
    """
    _check_rows(tokens, rows)
    if pooling is not None:
        check_poolable(tokens, rows, pooling)
    head = _head(model, device)

    def work(batch: PaddedBatch) -> dict[str, Tensor]:
        states = last_states(model, batch)
        found = _batch_sums(head, states, batch, positions)
        return found if pooling is None else found | {"vectors": pooled(states, batch, pooling)}

    sums: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for at, found in run_batches(tokens, rows, work, batch_tokens=batch_tokens, device=device, on_rows=on_rows):
            _put(sums, at, found, rows.size)
    vectors = sums.pop("vectors", None)
    if vectors is not None:
        check_finite(vectors, rows)
    answer_tokens = sums["n_answer"]
    columns = {name: sums[name] / sums["n_positions"] for name in _MEANS}
    with np.errstate(over="ignore"):  # an infinite perplexity is reported below
        columns["perplexity"] = np.exp(sums["loss_sum"] / sums["n_losses"])
    columns["ifd"] = np.full(rows.size, np.nan)
    _check_finite_scores(columns, rows)
    if ifd_start_token is not None:
        alone = _answer_losses(model, tokens, rows, ifd_start_token, batch_tokens, device)
        columns["ifd"] = sums["answer_loss_sum"] / alone
        _check_finite_scores({"ifd": columns["ifd"]}, rows)
    columns["answer_tokens"] = answer_tokens.astype(np.int32)
    return RowScores(columns, vectors)


def position_scores(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Score single positions by their logits; the logits are overwritten.

    Args:
        logits: `(n, vocabulary)` float32.
        targets: `(n,)` int64, the token that follows each position.

    Returns:
        `max_logit`, `max_probability`, `logit_margin`, `entropy_nats` and `loss` (of the target, in nats): `(n,)`
        float32 each.
    """
    first, second = _two_largest(logits)
    shifted = logits.sub_(first[:, None])
    target = shifted.gather(1, targets[:, None])[:, 0]
    exponentials = shifted.exp()
    total = exponentials.sum(dim=1)
    # Each product is at most zero, so the sum loses nothing to cancellation; -inf * 0 of a masked token counts nothing.
    weighted = torch.linalg.vecdot(exponentials, shifted.clamp_(min=-1e4), dim=1)
    log_total = total.log()
    return {
        "max_logit": first,
        "max_probability": total.reciprocal(),
        "logit_margin": first - second,
        "entropy_nats": log_total - weighted / total,
        "loss": log_total - target,
    }


def _two_largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Find the two largest values of each row by those of its blocks: `topk` over all takes five times as long."""
    n_rows, n_vocabulary = logits.shape
    if n_vocabulary % _BLOCK or n_vocabulary < 2 * _BLOCK:
        top = logits.topk(2, dim=1).values
        return top[:, 0], top[:, 1]
    blocks = logits.view(n_rows, -1, _BLOCK)
    leaders = blocks.amax(dim=2).topk(2, dim=1)
    within = blocks[torch.arange(n_rows, device=logits.device), leaders.indices[:, 0]].topk(2, dim=1).values
    return within[:, 0], torch.maximum(within[:, 1], leaders.values[:, 1])


def _sliced_scores(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Do as `position_scores`, on the CPU a few rows at a time."""
    if logits.device.type != "cpu":
        return position_scores(logits, targets)
    slices = zip(torch.split(logits, _SLICE_ROWS), torch.split(targets, _SLICE_ROWS), strict=True)
    parts = [position_scores(*part) for part in slices]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _batch_sums(
    head: Callable[[Tensor], Tensor], states: Tensor, batch: PaddedBatch, positions: ScorePositions
) -> dict[str, Tensor]:
    """Sum the scores of each row's positions, chunk by chunk, in float64."""
    n_rows, seq = batch.input_ids.shape
    next_ids = torch.nn.functional.pad(batch.input_ids[:, 1:], (0, 1)).flatten()
    is_token = batch.attention_mask.bool()
    has_next = torch.nn.functional.pad(is_token[:, 1:], (0, 1)).flatten()
    predicts_answer = torch.nn.functional.pad(batch.is_trained[:, 1:], (0, 1)).flatten()
    is_scored = is_token.flatten() if positions == "all" else predicts_answer
    where = is_scored.nonzero()[:, 0]
    flat = states.flatten(0, 1)
    sums = {name: torch.zeros(n_rows, dtype=torch.float64, device=states.device) for name in _SUMS}
    for chunk in torch.split(where, _chunk_positions(head, states)):
        scores = _sliced_scores(head(flat[chunk]), next_ids[chunk])
        row, loss = chunk // seq, scores.pop("loss").to(torch.float64)
        counted, answer = has_next[chunk].to(torch.float64), predicts_answer[chunk].to(torch.float64)
        for name, values in scores.items():
            sums[name].index_add_(0, row, values.to(torch.float64))
        sums["n_positions"].index_add_(0, row, torch.ones_like(loss))
        sums["loss_sum"].index_add_(0, row, torch.where(counted > 0, loss, 0.0))
        sums["n_losses"].index_add_(0, row, counted)
        sums["answer_loss_sum"].index_add_(0, row, torch.where(answer > 0, loss, 0.0))
    return sums | {"n_answer": batch.is_trained.sum(dim=1)}


@dataclass(frozen=True, slots=True)
class _Head:
    """The language-model head with whatever the architecture does to its logits afterwards."""

    linear: torch.nn.Module
    factor: float
    softcap: float | None
    n_vocabulary: int

    def __call__(self, states: Tensor) -> Tensor:
        logits: Tensor = self.linear(states).to(torch.float32)
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def _head(model: PreTrainedModel, device: str) -> _Head:
    """Build the head, and trust it only after it gave the logits that the whole model gives."""
    linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(linear, torch.nn.Module):
        raise ModelError("the model has no language-model head; scores need a causal language model")
    config = model.config.get_text_config()
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    with torch.inference_mode():
        ids = torch.arange(4, device=device)[None]
        expected = model(input_ids=ids, use_cache=False).logits[0].to(torch.float32)
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        head = _Head(linear, factor, getattr(config, "final_logit_softcapping", None), expected.shape[1])
        # The same products in the same precision; only bfloat16 rounding after scaling may differ.
        if not torch.allclose(head(states), expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())):
            raise ModelError(
                f"{type(model).__name__} changes its logits after the language-model head in a way that is not known; "
                "choose a strategy that needs no scores"
            )
    return head


def _chunk_positions(head: Callable[[Tensor], Tensor], states: Tensor) -> int:
    n_vocabulary = head.n_vocabulary if isinstance(head, _Head) else states.shape[-1]
    return max(8, _CHUNK_BYTES.get(states.device.type, _CHUNK_BYTES["cpu"]) // (4 * n_vocabulary))


def _answer_losses(
    model: PreTrainedModel, tokens: TokenTable, rows: np.ndarray, start_token: int, batch_tokens: int, device: str
) -> np.ndarray:
    """Sum the losses of each row's answer with one start token in place of its prompt: `(n,)` float64."""
    answers = [row.input_ids[1:][row.is_trained[1:]] for row in tokens.rows(rows)]
    lengths = [answer.size + 1 for answer in answers]
    start = np.array([start_token], np.int32)
    alone = TokenTable(
        np.concatenate([part for answer in answers for part in (start, answer)]),
        np.ones(sum(lengths), np.bool_),
        np.cumsum([0, *lengths], dtype=np.int64),
    )
    head = _head(model, device)

    def work(batch: PaddedBatch) -> dict[str, Tensor]:
        return {"sum": _batch_sums(head, last_states(model, batch), batch, "answer")["answer_loss_sum"]}

    sums: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        every = np.arange(rows.size)
        for at, found in run_batches(alone, every, work, batch_tokens=batch_tokens, device=device):
            _put(sums, at, found, rows.size)
    return sums["sum"]


def _put(into: dict[str, np.ndarray], at: np.ndarray, found: dict[str, np.ndarray], n_rows: int) -> None:
    for name, values in found.items():
        if name not in into:
            into[name] = np.empty((n_rows, *values.shape[1:]), values.dtype)
        into[name][at] = values


def _check_rows(tokens: TokenTable, rows: np.ndarray) -> None:
    if rows.size == 0:
        raise ContractError("rows is empty; nothing to score")
    first = tokens.is_trained[np.minimum(tokens.offsets[rows], tokens.is_trained.size - 1)]
    unscored = rows[tokens.n_trained[rows] - first < 1]
    if unscored.size:
        raise ContractError(
            f"{unscored.size} rows have no trained token after their first, first {int(unscored[0])}; "
            "remove these samples from the pool"
        )


def _check_finite_scores(columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
    for name, values in columns.items():
        if name == "ifd" and np.isnan(values).all():
            continue
        bad_rows = rows[~np.isfinite(values)]
        if bad_rows.size:
            raise ModelError(
                f"{name} is not finite for {bad_rows.size} rows, first {int(bad_rows[0])}; "
                "use embedding.dtype=float32 or a lower training.learning_rate"
            )
