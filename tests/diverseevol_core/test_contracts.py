from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import ValidationError

from diverseevol_core.contracts import ArtifactRef, Environment, FileEntry, Manifest, TokenStatistics


def test_statistics_of_a_hand_made_case():
    statistics = TokenStatistics.of(np.arange(1, 22, dtype=np.int32))
    assert statistics == TokenStatistics(total=231, min=1, mean=11.0, p50=11.0, p95=20.0, max=21)


def test_totals_do_not_overflow_the_32_bits_of_a_count():
    n_tokens = np.full(3, 2**30, dtype=np.int32)
    assert TokenStatistics.of(n_tokens).total == 3 * 2**30


@pytest.mark.parametrize("name", ["part-00000.parquet", "a/b/c.bin", "a b", "é", ".gitattributes"])
def test_names_below_a_folder_are_file_names(name: str):
    assert FileEntry(name=name, bytes=0, sha256="0" * 64).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b"])
def test_names_that_lead_elsewhere_are_no_file_names(name: str):
    with pytest.raises(ValidationError, match="no path below"):
        FileEntry(name=name, bytes=0, sha256="0" * 64)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_a_digest_is_64_lower_case_hexadecimal_digits(digest: str):
    with pytest.raises(ValidationError):
        FileEntry(name="x", bytes=0, sha256=digest)


def test_a_ref_sums_the_bytes_of_all_files_and_survives_json():
    files = tuple(FileEntry(name=str(n), bytes=n, sha256=f"{n}" * 64, rows=n) for n in (3, 4))
    manifest = Manifest(
        step="embed",
        step_version=2,
        key="a" * 64,
        config={"x": [1, None, {"y": 2.5}]},
        inputs={"pool": "b" * 64},
        files=files,
        digest="c" * 64,
        rows=7,
        seed=1,
        environment=Environment(code_version="1", python="3", libraries={"torch": "2"}, device="cpu", threads=2),
        seconds=0.5,
        finished_at=datetime(2025, 1, 2, tzinfo=UTC),
    )
    ref = manifest.ref("artifacts/embed/a")
    assert (ref.bytes, ref.rows, ref.digest, ref.path) == (7, 7, "c" * 64, "artifacts/embed/a")
    assert ArtifactRef.model_validate_json(ref.model_dump_json()) == ref
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    with pytest.raises(ValidationError, match="frozen"):
        ref.bytes = 8  # type: ignore[misc]
