"""Load tokenizers and causal language models from a local folder, safetensors only and without remote code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diverseevol_core.config import Dtype
from diverseevol_core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer, giving it a pad token only when it has none.

    The end-of-text token then serves as pad: no token is added, so no model's vocabulary or special tokens change.

    Args:
        folder: local folder with tokenizer files.

    Returns:
        The tokenizer; `eos_token_id` is set.

    Raises:
        ModelError: there is no usable tokenizer, or it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise ModelError(
            f"no tokenizer can be loaded from {folder}: {_first_line(error)}; save one beside the model"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {folder} has no end-of-text token; set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(folder: Path, *, dtype: Dtype, device: str) -> PreTrainedModel:
    """Load a causal language model in evaluation mode.

    Args:
        folder: local folder with `config.json` and safetensors weights.
        dtype: number format of the weights in memory.
        device: a torch device, such as `cpu` or `cuda:0`.

    Returns:
        The model on the device.

    Raises:
        ModelError: the folder holds no loadable causal language model, or not all of its weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loader: Any = AutoModelForCausalLM  # its types do not know output_loading_info
        model, report = loader.from_pretrained(
            str(folder),
            dtype=TORCH_DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"no causal language model can be loaded from {folder}: {_first_line(error)}; "
            "save it there again with save_pretrained"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers would fill them with random numbers, other ones in every process.
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of a causal language model, first {missing[0]!r}; "
            "save the whole model there again, with its language-model head"
        )
    model.to(torch.device(device))
    loaded: PreTrainedModel = model.train(False)
    return loaded


def load_quantized_causal_lm(folder: Path, *, dtype: Dtype, device: str) -> PreTrainedModel:
    """Load a causal language model whose linear layers hold 4-bit weights, to train adapters on it.

    Args:
        folder: local folder with `config.json` and safetensors weights.
        dtype: number format of the arithmetic.
        device: a torch device, such as `cpu` or `cuda:0`.

    Returns:
        The model on the device, with weights in NormalFloat4 and doubly quantised scales.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ModelError: the folder holds no loadable causal language model.

    Reference:
        Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    untyped: Any = BitsAndBytesConfig
    quantization = untyped(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=TORCH_DTYPES[dtype],
    )
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            quantization_config=quantization,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except ImportError as error:
        raise ConfigError("training.method=qlora needs the 'qlora' extra; pip install 'diverseevol[qlora]'") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"no causal language model can be loaded in 4 bits from {folder}: {_first_line(error)}; "
            "use training.method=lora"
        ) from error
    return model


def resolve_device(name: str) -> str:
    """Turn the device setting into a torch device.

    Args:
        name: `auto`, or a torch device such as `cpu`, `cuda`, `cuda:1`, `mps`.

    Returns:
        The device; `auto` takes the first GPU and else the CPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device={name!r} is not available on this machine; use 'auto' or 'cpu'") from error
    return str(device)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
