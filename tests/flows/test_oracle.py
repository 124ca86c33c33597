"""A run's picks against a plain oracle that shares no code with it: batch 1, brute force, float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.evolve import evolve
from flows.parameters import EvolveParameters

pytestmark = pytest.mark.usefixtures("prefect_server")


def oracle_text(row):
    if row["input"]:
        return (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{row['instruction']}\n\n### Input:\n{row['input']}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{row['instruction']}\n\n### Response:"
    )


def oracle_embedding(model, tokenizer, row):
    ids = tokenizer(oracle_text(row))["input_ids"]
    ids += tokenizer(row["output"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids[:512]]), output_hidden_states=True)
    return out.hidden_states[-1][0].to(torch.float64).mean(dim=0).numpy()


def oracle_picks(vectors, selected, budget):
    selected = list(selected)
    for _ in range(budget):
        distances = np.min([((vectors - vectors[row]) ** 2).sum(axis=1) for row in selected], axis=0)
        distances[selected] = -1
        selected.append(int(np.argmax(distances)))
    return selected


def test_a_run_of_600_rows_selects_what_the_oracle_selects(tmp_path, small_config):
    config = small_config(
        pool={"uri": "demo://task-families?rows=600&seed=5", "holdout": 20},
        model={"max_tokens": 512},
        training={"epochs": 3, "global_batch_size": 64, "learning_rate": 2e-5},
        selection={"initial_size": 20, "budget": 20, "rounds": 2},
        evaluation={"diversity": False},
    )
    evolve(EvolveParameters(name="a", config=config))
    store, root = ObjectStore(str(tmp_path / "store")), tmp_path / "store"
    for number in (1, 2):
        before, after = (read_round(store, "a", n) for n in (number - 1, number))
        folder = root / before.refs.checkpoint.path
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        pool = pl.read_parquet(root / before.refs.pool.path / "part-00000.parquet")
        vectors = np.stack([oracle_embedding(model, tokenizer, row) for row in pool.iter_rows(named=True)])
        old, new = (rows_of(root, record) for record in (before, after))
        assert new == oracle_picks(vectors, old, 20)


def rows_of(root: Path, record) -> list[int]:
    return pl.read_parquet(root / record.refs.selection.path / "selection.parquet")["pool_row"].to_list()
