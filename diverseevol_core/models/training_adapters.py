"""Low-rank adapters: put around a model whose weights stay as they are, in full or in 4 bits, and merged at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diverseevol_core.config import Dtype, TrainingConfig
from diverseevol_core.errors import ConfigError
from diverseevol_core.models.loading import load_causal_lm, load_quantized_causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_adapters(model: PreTrainedModel, config: TrainingConfig) -> PreTrainedModel:
    """Freeze a model and add low-rank adapters to every linear layer but the head.

    Args:
        model: a causal language model.
        config: rank, scale and dropout of the adapters.

    Returns:
        The model with adapters that train.

    Raises:
        ConfigError: peft is not installed.

    Reference:
        Hu et al. 2021, arXiv:2106.09685.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError(
            f"training.method={config.method} needs the 'peft' extra; pip install 'diverseevol[peft]'"
        ) from error
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
    )
    return cast("PreTrainedModel", get_peft_model(model, adapters))


def load_for_adapters(base: Path, config: TrainingConfig, dtype: Dtype, device: str) -> PreTrainedModel:
    """Load a base model in 4 bits, ready for adapters.

    Args:
        base: folder of the base model.
        config: training settings.
        dtype: number format of the arithmetic.
        device: a torch device.

    Returns:
        The frozen model; gradient checkpointing is on where the settings ask for it.

    Raises:
        ConfigError: peft or bitsandbytes is not installed.
        ModelError: the base model cannot be loaded in 4 bits.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("training.method=qlora needs the 'qlora' extra; pip install 'diverseevol[qlora]'") from error
    prepare: Any = peft.prepare_model_for_kbit_training
    model: PreTrainedModel = prepare(
        load_quantized_causal_lm(base, dtype=dtype, device=device),
        use_gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    return model


def merged(model: Any, base: Path, config: TrainingConfig) -> PreTrainedModel:
    """Merge adapters into the weights, so that a checkpoint is whole by itself whatever the method.

    Adapters trained on 4-bit weights are merged into the base model's own, which lose nothing by it.

    Args:
        model: what was trained.
        base: folder of the base model.
        config: training settings.

    Returns:
        A model without adapters.
    """
    if config.method == "qlora":
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        adapters = {name: weight.cpu() for name, weight in get_peft_model_state_dict(model).items()}
        model = with_adapters(load_causal_lm(base, dtype="float32", device="cpu"), config)
        set_peft_model_state_dict(model, adapters)
    whole: PreTrainedModel = model.merge_and_unload() if config.method != "full" else model
    return whole
