"""Time scoring against the same pass with all logits kept, a softmax and a full sort of the vocabulary.

python -m benchmarks.scores --rows 16 --repeats 3
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.measuring import arguments, interleaved, model_folder, pool_tokens, report, spread_rows
from diverseevol_core.models.batching import padded_batches
from diverseevol_core.models.loading import load_causal_lm, resolve_device
from diverseevol_core.models.scoring import score_rows


def full_sort(model, tokens, rows, batch_tokens, device):
    """Score as published: every logit of the batch, softmax, sort; in the same batches."""
    found = {name: np.empty(rows.size) for name in ("max_logit", "logit_margin", "entropy_nats")}
    with torch.inference_mode():
        for batch in padded_batches(tokens, rows, batch_tokens, device):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            for position, row in enumerate(batch.rows):
                kept = logits[position][batch.attention_mask[position].bool()].float()
                ranked = kept.sort(dim=-1, descending=True).values
                probabilities = kept.softmax(dim=-1)
                entropy = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(dim=-1)
                at = np.flatnonzero(rows == row)
                found["max_logit"][at] = ranked[:, 0].mean().item()
                found["logit_margin"][at] = (ranked[:, 0] - ranked[:, 1]).mean().item()
                found["entropy_nats"][at] = entropy.mean().item()
    return found


def main() -> None:
    """Compare speed and scores, in float32 and bfloat16."""
    options = arguments(__doc__, rows=16, repeats=3, batch_tokens=2048)
    device = resolve_device("auto")
    folder = model_folder(options.model)
    tokens = pool_tokens(folder, 200)
    rows = spread_rows(tokens, options.rows)
    for dtype in ("float32", "bfloat16"):
        model = load_causal_lm(folder, dtype=dtype, device=device)
        found = {}

        def ours(model=model, found=found):
            given = {"positions": "all", "batch_tokens": options.batch_tokens, "device": device}
            found["ours"] = score_rows(model, tokens, rows, **given).columns

        def sort(model=model, found=found):
            found["full sort"] = full_sort(model, tokens, rows, options.batch_tokens, device)

        print(dtype)
        clock = time.process_time if device == "cpu" else time.perf_counter
        seconds = interleaved({"full sort": sort, "ours": ours}, options.repeats, clock)
        report(seconds, "full sort", int(tokens.n_tokens[rows].sum()))
        for name, values in found["full sort"].items():
            print(f"  {name}: largest difference {np.abs(values - found['ours'][name]).max():.1e}")


if __name__ == "__main__":
    main()
