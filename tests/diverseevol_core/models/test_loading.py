from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diverseevol_core.errors import ConfigError, ModelError
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer, resolve_device

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def load(folder: Path) -> Any:
    return load_causal_lm(folder, dtype="float32", device="cpu")


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text(folder: Path):
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert plain.pad_token is None
    assert loaded.pad_token_id == loaded.eos_token_id == plain.eos_token_id
    assert len(loaded) == len(plain) == 512
    assert loaded.get_vocab() == plain.get_vocab()


def test_a_tokenizer_with_a_pad_token_keeps_it(folder: Path):
    change_json(folder / "tokenizer_config.json", lambda config: config.update(pad_token="<|im_end|>"))
    loaded = load_tokenizer(folder)
    assert (loaded.pad_token, loaded.eos_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(loaded) == 512


def test_a_tokenizer_without_an_end_of_text_is_refused(folder: Path):
    change_json(folder / "tokenizer_config.json", lambda config: config.pop("eos_token"))
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": "1.0"}', b"\xff\xfe"])
def test_a_damaged_tokenizer_is_one_clear_error(folder: Path, content: bytes):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="no tokenizer can be loaded") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path: Path):
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_model_comes_in_the_wanted_format_and_in_evaluation_mode(folder: Path, dtype: Any, expected: torch.dtype):
    model = load_causal_lm(folder, dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not any(module.training for module in model.modules())


def test_pickled_weights_are_refused_even_where_there_is_nothing_else(folder: Path):
    torch.save(load(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="no causal language model"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_damaged_weights_are_one_clear_error(folder: Path, content: bytes):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_one_clear_error(folder: Path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ModelError, match="no causal language model"):
        load(folder)


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.norm.weight"])
def test_missing_weights_are_an_error_and_not_random_numbers(folder: Path, lost: str):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    del tensors[lost]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lacks 1 weights .*{lost}"):
        load(folder)


def test_a_head_tied_to_the_embeddings_is_not_missing(folder: Path):
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(folder)
    model = load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(hidden_size=64),
        lambda config: config.update(model_type="no_such_model"),
        lambda config: config.pop("model_type"),
    ],
)
def test_a_config_that_does_not_fit_is_a_model_error(folder: Path, change: Callable[[dict[str, Any]], object]):
    change_json(folder / "config.json", change)
    with pytest.raises(ModelError):
        load(folder)


def test_code_that_comes_with_a_model_never_runs(folder: Path, tmp_path: Path):
    trace = tmp_path / "it ran"
    code = f"open({str(trace)!r}, 'w').close()\nclass Model: pass\nclass Config: pass\n"
    (folder / "modeling_evil.py").write_text(code)
    names = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    change_json(folder / "config.json", lambda config: config.update(model_type="evil", auto_map=names))
    change_json(
        folder / "tokenizer_config.json",
        lambda config: config.update(
            auto_map={"AutoTokenizer": ["modeling_evil.Model", None]}, tokenizer_class="EvilTokenizer"
        ),
    )
    with pytest.raises(ModelError):
        load(folder)
    with contextlib.suppress(ModelError):
        load_tokenizer(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["cuda:99", "banana", "", "mps"])
def test_a_device_that_is_not_there_is_a_config_error(name: str):
    with pytest.raises(ConfigError, match="not available on this machine"):
        resolve_device(name)


def test_the_automatic_device_is_one_of_this_machine():
    assert resolve_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
