"""What an editor shows over the options of a call."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_metaaligner import MetaAlignerRunnable
from tests.unit_tests.typing.editor import Editor, opened

ROOT = Path(__file__).parents[3]
OPTIONS = [
    ("on_error", '"pass"'),
    ("max_new_tokens", "12"),
    ("keep_original", "True"),
    ("keep_above", "-0.5"),
    ("edit_tool_text", "True"),
]
FACES = {
    "MetaAlignerRunnable": "",
    "MetaAlignerMiddleware": "",
    "ChatMetaAligner": "policy=FakeListChatModel(responses=[]), ",
}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    folder = tmp_path_factory.mktemp("user")
    settings = {
        "python": {"pythonPath": sys.executable, "analysis": {"extraPaths": [str(ROOT)]}},
        "basedpyright.analysis": {"extraPaths": [str(ROOT)]},
    }
    server = Path(sys.executable).parent / "basedpyright-langserver"
    with opened([server, "--stdio"], folder, settings) as editor:
        editor.folder = folder
        yield editor


def words(text: str) -> str:
    """Words alone, so that it does not matter how a server breaks and escapes them."""
    return " ".join(re.findall(r"\w+", text))


def described(option: str) -> str:
    return words(MetaAlignerRunnable.model_fields[option].description)


@pytest.mark.parametrize(("option", "value"), OPTIONS)
@pytest.mark.parametrize("face", FACES)
def test_a_hover_shows_an_option_s_words(editor, face, option, value):
    code = (
        "from langchain_core.language_models import FakeListChatModel\n"
        f"from langchain_metaaligner import {face}\n"
        f"made = {face}({FACES[face]}{option}={value})\n"
    )
    shown = editor.hover(editor.folder / "user.py", code, f"{option}=")
    assert described(option) in words(shown)


def test_a_hover_shows_the_words_of_an_aligner_s_option(editor):
    code = "from langchain_metaaligner import Aligner\nmade = Aligner(keep_above=-0.5)\n"
    shown = editor.hover(editor.folder / "user.py", code, "keep_above=")
    assert described("keep_above") in words(shown)
