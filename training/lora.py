"""Chooses the weights of a transformer to train: all of them, or low-rank adapters beside them (LoRA)."""

from typing import Any

from peft import LoraConfig, inject_adapter_in_model

from .config import PartSettings

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear")
"""Attention, feed-forward and the layer norms' modulation (DVG-WM, Table 7)."""


def prepared(transformer: Any, part: PartSettings) -> Any:
    """Return ``transformer`` ready to train as ``part`` says; with a LoRA rank its own weights are frozen."""
    if part.lora_rank:
        transformer.requires_grad_(False)
        config = LoraConfig(r=part.lora_rank, lora_alpha=part.lora_rank, target_modules=list(TARGETS))
        transformer = inject_adapter_in_model(config, transformer)
    else:
        transformer.requires_grad_(True)
    if part.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer
