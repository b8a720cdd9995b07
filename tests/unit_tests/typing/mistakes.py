"""Mistakes that users make; a type checker finds each on its own line. It is read, never run."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel

from langchain_metaaligner import (
    Aligner,
    ChatMetaAligner,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
)


def write(llm: BaseChatModel) -> None:
    MetaAlignerRunnable(["helpfulness"], on_eror="pass")  # mistake: no such option
    MetaAlignerRunnable(max_new_tokens="many")  # mistake: text for a number
    MetaAlignerRunnable(on_error="ignore")  # mistake: none of the choices
    MetaAlignerRunnable(when="never")  # mistake: text for a function
    MetaAlignerMiddleware(keep_orginal=True)  # mistake: no such option
    MetaAlignerMiddleware(timeout="soon")  # mistake: text for seconds
    ChatMetaAligner(policy=llm, temprature=0.5)  # mistake: no such option
    ChatMetaAligner(policy=llm, edit_tool_text="no")  # mistake: text for a yes or no
    Aligner("org/aligner", max_new_token=5)  # mistake: no such option
    Aligner(prefix_cache_bytes="1 GB")  # mistake: text for a number
    print((llm | MetaAlignerRunnable()).invoke("hi").contents)  # mistake: no such attribute
