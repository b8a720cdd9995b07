"""Writes an aligner as a GGUF file, for llama.cpp and the servers that are built on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from langchain_metaaligner import checkpoints
from langchain_metaaligner.errors import CheckpointError

GgufDtype = Literal["f32", "bf16", "f16", "q8_0"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def export_gguf(
    model: str | Path, out: str | Path, *, dtype: GgufDtype = "bf16", **options: Any
) -> Path:
    """Write an aligner as one GGUF file, with its adapter merged and its tokenizer inside.

    The weights are read in float32, so nothing is rounded twice; this takes 4 bytes of memory for
    each weight. The file names its prompt family, so no `family` is needed where it is used.

    Args:
        model: Hub id or folder of a LLaMA checkpoint; `embedded` is the embedded aligner.
        out: The file to write. It is complete once it is there.
        dtype: How the matrices are stored: `f32`, `bf16` and `f16` in full, `q8_0` in about 8.5
            bits for each weight.
        **options: How the checkpoint is loaded, as for `Aligner`: `adapter`, `revision`, `token`.
            `family` names its prompt family, if that can't be told from its name and files.

    Returns:
        The file.

    Raises:
        CheckpointError: The checkpoint can't be loaded or has no form in GGUF.
        TypeError: An option is unknown.
        ValueError: There is no such dtype.
    """
    from langchain_metaaligner.engines.local.progress import SILENT
    from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
    from langchain_metaaligner.engines.local.weights import find_source
    from langchain_metaaligner.options import normal_name, parse_load_options

    if dtype not in get_args(GgufDtype):
        message = f"dtype={dtype!r} is unknown; expected one of {', '.join(get_args(GgufDtype))}."
        raise ValueError(message)
    name, family = normal_name(str(model)), options.pop("family", None)
    given = {"device_map": "cpu", **options, "dtype": "float32"}
    source = find_source(name, parse_load_options(given))
    config = source.config()
    _check(name, config)
    tokenizer = PromptTokenizer(source.tokenizer(), name)
    loaded = source.model(config, SILENT)
    family = family or checkpoints.family_of(name, source.config_dict())
    file = Path(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    try:
        writer = _writer(part, dtype)
        _describe(writer, name, config, family)
        _add_tokenizer(writer, name, tokenizer, config)
        _write_weights(writer, loaded, config, dtype)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _check(name: str, config: Any) -> None:
    """Refuse models that are no plain LLaMA."""
    rope = getattr(config, "rope_parameters", None) or {}
    odd = None
    if config.model_type != "llama":
        odd = f"it is a {config.model_type!r} model; expected 'llama'"
    elif getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        odd = "its linear layers have biases"
    elif rope.get("rope_type", "default") != "default":
        odd = f"its rotary embedding is scaled ({rope['rope_type']})"
    if odd is not None:
        message = (
            f"{name} can't be written as GGUF here: {odd}. Convert it with llama.cpp's own"
            " convert_hf_to_gguf.py."
        )
        raise CheckpointError(message)


def _writer(file: Path, dtype: str) -> Any:
    import gguf

    kinds = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_file_type(kinds[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return writer


def _describe(writer: Any, name: str, config: Any, family: str | None) -> None:
    writer.add_name("MetaAligner embedded" if name == checkpoints.EMBEDDED else Path(name).name)
    if family is not None:
        writer.add_string(checkpoints.GGUF_FAMILY, family)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(checkpoints.window_of(config) or 2048)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base((config.rope_parameters or {}).get("rope_theta", 10000.0))


def _add_tokenizer(writer: Any, name: str, tokenizer: Any, config: Any) -> None:
    spec = json.loads(tokenizer.tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        message = (
            f"The tokenizer of {name} is a {model['type']} model; only BPE can be written as GGUF"
            " here. Convert it with llama.cpp's own convert_hf_to_gguf.py."
        )
        raise CheckpointError(message)
    added = {one["id"]: one for one in spec["added_tokens"]}
    texts = {index: text for text, index in model["vocab"].items()}
    texts |= {index: one["content"] for index, one in added.items()}
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(config.vocab_size)]
    unknown = model.get("unk_token")
    special = set(tokenizer.tokenizer.all_special_tokens)

    def kind(index: int, text: str) -> int:
        if index not in texts:
            return _UNUSED
        if text == unknown and model["byte_fallback"]:
            return _UNKNOWN
        if text in special or (index in added and added[index]["special"]):
            return _CONTROL
        if index in added:
            return _USER_DEFINED
        bytes_too = model["byte_fallback"] and len(text) == 6 and text.startswith("<0x")
        return _BYTE if bytes_too else _NORMAL

    pairs = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
    if model["byte_fallback"]:
        ranks: dict[str, int] = {}
        for rank, (left, right) in enumerate(pairs):
            ranks.setdefault(left + right, rank)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        # llama.cpp merges the pair whose token has the highest score.
        writer.add_token_scores([-float(ranks.get(text, len(pairs))) for text in tokens])
        writer.add_add_space_prefix(_puts_space_first(spec))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(name, spec))
        writer.add_token_merges([" ".join(pair) for pair in pairs])
        writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types([kind(index, text) for index, text in enumerate(tokens)])
    _add_special_tokens(writer, tokenizer, config)


def _add_special_tokens(writer: Any, tokenizer: Any, config: Any) -> None:
    own = tokenizer.tokenizer
    if own.bos_token_id is not None:
        writer.add_bos_token_id(own.bos_token_id)
    said = config.eos_token_id
    ends = [own.eos_token_id, *([said] if isinstance(said, int) else said or ())]
    end = next((one for one in ends if one is not None), None)
    if end is not None:
        writer.add_eos_token_id(end)
    others = sorted(tokenizer.end_ids(said) - {end})
    if others:
        writer.add_eot_token_id(others[0])
    if own.unk_token_id is not None:
        writer.add_unk_token_id(own.unk_token_id)
    if own.pad_token_id is not None:
        writer.add_pad_token_id(own.pad_token_id)
    writer.add_add_bos_token(bool(tokenizer.start))
    writer.add_add_eos_token(False)
    if own.chat_template:
        writer.add_chat_template(own.chat_template)


def _puts_space_first(spec: Mapping[str, Any]) -> bool:
    """Whether a tokenizer of LLaMA's kind puts a space before a text."""
    said = json.dumps([spec["normalizer"], spec["pre_tokenizer"]])
    marks = ('"Prepend"', '"prepend_scheme": "first"', '"prepend_scheme": "always"')
    return any(mark in said for mark in marks)


