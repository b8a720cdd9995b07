"""`keep_above` and `caution` from replies that are marked good and bad."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("scipy")

from langchain_metaaligner import Aligner, Edit, Engine
from langchain_metaaligner.errors import EngineError, EvaluationError
from langchain_metaaligner.evaluation import calibrate, marked_by_judge, packaged_rows
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.testing import ScriptedEngine


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
    assert len(engine.requests) <= 40 * 4 + 40 * 3
    assert found.code == "Aligner(..., caution=2)"


def test_the_proposal_spoils_no_more_than_is_allowed_and_misses_as_little_as_it_can():
    good = spread(-0.3, 9, 36) + spread(-0.9, 9, 4)
    bad = spread(-1.2, 9, 30) + spread(-0.25, 9, 10)
    strict, loose = (
        calibrate(
            rows("good", good), rows("bad", bad), Aligner(engine=Margins()), most_spoilt=most
        )
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
        assert all(one.missed_interval[0] <= one.missed_rate <= one.missed_interval[1] for one in line)
    assert found.records()[0]["missed_rate"] == 1.0


def test_the_values_in_the_code_do_what_the_figures_say():
    good = rows("good", spread(-0.4, 1.5))
    bad = rows("bad", [*spread(-0.6, 3.5, 20), *spread(-0.38, 9, 20)])
    found = calibrate(good, bad, Aligner(engine=Margins()))
    made = eval(found.code.replace("...", "engine=Margins()"))  # noqa: S307
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


def test_failed_edits_are_left_out_and_counted_and_a_broken_engine_raises():
    class Failing(Margins):
        def make(self, request):
            if " 7" in request.prompt.split("| Answer:")[0][-8:] or self.broken:
                raise EngineError("boom")
            return super().make(request)

        def edit(self, requests):
            self.requests += requests
            made = []
            for one in requests:
                made.append(self.make(one))
            return made

    engine = Failing()
    engine.broken = True
    with pytest.raises(EngineError, match="boom"):
        calibrate(
            rows("good", spread(-0.3, 9)), rows("bad", spread(-1.2, 9)), Aligner(engine=engine)
        )


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
    assert ElementTree.parse(tmp_path / "curve.svg").getroot().tag.endswith("}svg")
    assert "good replies that are changed" in drawn
    assert not re.search(r"(?:href|src)=", drawn)
    for name in set(re.findall(r"var\((--\w+)\)", drawn)):
        assert f"{name}:" in drawn
    assert found.code in found._repr_html_()
    assert "20 bad and 20 good replies" in str(found)
    assert "first guess" in str(found)


@pytest.mark.torch
def test_a_real_engine_does_under_the_proposed_values_what_was_foretold(tmp_path):
    pytest.importorskip("torch")
    from tests.unit_tests.tiny import save

    folder = str(save(tmp_path / "tiny", window=512))
    options = {"family": "hh-rlhf", "max_new_tokens": 24, "guards": ()}
    texts = ["hello world", "the answer is that", "some safe ideas", "you should not do this"]
    good, bad = (
        [
            {"context": f"\n\nHuman: {word}{i} \n\nAssistant:", "answer": f"{i} {texts[i % 4]}"}
            for i in range(8)
        ]
        for word in ("hello", "sorry")
    )
    aligner = Aligner(folder, **options)
    try:
        found = calibrate(good, bad, aligner, most_spoilt=0.5, cautions=(0, 3))
        assert found.failed == 0
        proposed = eval(found.code.replace("...", "folder, **options"))  # noqa: S307
        goals = ["harmlessness", "helpfulness"]
        items = [(row["context"], row["answer"], goals) for row in (*good, *bad)]
        changed = [one.changed for one in proposed.align_batch(items)]
        # The half for the choice has as many replies, of which at most half may be spoilt.
        assert found.chosen.spoilt <= sum(changed[:8]) <= found.chosen.spoilt + 2
        missed = 8 - sum(changed[8:])
        assert found.chosen.missed <= missed <= found.chosen.missed + 4
        proposed.close()
    finally:
        aligner.close()
