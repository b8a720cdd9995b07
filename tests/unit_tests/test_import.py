"""What importing and first using the package does to a process, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import langchain_metaaligner


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "langchain", "langgraph", "langchain_core", "pydantic")
    assert (
        run(
            "import sys, langchain_metaaligner;"
            f"print([one for one in {heavy!r} if one in sys.modules])"
        )
        == "[]\n"
    )


def test_what_a_prompt_is_made_of_needs_no_langchain():
    assert (
        run(
            "import sys\n"
            "from langchain_metaaligner.editing import conversation, prompts\n"
            "print('langchain_core' in sys.modules)"
        )
        == "False\n"
    )


def test_using_a_runnable_with_an_engine_of_ones_own_loads_no_torch():
    assert (
        run(
            "import sys\n"
            "from langchain_core.language_models import FakeListChatModel\n"
            "from langchain_metaaligner import Edit, MetaAlignerRunnable\n"
            "class Engine:\n"
            "    def edit(self, requests): return [Edit('edited') for _ in requests]\n"
            "chain = FakeListChatModel(responses=['r']) | MetaAlignerRunnable(engine=Engine())\n"
            "assert chain.invoke('q').content == 'edited'\n"
            "print([one for one in ('torch', 'transformers', 'langgraph') if one in sys.modules])"
        )
        == "[]\n"
    )


def test_the_first_runnable_registers_one_hook_and_nothing_before_it_does():
    assert (
        run(
            "from langchain_core.runnables import RunnableSequence\n"
            "from langchain_core.tracers import context\n"
            "init, hooks = RunnableSequence.__init__, len(context._configure_hooks)\n"
            "import langchain_metaaligner\n"
            "for name in langchain_metaaligner.__all__: getattr(langchain_metaaligner, name)\n"
            "import langchain_metaaligner.integrations.capture\n"
            "import langchain_metaaligner.integrations.reply_edit\n"
            "from langchain_metaaligner.testing import ScriptedEngine\n"
            "assert RunnableSequence.__init__ is init\n"
            "assert len(context._configure_hooks) == hooks\n"
            "for _ in 'ab': langchain_metaaligner.MetaAlignerRunnable(engine=ScriptedEngine())\n"
            "assert len(context._configure_hooks) == hooks + 1\n"
            "print('good')"
        )
        == "good\n"
    )


def test_a_running_loop_is_left_as_it_is():
    assert (
        run(
            "import asyncio\n"
            "async def main():\n"
            "    loop, policy = asyncio.get_running_loop(), type(asyncio.get_event_loop_policy())\n"
            "    kind = type(loop).__name__, type(loop).run_until_complete\n"
            "    import langchain_metaaligner as m\n"
            "    from langchain_metaaligner.testing import ScriptedEngine\n"
            "    m.MetaAlignerRunnable(engine=ScriptedEngine())\n"
            "    assert (type(loop).__name__, type(loop).run_until_complete) == kind\n"
            "    assert type(asyncio.get_event_loop_policy()) is policy\n"
            "    return 'good'\n"
            "print(asyncio.run(main()))"
        )
        == "good\n"
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Alligner'"):
        _ = langchain_metaaligner.Alligner
