"""Turns prompts into token ids and token ids into text, without adding or losing anything."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_metaaligner.errors import CheckpointError, EngineError

logger = logging.getLogger(__name__)

# Runs of spaces, a leading and a closing one, line breaks, and letters outside a vocabulary.
_SAMPLES = ("| Edit: ", " a  b   c\n\n    d\te ", "Ünï漢字 😀")
_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class TextCodec:
    """The rules that a checkpoint's tokenizer is used by.

    It works on copies of the tokenizer's backend, so the tokenizer itself, which belongs to
    whoever holds it, is never switched or padded, and any number of threads may use it at once.

    Args:
        tokenizer: A fast tokenizer of transformers.
        name: The checkpoint, for messages.

    Attributes:
        tokenizer: The same tokenizer.
        control_tokens: Strings that stand for a control token when a template writes them.
        start: The ids that go before a plain prompt: the beginning-of-text token, or nothing.

    Raises:
        CheckpointError: The tokenizer can't tell text from control tokens, or is no fast one.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            message = (
                f"The tokenizer of {name} is a {type(tokenizer).__name__}; expected a fast one,"
                " from a tokenizer.json. Save it once with a fast tokenizer and put the"
                " tokenizer.json into the checkpoint's folder."
            )
            raise CheckpointError(message)
        self.tokenizer = tokenizer
        self._name = name
        spec = json.loads(backend.to_str())
        spec["truncation"] = spec["padding"] = None
        self._templated = Tokenizer.from_str(json.dumps(spec))
        self.control_tokens = _control_tokens(tokenizer, spec)
        # Without them in its table, nothing in a text can become one of them. Telling the
        # tokenizer to split special tokens would leave out the added ones that aren't "special".
        spec["added_tokens"] = [
            token for token in spec["added_tokens"] if token["content"] not in self.control_tokens
        ]
        spec["post_processor"] = None
        self._plain = Tokenizer.from_str(json.dumps(spec))
        self._bytes = _byte_tokens(spec)
        self.start = self._find_start(backend)
        self._check()

    def _find_start(self, backend: Any) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text."""
        whole = backend.encode("a", add_special_tokens=True).ids
        bare = backend.encode("a", add_special_tokens=False).ids
        for cut in range(len(whole) - len(bare) + 1):
            if whole[cut : cut + len(bare)] == bare:
                return tuple(whole[:cut])
        return ()

    def _check(self) -> None:
        """A short self-test: what goes in must come out, and no text may turn into control."""
        to_id = self.tokenizer.convert_tokens_to_ids
        control = {to_id(token): token for token in self.control_tokens}
        control.pop(self.tokenizer.unk_token_id, None)
        for token in control.values():
            read = self._plain.encode(token, add_special_tokens=False).ids
            if not control.keys().isdisjoint(read):
                message = (
                    f"The tokenizer of {self._name} reads {token!r} in plain text as a control"
                    " token, so an answer could forge the prompt. Use a checkpoint with a BPE"
                    " tokenizer (tokenizer.json)."
                )
                raise CheckpointError(message)
        for sample in _SAMPLES:
            back = self.decode(self.encode(sample))
            if back != sample:
                logger.warning(
                    "The tokenizer of %s does not give text back as it was: %r became %r. Edits"
                    " will differ in such places; a tokenizer.json made for the checkpoint helps.",
                    self._name,
                    sample,
                    back,
                )
                return

    def encode(self, prompt: str, *, templated: bool = False) -> list[int]:
        """Split a prompt into tokens.

        Args:
            prompt: Plain text, in which nothing counts as a control token and before which the
                beginning-of-text token goes once where the tokenizer has it so; or what the
                chat template wrote.
            templated: Whether the chat template wrote it.

        Returns:
            The ids.
        """
        if templated:
            return list(self._templated.encode(prompt, add_special_tokens=False).ids)
        return [*self.start, *self._plain.encode(prompt, add_special_tokens=False).ids]

    def count(self, text: str) -> int:
        """Count the tokens that a text takes as a plain prompt, the beginning of text included."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Turn an output into text: no control tokens, no trimming, no word-start space.

        Args:
            ids: The output's tokens, without the prompt's.

        Returns:
            The text, exactly as the tokenizer has it.
        """
        return str(self._templated.decode(list(ids), skip_special_tokens=True))

    def settled(self, ids: Sequence[int]) -> Sequence[int]:
        """Leave out the tokens whose text may still change when more follow.

        Args:
            ids: The output's tokens so far.

        Returns:
            Those before the run of byte tokens at the end, if there is one: a tokenizer that
            falls back to bytes reads a run as a whole, and a bad byte in it spoils all of it.
        """
        end = len(ids)
        while end and ids[end - 1] in self._bytes:
            end -= 1
        return ids[:end]

    def end_ids(self, *more: Any) -> frozenset[int]:
        """Collect the tokens that end an edit.

        Args:
            *more: What configurations say: an id, a list of ids or `None`.

        Returns:
            Those and the tokenizer's own end token.
        """
        found: set[int] = set()
        for said in (self.tokenizer.eos_token_id, *more):
            found.update([said] if isinstance(said, int) else said or ())
        return frozenset(found)

    def pad_id(self, ends: frozenset[int]) -> int:
        """Choose the token that fills up short rows; it is masked, so any will do.

        Args:
            ends: The tokens that end an edit.

        Returns:
            The tokenizer's own one, else the unknown token as the authors have it, else an end.
        """
        tokenizer = self.tokenizer
        for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(ends)):
            if token is not None:
                return int(token)
        return 0

    def chat(self, messages: Sequence[Any]) -> str:
        """Write messages as the checkpoint's chat template does.

        Args:
            messages: Dicts with `role` and `content`.

        Returns:
            The prompt, with the assistant's turn opened.

        Raises:
            EngineError: There is no template, or it does not take these messages.
        """
        if not self.tokenizer.chat_template:
            message = (
                f"{self._name} has no chat template, which the family 'instruct' needs."
                " Name its own family, or use an instruction-tuned checkpoint."
            )
            raise EngineError(message)
        try:
            written = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise what it likes
            message = f"The chat template of {self._name} does not take these messages: {error}"
            raise EngineError(message) from error
        return str(written)


def _control_tokens(tokenizer: Any, spec: dict[str, Any]) -> tuple[str, ...]:
    """Special and added tokens, but for the runs of white space that some vocabularies add."""
    found = dict.fromkeys(tokenizer.all_special_tokens)
    found.update(dict.fromkeys(token["content"] for token in spec["added_tokens"]))
    return tuple(token for token in found if token and token.strip())


def _byte_tokens(spec: dict[str, Any]) -> frozenset[int]:
    """Ids of the tokens that stand for one byte, where the decoder reads them so."""
    if "ByteFallback" not in json.dumps(spec["decoder"]):
        return frozenset()
    vocabulary = spec["model"].get("vocab", {})
    names = vocabulary if isinstance(vocabulary, dict) else [name for name, _ in vocabulary]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return frozenset(
        index for name, index in zip(names, ids, strict=True) if _BYTE_TOKEN.fullmatch(name)
    )


class OutputText:
    """The text of one edit while its tokens arrive, ended at the first stop text.

    What `push` and `finish` return joins to exactly `text`: no half characters, no part of a stop
    text.

    Args:
        codec: The checkpoint's codec.
        stop: Texts at which the edit ends.

    Attributes:
        ids: The tokens so far.
        stopped: Whether a stop text has come.
    """

    def __init__(self, codec: TextCodec, stop: Iterable[str]) -> None:
        self._codec = codec
        self._stop = [text for text in stop if text]
        self._given = ""
        self.ids: list[int] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """All text given out so far."""
        return self._given

    def push(self, token: int) -> str:
        """Take one more token.

        Args:
            token: Its id.

        Returns:
            The text that is sure now; often empty.
        """
        self.ids.append(token)
        text = self._codec.decode(self.ids)
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        if ends:
            self.stopped = True
            return self._give(text[: min(ends)])
        settled = self._codec.settled(self.ids)
        if len(settled) < len(self.ids):
            text = self._codec.decode(settled)
        text = text.rstrip(_REPLACEMENT)  # half a character, most likely
        return self._give(text[: len(text) - self._held(text)])

    def finish(self) -> str:
        """Give out what was held back.

        Returns:
            The rest of the text.
        """
        return "" if self.stopped else self._give(self._codec.decode(self.ids))

    def used_tokens(self) -> int:
        """Count the tokens that the text is made of: none behind a stop text, no end token."""
        count = len(self.ids)
        if self.stopped:
            while count and self._codec.decode(self.ids[: count - 1]).startswith(self._given):
                count -= 1
        return count

    def _held(self, text: str) -> int:
        """Length of the longest ending of `text` that may become a stop text."""
        return max(
            (
                length
                for stop in self._stop
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        self._given += piece
        return piece
