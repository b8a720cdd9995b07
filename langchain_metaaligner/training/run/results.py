"""Writes the result of a training: a PEFT adapter or a whole checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.training.run.bases import Base


def write_adapter(finished: Path, folder: Path, base: Base) -> None:
    """Write the adapter in bfloat16, in the format of PEFT.

    Args:
        finished: Folder with the weights of the last stage.
        folder: Folder to write to.
        base: The base of the adapter.
    """
    import torch
    from peft import PeftConfig
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(finished / "adapter_model.safetensors")
    small = {name: weight.to(torch.bfloat16) for name, weight in state.items()}
    save_file(small, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = PeftConfig.from_pretrained(str(finished))
    config.base_model_name_or_path = base.name
    config.inference_mode = True
    config.save_pretrained(str(folder))


def write_model(finished: Path, folder: Path, base: Base, *, family: str) -> None:
    """Write the whole model as bfloat16 safetensors, with an adapter merged into it.

    Merging runs in float32 and takes 4 bytes per weight of the base.

    Args:
        finished: Folder with the weights of the last stage: full ones or an adapter.
        folder: Folder to write to.
        base: The base.
        family: Name of the prompt family that it was trained on.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any
    if (finished / "adapter_config.json").is_file():
        from peft import PeftModel

        with warnings.catch_warnings():
            # peft uses names of transformers that are deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(base.model("float32"), str(finished))
        model = model.merge_and_unload().to(torch.bfloat16)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(finished), dtype=torch.bfloat16)
    tokenizer = base.tokenizer()
    model.config.metaaligner_family = family
    # The settings of a base may sample, and transformers refuses to save those without a matching
    # temperature; an aligner decodes greedily anyway.
    settings: Any = GenerationConfig
    model.generation_config = settings(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
