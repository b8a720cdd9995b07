from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import SecretStr, ValidationError

from langchain_metaaligner import (
    Aligner,
    ChatMetaAligner,
    CheckpointError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
)
from langchain_metaaligner.options import (
    AlignerOptions,
    Effect,
    LoadOptions,
    ReplyOptions,
    cache_key,
    effect_of,
    load_key,
    load_options,
    parse_load_options,
)
from langchain_metaaligner.testing import ScriptedEngine

ROOT = Path(__file__).parents[2]


def chat_model(**options):
    return ChatMetaAligner(policy=FakeListChatModel(responses=["a"]), **options)


FACES = [Aligner, MetaAlignerRunnable, MetaAlignerMiddleware, chat_model]


@pytest.mark.parametrize("name", ReplyOptions.model_fields)
def test_an_option_has_words_and_changes_weights_text_or_neither(name):
    assert isinstance(effect_of(ReplyOptions, name), Effect)
    assert ReplyOptions.model_fields[name].description


def test_the_signatures_of_the_faces_are_made_from_the_options():
    done = subprocess.run(
        [sys.executable, "docs/signatures.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_options_left_alone_do_not_go_to_the_engine():
    assert load_options(AlignerOptions()) == {}


def test_only_what_says_which_weights_and_how_to_run_them_goes_to_the_engine():
    options = AlignerOptions(
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
    assert load_options(options) == {
        "adapter": "c",
        "dtype": "bfloat16",
        "revision": "main",
        "local_files_only": True,
        "model_kwargs": {"x": 1},
    }


@pytest.mark.parametrize(
    "given", [{"prefix_cache_bytes": 0}, {"prepack_weights": False}, {"max_queue": 3}]
)
def test_a_value_of_nought_or_false_is_an_option_too(given):
    assert load_options(AlignerOptions(**given)) == given
    assert load_key(parse_load_options(given)) != load_key(LoadOptions())


@pytest.mark.parametrize("face", FACES)
def test_weights_can_be_left_unpacked_by_every_face(face):
    face(prepack_weights=False)


def test_none_is_the_default():
    assert LoadOptions(dtype=None, device_map=None, max_queue=None) == LoadOptions()


def test_a_path_is_taken_for_its_name():
    assert AlignerOptions(model=Path("some") / "folder").model == str(Path("some") / "folder")


def test_what_stands_among_the_arguments_of_from_pretrained_goes_by_its_own_name():
    options = LoadOptions(model_kwargs={"torch_dtype": "float32", "token": "hf_secret", "x": 1})
    assert (options.dtype, options.model_kwargs) == ("float32", {"x": 1})
    assert options.token == SecretStr("hf_secret")
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        Aligner(model_kwargs={"trust_remote_code": True})


@pytest.mark.parametrize("face", FACES)
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
def test_an_unknown_option_or_one_out_of_range_is_refused(face, options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        face(**options)


@pytest.mark.parametrize("face", FACES)
def test_an_unknown_option_suggests_the_nearest_and_does_not_quote_the_value(face):
    with pytest.raises(ValidationError, match="Did you mean 'token'") as caught:
        face(tokne="hf_secret")
    assert "hf_secret" not in str(caught.value)
    assert "hf_secret" not in repr(caught.value.errors())


@pytest.mark.parametrize("token", ["hf_secret", SecretStr("hf_secret")])
@pytest.mark.parametrize("face", [Aligner, MetaAlignerRunnable, chat_model])
def test_a_token_is_in_no_repr_dump_pickle_or_key(face, token):
    mine = face(token=token)
    options = mine.options if face is Aligner else mine
    shown = [repr(mine), str(options), repr(options.model_dump()), options.model_dump_json()]
    shown += [repr(pickle.dumps(mine)), repr(cache_key(options)), repr(load_key(options))]
    assert not [one for one in shown if "hf_secret" in one]
    assert options.token.get_secret_value() == "hf_secret"


def test_a_wrong_value_is_not_quoted():
    with pytest.raises(ValidationError) as caught:
        Aligner(token=["hf_secret"])
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_above", -0.5),
        ("caution", 0.5),
        ("dtype", "float32"),
        ("quantization_config", {"bits": 4}),
        ("on_error", "pass"),
        ("allow_objectives", ["humour"]),
        ("edit_tool_text", True),
        ("when", lambda reply, context: True),
        ("engine", ScriptedEngine()),
        ("system", "first_turn"),
    ],
)
def test_what_changes_the_text_changes_the_key_of_a_cache(name, value):
    assert cache_key(ReplyOptions(**{name: value})) != cache_key(ReplyOptions())
    assert cache_key(ReplyOptions(**{name: value})) == cache_key(ReplyOptions(**{name: value}))


@pytest.mark.parametrize("name", ["timeout", "eager", "on_edit", "prefix_cache_bytes"])
def test_what_changes_no_text_does_not(name):
    value = {"eager": True, "on_edit": print}.get(name, 7)
    assert cache_key(ReplyOptions(**{name: value})) == cache_key(ReplyOptions())
