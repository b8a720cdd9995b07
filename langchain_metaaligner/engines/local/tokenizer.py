"""Converts prompts to token ids and token ids to text, without adding or losing anything."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.engines import thoughts
from langchain_metaaligner.engines.local.readings import readings_of
from langchain_metaaligner.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

_REMEMBERED = 64  # encodings
_LONG = 1 << 14  # characters or tokens; the work on more must let other threads go on
_REMEMBERED_LONG = 2
_LIVE = 64  # tokens of an output that are decoded with each new one
_UNSETTLED = 16  # tokens at its end that stay so, as the next ones may change their text

# Repeated, leading and trailing spaces, line breaks, and characters outside most vocabularies.
_SAMPLES = ("| Edit: ", " a  b   c\n\n    d\te ", "Ünï漢字 😀")
_GUARDS = ("\n", "|", ":")  # texts that may precede another text without merging with it
_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SAMPLE = "metaaligner"
_LONGEST_MARK = 64  # characters; what a template writes in a longer line is prose
# The names that templates have for it; each ignores those of others.
_NO_THOUGHTS: dict[str, Any] = {"enable_thinking": False, "thinking": False, "reasoning": False}
_TAG = re.compile(r"<[|/]?[^<>\s]{1,64}>|\[/?[A-Z_]{1,64}\]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class PromptTokenizer:
    """Tokenises plain prompts and those of a chat template, with a checkpoint's own tokenizer.

    It works on copies of the tokenizer's backend. So the settings of the tokenizer itself, which
    users may share, never change, and any number of threads may use this class at once.

    Args:
        tokenizer: A fast tokenizer of transformers.
        name: The checkpoint, for messages.

    Attributes:
        tokenizer: The tokenizer of transformers.
        control_tokens: Strings that are read as control tokens in templated prompts.
        readings: What it reads each character as.
        start: Ids that precede a plain prompt: the beginning-of-text token, or nothing.

    Raises:
        CheckpointError: The tokenizer can't tell text from control tokens, or is not a fast one.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            message = (
                f"The tokenizer of {name} is a {type(tokenizer).__name__}; expected a fast"
                " tokenizer, which is read from a tokenizer.json. Convert it to a fast tokenizer"
                " once, and save its tokenizer.json in the checkpoint's folder."
            )
            raise CheckpointError(message)
        self.tokenizer = tokenizer
        self._name = name
        spec = json.loads(backend.to_str())
        spec["truncation"] = spec["padding"] = None
        for token in spec["added_tokens"]:  # a thought without its marks would look like an answer
            token["special"] = token["special"] and not thoughts.is_mark(token["content"])
        self._templated = Tokenizer.from_str(json.dumps(spec))
        control = _control_tokens(tokenizer, spec)
        # Without added tokens, no text can be read as one of them. The option to split special
        # tokens would not do: it spares added tokens that are not marked as special.
        spec["added_tokens"] = []
        spec["post_processor"] = None
        if spec["model"]["type"] == "Unigram":  # it finds any piece of its vocabulary in a text
            for piece in spec["model"]["vocab"]:
                piece[0] = f"\uffff{piece[0]}\uffff" if piece[0] in control else piece[0]
        self._plain = Tokenizer.from_str(json.dumps(spec))
        self.readings = readings_of(self._plain, spec)
        self._encoding = _remembering(_REMEMBERED, self._plain, self._templated)
        self._encoding_of_long = _remembering(_REMEMBERED_LONG, self._plain, self._templated)
        self._unsettled = _byte_tokens(spec)
        self.control_tokens = (*control, *self._spelt_bytes())
        if self._unsettled:  # tokens that are skipped in the text don't end a run of bytes
            self._unsettled |= frozenset(map(tokenizer.convert_tokens_to_ids, control))
        self.start = self._find_start()
        self._check(control)

    def _find_start(self) -> tuple[int, ...]:
        """Find the ids that the tokenizer itself puts before a text."""
        whole = self._templated.encode("a", add_special_tokens=True).ids
        bare = self._templated.encode("a", add_special_tokens=False).ids
        for cut in range(len(whole) - len(bare) + 1):
            if whole[cut : cut + len(bare)] == bare:
                return tuple(whole[:cut])
        return ()

    def _spelt_bytes(self) -> list[str]:
        """Find the names of byte tokens that are read as these tokens in a text."""
        names = (self._plain.id_to_token(index) for index in sorted(self._unsettled))
        return [name for name in names if name in self._plain.encode(name).tokens]

    def _check(self, control_tokens: Iterable[str]) -> None:
        """Test that text survives encoding and decoding, and never becomes a control token."""
        to_id = self.tokenizer.convert_tokens_to_ids
        control = {to_id(token): token for token in control_tokens}
        control.pop(self.tokenizer.unk_token_id, None)
        for token in control.values():
            read = self._plain.encode(token, add_special_tokens=False).ids
            if not control.keys().isdisjoint(read):
                message = (
                    f"The tokenizer of {self._name} reads {token!r} in plain text as a control"
                    " token, so an answer could forge parts of the prompt. Use a checkpoint with a"
                    " BPE tokenizer (tokenizer.json)."
                )
                raise CheckpointError(message)
        for sample in _SAMPLES:
            back = self.decode(self.encode(sample))
            if back != sample:
                logger.warning(
                    "The tokenizer of %s does not give text back unchanged: %r became %r. Edits"
                    " will differ from the answer in such places. Use the tokenizer.json that was"
                    " made for the checkpoint.",
                    self._name,
                    sample,
                    back,
                )
                return

    def encode(self, prompt: str, *, templated: bool = False) -> list[int]:
        """Split a prompt into tokens.

        Args:
            prompt: The prompt. In plain text nothing is read as a control token, and one
                beginning-of-text token is added if the tokenizer uses one.
            templated: Whether the chat template wrote the prompt.

        Returns:
            The token ids.
        """
        ids = self._split(prompt, templated).ids
        return ids if templated else [*self.start, *ids]

    def tokens_before(self, prompt: str, place: int, *, templated: bool = False) -> int:
        """Count the tokens of a prompt that end before one of its characters.

        Args:
            prompt: As for `encode`.
            place: The character's offset.
            templated: As for `encode`.

        Returns:
            The number of tokens; 0 if the rest of the prompt has no tokens.
        """
        encoding = self._split(prompt, templated)
        first = encoding.char_to_token(place)
        if first is None:  # the character has no token
            ends = (end for _, end in encoding.offsets)
            first = next((at for at, end in enumerate(ends) if end > place), None)
        if first is None:
            return 0
        return int(first) if templated else len(self.start) + first

    def _split(self, text: str, by_template: bool) -> Encoding:
        encoding = self._encoding if len(text) <= _LONG else self._encoding_of_long
        return encoding(text, by_template)

    def count(self, text: str) -> int:
        """Count the tokens that a text has as a plain prompt, including a beginning-of-text token.

        Args:
            text: Any text.

        Returns:
            The number of tokens.
        """
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Convert an output to text, without control tokens and without trimming.

        Args:
            ids: The output's tokens, without the prompt's.

        Returns:
            The text, exactly as the tokenizer decodes it.
        """
        given = list(ids)
        if len(given) <= _LONG:
            return str(self._templated.decode(given, skip_special_tokens=True))
        return str(self._templated.decode_batch([given], skip_special_tokens=True)[0])

    def spellings(self, text: str) -> list[list[int]]:
        """Find the token sequences that an output with this text may have.

        Tokenizers like LLaMA's have two tokens for a word, with and without a space before it, and
        an output may begin with either.

        Args:
            text: The text of a whole output.

        Returns:
            One or two lists of token ids, which differ in how they begin.
        """
        found = [self._split(text, False).ids]
        for guard in _GUARDS:
            before = _encode(self._plain, guard).ids
            whole = _encode(self._plain, guard + text).ids
            ids = list(whole[len(before) :])
            if whole[: len(before)] == before and self.decode(ids) == text:
                return [*found, ids] if ids not in found else found
        return found

    def spans(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
        """Find the characters that each token of an output represents.

        Args:
            text: The text.
            ids: Its tokens, in one of its `spellings`.

        Returns:
            The offsets of the first character and after the last one, for each token; tokens that
            are parts of the same character have the same offsets. `None` if these are not the
            text's tokens.
        """
        for guard in ("", *_GUARDS):
            skipped = len(_encode(self._plain, guard).ids) if guard else 0
            whole = _encode(self._plain, guard + text)
            if list(whole.ids[skipped:]) == list(ids):
                first = len(guard)
                places = whole.offsets[skipped:]
                return [(max(0, start - first), end - first) for start, end in places]
        return None

    def settled(self, ids: Sequence[int]) -> Sequence[int]:
        """Leave out the last tokens if their text may still change when more tokens follow.

        Args:
            ids: The output's tokens so far.

        Returns:
            The tokens without a run of byte tokens at the end. A tokenizer with byte fallback
            decodes such a run as a whole, and a single invalid byte changes all of its text.
        """
        end = len(ids)
        while end and ids[end - 1] in self._unsettled:
            end -= 1
        return ids[:end]

    def end_ids(self, *more: Any) -> frozenset[int]:
        """Collect the tokens that end an edit.

        Args:
            *more: End tokens from configurations: an id, a list of ids or `None`.

        Returns:
            These, the tokenizer's own end token, and the one that ends an answer in the chat
            template.
        """
        found = set(self._turn.end_ids)
        for said in (self.tokenizer.eos_token_id, *more):
            found.update([said] if isinstance(said, int) else said or ())
        return frozenset(found)

    def chat(self, messages: Sequence[Any]) -> str:
        """Format messages with the checkpoint's chat template.

        Args:
            messages: Dicts with `role` and `content`.

        Returns:
            The prompt, up to the start of the assistant's turn.

        Raises:
            EngineError: There is no template, or it rejects these messages.
        """
        if not self.tokenizer.chat_template:
            message = (
                f"{self._name} has no chat template, which the prompt family 'instruct' needs."
                " Name the checkpoint's own family with family=..., or use an instruction-tuned"
                " checkpoint."
            )
            raise EngineError(message)
        try:
            written = self._written(messages, asks=True)
        except Exception as error:  # a template may raise anything
            message = f"The chat template of {self._name} rejects these messages: {error}"
            raise EngineError(message) from error
        return thoughts.closed(written + self._turn.opening)

    def _written(self, messages: Sequence[Any], *, asks: bool) -> str:
        """Format messages with the chat template, asked not to let the model think."""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=asks, **_NO_THOUGHTS
            )
        )

    @cached_property
    def _turn(self) -> _Turn:
        """How the chat template writes an answer, found by a sample."""
        if not self.tokenizer.chat_template:
            return _Turn()
        question = {"role": "user", "content": "?"}
        answered = [question, {"role": "assistant", "content": _SAMPLE}]
        opening = after = ""
        try:
            asked = self._written([question], asks=True)
            before, found, after = self._written(answered, asks=False).partition(_SAMPLE)
            rest = before.removeprefix(asked) if found and before.startswith(asked) else ""
            # Such as the channel of the answer; mere white space may as well be the model's.
            opening = rest if any(token in rest for token in self.control_tokens) else ""
            after = self._written([*answered, question], asks=False).partition(_SAMPLE)[2]
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            logger.info("The chat template of %s rejects a sample: %s", self._name, error)
        ending = after.lstrip()
        ends = [token for token in self.control_tokens if ending.startswith(token)]
        if ends:
            end = self.tokenizer.convert_tokens_to_ids(max(ends, key=len))
            return _Turn(opening, frozenset([end]))
        tag = _TAG.match(ending)
        return _Turn(opening, end_texts=(tag[0],) if tag else ())

    @cached_property
    def template_marks(self) -> tuple[str, ...]:
        """What the chat template writes between messages in plain text, such as `### Response:`.

        A text that holds it could forge a turn of a templated prompt.
        """
        if not self.tokenizer.chat_template:
            return ()
        messages = [
            {"role": role, "content": f"{_SAMPLE}{at}"}
            for at, role in enumerate(("user", "assistant", "user"))
        ]
        try:
            between = re.split(f"{_SAMPLE}[012]", self._written(messages, asks=True))[1:]
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            logger.info("The chat template of %s rejects a sample: %s", self._name, error)
            return ()
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        plain = re.split("|".join([*map(re.escape, tokens), "\n"]), "\n".join(between))
        return tuple(
            one for one in dict.fromkeys(map(str.strip, plain)) if _is_mark_of_template(one)
        )

    @property
    def end_texts(self) -> tuple[str, ...]:
        """Texts that end an answer in the chat template, where no token does."""
        return self._turn.end_texts

    def check_template(self, rows: int) -> None:
        """Refuse a chat template with tokens that the model does not have.

        Args:
            rows: The number of tokens that it has.

        Raises:
            CheckpointError: The template writes others.
        """
        try:
            ids = self.encode(self.chat([{"role": "user", "content": "?"}]), templated=True)
        except EngineError:  # no template, or one that is not used like that
            return
        beyond = sorted({index for index in ids if index >= rows})
        if beyond:
            message = (
                f"The chat template of {self._name} uses the token"
                f" {self.tokenizer.convert_ids_to_tokens(beyond[0])!r} with the id {beyond[0]}, but"
                f" the model has only {rows} tokens. Use the tokenizer that was saved with these"
                " weights, or weights whose embeddings were resized to it."
            )
            raise CheckpointError(message)


def _is_mark_of_template(text: str) -> bool:
    """Whether what a template writes is structure: more than a mere word, or mere punctuation.

    Between control tokens, a word is a role; and a text may hold any of them.
    """
    return (
        len(text) <= _LONGEST_MARK
        and re.search(r"[^\W_]", text) is not None
        and re.search(r"[^\w\s]", text) is not None
    )


@dataclass(frozen=True, slots=True)
class _Turn:
    """How a chat template writes an answer.

    Attributes:
        opening: What it writes between the start of the assistant's turn and the answer.
        end_ids: The token that follows the answer.
        end_texts: The text that follows it, if that is no token.
    """

    opening: str = ""
    end_ids: frozenset[int] = frozenset()
    end_texts: tuple[str, ...] = ()


def _remembering(
    most: int, plain: Tokenizer, templated: Tokenizer
) -> Callable[[str, bool], Encoding]:
    """Make a function that encodes texts and caches them: a prompt is counted, then edited."""

    @lru_cache(maxsize=most)
    def encoding(text: str, by_template: bool) -> Encoding:
        return _encode(templated if by_template else plain, text)

    return encoding


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """Split a text into tokens; half a surrogate pair counts as an unknown character."""
    try:
        if len(text) <= _LONG:
            return tokenizer.encode(text, add_special_tokens=False)
        return tokenizer.encode_batch([text], add_special_tokens=False)[0]
    except TypeError:
        return _encode(tokenizer, _LONE_SURROGATE.sub(_REPLACEMENT, text))


def _control_tokens(tokenizer: Any, spec: dict[str, Any]) -> tuple[str, ...]:
    """Collect special and added tokens, except the white space that some vocabularies add."""
    found = dict.fromkeys(tokenizer.all_special_tokens)
    found.update(dict.fromkeys(token["content"] for token in spec["added_tokens"]))
    return tuple(token for token in found if token and token.strip())


def _byte_tokens(spec: dict[str, Any]) -> frozenset[int]:
    """Collect the ids of tokens that represent one byte, if the decoder has byte fallback."""
    if "ByteFallback" not in json.dumps(spec["decoder"]):
        return frozenset()
    vocabulary = spec["model"].get("vocab", {})
    names = vocabulary if isinstance(vocabulary, dict) else [name for name, _ in vocabulary]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return frozenset(
        index for name, index in zip(names, ids, strict=True) if _BYTE_TOKEN.fullmatch(name)
    )


def common_start(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Count the items that two sequences have in common at their beginning.

    Args:
        one: Tokens, or a text.
        other: Tokens, or a text, like `one`.

    Returns:
        The number of items.
    """
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


