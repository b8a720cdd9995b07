from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from langchain_metaaligner.options import AlignerSettings


def test_options_left_alone_are_no_options_of_the_load():
    assert AlignerSettings().load_options() == {}


def test_only_what_says_which_weights_and_how_goes_to_the_load():
    settings = AlignerSettings(
        model="a/b",
        adapter=Path("c"),
        dtype="bfloat16",
        revision="main",
        local_files_only=True,
        max_new_tokens=5,
        timeout=1.0,
        system="first_turn",
        model_kwargs={"x": 1},
    )
    assert settings.load_options() == {
        "adapter": "c",
        "dtype": "bfloat16",
        "revision": "main",
        "local_files_only": True,
        "model_kwargs": {"x": 1},
    }


def test_an_option_of_nought_is_an_option_too():
    settings = AlignerSettings(prefix_cache_bytes=0, max_queue=3, keep_above=-0.5)
    assert settings.load_options() == {"prefix_cache_bytes": 0, "max_queue": 3}


def test_a_path_is_taken_for_its_name():
    assert AlignerSettings(model=Path("some") / "folder").model == str(Path("some") / "folder")


@pytest.mark.parametrize(
    "options",
    [
        {"modle": "x"},
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"timeout": 0},
        {"system": "last_turn"},
        {"model": 5},
    ],
)
def test_an_unknown_option_or_one_out_of_range_is_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        AlignerSettings(**options)


def test_a_token_is_not_shown():
    assert "secret" not in repr(AlignerSettings(token="secret"))
