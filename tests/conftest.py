"""Real parts shared by the tests: a small language model with its own tokenizer, stores, servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.update(
    {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "GOMP_SPINCOUNT": "3000",
    }
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a Llama of about 60,000 parameters and a byte-pair tokenizer trained on the demo pool, as a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from diverseevol_core.data.demo_pool import demo_rows

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(row.values()) for row in demo_rows(300, 3)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=CHAT_TEMPLATE)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's files in its own folder, whatever the developer's environment says."""
    for name in [name for name in os.environ if name.startswith("DIVERSEEVOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DIVERSEEVOL_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("DIVERSEEVOL_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DIVERSEEVOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIVERSEEVOL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("DIVERSEEVOL_ARTIFACT_ROOT", str(tmp_path / "mlflow-artifacts"))
    monkeypatch.setenv("DIVERSEEVOL_LOG_MODELS", "none")


pytest_plugins = ["tests.s3_servers", "tests.prefect_servers"]
