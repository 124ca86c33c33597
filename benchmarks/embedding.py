"""Time embedding against a plain loop: batch 1, language-model head, labels, all hidden states, as published.

python -m benchmarks.embedding                        # speed and picks
python -m benchmarks.embedding --memory 1             # peak memory over 10,000 and 50,000 rows
python -m benchmarks.embedding --model FOLDER --rows 64 --repeats 5
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import arguments, interleaved, model_folder, pool_tokens, report, spread_rows, tiny_model
from diverseevol_core.data.demo_pool import demo_rows
from diverseevol_core.models.embedding import embed_rows
from diverseevol_core.models.loading import load_causal_lm, resolve_device
from diverseevol_core.selection.k_center import k_center


def plain_loop(model, tokens, rows, device):
    """Embed one row at a time with everything the published loop computes on the way."""
    vectors = []
    with torch.no_grad():
        for row in tokens.rows(rows):
            ids = torch.from_numpy(row.input_ids[None].astype(np.int64)).to(device)
            labels = torch.where(torch.from_numpy(row.is_trained[None]).to(device), ids, -100)
            output = model(input_ids=ids, labels=labels, output_hidden_states=True)
            vectors.append(output.hidden_states[-1][0].float().mean(dim=0).cpu().numpy())
    return np.stack(vectors)


def speed(options) -> None:
    """Compare speed, vectors and picks."""
    device = resolve_device("auto")
    folder = model_folder(options.model)
    tokens = pool_tokens(folder, max(200, options.rows))
    rows = spread_rows(tokens, options.rows)
    n_tokens = int(tokens.n_tokens[rows].sum())
    models = {dtype: load_causal_lm(folder, dtype=dtype, device=device) for dtype in ("float32", "bfloat16")}
    found = {}

    def ours(dtype):
        found[dtype] = embed_rows(
            models[dtype], tokens, rows, pooling="mean", batch_tokens=options.batch_tokens, device=device
        )

    def plain():
        found["plain"] = plain_loop(models["float32"], tokens, rows, device)

    engines = {"plain": plain, "float32": lambda: ours("float32"), "bfloat16": lambda: ours("bfloat16")}
    clock = time.process_time if device == "cpu" else time.perf_counter
    report(interleaved(engines, options.repeats, clock), "plain", n_tokens)
    selected, budget = np.arange(8), options.rows // 2
    picks = {name: k_center(vectors, selected, budget).pool_rows for name, vectors in found.items()}
    print(f"same ordered picks in float32: {np.array_equal(picks['plain'], picks['float32'])}")
    shared = len(set(picks["plain"]) & set(picks["bfloat16"]))
    print(f"bfloat16: {shared} of {budget} picks shared, largest relative difference of a vector", end=" ")
    lengths = np.linalg.norm(found["plain"], axis=1)
    print(f"{(np.linalg.norm(found['bfloat16'] - found['plain'], axis=1) / lengths).max():.1e}")
    if device != "cpu":
        achieved_share(models["bfloat16"], tokens, rows, options.batch_tokens, device)


def achieved_share(model, tokens, rows, batch_tokens, device) -> None:
    """Print achieved FLOP/s as a share of a measured matrix product of the same dtype."""
    square = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)

    def timed(work):
        work()
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    product = 2 * 8192**3 / timed(lambda: square @ square)
    weights = (
        sum(weight.numel() for weight in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    )
    seconds = timed(lambda: embed_rows(model, tokens, rows, pooling="mean", batch_tokens=batch_tokens, device=device))
    print(f"achieved {2 * weights * tokens.n_tokens[rows].sum() / seconds / product:.1%} of a matrix product's FLOP/s")


def memory() -> None:
    """Compare the peak memory of the embedding step over pools of two sizes, each in a process of its own."""
    peaks = {}
    for n_rows in (10_000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "DIVERSEEVOL_ROOT": f"{folder}/store",
                "DIVERSEEVOL_SCRATCH": f"{folder}/scratch",
            }
            command = [sys.executable, "-m", "benchmarks.embedding", "--memory-rows", str(n_rows)]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        peaks[n_rows] = float(done.stdout.split()[-1])
        print(f"{n_rows} rows: {peaks[n_rows]:.0f} MB at most", flush=True)
    print(f"ratio {peaks[50_000] / peaks[10_000]:.3f}")


def write_rows(path: Path, n_rows: int) -> Path:
    """Write as many distinct rows as wanted; the generated pool itself ends at 20,000."""
    families = list(demo_rows(5_000, 7))
    with path.open("w") as file:
        for number in range(n_rows):
            row = families[number % len(families)]
            file.write(json.dumps(row | {"instruction": f"{row['instruction']} (task {number})"}) + "\n")
    return path


def embed_once(n_rows: int) -> None:
    """Embed a generated pool with the task itself and print by how much memory grew to its peak, base included."""
    from diverseevol_core.config import EmbeddingConfig, ModelConfig, PoolConfig
    from tasks.base_model import resolve_base_model
    from tasks.embed_pool import embed_pool
    from tasks.prepare_pool import digest_source, prepare_pool
    from tasks.step_inputs import EmbedInput, PoolInput

    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(name=str(tiny_model(Path(folder))), max_tokens=128)
        base = resolve_base_model.fn(model)
        config = PoolConfig(uri=str(write_rows(Path(folder) / "rows.jsonl", n_rows)), holdout=10)
        read, write = os.pipe()
        if os.fork() == 0:  # the pool is prepared elsewhere: its peak is not that of embedding
            source = digest_source.fn(config.uri)
            pool = prepare_pool.fn(PoolInput(pool=config, model=model, base=base, source_digest=source, seed=0))
            os.write(write, pool.model_dump_json().encode())
            os._exit(0)
        os.close(write)
        from diverseevol_core.contracts import ArtifactRef

        with os.fdopen(read, "rb") as pipe:
            pool = ArtifactRef.model_validate_json(pipe.read())
        embed_pool.fn(EmbedInput(base=base, checkpoint=None, pool=pool, embedding=EmbeddingConfig(), seed=0))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    given = arguments(__doc__, rows=48, repeats=3, batch_tokens=2048, memory=0, memory_rows=0)
    if given.memory_rows:
        embed_once(given.memory_rows)
    elif given.memory:
        memory()
    else:
        speed(given)
