"""Arrow schemas of the tables that steps write.

Each can be read with plain polars or DuckDB. The embeddings table has its own module, `data.embedding_table`, because
its layout is a matter of speed; the pool's tables are in `data.pool_tables`.
"""

from __future__ import annotations

import pyarrow as pa

SELECTION = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("pool_row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("added_in_round", pa.int16(), nullable=False),
        pa.field("distance", pa.float32()),
        pa.field("nearest_selected_row", pa.int32()),
    ]
)

HELD_OUT_LIKELIHOOD = pa.schema(
    [
        pa.field("holdout_row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("loss_sum_nats", pa.float64(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("answer_bytes", pa.int32(), nullable=False),
    ]
)

SCORES = pa.schema(
    [
        pa.field("pool_row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("max_logit", pa.float64(), nullable=False),
        pa.field("max_probability", pa.float64(), nullable=False),
        pa.field("logit_margin", pa.float64(), nullable=False),
        pa.field("entropy_nats", pa.float64(), nullable=False),
        pa.field("perplexity", pa.float64(), nullable=False),
        pa.field("ifd", pa.float64()),
        pa.field("answer_tokens", pa.int32(), nullable=False),
    ]
)
SCORE_COLUMNS = tuple(SCORES.names[2:])
