from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.config import TrainingConfig
from diverseevol_core.contracts import TrainingSummary
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models.likelihood import answer_likelihood
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.models.training import TrainingExecution, largest_divisor, train_checkpoint

CONFIG = TrainingConfig(epochs=2, learning_rate=1e-2, global_batch_size=4, warmup_ratio=0.1)
ROWS = np.array([3, 1, 11, 20, 7, 5, 9, 17, 2, 14])
N_STEPS = 6
WEIGHTS = "model.safetensors"


class Killed(BaseException):
    """Stands for the end of the process in the middle of a training."""


@dataclass
class Bench:
    """Trains the tiny model in folders of its own."""

    base: Path
    tokens: TokenTable
    folder: Path

    def train(self, name: str = "run", rows: np.ndarray = ROWS, **changes: Any) -> TrainingSummary:
        execution = TrainingExecution(
            device="cpu",
            micro_batch_rows=changes.pop("micro_batch_rows", 4),
            checkpoint_seconds=changes.pop("checkpoint_seconds", 1e9),
            scratch=self.folder / f"{name}-scratch",
        )
        settings = {
            "dtype": "float32",
            "seed": 1,
            "config": CONFIG,
            "tokens": self.tokens,
            "base": self.base,
            **changes,
        }
        return train_checkpoint(rows=rows, output=self.folder / name, execution=execution, **settings)

    def weights(self, name: str = "run") -> bytes:
        return (self.folder / name / WEIGHTS).read_bytes()

    def kill_at(self, step: int, name: str = "run", **changes: Any) -> None:
        def stop(done: int, n_steps: int) -> None:
            if done == step:
                raise Killed

        with pytest.raises(Killed):
            self.train(name, checkpoint_seconds=0.0, on_step=stop, **changes)


@pytest.fixture
def bench(tiny_model: Path, random_tokens: TokenTable, tmp_path: Path) -> Bench:
    return Bench(tiny_model, random_tokens, tmp_path)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order(bench: Bench):
    first, again, other = bench.train("a"), bench.train("b"), bench.train("c", seed=2)
    assert first == again
    assert bench.weights("a") == bench.weights("b") != bench.weights("c")
    assert other.curve != first.curve


def test_every_call_starts_from_the_base_model(bench: Bench):
    before = (bench.base / WEIGHTS).read_bytes()
    alone = bench.train("alone")
    bench.train("between", rows=np.array([0, 4, 6]))
    after = bench.train("after")
    assert after == alone
    assert bench.weights("after") == bench.weights("alone")
    assert (bench.base / WEIGHTS).read_bytes() == before


def test_the_summary_counts_steps_samples_and_trained_tokens(bench: Bench):
    steps: list[tuple[int, int]] = []
    summary = bench.train(on_step=lambda done, n_steps: steps.append((done, n_steps)))
    trained = sum(int(row.is_trained.sum()) for row in bench.tokens.rows(ROWS))
    assert (summary.n_samples, summary.optimizer_steps) == (10, N_STEPS)
    assert summary.trained_tokens == 2 * trained
    assert steps == [(step, N_STEPS) for step in range(1, N_STEPS + 1)]
    assert [point.step for point in summary.curve] == list(range(1, N_STEPS + 1))
    assert summary.final_loss_nats == summary.curve[-1].loss_nats


def test_the_loss_is_the_mean_over_answer_tokens_of_the_batch(bench: Bench, tiny: Any):
    config = CONFIG.model_copy(update={"epochs": 1, "global_batch_size": 16})
    summary = bench.train(config=config)
    likelihood = answer_likelihood(tiny, bench.tokens, batch_tokens=1000, device="cpu")
    expected = likelihood.loss_sum_nats[ROWS].sum() / likelihood.n_tokens[ROWS].sum()
    # One optimizer step over all rows: its loss is the base model's; float32 sums in another order.
    assert summary.final_loss_nats == pytest.approx(expected, rel=1e-6)


def test_tokens_of_the_prompt_teach_nothing(bench: Bench, make_tokens: Callable[..., TokenTable]):
    rows = [[40, 50, 60, 0], [70, 80, 90, 0]]
    untrained_last = make_tokens([[*row, 99] for row in rows], [2, 2])
    untrained_last.is_trained[[4, 9]] = False
    both = np.array([0, 1])
    plain = bench.train("a", rows=both, tokens=make_tokens(rows, [2, 2]), seed=4)
    longer = bench.train("b", rows=both, tokens=untrained_last, seed=4)
    # Only the shape of the products differs, so the losses agree to float32 rounding over two steps.
    assert longer.final_loss_nats == pytest.approx(plain.final_loss_nats, rel=1e-5)


