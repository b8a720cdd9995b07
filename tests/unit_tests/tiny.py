"""Builds tiny random checkpoints in the layouts that real ones come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LLAMA2_TOKENIZER = Path(__file__).parents[3] / "shared" / "data" / "llama2_tokenizer"
"""The tokenizer of LLaMA 2, where the data folder lies beside the project."""

WORDS = (
    "the answer is that you should not do this but here are some safe ideas for your question "
    "Human Assistant Edit Context helpful harmless hello world I can and cannot please sorry"
).split()


def spm_tokenizer(*, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer built like LLaMA 2's: `▁` for spaces, bytes as a fallback, BOS in front."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in "▁" + "".join(map(chr, range(33, 127))):
        vocabulary[character] = len(vocabulary)
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> str:
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
        return left + right

    merge("▁", "▁")
    merge("▁▁", "▁▁")
    for word in WORDS:
        done = "▁"
        for character in word:
            done = merge(done, character)
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer built like SmolLM2's: byte-level, no BOS, a chat template."""
    vocabulary = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        done = "Ġ"
        for character in word:
            if done + character not in vocabulary:
                vocabulary[done + character] = len(vocabulary)
                merges.append((done, character))
            done += character
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def tiny_config(vocab_size: int, **changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**(settings | changes))


def tiny_llama(config: LlamaConfig, *, seed: int = 0, spread: float = 0.3) -> LlamaForCausalLM:
    """A random model whose next token is far from a tie, so that batches can't change it."""
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0.0, spread, generator=generator)
    return model.eval()


def save(
    folder: Path,
    *,
    tokenizer: Any = None,
    model: Any = None,
    config: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """A checkpoint as transformers saves one today: safetensors, fast tokenizer."""
    tokenizer = tokenizer or spm_tokenizer()
    model = model or tiny_llama(tiny_config(len(tokenizer), **(config or {})), seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_as_published(folder: Path, *, seed: int = 0, copy_tokenizer: bool = False) -> Path:
    """A checkpoint in the layout of the published MetaAligner repositories.

    float32 pickles in shards with their index, the cache switched off, sampling switched on, no
    safetensors, `pad_token` = `<unk>`, and the old spelling `torch_dtype`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if copy_tokenizer:
        for file in LLAMA2_TOKENIZER.glob("tokenizer*"):
            (folder / file.name).write_bytes(file.read_bytes())
        size = 32000
    else:
        tokenizer = spm_tokenizer()
        tokenizer.save_pretrained(folder)
        size = len(tokenizer)
    model = tiny_llama(tiny_config(size), seed=seed)
    config = model.config.to_dict()
    config.pop("dtype", None)
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float32",
        "use_cache": False,
        "transformers_version": "4.34.0",
        "_name_or_path": "/data/models/Llama-2-7b-hf",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps(
            {
                "bos_token_id": 1,
                "do_sample": True,
                "eos_token_id": 2,
                "max_length": 4096,
                "pad_token_id": 0,
                "temperature": 0.6,
                "top_p": 0.9,
                "transformers_version": "4.34.0",
            }
        )
    )
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "added_tokens.json").write_text(json.dumps({"</s>": 2, "<s>": 1, "<unk>": 0}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "LlamaTokenizer", "padding_side": "left", **specials}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = sorted(state)
    weight_map = {}
    for shard in range(3):
        file = f"pytorch_model-{shard + 1:05d}-of-00003.bin"
        part = {name: state[name] for name in names[shard::3]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * 4 for tensor in state.values())
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    return folder
