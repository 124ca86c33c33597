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
from diverseevol_core.models.training import (
    TrainingExecution,
    TrainingRequest,
    largest_divisor,
    planned_steps,
    train_checkpoint,
)

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
        on_step = changes.pop("on_step", None)
        settings = {
            "dtype": "float32",
            "seed": 1,
            "config": CONFIG,
            "tokens": self.tokens,
            "base": self.base,
            **changes,
        }
        return train_checkpoint(TrainingRequest(rows=rows, **settings), execution, self.folder / name, on_step)

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


@pytest.mark.parametrize("marker", [None, b'{"model.safetensors": 4', b"[]", b"{}", b'{"model.safetensors": 5}'])
def test_a_half_written_checkpoint_is_ignored_and_an_older_whole_one_used(bench: Bench, marker: bytes | None):
    bench.kill_at(3, "killed")
    half = bench.folder / "killed-scratch" / "checkpoint-5"
    half.mkdir()
    (half / WEIGHTS).write_bytes(b"half")
    (half / "trainer_state.json").write_text('{"global_step": 5}')
    if marker is not None:
        (half / "whole.json").write_bytes(marker)
    seen: list[int] = []
    bench.train("killed", on_step=lambda done, n_steps: seen.append(done))
    assert seen[0] == 3


@pytest.mark.parametrize("lost", ["optimizer.pt", "rng_state.pth", WEIGHTS])
def test_a_checkpoint_that_lost_a_file_is_not_resumed(bench: Bench, lost: str):
    whole = bench.train("whole")
    bench.kill_at(3, "killed")
    (kept,) = (bench.folder / "killed-scratch").glob("checkpoint-*")
    (kept / lost).unlink()
    seen: list[int] = []
    assert bench.train("killed", on_step=lambda done, n_steps: seen.append(done)) == whole
    assert seen[0] == 1
    assert bench.weights("killed") == bench.weights("whole")


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


OPTIONS = {
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "packed": {"batching": "packed"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_that_save_work_or_memory_give_the_same_loss_curve(bench: Bench, options: dict[str, Any]):
    plain = bench.train("plain")
    other = bench.train("other", config=CONFIG.model_copy(update=options))
    # Products of other shapes round differently, and six AdamW steps at a rate of 1e-2 let the difference grow.
    np.testing.assert_allclose(
        [point.loss_nats for point in other.curve], [point.loss_nats for point in plain.curve], rtol=2e-4
    )
    assert other.trained_tokens == plain.trained_tokens


def test_a_packed_training_killed_in_the_middle_goes_on_to_the_same_bytes(bench: Bench):
    config = CONFIG.model_copy(update={"batching": "packed", "group_by_length": True})
    whole = bench.train("whole", config=config)
    bench.kill_at(4, "killed", config=config)
    assert bench.train("killed", config=config) == whole
    assert bench.weights("killed") == bench.weights("whole")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_are_merged_into_a_checkpoint_like_any_other(bench: Bench, method: str):
    lora = {"method": method, "lora_rank": 4, "learning_rate": 5e-2}
    summary = bench.train(config=CONFIG.model_copy(update=lora))
    assert summary.curve[-1].loss_nats < summary.curve[0].loss_nats
    trained, base = (load_causal_lm(path, dtype="float32", device="cpu") for path in (bench.folder / "run", bench.base))
    changed = {
        name
        for (name, after), before in zip(trained.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(after, before)
    }
    assert len(changed) == 14, "the seven linear layers of both blocks"
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in changed)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_killed_training_of_adapters_goes_on_to_the_same_bytes(bench: Bench, method: str):
    config = CONFIG.model_copy(update={"method": method, "lora_rank": 2})
    whole = bench.train("whole", config=config)
    bench.kill_at(3, "killed", config=config)
    assert bench.train("killed", config=config) == whole
    assert bench.weights("killed") == bench.weights("whole")


@pytest.mark.parametrize("max_steps", [1, 4, 8])
def test_rounds_of_any_size_can_have_equally_many_steps(bench: Bench, max_steps: int):
    config = CONFIG.model_copy(update={"max_steps": max_steps})
    few, many = (bench.train(name, rows=rows, config=config) for name, rows in (("few", ROWS[:5]), ("many", ROWS)))
    assert few.optimizer_steps == many.optimizer_steps == max_steps


def test_rounds_of_any_size_can_have_equally_many_tokens(bench: Bench):
    n_tokens = bench.tokens.n_tokens
    for rows in (ROWS[:4], ROWS):
        steps = planned_steps(CONFIG.model_copy(update={"max_sample_tokens": 2000}), n_tokens[rows])
        per_step = n_tokens[rows].sum() / np.ceil(rows.size / CONFIG.global_batch_size)
        assert abs(steps * per_step - 2000) <= per_step / 2
    assert planned_steps(CONFIG, n_tokens[ROWS]) == N_STEPS


def test_training_stops_when_the_held_out_loss_no_longer_falls(bench: Bench, make_tokens: Callable[..., TokenTable]):
    held_out = make_tokens([[499, 3, 400, 0], [77, 450, 9, 0]], [1, 1])
    early = {"stop_patience": 2, "stop_check_steps": 1, "epochs": 30, "learning_rate": 5e-2}
    config = CONFIG.model_copy(update=early)
    stopped = bench.train(config=config, held_out=held_out)
    assert 3 <= stopped.optimizer_steps < 90
    bench.kill_at(2, "killed", config=config, held_out=held_out)
    assert bench.train("killed", config=config, held_out=held_out) == stopped
    with pytest.raises(ContractError, match="stop_patience=2 needs held-out samples"):
        bench.train("without", config=config)


def test_length_and_tokens_exclude_each_other():
    with pytest.raises(ValueError, match="max_steps=3 and max_sample_tokens=9 exclude each other"):
        TrainingConfig(max_steps=3, max_sample_tokens=9)


def test_options_that_are_off_do_not_rename_a_checkpoint():
    published = set(TrainingConfig().identity)
    assert published == {
        "epochs", "learning_rate", "scheduler", "warmup_ratio", "weight_decay", "max_grad_norm", "global_batch_size"
    }  # fmt: skip
    assert set(TrainingConfig(epochs=9).identity) == published
    assert set(TrainingConfig(max_steps=9).identity) == published | {"max_steps"}
    assert set(TrainingConfig(method="lora").identity) > published | {"method", "lora_rank", "lora_alpha"}
