"""Turns prompts into token ids and token ids into text, without adding or losing anything."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

_REMEMBERED = 64  # encodings

# Runs of spaces, a leading and a closing one, line breaks, and letters outside a vocabulary.
_SAMPLES = ("| Edit: ", " a  b   c\n\n    d\te ", "Ünï漢字 😀")
_GUARDS = ("\n", "|", ":")  # what the beginning of a text may stand behind without merging
_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class PromptTokenizer:
    """Reads prompts as plain text or as a chat template's, with a checkpoint's own tokenizer.

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
        spec["added_tokens"] = []
        spec["post_processor"] = None
        self._plain = Tokenizer.from_str(json.dumps(spec))
        self._encoding = _remembering(self._plain, self._templated)
        self._unsettled = _byte_tokens(spec)
        if self._unsettled:  # a run goes on over tokens that are left out of the text
            ids = map(tokenizer.convert_tokens_to_ids, self.control_tokens)
            self._unsettled |= frozenset(ids)
        self.start = self._find_start()
        self._check()

    def _find_start(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text."""
        whole = self._templated.encode("a", add_special_tokens=True).ids
        bare = self._templated.encode("a", add_special_tokens=False).ids
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
        ids = self._encoding(prompt, templated).ids
        return ids if templated else [*self.start, *ids]

    def tokens_before(self, prompt: str, place: int, *, templated: bool = False) -> int:
        """Count the tokens of a prompt that end before one of its characters.

        Args:
            prompt: As for `encode`.
            place: The character's offset.
            templated: As for `encode`.

        Returns:
            The number of tokens; 0 where the rest of the prompt has none.
        """
        encoding = self._encoding(prompt, templated)
        found = (encoding.char_to_token(at) for at in range(place, len(prompt)))
        first = next((at for at in found if at is not None), None)
        if first is None:
            return 0
        return int(first) if templated else len(self.start) + first

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

    def spellings(self, text: str) -> list[list[int]]:
        """Split a text into tokens as an output that is this text may have them.

        A tokenizer of LLaMA's kind has two tokens for a word, and an output may begin with either:
        the one with the space before it, or the one without.

        Args:
            text: The text of a whole output.

        Returns:
            One or two ways, which differ in how they begin.
        """
        found = [self._encoding(text, False).ids]
        for guard in _GUARDS:
            before = self._plain.encode(guard, add_special_tokens=False).ids
            whole = self._plain.encode(guard + text, add_special_tokens=False).ids
            ids = list(whole[len(before) :])
            if whole[: len(before)] == before and self.decode(ids) == text:
                return [*found, ids] if ids not in found else found
        return found

    def spans(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
        """Tell which characters each token of an output stands for.

        Args:
            text: The text.
            ids: Its tokens, in one of its `spellings`.

        Returns:
            First character and the one behind the last, for each token; those of one character
            that has several have the same. `None` where these are not the text's tokens.
        """
        for guard in ("", *_GUARDS):
            skipped = len(self._plain.encode(guard, add_special_tokens=False).ids) if guard else 0
            whole = self._plain.encode(guard + text, add_special_tokens=False)
            if list(whole.ids[skipped:]) == list(ids):
                first = len(guard)
                places = whole.offsets[skipped:]
                return [(max(0, start - first), end - first) for start, end in places]
        return None

    def settled(self, ids: Sequence[int]) -> Sequence[int]:
        """Leave out the tokens whose text may still change when more follow.

        Args:
            ids: The output's tokens so far.

        Returns:
            Those before the run of byte tokens at the end, if there is one: a tokenizer that
            falls back to bytes reads a run as a whole, and a bad byte in it spoils all of it.
        """
        end = len(ids)
        while end and ids[end - 1] in self._unsettled:
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


def _remembering(plain: Tokenizer, templated: Tokenizer) -> Callable[[str, bool], Encoding]:
    """Encodes texts, and remembers the last ones: a prompt is counted before it is edited."""

    @lru_cache(maxsize=_REMEMBERED)
    def encoding(text: str, by_template: bool) -> Encoding:
        return (templated if by_template else plain).encode(text, add_special_tokens=False)

    return encoding


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


def common_start(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Count how many items two sequences have in common from their start on.

    Args:
        one: Tokens, or a text.
        other: The same.

    Returns:
        The number.
    """
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


class OutputText:
    """The text of one edit while its tokens arrive, ended at the first stop text.

    What `push` and `finish` return joins to exactly `text`: no half characters, no part of a stop
    text.

    Args:
        tokenizer: The checkpoint's tokenizer.
        stop: Texts at which the edit ends.
        draft: A text that is the output's if it has just its tokens, even where the tokenizer
            does not give it back byte for byte.
        spellings: The tokens that it may have.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        ids: The tokens so far.
        stopped: Whether a stop text has come.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        stop: Iterable[str],
        draft: str = "",
        spellings: Sequence[Sequence[int]] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._given = ""
        self._draft = draft
        # Where the tokenizer gives the draft back, there is nothing to look after.
        self._spellings = [list(ids) for ids in spellings if ids and tokenizer.decode(ids) != draft]
        self.ids: list[int] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """All text given out so far."""
        return self._given

    def push(self, *tokens: int) -> str:
        """Take more tokens.

        Args:
            *tokens: Their ids; those behind the one that brings a stop text are left out.

        Returns:
            The text that is sure now; often empty.
        """
        self.ids.extend(tokens)
        text = self.tokenizer.decode(self.ids)
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        if ends and len(tokens) > 1:
            del self.ids[-len(tokens) :]
            pieces = ""
            for token in tokens:
                pieces += self.push(token)
                if self.stopped:
                    break
            return pieces
        if ends:
            self.stopped = True
            return self._give(text[: min(ends)])
        settled = self.tokenizer.settled(self.ids)
        if len(settled) < len(self.ids):
            text = self.tokenizer.decode(settled)
        text = text.rstrip(_REPLACEMENT)  # half a character, most likely
        sure = len(text) - self._held(text)
        if any(ids[: len(self.ids)] == self.ids for ids in self._spellings):
            sure = min(sure, common_start(text, self._draft))
        return self._give(text[:sure])

    def finish(self) -> str:
        """Give out what was held back.

        Returns:
            The rest of the text.
        """
        if self.stopped:
            return ""
        whole = self.ids in self._spellings and self._draft.startswith(self._given)
        return self._give(self._draft if whole else self.tokenizer.decode(self.ids))

    def used_tokens(self) -> int:
        """Count the tokens that the text is made of: none behind a stop text, no end token."""
        count = len(self.ids)
        if self.stopped:
            while count and self.tokenizer.decode(self.ids[: count - 1]).startswith(self._given):
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