def test_micro_batches_do_not_change_the_loss_curve(bench: Bench):
    whole = bench.train("whole", micro_batch_rows=4)
    for limit, used in ((1, 1), (2, 2), (3, 2)):
        parts = bench.train(f"by-{limit}", micro_batch_rows=limit)
        assert (parts.micro_batch_rows, parts.optimizer_steps) == (used, N_STEPS)
        # Gradients are the same sums in another order; six steps of AdamW at 1e-2 let float32 rounding grow to 1e-4.
        np.testing.assert_allclose(
            [point.loss_nats for point in parts.curve], [point.loss_nats for point in whole.curve], rtol=1e-4
        )


def test_a_global_batch_beyond_the_rows_is_one_step_an_epoch(bench: Bench):
    config = CONFIG.model_copy(update={"global_batch_size": 64})
    assert bench.train(config=config, micro_batch_rows=4).optimizer_steps == 2


@pytest.mark.parametrize("step", [2, 4])  # inside the first epoch, and at the first step of the second
def test_a_killed_training_goes_on_to_the_same_bytes(bench: Bench, step: int):
    whole = bench.train("whole")
    bench.kill_at(step, "killed")
    assert not (bench.folder / "killed" / WEIGHTS).exists()
    seen: list[int] = []
    resumed = bench.train("killed", on_step=lambda done, n_steps: seen.append(done))
    assert seen == list(range(step, N_STEPS + 1))
    assert resumed == whole
    assert bench.weights("killed") == bench.weights("whole")


def test_a_training_killed_with_smaller_micro_batches_goes_on_to_the_same_bytes(bench: Bench):
    whole = bench.train("whole", micro_batch_rows=2)
    bench.kill_at(5, "killed", micro_batch_rows=2)
    assert bench.train("killed", micro_batch_rows=2) == whole
    assert bench.weights("killed") == bench.weights("whole")


@pytest.mark.parametrize("state", [None, b'{"global_step": 3', b"[]", b'{"epoch": 1.0}'])
def test_a_half_written_checkpoint_is_ignored_and_an_older_whole_one_used(bench: Bench, state: bytes | None):
    bench.kill_at(3, "killed")
    half = bench.folder / "killed-scratch" / "checkpoint-5"
    half.mkdir()
    (half / WEIGHTS).write_bytes(b"half")
    if state is not None:
        (half / "trainer_state.json").write_bytes(state)
    seen: list[int] = []
    bench.train("killed", on_step=lambda done, n_steps: seen.append(done))
    assert seen[0] == 3


def test_scratch_is_gone_when_the_training_is_done(bench: Bench):
    bench.train(checkpoint_seconds=0.0)
    assert not (bench.folder / "run-scratch").exists()


def test_a_checkpoint_is_whole_by_itself_and_learned_something(bench: Bench, tiny: Any):
    bench.train(config=CONFIG.model_copy(update={"epochs": 5}))
    folder = bench.folder / "run"
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix in {".bin", ".pt"}) == []
    model = load_causal_lm(folder, dtype="float32", device="cpu")
    assert load_tokenizer(folder).eos_token_id == load_tokenizer(bench.base).eos_token_id
    before, after = (
        answer_likelihood(each, bench.tokens, batch_tokens=1000, device="cpu").loss_sum_nats[ROWS].sum()
        for each in (tiny, model)
    )
    assert after < 0.9 * before


def test_a_checkpoint_keeps_the_settings_of_its_base(bench: Bench):
    bench.train()
    base, trained = (json.loads((path / "config.json").read_bytes()) for path in (bench.base, bench.folder / "run"))
    assert {name for name in base if base[name] != trained.get(name)} == set()


def test_mixed_precision_keeps_the_weights_in_single_precision(bench: Bench):
    from safetensors.torch import load_file

    bench.train(dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(bench.folder / "run" / WEIGHTS).values()} == {torch.float32}


def test_a_loss_that_is_not_finite_is_a_model_error_and_leaves_no_checkpoint(bench: Bench, tmp_path: Path):
    broken = tmp_path / "broken"
    model = load_causal_lm(bench.base, dtype="float32", device="cpu")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.inf
    model.save_pretrained(broken)
    load_tokenizer(bench.base).save_pretrained(broken)
    with pytest.raises(ModelError, match=r"not finite at optimizer step 1; .*learning_rate"):
        bench.train(base=broken)
    assert not (bench.folder / "run").exists()


def test_weights_broken_by_the_very_last_step_are_a_model_error(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    step = torch.optim.AdamW.step

    def overflow(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    one_step = CONFIG.model_copy(update={"epochs": 1, "global_batch_size": 16})
    with pytest.raises(ModelError, match=r"not finite after optimizer step 1; .*learning_rate"):
        bench.train(config=one_step)
    assert not (bench.folder / "run").exists()


def test_nothing_selected_is_refused(bench: Bench):
    with pytest.raises(ContractError, match="nothing to train on"):
        bench.train(rows=np.empty(0, np.int64))


@given(st.integers(1, 500), st.integers(0, 600))
def test_the_largest_divisor_is_that_of_trying_all(number: int, limit: int):
    divisors = [each for each in range(1, number + 1) if number % each == 0 and each <= max(1, limit)]
    assert largest_divisor(number, limit) == max(divisors)
