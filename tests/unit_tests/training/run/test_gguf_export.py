"""An aligner that was written as GGUF is the same model, with the same tokens."""

from __future__ import annotations

import random

import pytest
import torch

from langchain_metaaligner.engines.gguf_header import read_header
from langchain_metaaligner.engines.local.gguf import GgufFile
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.training import export_gguf
from langchain_metaaligner.training.run.bases import Base
from tests.unit_tests.tiny import byte_level_tokenizer, save

# Whatever tokenizers treat in their own way: spaces, digits, bytes, control tokens, odd characters.
ALPHABET = " \n\t\r  abctheXYZ019.,'’é漢字😀👩‍👧\u0300\u200b\u2028ßİſ|<>_-▁"
PLAIN = [
    "The answer is 42, and that's 3.14 times more than I'd say.",
    "</s> and <s> in a text, <|im_end|> too, and <0x0A>.",
    "   three spaces, and at the end  ",
    "\n\n\n",
    "a" * 300,
    "½ ² ٣ 12345",
]


def texts(count: int) -> list[str]:
    chance = random.Random(0)
    return PLAIN + [
        "".join(chance.choices(ALPHABET, k=chance.randrange(1, 60)))
        for _ in range(count - len(PLAIN))
    ]


@pytest.mark.parametrize("layout", ["words", "bytes"])
def test_llama_cpp_reads_texts_as_the_checkpoints_own_tokenizer_does(layout, tmp_path):
    pytest.importorskip("xllamacpp")
    from langchain_metaaligner.engines.registry import load_engine

    tokenizer = byte_level_tokenizer() if layout == "bytes" else None
    folder = save(tmp_path / "model", tokenizer=tokenizer)
    file = export_gguf(folder, tmp_path / "model.gguf", dtype="f32")
    own, engine = Base(folder).codec, load_engine(str(file), n_threads=1)
    transport = engine._backend.run(engine._backend.opened()).result()[0]  # type: ignore[attr-defined]
    wrong = [
        text for text in texts(200) if list(transport._ids(text, special=True)) != own.encode(text)
    ]
    engine.close()
    assert wrong == []


@pytest.mark.parametrize(("dtype", "error"), [("f32", 0.0), ("bf16", 5e-3), ("q8_0", 5e-3)])
def test_its_weights_are_the_checkpoints_in_the_order_that_was_asked_for(dtype, error, tmp_path):
    folder = save(tmp_path / "model", config={"hidden_size": 64, "intermediate_size": 96})
    file = GgufFile(export_gguf(folder, tmp_path / f"{dtype}.gguf", dtype=dtype))
    read = file.weights(file.config(), torch.float32).state_dict()
    for name, weight in Base(folder).model("float32").state_dict().items():
        far = (read[name] - weight).abs().max() / weight.abs().max()
        assert far <= error, name


def test_it_names_its_family_and_adds_no_token_that_the_checkpoint_does_not_add(tmp_path):
    plain = save(tmp_path / "MetaAligner-UltraFeedback-1.1B")
    chat = save(tmp_path / "chat", tokenizer=byte_level_tokenizer())
    said = read_header(export_gguf(plain, tmp_path / "a" / "plain.gguf")).metadata
    assert said["metaaligner.family"] == "UltraFeedback"
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.ggml.eos_token_id"] == 2
    said = read_header(export_gguf(chat, tmp_path / "chat.gguf", family="IMHI")).metadata
    assert said["metaaligner.family"] == "IMHI"
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert "<|im_end|>" in said["tokenizer.chat_template"]


def test_what_has_no_form_in_gguf_is_refused_and_leaves_no_file(tmp_path):
    scaled = {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 64,
        }
    }
    folder = save(tmp_path / "model", config=scaled)
    with pytest.raises(CheckpointError, match=r"yarn.*convert_hf_to_gguf"):
        export_gguf(folder, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="f32, bf16, f16, q8_0"):
        export_gguf(save(tmp_path / "other"), tmp_path / "out.gguf", dtype="q2")  # type: ignore[arg-type]
    assert list(tmp_path.glob("*.gguf*")) == []
