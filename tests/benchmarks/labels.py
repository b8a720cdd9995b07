"""What is measured, and against what, by the names under which it is kept."""

from __future__ import annotations

FORMATS = ("bfloat16", "float32")
SYSTEM = "the system's"
"""What stands for the allocator that the system brings."""

AUTHORS = "the authors' procedure"
NO_CACHE, LOOKUP, LLAMA = "use_cache=False", "prompt lookup", "llama.cpp"
BATCH = "one batch"
DEFAULT = "default settings"

# Free edits.
UNCHANGED, REWRITTEN, PARTLY = "unchanged", "rewritten", "changed in part"
TOGETHER, THREADS = "16 at once", "16 callers in threads"
MOST = 192
"""Tokens of an edit: one that goes on for ever would be measured for minutes."""

# Options.
AGAIN = "the same once more"
WAIT = "eager=False, wait after the policy's last token"
TOKENS = "token_agreement=True"
PLAIN, FORGETFUL = "prepack_weights=False", "prefix_cache_bytes=0"
OPTIONS = (AGAIN, TOKENS, PLAIN, FORGETFUL, WAIT)

# Real edits, forced.
REAL_EDIT = "real edit"
REAL = "real edits"
LARGE = "real edits on a model of 1.1B's shape"
PLAYED = "played drafts"

# Made-up edits, forced.
MIXED = "16 mixed at once"
HALF = "16 at once, half of them unchanged"
MIXED_THREADS = "16 mixed, from 16 threads"
TOGETHER_FORCED = "16 callers in threads against one batch"
TURNS = "unchanged, head and earlier turns kept"
CHAT = "prefill over a chat of six turns"
DELAY = "delay after the policy's last token"

# Without a model.
INVOKE = "an aligner behind a model, invoke"
CHUNKS = 88
STREAM = f"an aligner behind a model, stream of {CHUNKS} chunks"
CAPTURE = "the capture, in a chain without an aligner"
CHAIN = "a chain of two steps without an aligner, invoke"
BELOW_ZERO = {
    INVOKE: "it is less than the noise of this measurement",
    STREAM: "the model's chunks end at the aligner, and fewer go on to the caller",
    CAPTURE: "it is less than the noise of this measurement",
}
"""Why a cost may be negative, where it is."""
