from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diverseevol_core.errors import ModelError
from diverseevol_core.models import locating
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.models.locating import LocatedModel, locate_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that carries a file."""
    (tmp_path / "site" / "carrier").mkdir(parents=True)
    (tmp_path / "site" / "carrier" / "__init__.py").write_text("raise RuntimeError('a package is never imported')")
    (tmp_path / "site" / "carrier" / "notes.txt").write_text("not a model")
    (tmp_path / "site" / "outside.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    yield tmp_path / "site" / "carrier"
    sys.modules.pop("carrier", None)


def locate(name: Path | str, tmp_path: Path, revision: str | None = None) -> LocatedModel:
    return locate_model(str(name), revision, tmp_path / "cache")


def test_a_folder_is_used_where_it_lies(folder: Path, tmp_path: Path):
    located = locate(folder, tmp_path)
    assert located.folder == folder
    assert (located.ref.name, located.ref.revision) == (str(folder), None)


def test_the_digests_name_content_and_not_place(folder: Path, tiny_model: Path, tmp_path: Path):
    here, there = locate(folder, tmp_path).ref, locate(tiny_model, tmp_path).ref
    assert (here.digest, here.tokenizer_digest) == (there.digest, there.tokenizer_digest)


@pytest.mark.parametrize(
    ("file", "is_of_model"),
    [(WEIGHTS, True), ("config.json", True), ("tokenizer.json", False), ("chat_template.jinja", False)],
)
def test_remembered_digests_are_forgotten_when_a_file_changes(
    folder: Path, tmp_path: Path, file: str, is_of_model: bool
):
    before = locate(folder, tmp_path).ref
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    changed_at = (folder / file).stat().st_mtime_ns + 1
    (folder / file).write_bytes(bytes(content))
    os.utime(folder / file, ns=(changed_at, changed_at))
    after = locate(folder, tmp_path).ref
    assert (after.digest != before.digest) == is_of_model
    assert (after.tokenizer_digest != before.tokenizer_digest) == (not is_of_model)


def test_large_files_are_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = locate(folder, tmp_path).ref
    monkeypatch.setattr(locating.hashlib, "file_digest", lambda *_: pytest.fail("a file was read again"))
    assert locate(folder, tmp_path).ref == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_memory_of_digests_is_made_anew(folder: Path, tmp_path: Path, content: bytes):
    before = locate(folder, tmp_path).ref
    (tmp_path / "cache" / "digests.json").write_bytes(content)
    assert locate(folder, tmp_path).ref == before
    assert json.loads((tmp_path / "cache" / "digests.json").read_bytes())


@pytest.mark.parametrize(
    ("lost", "reason"), [("config.json", "config.json"), (WEIGHTS, "pickled weights are not read")]
)
def test_a_folder_without_a_model_is_refused(folder: Path, tmp_path: Path, lost: str, reason: str):
    (folder / lost).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=reason):
        locate(folder, tmp_path)


def test_a_model_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        if file.name not in {WEIGHTS, "config.json"}:
            file.unlink()
    with pytest.raises(ModelError, match="no tokenizer files"):
        locate(folder, tmp_path)


@pytest.mark.parametrize("name", ["./nothing", "/nothing", "~/nothing", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str, tmp_path: Path):
    with pytest.raises(ModelError, match="no folder on this machine"):
        locate(name, tmp_path)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no such model", "nobody"])
def test_a_model_that_cannot_be_fetched_is_one_clear_error(name: str, tmp_path: Path):
    with pytest.raises(ModelError, match="neither a folder of this machine nor reachable") as caught:
        locate(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_revision_of_a_local_model_is_refused_and_not_ignored(folder: Path, tmp_path: Path):
    for name in (str(folder), "x.gguf", "package://carrier/x.gguf"):
        with pytest.raises(ModelError, match=r"model\.revision='v1'"):
            locate(name, tmp_path, revision="v1")


# GGUF files and packages


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100, b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_damaged_gguf_file_is_a_model_error_and_leaves_nothing(content: bytes, tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read as a GGUF model"):
        locate(tmp_path / "model.gguf", tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["digests.json"]


def test_a_missing_gguf_file_is_a_model_error(tmp_path: Path):
    with pytest.raises(ModelError, match="no GGUF file on this machine"):
        locate(tmp_path / "model.gguf", tmp_path)


def test_a_gguf_file_is_converted_once_by_its_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    conversions: list[Path] = []

    def convert(path: Path, target: Path) -> None:
        conversions.append(path)
        shutil.copytree(folder, target, dirs_exist_ok=True)

    monkeypatch.setattr(locating, "convert_gguf", convert)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF of the same content")
    first, again, twin = (locate(tmp_path / name, tmp_path) for name in ("a.gguf", "a.gguf", "b.gguf"))
    assert conversions == [tmp_path / "a.gguf"]
    assert first.folder == again.folder == twin.folder
    assert first.ref.digest == locate(folder, tmp_path).ref.digest


def test_a_broken_conversion_is_never_taken_for_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(path: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(locating, "convert_gguf", half)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            locate(tmp_path / "a.gguf", tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["digests.json"]


def test_a_package_is_found_without_running_it(package: Path, tmp_path: Path):
    (package / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read as a GGUF model"):
        locate("package://carrier/model.gguf", tmp_path)


@pytest.mark.parametrize("file", ["missing.gguf", "notes.txt", "../outside.gguf", "", "."])
def test_a_package_gives_only_its_own_gguf_files(package: Path, file: str, tmp_path: Path):
    with pytest.raises(ModelError, match=r"names no \.gguf file inside the package"):
        locate(f"package://carrier/{file}", tmp_path)


@pytest.mark.parametrize("name", ["no_such_package", "os", "a.b", "", "..", "sys"])
def test_a_package_that_is_not_installed_is_a_model_error(name: str, tmp_path: Path):
    with pytest.raises(ModelError, match="not installed"):
        locate(f"package://{name}/model.gguf", tmp_path)


def test_a_converted_gguf_file_computes_what_its_source_computes(tiny_model: Path, tmp_path: Path):
    gguf = pytest.importorskip("gguf")
    import torch

    source = load_causal_lm(tiny_model, dtype="float32", device="cpu")
    write_gguf(gguf, source, tiny_model, tmp_path / "tiny.gguf")
    located = locate(tmp_path / "tiny.gguf", tmp_path)
    converted = load_causal_lm(located.folder, dtype="float32", device="cpu")
    ids = torch.tensor([[40, 50, 60, 70, 0]])
    with torch.no_grad():
        expected, found = source(input_ids=ids).logits.numpy(), converted(input_ids=ids).logits.numpy()
    # The file holds the same float32 weights; only the rotary base passes through another number format.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (
        load_tokenizer(located.folder)("Sort 3, 1")["input_ids"] == load_tokenizer(tiny_model)("Sort 3, 1")["input_ids"]
    )


def write_gguf(gguf: object, model: object, folder: Path, path: Path) -> None:
    """Write the tiny Llama as a float32 GGUF file, in the layout that llama.cpp gives query and key."""
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_types([3] * 3 + [1] * (len(tokenizer["vocab"]) - 3))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in model.state_dict().items():
        stem, values = name.removesuffix(".weight"), tensor.numpy()
        if stem in whole:
            writer.add_tensor(f"{whole[stem]}.weight", values)
            continue
        _, _, layer, part = stem.split(".", 3)
        if part.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape).copy()
        writer.add_tensor(f"blk.{layer}.{names[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