class OutputText:
    """The text of one edit as its tokens arrive, up to the first stop text.

    The pieces that `push` and `finish` return, joined, are exactly `text`. They never contain half
    a character or a part of a stop text.

    Args:
        tokenizer: The checkpoint's tokenizer.
        stop: Texts that end the edit.
        draft: The output's text if it has exactly this text's tokens, even if the tokenizer would
            decode them differently.
        spellings: The token sequences that the draft may have.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        ids: The tokens so far.
        stopped: Whether a stop text was found.
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
        self._given: list[str] = []
        self._end = 0  # characters that were given
        self._draft = draft
        # Spellings that decode to the draft itself need no special treatment.
        self._spellings = [list(ids) for ids in spellings if ids and tokenizer.decode(ids) != draft]
        self._followed = self._spellings
        self.ids: list[int] = []
        self.stopped = False
        # Decoding all tokens for each new one would take ever longer. The text of those before
        # `_start` was given and can't change, so only the others are decoded.
        self._start = 0
        self._before = 0  # characters of the text before these
        self._anchor = 0  # characters of the last token before them, which is decoded with them
        self._try_at = _LIVE

    @property
    def text(self) -> str:
        """All text that was returned so far."""
        self._given = ["".join(self._given)]
        return self._given[0]

    def push(self, *tokens: int) -> str:
        """Append tokens.

        Args:
            *tokens: Their ids; tokens after the one that completes a stop text are ignored.

        Returns:
            The text that has become final; often empty.
        """
        self.ids.extend(tokens)
        live = self._live()
        ends = [place for place in map(live.find, self._stop) if place >= 0]
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
            return self._give(live[: min(ends)])
        text = live
        unsettled = self.ids[self._start :]
        settled = self.tokenizer.settled(unsettled)
        if len(settled) < len(unsettled):
            text = self._live(self._start + len(settled))
        text = text.removesuffix(_REPLACEMENT)  # probably half a character
        sure = len(text) - self._held(text)
        if self._follows(tokens):
            draft = self._draft[self._before : self._before + len(text)]
            sure = min(sure, common_start(text, draft))
        piece = self._give(text[:sure])
        self._settle(live)
        return piece

    def finish(self) -> str:
        """Return the text that was held back.

        Returns:
            The rest of the text.
        """
        if self.stopped:
            return ""
        whole = self.ids in self._spellings and self._draft.startswith(self.text)
        text = self._draft if whole else self.tokenizer.decode(self.ids)
        return self._give(text[self._before :])

    def used_tokens(self) -> int:
        """Count the tokens of the text, without a stop text and what follows it."""
        count = len(self.ids)
        if self.stopped:
            text = self.text
            while count and self.tokenizer.decode(self.ids[: count - 1]).startswith(text):
                count -= 1
        return count

    def _live(self, end: int | None = None) -> str:
        """Decode the tokens from `_start` on, as they are decoded after the one before them."""
        return self.tokenizer.decode(self.ids[max(0, self._start - 1) : end])[self._anchor :]

    def _settle(self, live: str) -> None:
        """Move `_start` forward, if the text before and after it stays the same."""
        if len(self.ids) - self._start < self._try_at:
            return
        start = len(self.ids) - _UNSETTLED
        while start > self._start and not self.tokenizer.settled(self.ids[start - 1 : start]):
            start -= 1
        if start <= self._start:
            self._try_at *= 2
            return
        text = self._live(start)
        anchor = len(self.tokenizer.decode(self.ids[start - 1 : start]))
        rest = self.tokenizer.decode(self.ids[start - 1 :])[anchor:]
        if live == text + rest and self._before + len(text) <= self._end:
            self._start, self._before, self._anchor = start, self._before + len(text), anchor
            self._try_at = _LIVE
        else:
            self._try_at *= 2

    def _follows(self, tokens: Sequence[int]) -> bool:
        """Whether the output so far begins like the draft, in any spelling."""
        start, end = len(self.ids) - len(tokens), len(self.ids)
        self._followed = [ids for ids in self._followed if ids[start:end] == list(tokens)]
        return bool(self._followed)

    def _held(self, text: str) -> int:
        """Find the length of the longest ending of `text` that may become a stop text."""
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
        """Give the part of a text, which begins at `_start`, that was not given before."""
        piece = text[self._end - self._before :]
        self._given.append(piece)
        self._end += len(piece)
        return piece
