"""What every command does alike: its help, its errors and how it ends."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from langchain_metaaligner.cli import main
from langchain_metaaligner.cli.aligner_flags import aligner_flags, make_aligner
from langchain_metaaligner.cli.app import COMMANDS
from langchain_metaaligner.cli.running import as_flags
from langchain_metaaligner.options import AlignerOptions
from tests.unit_tests.cli.engines import ENGINE
from tests.unit_tests.cli.pages import help_of

EDIT = ("align", "--engine", ENGINE, "-q", "?", "-a")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_lists_every_command_in_full(metaaligner, arguments):
    done = metaaligner(*arguments)
    assert done.code == 0
    told = " ".join(done.out.split())
    for name, words in COMMANDS.items():
        assert f"{name} {words}" in told


def test_help_and_version_load_nothing_that_takes_time():
    heavy = ("torch", "transformers", "langchain_core", "pydantic", "rich", "huggingface_hub")
    code = (
        "import sys\nfrom langchain_metaaligner.cli import main\nmain(['--help'])\n"
        f"main(['--version'])\nprint([one for one in {heavy} if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2].startswith("metaaligner ")
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_of_a_command_loads_no_torch():
    code = (
        "import sys\nfrom langchain_metaaligner.cli import main\n"
        f"for name in {list(COMMANDS)!r}: assert main([name, '--help']) == 0, name\n"
        "print([one for one in ('torch', 'transformers') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_words_of_its_table_and_examples_that_it_takes(name):
    app = typer.main.get_command(import_module(f"langchain_metaaligner.cli.{name}").APP)
    assert app.help.split("\n\n")[0].strip()
    examples = [line for line in app.epilog.splitlines() if line]
    assert examples
    for line in examples:
        words = shlex.split(line.rpartition("| ")[2])
        words = words[: next((i for i, one in enumerate(words) if one in "<>"), len(words))]
        assert words[:2] == ["metaaligner", name]
        app.make_context(name, words[2:])


def test_every_option_of_an_aligner_is_a_flag_but_secrets_and_those_of_streams():
    told = " ".join(help_of("align").split())
    flags = {one.name for one in aligner_flags()}
    assert AlignerOptions.model_fields.keys() - flags == {
        *("token", "api_key"),
        *("eager", "token_agreement"),
    }
    for name in flags:
        assert f"--{name.replace('_', '-')}" in told
    assert "[default: 1024]" in told
    assert "`" not in told
    assert "None" not in told


def test_a_narrow_terminal_gets_narrow_help(metaaligner, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for command in ((), ("align",), ("train",)):
        out = metaaligner(*command, "--help").out
        lines = out.partition("Examples:")[0].splitlines()
        assert max(len(line) for line in lines if not line.startswith("  -")) < 40


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"device_map": '{"": "cpu"}'}, {"device_map": {"": "cpu"}}),
        ({"device_map": "cpu"}, {"device_map": "cpu"}),
        ({"model_kwargs": '{"variant": "fp16"}'}, {"model_kwargs": {"variant": "fp16"}}),
        ({"torch_compile": "true"}, {"torch_compile": True}),
        ({"guards": ["none"]}, {"guards": ()}),
        ({"guards": ["urls", "json"]}, {"guards": ("urls", "json")}),
        ({"dtype": "123"}, {"dtype": "123"}),
    ],
)
def test_values_are_read_as_python_would_be_given_them(given, taken):
    options = make_aligner({**given, "model": "embedded"}).options
    assert {name: getattr(options, name) for name in taken} == taken


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["aling"], "Did you mean 'align'"),
        (["align", "--modle", "x"], "--model"),
        (["align", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["align", "--caution", "-1", "-q", "a", "-a", "b"], "--caution"),
        (["align", "--engine", "no.such:engine", "-q", "a", "-a", "b"], "module:object"),
        (["align", "--caution", "1", "--temperature", "1", "-q", "a", "-a", "b"], "greedy"),
        (["models", "ggfu"], "gguf"),
        (["bulk", "a.jsonl"], "OUT"),
        (["bulk", "a.jsonl", "b.jsonl", "--columns", "answer"], "--columns"),
        (["evaluate", "a.jsonl", "--judge", "m:f", "--fail-under", "much"], "--fail-under"),
        (["train", "f", "--base", "b", "--out", "o", "--trainer-options", "[]"], "an object"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_leads_to_the_help(metaaligner, arguments, told):
    done = metaaligner(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")
    assert told in done.err
    assert "--help" in done.err


def test_an_error_of_this_package_is_one_line_in_the_words_of_the_command_line(metaaligner):
    done = metaaligner(*EDIT, "fail")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: The engine failed, so give --dtype float32.\n"


def test_an_unknown_objective_is_told_before_anything_is_loaded(metaaligner):
    done = metaaligner(*EDIT, "stupid", "-o", "harmlesness")
    assert done.code == 1
    assert "Did you mean 'harmlessness'" in done.err
    assert done.err.count("\n") == 1


def raises(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.fixture
def failing(monkeypatch):
    """Lets a command fail with an error."""

    def fail(error: BaseException) -> None:
        monkeypatch.setattr("langchain_metaaligner.cli.align.make_aligner", raises(error))

    return fail


def test_an_unexpected_error_is_one_line_and_debug_shows_where(metaaligner, failing):
    failing(ZeroDivisionError("by nothing"))
    done = metaaligner(*EDIT, "x")
    assert done.code == 1
    assert done.err == (
        "error: ZeroDivisionError: by nothing. Repeat the command with --debug to see where.\n"
    )
    done = metaaligner(*EDIT, "x", "--debug")
    assert "Traceback" in done.err
    assert "raise error\n" in done.err
    assert "Traceback" not in metaaligner(*EDIT, "x").err
    assert logging.getLogger("langchain_metaaligner").level == logging.NOTSET


def test_a_missing_package_is_told_with_the_extra_that_brings_it(metaaligner, failing, monkeypatch):
    monkeypatch.setattr(
        "langchain_metaaligner.cli.extras.requires",
        lambda _: ['pyarrow>=21; extra == "all"', 'pyarrow>=21; extra == "bulk"'],
    )
    failing(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"))
    done = metaaligner(*EDIT, "x")
    assert done.code == 1
    assert 'pip install "langchain-metaaligner[bulk]"' in done.err
    assert done.err.count("\n") == 1


def test_an_error_of_the_system_names_the_file(metaaligner, failing):
    failing(PermissionError(13, "Permission denied", "/there"))
    done = metaaligner(*EDIT, "x")
    assert (done.code, done.err) == (1, "error: /there: Permission denied.\n")


def test_ctrl_c_is_one_line(metaaligner):
    done = metaaligner(*EDIT, "interrupt")
    assert (done.code, done.out) == (130, "")
    assert done.err.strip() == "interrupted"


def test_a_closed_pipe_is_silent(metaaligner, failing):
    failing(BrokenPipeError(32, "Broken pipe"))
    done = metaaligner(*EDIT, "x")
    assert (done.code, done.out, done.err) == (141, "", "")


def test_without_its_extra_the_command_line_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["align"]) == 1
    err = capsys.readouterr().err
    assert 'pip install "langchain-metaaligner[cli]"' in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Give family=, one of 'a', 'b'.", "Give --family, one of 'a', 'b'."),
        ("with model=... or", "with --model or"),
        ("dtype='bfloat16', or", "--dtype bfloat16, or"),
        ("needs caution=0.", "needs --caution 0."),
        ("start over with resume=False.", "start over with --no-resume."),
        ("local_files_only=True was", "--local-files-only was"),
        ("Choose one with served_model=: a", "Choose one with --served-model: a"),
        ("columns={'answer': 'x', 'question': 'y'}", "--columns answer=x --columns question=y"),
        ("http://host/v1?model=x&my_model=y", "http://host/v1?model=x&my_model=y"),
        ("x == 3, keep_above_all=3", "x == 3, keep_above_all=3"),
    ],
)
def test_options_in_messages_are_written_as_flags(python, shell):
    assert as_flags(python) == shell
