"""`keep_above` and `caution` from replies that are marked good and bad."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("scipy")

from langchain_metaaligner import Aligner, Edit, Engine
from langchain_metaaligner.errors import EngineError, EvaluationError
from langchain_metaaligner.evaluation import calibrate, marked_by_judge
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.testing import ScriptedEngine

KNOWN = "hello world the answer is that you should not do this"


class Margins(Engine):
    """Reads in each answer how far the model is from it: `agreement margin text`."""

    reports_agreement = True
    keeps_caution = True

    def __init__(self) -> None:
        self.requests = []

    def edit(self, requests):
        self.requests += requests
        return [self.make(one) for one in requests]

    def make(self, request):
        agreement, margin = map(float, request.draft.split()[:2])
        if request.keep_above is not None and agreement >= request.keep_above:
            return Edit(request.draft, agreement=agreement)
        left = margin >= request.caution
        return Edit("another text" if left else request.draft, agreement=agreement)


def rows(word, values):
    return [
        {"context": f"{word} {i}", "answer": f"{agreement} {margin} {word}"}
        for i, (agreement, margin) in enumerate(values)
    ]


def spread(agreement, margin, count=40):
    """Replies whose values differ a little."""
    return [(round(agreement + i / 1000, 3), round(margin + i / 1000, 3)) for i in range(count)]


def test_keep_above_parts_replies_that_agreement_tells_apart():
    found = calibrate(
        rows("good", spread(-0.3, 9)), rows("bad", spread(-1.2, 9)), Aligner(engine=Margins())
    )
    assert -1.161 < found.keep_above <= -0.3
    assert found.caution == 0
    assert (found.chosen.missed, found.chosen.spoilt) == (0, 0)
    assert (found.chosen.bad, found.chosen.good, *found.chosen_on) == (20, 20, 20, 20)
    assert found.today.spoilt == 20


def test_caution_parts_replies_that_margins_tell_apart():
    engine = Margins()
    found = calibrate(
        rows("good", spread(-0.5, 1.2)), rows("bad", spread(-0.5, 3.4)), Aligner(engine=engine)
    )
    assert found.caution == 2
    assert found.keep_above is None
    assert (found.chosen.missed_rate, found.chosen.spoilt_rate) == (0, 0)
    # Largest and smallest margin, and the ones between where these differ: no more than needed.
    assert len(engine.requests) <= 80 * 4
    assert found.code == "Aligner(..., caution=2)"


def test_the_proposal_spoils_no_more_than_is_allowed_and_misses_as_little_as_it_can():
    good = spread(-0.3, 9, 36) + spread(-0.9, 9, 4)
    bad = spread(-1.2, 9, 30) + spread(-0.25, 9, 10)
    strict, loose = (
        calibrate(rows("good", good), rows("bad", bad), Aligner(engine=Margins()), most_spoilt=most)
        for most in (0.0, 1.0)
    )
    assert strict.chosen.spoilt_rate <= strict.chosen.missed_rate
    assert strict.keep_above < -0.3
    assert loose.keep_above is None
    assert (loose.chosen.missed, loose.chosen.spoilt_rate) == (0, 1)


def test_every_point_of_the_curve_is_what_an_aligner_with_its_values_does():
    good, bad = rows("good", spread(-0.6, 0.5)), rows("bad", spread(-0.62, 2.5))
    found = calibrate(good, bad, Aligner(engine=Margins()), cautions=(0, 1, 3))
    half = calibrate(good, bad, Aligner(engine=Margins()), cautions=(0, 1, 3))
    assert found == half  # the same rows and seed, the same proposal
    assert {one.caution for one in found.curve} == {0, 1, 3}
    for caution in (0, 1, 3):
        line = [one for one in found.curve if one.caution == caution]
        # From keeping everything to keeping nothing, harm is missed less and less.
        assert [one.missed for one in line] == sorted((one.missed for one in line), reverse=True)
        assert [one.spoilt for one in line] == sorted(one.spoilt for one in line)
        assert line[0].missed == line[0].bad
        assert all(
            one.missed_interval[0] <= one.missed_rate <= one.missed_interval[1] for one in line
        )
    assert found.records()[0]["missed_rate"] == 1.0


def test_the_values_in_the_code_do_what_the_figures_say():
    good = rows("good", spread(-0.4, 1.5))
    bad = rows("bad", [*spread(-0.6, 3.5, 20), *spread(-0.38, 9, 20)])
    found = calibrate(good, bad, Aligner(engine=Margins()))
    made = eval(found.code.replace("...", "engine=Margins()"))
    items = [(row["context"], row["answer"], ["harmlessness"]) for row in good]
    changed = sum(one.changed for one in made.align_batch(items))
    assert changed / len(good) <= 0.1


def test_replies_to_one_conversation_are_on_one_half():
    good = [{"context": f"c {i // 4}", "answer": f"-0.3 9 good {i}"} for i in range(48)]
    bad = [{"context": f"c {i // 4}", "answer": f"-1.3 9 bad {i}"} for i in range(48)]
    found = calibrate(good, bad, Aligner(engine=Margins()))
    assert found.chosen.good == found.chosen.bad == 24
    assert found.chosen.good % 4 == 0


def test_an_engine_without_caution_gets_keep_above_alone():
    engine = Margins()
    engine.keeps_caution = False
    found = calibrate(
        rows("good", spread(-0.3, 9)), rows("bad", spread(-1.2, 9)), Aligner(engine=engine)
    )
    assert found.caution is None
    assert re.fullmatch(r"Aligner\(\.\.\., keep_above=-\d\.\d+\)", found.code)
    assert len(engine.requests) == 80


def test_an_engine_without_agreement_is_refused_before_any_edit():
    engine = ScriptedEngine()
    with pytest.raises(EvaluationError, match="reports no agreement"):
        calibrate(rows("good", spread(-0.3, 9)), rows("bad", spread(-1, 9)), Aligner(engine=engine))
    assert not engine.requests


def test_failed_edits_are_left_out_and_counted():
    engine = Margins()
    bad = [*rows("bad", spread(-1.2, 9)), *rows("failing", spread(-1.3, 9, 5))]
    make = engine.make
    engine.make = lambda one: Edit("") if "failing" in one.draft else make(one)
    found = calibrate(rows("good", spread(-0.3, 9)), bad, Aligner(engine=engine))
    assert found.failed == 5
    assert found.chosen.bad + found.chosen_on[0] == 40
    assert "5 replies are left out" in str(found)


def test_an_engine_that_always_fails_raises_what_it_raised():
    engine = Margins()
    engine.make = lambda _: 1 / 0
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        calibrate(rows("good", spread(-1, 9)), rows("bad", spread(-1, 9)), Aligner(engine=engine))


def test_options_that_make_no_sense_and_too_few_replies_are_refused():
    good, bad = rows("good", spread(-0.3, 9)), rows("bad", spread(-1.2, 9))
    aligner = Aligner(engine=Margins())
    for options in ({"most_spoilt": 2}, {"cautions": ()}, {"cautions": (-1,)}):
        with pytest.raises(EvaluationError):
            calibrate(good, bad, aligner, **options)
    with pytest.raises(EvaluationError, match="Mark more bad replies"):
        calibrate(good, bad[:3], aligner)
    with pytest.raises(EvaluationError, match="greedily"):
        calibrate(good, bad, Aligner(engine=Margins(), temperature=0.5))


def test_what_a_judge_preferred_marks_replies():
    def row(name, **outcomes):
        made = {key: Comparison(value) for key, value in outcomes.items()}
        return EvaluatedRow(name, "", name, "", "c", name, "e", "edited", made)

    found = [
        row("bad", harmlessness="win", helpfulness="tie"),
        row("good", harmlessness="loss", helpfulness="loss"),
        row("mixed", harmlessness="win", helpfulness="loss"),
        row("tie", harmlessness="tie", helpfulness=None),
    ]
    good, bad = marked_by_judge(found)
    assert [one["answer"] for one in good] == ["good"]
    assert [one["answer"] for one in bad] == ["bad"]
    good, bad = marked_by_judge(found, objective="helpfulness")
    assert [one["answer"] for one in good] == ["good", "mixed"]
    assert not bad


def test_the_curve_is_a_picture_that_stands_alone(tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    found = calibrate(
        rows("good", spread(-0.3, 1)), rows("bad", spread(-0.5, 3)), Aligner(engine=Margins())
    )
    drawn = found.to_svg(tmp_path / "curve.svg")
    assert ET.parse(tmp_path / "curve.svg").getroot().tag.endswith("}svg")
    assert "good replies that are changed" in drawn
    assert not re.search(r"(?:href|src)=", drawn)
    for name in set(re.findall(r"var\((--\w+)\)", drawn)):
        assert f"{name}:" in drawn
    assert found.code in found._repr_html_()
    assert "20 bad and 20 good replies" in str(found)
    assert "first guess" in str(found)


@pytest.fixture
def chain_model(tmp_path):
    """A tiny LLaMA whose next token depends on the last one only: it knows one sentence."""
    torch = pytest.importorskip("torch")
    from tests.unit_tests.tiny import save, spm_tokenizer, tiny_config, tiny_llama

    tokenizer = spm_tokenizer()
    model = tiny_llama(tiny_config(len(tokenizer), max_position_embeddings=1024))
    words = ["▁", *[f"▁{word}" for word in KNOWN.split()]]
    tokens = [*tokenizer.convert_tokens_to_ids(words), tokenizer.eos_token_id]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        embedded = model.model.norm(model.model.embed_tokens.weight)
        for last, following in pairwise(tokens):
            model.lm_head.weight[following] = embedded[last] * 8 / embedded.shape[1]
    return str(save(tmp_path / "chain", tokenizer=tokenizer, model=model))


@pytest.mark.torch
def test_a_real_engine_does_under_the_proposed_values_what_was_foretold(chain_model):
    options = {"family": "hh-rlhf", "max_new_tokens": 24, "guards": ()}
    begun = " ".join(KNOWN.split()[:4])
    good = [(f"hello {i}", KNOWN) for i in range(8)]
    bad = [(f"sorry {i}", f"{begun} hello") for i in range(8)]
    aligner = Aligner(chain_model, **options)
    marked = ([{"context": c, "answer": a} for c, a in part] for part in (good, bad))
    found = calibrate(*marked, aligner, cautions=(0, 1, 30))
    assert found.failed == 0
    # After 30 nats nothing is left, and without any margin all the bad ones are.
    assert {one.missed for one in found.curve if one.caution == 30} == {4}
    assert (found.chosen.missed, found.chosen.spoilt, found.caution) == (0, 0, 0)
    proposed = eval(found.code.replace("...", "chain_model, **options"))
    made = proposed.align_batch([(c, a, ["harmlessness"]) for c, a in good + bad])
    assert [one.changed for one in made] == [False] * 8 + [True] * 8
    proposed.close()
    aligner.close()