def _pre_tokenizer(name: str, spec: Mapping[str, Any]) -> str:
    """Find llama.cpp's name for the way in which a byte-level tokenizer splits a text first."""
    given = spec["pre_tokenizer"] or {}
    steps = given.get("pretokenizers", [given])
    last = steps[-1]
    if last.get("type") == "ByteLevel" and last["use_regex"] and not last["add_prefix_space"]:
        if len(steps) == 1:
            return "gpt-2"
        if len(steps) == 2 and steps[0] == {"type": "Digits", "individual_digits": True}:
            return "smollm"
    message = (
        f"The tokenizer of {name} splits texts in a way that can't be written as GGUF here."
        " Convert it with llama.cpp's own convert_hf_to_gguf.py."
    )
    raise CheckpointError(message)


def _write_weights(writer: Any, model: Any, config: Any, dtype: str) -> None:
    """Write the weights one by one, so that their other form never takes memory as a whole."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    from langchain_metaaligner.engines.local.gguf import written_tensor

    wanted = GGMLQuantizationType[dtype.upper()]
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not (name == "lm_head.weight" and config.tie_word_embeddings)
    }
    kinds = {}
    for name, tensor in state.items():
        block, size = GGML_QUANT_SIZES[wanted]
        fits = tensor.dim() > 1 and tensor.shape[-1] % block == 0
        kinds[name] = wanted if fits else GGMLQuantizationType.F32
        block, size = GGML_QUANT_SIZES[kinds[name]]
        theirs, _ = written_tensor(name, tensor, config)
        writer.add_tensor_info(
            theirs,
            list(tensor.shape),
            np.dtype(np.float32),
            tensor.numel() // block * size,
            raw_dtype=kinds[name],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in state.items():
        _, values = written_tensor(name, tensor, config)
        writer.write_tensor_data(quantize(values.float().contiguous().numpy(), kinds[name]))
    writer.close()
