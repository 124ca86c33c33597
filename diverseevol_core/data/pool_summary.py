"""What became of the rows of a pool, in numbers that end in its manifest."""

from __future__ import annotations

from pydantic import Field

from diverseevol_core.contracts import TokenStatistics, Value
from diverseevol_core.data.formats import RowFormatName
from diverseevol_core.data.prompts import TemplateName


class PoolSummary(Value):
    """What became of every row read: pool + held out + duplicates + limited + quarantined = read."""

    n_read_rows: int = Field(description="Rows in the source.")
    n_pool_rows: int = Field(description="Samples that can be selected.")
    n_holdout_rows: int = Field(description="Samples set aside for evaluation.")
    n_duplicate_rows: int = Field(description="Rows with the content of an earlier row; dropped.")
    n_limited_rows: int = Field(description="Samples left out by pool.limit.")
    n_quarantined_rows: int = Field(description="Rows that cannot train; kept apart with their reason.")
    quarantined_by_reason: dict[str, int] = Field(description="Quarantined rows of each reason.")
    n_truncated_rows: int = Field(description="Pool samples whose answer was cut at max_tokens.")
    n_sources: int = Field(description="Distinct values of `source` in the pool.")
    format: RowFormatName = Field(description="Row format recognised or set.")
    template: TemplateName = Field(description="Prompt template used.")
    tokens: TokenStatistics = Field(description="Tokens of prompt and answer of the pool samples.")
    answer_tokens: TokenStatistics = Field(description="Trained tokens of the pool samples.")
