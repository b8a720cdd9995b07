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
CALLS = [
    ("MetaAlignerRunnable", "", "on_error", '"pass"'),
    ("MetaAlignerRunnable", "", "keep_above", "-0.5"),
    ("MetaAlignerMiddleware", "", "edit_tool_text", "True"),
    ("ChatMetaAligner", "policy=FakeListChatModel(responses=[]), ", "keep_original", "True"),
    ("Aligner", "", "max_new_tokens", "12"),
]


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
    words_of_it = words(MetaAlignerRunnable.model_fields[option].description)
    assert words_of_it
    return words_of_it


@pytest.mark.parametrize(("face", "before", "option", "value"), CALLS)
def test_a_hover_shows_an_option_s_words(editor, face, before, option, value):
    code = (
        "from langchain_core.language_models import FakeListChatModel\n"
        f"from langchain_metaaligner import {face}\n"
        f"made = {face}({before}{option}={value})\n"
    )
    shown = editor.hover(editor.folder / "user.py", code, f"{option}=")
    assert described(option) in words(shown)
