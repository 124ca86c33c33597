"""Time training against a bare Trainer loop with the same settings, and count the bytes a round writes.

python -m benchmarks.training --rows 12 --repeats 3
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measuring import arguments, model_folder, pool_tokens, report, spread_rows
from diverseevol_core.config import TrainingConfig
from diverseevol_core.models import training
from diverseevol_core.models.loading import resolve_device
from diverseevol_core.models.training import TrainingExecution, TrainingRequest, train_checkpoint

BATCH, MICRO = 4, 2


def bare_trainer(folder: Path, tokens, rows, dtype, device, output: Path) -> float:
    """Train as an example script would; return the seconds of `Trainer.train`."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    samples = [
        {
            "input_ids": row.input_ids.tolist(),
            "labels": [i if t else -100 for i, t in zip(row.input_ids.tolist(), row.is_trained, strict=True)],
        }
        for row in tokens.rows(rows)
    ]

    def collate(batch):
        width = max(len(sample["input_ids"]) for sample in batch)
        pads = [width - len(sample["input_ids"]) for sample in batch]
        rows_ = list(zip(batch, pads, strict=True))
        return {
            "input_ids": torch.tensor([sample["input_ids"] + [0] * pad for sample, pad in rows_]),
            "labels": torch.tensor([[int(i) for i in sample["labels"]] + [-100] * pad for sample, pad in rows_]),
            "attention_mask": torch.tensor([[1] * len(sample["input_ids"]) + [0] * pad for sample, pad in rows_]),
        }

    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(output),
            num_train_epochs=1,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=BATCH // MICRO,
            learning_rate=2e-5,
            bf16=dtype == "bfloat16",
            use_cpu=device == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=samples,
        data_collator=collate,
    )
    return timed_train(trainer.train)


def timed_train(train) -> float:
    """Return the CPU seconds of a call, on a GPU its wall-clock seconds."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    train()
    return clock() - started


def ours(folder: Path, tokens, rows, dtype, device, output: Path) -> tuple[float, float]:
    """Train with the step's own function; return seconds inside `Trainer.train` and of the whole call."""
    inside: list[float] = []
    make = training._trainer

    def timed(*given, **named):
        trainer = make(*given, **named)
        train = trainer.train
        trainer.train = lambda **options: inside.append(timed_train(lambda: train(**options)))
        return trainer

    training._trainer = timed
    try:
        whole = timed_train(
            lambda: train_checkpoint(
                TrainingRequest(
                    folder, tokens, rows, TrainingConfig(epochs=1, global_batch_size=BATCH), dtype=dtype, seed=0
                ),
                TrainingExecution(device, MICRO, 300.0, output.parent / "scratch"),
                output,
            )
        )
    finally:
        training._trainer = make
    return inside[0], whole


def main() -> None:
    """Compare both, in turn."""
    options = arguments(__doc__, rows=12, repeats=3)
    device = resolve_device("auto")
    folder = model_folder(options.model)
    tokens = pool_tokens(folder, 200)
    rows = spread_rows(tokens, options.rows)
    dtype = "bfloat16"
    seconds: dict[str, list[float]] = {"bare Trainer": [], "ours": [], "ours with loading and saving": []}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "checkpoint"
        for repeat in range(options.repeats + 1):
            shutil.rmtree(output, ignore_errors=True)
            bare = bare_trainer(folder, tokens, rows, dtype, device, Path(name) / "bare")
            inside, whole = ours(folder, tokens, rows, dtype, device, output)
            if repeat:  # the first of each warms up
                for key, value in zip(seconds, (bare, inside, whole), strict=True):
                    seconds[key].append(value)
        written = sum(path.stat().st_size for path in output.iterdir())
        weights = (output / "model.safetensors").stat().st_size
    report(seconds, "bare Trainer", int(tokens.n_tokens[rows].sum()))
    ratios = [bare / inside for bare, inside in zip(seconds["bare Trainer"], seconds["ours"], strict=True)]
    print(f"tokens/s against the bare Trainer, median over pairs: {statistics.median(ratios):.3f}")
    print(f"bytes written a round: {written / weights:.4f} x the weights")


if __name__ == "__main__":
    main()
