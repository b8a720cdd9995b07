"""Reaches a model behind a server: vLLM, SGLang, llama-server, Ollama, LM Studio, or another."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from langchain_metaaligner.engines.base import FinishReason
from langchain_metaaligner.engines.completions.base import (
    Call,
    Piece,
    Prompt,
    Scores,
    Served,
    Transport,
)
from langchain_metaaligner.engines.completions.http_client import (
    TRIES,
    HttpClient,
    ServerError,
)
from langchain_metaaligner.engines.completions.scoring import (
    scores_of,
    tells_log_probabilities,
)
from langchain_metaaligner.engines.completions.server_kind import (
    LLAMA_SERVER,
    LM_STUDIO,
    MARKS,
    OLLAMA,
    OTHER,
    SGLANG,
    VLLM,
    ServerKind,
    kind_by_owner,
)
from langchain_metaaligner.errors import CheckpointError, EngineError
from langchain_metaaligner.options import LoadOptions, without_secrets

logger = logging.getLogger(__name__)

_PROBE = "The cat sat on the mat. The cat"
_JOINED = ("Edit: ", "It")  # a prompt and an answer whose tokens may depend on each other
_GUARD = "\n"  # a text that merges with no other
_TOP = 5  # likeliest tokens that are asked for in each place
_OLLAMA_WINDOW = 4096  # tokens, if a model says nothing else
_WINDOWS = (
    "max_model_len",
    "loaded_context_length",
    "context_length",
    "context_window",
    "max_context_length",
)
# The names that templates have for thinking; each ignores those of others.
_NO_THOUGHTS = {"enable_thinking": False, "thinking": False, "reasoning": False}
_LENGTHS = frozenset({"length", "max_tokens", "limit"})
_BROKEN = "The server's reply ended before the edit did. The answer was not edited."
_FAILURES = frozenset({"abort", "error", "content_filter", "cancelled", "canceled"})


class HttpTransport(Transport):
    """A model behind a server.

    Args:
        url: The server's address, such as `http://localhost:8000/v1`.
        options: The options; those that `TakenBy("server")`.
    """

    def __init__(self, url: str, options: LoadOptions) -> None:
        self._options = options
        base = url.rstrip("/")
        self._bases = [base] if base.endswith("/v1") else [base, f"{base}/v1"]
        self._shown = without_secrets(url)
        key = options.api_key.get_secret_value() if options.api_key else None
        self._key = key or os.environ.get("METAALIGNER_API_KEY", "").strip() or None
        self._http = HttpClient("", "", None, 1)
        self._kind, self._model = OTHER, ""
        self._extras: Mapping[str, Any] = {}
        self._window: int | None = None
        self._asks = self._by_ids = False
        self._tokenizer: Any = None

    # -- what it is -------------------------------------------------------------------------

    async def open(self) -> Served:
        """Ask the server what it is; as `Transport.open`."""
        check_address(self._bases[0])
        models = await self._models()
        self._kind = kind_by_owner(models) or await self._kind_by_pages()
        self._extras = self._kind.sampling
        entry = self._chosen(models)
        self._model = str(entry["id"])
        served = await self._described(entry)
        if self._options.tokenizer is not None:
            self._tokenizer = _tokenizer(self._options)
        self._asks = await self._counts()
        counts = self._asks or self._tokenizer is not None
        completes, scores = await self._probed()
        self._window = served.window
        if served.window is not None and not counts:
            logger.warning(
                "%s can't count tokens, so they are estimated: prompts may be shortened too early"
                " or too late. Name the model's tokenizer with tokenizer=..., a folder or hub id.",
                self._kind.name,
            )
        return Served(
            kind=self._kind.name,
            model=self._model,
            origin=served.origin,
            window=served.window,
            completes=completes,
            chats=served.chats,
            counts=counts,
            scores=scores,
            scores_templated=scores and self._asks and await self._tells_template(),
            speculates=served.speculates,
            flags=self._kind.flags,
            slots=self._options.max_connections,
        )

    async def _models(self) -> list[Mapping[str, Any]]:
        """The models that the server lists; also finds the address of its interface."""
        for base in self._bases:
            self._http = HttpClient(
                without_secrets(base), base, self._key, self._options.max_connections
            )
            found = await self._http.get("/models", needed=True)
            listed = found.get("data") if isinstance(found, Mapping) else None
            if isinstance(listed, list):
                return [one for one in listed if isinstance(one, Mapping) and one.get("id")]
            await self._http.close()
        message = (
            f"{self._shown} lists no models, so it is no OpenAI-compatible server, its address is"
            " another one, or it wants a key. Give the address up to and with /v1, and the key"
            " with api_key=."
        )
        raise CheckpointError(message)

    def _chosen(self, models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        names = [str(one["id"]) for one in models]
        wanted = self._options.served_model
        if wanted is not None:
            for entry, name in zip(models, names, strict=True):
                if name == wanted or (self._kind is OLLAMA and name == f"{wanted}:latest"):
                    return entry
            told = f"It serves {_list_of(names)}." if names else "It serves no model."
            message = f"The server at {self._http.url} has no model {wanted!r}. {told}"
            raise CheckpointError(message)
        if len(models) == 1:
            return models[0]
        if not models:
            message = f"The server at {self._http.url} serves no model. Load one there first."
        else:
            message = (
                f"The server at {self._http.url} serves several models. Choose one with"
                f" served_model=: {_list_of(names)}."
            )
        raise CheckpointError(message)

    async def _kind_by_pages(self) -> ServerKind:
        for page, marks, kind in MARKS:
            found = await self._page(page)
            if isinstance(found, Mapping) and all(mark in found for mark in marks):
                return kind
        return OTHER

    async def _page(self, path: str) -> Any:
        return await self._http.get(f"{self._root}{path}")

    @property
    def _root(self) -> str:
        return self._http.base.removesuffix("/v1")

    async def _described(self, entry: Mapping[str, Any]) -> Served:
        """What the server's own pages tell about the model."""
        window, origin = _window_in(entry), str(entry.get("root") or "")
        chats: bool | None = None
        speculates: bool | None = None
        if self._kind is VLLM:
            metrics = await self._page("/metrics")
            speculates = "vllm:spec_decode" in metrics if isinstance(metrics, str) else None
        elif self._kind is SGLANG:
            info = await self._page("/server_info") or await self._page("/get_server_info")
            if isinstance(info, Mapping):
                speculates = bool(info.get("speculative_algorithm"))
                origin = origin or str(info.get("model_path") or "")
        elif self._kind is LLAMA_SERVER:
            props = await self._page("/props")
            if isinstance(props, Mapping):
                slot = props.get("default_generation_settings") or {}
                window = _whole(slot.get("n_ctx")) or window
                origin = str(props.get("model_path") or origin)
                chats = bool(props.get("chat_template"))
                speculates = _llama_speculates(slot)
        elif self._kind is OLLAMA:
            return await self._shown_by_ollama()
        elif self._kind is LM_STUDIO:
            listed = await self._page("/api/v0/models")
            for one in listed.get("data", ()) if isinstance(listed, Mapping) else ():
                if isinstance(one, Mapping) and one.get("id") == self._model:
                    window = _window_in(one) or window
        return Served("", "", origin=origin, window=window, chats=chats, speculates=speculates)

    async def _shown_by_ollama(self) -> Served:
        try:
            shown = await self._http.post(f"{self._root}/api/show", {"model": self._model}, None)
        except ServerError as error:
            raise error.plain() from None
        info = shown.get("model_info") or {}
        trained = next(
            (_whole(value) for name, value in info.items() if name.endswith(".context_length")),
            None,
        )
        window = min(trained or _OLLAMA_WINDOW, _OLLAMA_WINDOW)
        for line in str(shown.get("parameters") or "").splitlines():
            name, _, value = line.strip().partition(" ")
            if name == "num_ctx" and value.strip().isdigit():
                window = int(value)
        template = str(shown.get("template") or "")
        chats = bool(template) and template.strip() != "{{ .Prompt }}"
        origin = str((shown.get("details") or {}).get("parent_model") or "")
        return Served("", "", origin=origin, window=window, chats=chats)

    # -- tokens -----------------------------------------------------------------------------

    async def _counts(self) -> bool:
        """Whether the server's tokenizer can be asked; checks that it adds one token, or none."""
        if self._kind.tokenizes is None:
            return False
        bare, whole = await self._ids("a", special=False), await self._ids("a", special=True)
        if bare is None or whole is None:
            return False
        added = len(whole) - len(bare)
        if added not in (0, 1) or whole[added:] != bare:
            message = (
                f"The tokenizer of {self._model} at {self._http.url} adds {added} tokens to a"
                " prompt; expected one at its beginning, or none. Mend tokenizer.json,"
                " tokenizer_config.json or the GGUF's tokenizer.ggml.add_bos_token where it is"
                " served."
            )
            raise CheckpointError(message)
        prompt, answer = _JOINED
        before = await self._ids(prompt, special=False)
        both = await self._ids(prompt + answer, special=False)
        # Where the two merge, the text of both doesn't have the tokens that the model would write.
        self._by_ids = bool(before) and both is not None and both[: len(before or ())] != before
        return True

    async def count(self, text: str) -> int:
        """Count a text's tokens; as `Transport.count`."""
        if not self._asks:
            return len(self._tokenizer.encode(text).ids)
        ids = await self._ids(text, special=True)
        if ids is None:
            message = f"The server at {self._http.url} didn't count the tokens of a prompt."
            raise EngineError(message, retryable=True)
        return len(ids)

    async def _ids(
        self, text: str, *, special: bool, deadline: float | None = None
    ) -> tuple[int, ...] | None:
        if self._kind.tokenizes is None:
            return None
        name, switch = self._kind.tokenizes
        body = {"model": self._model, name: text, switch: special}
        return await self._tokens(body, deadline, text)

    async def _tokens(
        self, body: Mapping[str, Any], deadline: float | None, text: str, *, tries: int = TRIES
    ) -> tuple[int, ...] | None:
        try:
            told = await self._http.post(
                f"{self._root}/tokenize", body, deadline, text, tries=tries
            )
        except ServerError as error:
            if error.retryable:
                raise error.plain() from None
            return None
        ids = told.get("tokens")
        if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
            return None
        return tuple(ids)

    # -- completions ------------------------------------------------------------------------

    async def _probed(self) -> tuple[bool, bool]:
        """Whether plain prompts are continued, and whether their log-probabilities are told."""
        if self._kind.native:
            return True, False
        body = self._body(Call(_PROBE, max_tokens=1))
        if self._kind.scores:
            try:
                told = await self._http.post("/completions", {**body, **_ECHO}, None)
                choice = _choice_in(told)
                return True, choice is not None and tells_log_probabilities(choice)
            except ServerError as error:
                error.raise_if_lasting()
        for extras in (self._extras, {}):
            self._extras = extras
            try:
                await self._http.post("/completions", self._body(Call(_PROBE, max_tokens=1)), None)
                return True, False
            except ServerError as error:
                error.raise_if_lasting()
        self._extras = self._kind.sampling
        return False, False

    def complete(self, call: Call) -> AsyncGenerator[Piece, None]:
        """Complete a prompt; as `Transport.complete`."""
        return self._native(call) if self._kind.native else self._openai(call)

    async def _openai(self, call: Call) -> AsyncGenerator[Piece, None]:
        path = "/chat/completions" if call.chat else "/completions"
        async with aclosing(self._pieces(path, self._body(call), call, _openai_pieces)) as pieces:
            async for piece in pieces:
                yield piece

    async def _native(self, call: Call) -> AsyncGenerator[Piece, None]:
        """Complete a prompt through Ollama's own interface, which leaves it as it is."""
        asked: dict[str, Any] = {"prompt": call.prompt, "raw": True}
        if call.chat:
            asked = {"messages": [{"role": "user", "content": call.prompt}], "think": False}
        options = {
            **self._extras,
            "temperature": call.temperature,
            "seed": call.seed,
            "num_predict": call.max_tokens,
            "num_ctx": self._window,
            "stop": list(call.stop),
        }
        body = {
            "model": self._model,
            **asked,
            "stream": call.pieces,
            "truncate": False,
            "shift": False,
            "options": options,
        }
        path = f"{self._root}/api/{'chat' if call.chat else 'generate'}"
        async with aclosing(self._pieces(path, body, call, _ollama_pieces)) as pieces:
            async for piece in pieces:
                yield piece

    async def _pieces(
        self,
        path: str,
        body: Mapping[str, Any],
        call: Call,
        read: Callable[..., AsyncGenerator[Piece, None]],
    ) -> AsyncGenerator[Piece, None]:
        texts = (call.prompt,) if isinstance(call.prompt, str) else ()
        replies = self._http.stream(
            path, body, call.deadline, *texts, read=partial(read, chat=call.chat)
        )
        try:
            async with aclosing(replies):
                async for piece in replies:
                    yield piece
        except ServerError as error:
            raise self._explained(error, call) from None

    def _body(self, call: Call) -> dict[str, Any]:
        """The request, with every setting that changes the text."""
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "top_p": 1.0,
            "n": 1,
            "seed": call.seed,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stream": call.pieces,
        }
        if call.stop:
            body["stop"] = list(call.stop)
        if call.pieces:
            body["stream_options"] = {"include_usage": True}
        extras = dict(self._extras)
        if call.chat:
            # The template writes the beginning of the text, too.
            extras.pop("add_special_tokens", None)
            body["messages"] = [{"role": "user", "content": call.prompt}]
            if extras:
                body["chat_template_kwargs"] = dict(_NO_THOUGHTS)
        else:
            body["prompt"] = list(call.prompt) if isinstance(call.prompt, tuple) else call.prompt
            body["echo"] = False
        return body | extras

    def _explained(self, error: ServerError, call: Call) -> EngineError | CheckpointError:
        """Say what to do about an error that is not about this request alone."""
        said = str(error).lower()
        if error.status == 404 or error.status == 405:
            what = "chat completions" if call.chat else "completions of plain prompts"
            other = (
                "Serve it with a server that has /v1/chat/completions."
                if call.chat
                else "The published families need /v1/completions: serve the model with vLLM,"
                " SGLang or llama-server, or choose family='instruct' for a chat model."
            )
            message = f"The server at {self._http.url} has no {what} for {self._model}. {other}"
            return CheckpointError(message)
        if (call.chat and "chat template" in said) or "chat_template" in said:
            message = (
                f"{self._model} at {self._http.url} has no chat template, so it is a base model and"
                " can't be asked with family='instruct'. Give the family that it was trained on, or"
                " serve a model that follows instructions."
            )
            return CheckpointError(message)
        return error.plain()

    # -- log-probabilities ------------------------------------------------------------------

    async def score(
        self, prompt: str, answer: str, deadline: float | None, *, chat: bool
    ) -> Scores | None:
        """Ask how likely an answer is after its prompt; as `Transport.score`."""
        tried: list[tuple[Prompt, tuple[int, ...]]] = [(prompt, ())]
        if self._by_ids or chat:
            tried = await self._spellings(prompt, answer, deadline, chat=chat)
            if not tried:
                return None
        sent = [[*before, *ids] if ids else f"{before}{answer}" for before, ids in tried]
        body = self._body(Call("", max_tokens=1, deadline=deadline))
        body |= {"prompt": sent if len(sent) > 1 else sent[0], **_ECHO}
        try:
            told = await self._http.post("/completions", body, deadline, prompt, answer)
        except ServerError as error:
            raise error.plain() from None
        choices = told.get("choices")
        found = [
            scores
            for choice, (before, ids) in zip(
                choices if isinstance(choices, list) else (), tried, strict=False
            )
            if isinstance(choice, Mapping)
            and (scores := scores_of(choice, before, answer, ids)) is not None
        ]
        return max(found, key=lambda one: one.tokens[0].log_probability, default=None)

    async def _spellings(
        self, prompt: str, answer: str, deadline: float | None, *, chat: bool
    ) -> list[tuple[Prompt, tuple[int, ...]]]:
        """The tokens of a prompt and of the answer, in each way in which an edit may begin."""
        before, own, guard, guarded = await asyncio.gather(
            self._template_ids(prompt, deadline)
            if chat
            else self._ids(prompt, special=True, deadline=deadline),
            self._ids(answer, special=False, deadline=deadline),
            self._ids(_GUARD, special=False, deadline=deadline),
            self._ids(_GUARD + answer, special=False, deadline=deadline),
        )
        if not before:
            return []
        made = [own] if own else []
        if guard and guarded and guarded[: len(guard)] == guard:
            made.append(guarded[len(guard) :])
        return [(before, ids) for ids in dict.fromkeys(made) if ids]

    async def _tells_template(self) -> bool:
        """Whether the server tells the tokens of a message in its chat template."""
        try:
            one, two = [await self._template_ids(text, None, tries=1) for text in ("one", "a two")]
        except EngineError:
            return False
        return bool(one and two) and one != two

    async def _template_ids(
        self, message: str, deadline: float | None, *, tries: int = TRIES
    ) -> tuple[int, ...] | None:
        """The tokens of a user message in the chat template, up to the start of the reply."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": message}],
            "add_generation_prompt": True,
            "chat_template_kwargs": _NO_THOUGHTS,
        }
        return await self._tokens(body, deadline, message, tries=tries)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


_ECHO = {"echo": True, "logprobs": _TOP, "max_tokens": 1, "stream": False}


def check_address(url: str) -> None:
    """Check a server's address and this installation, without asking the server.

    Args:
        url: The address.

    Raises:
        CheckpointError: The address has no host, or holds a password or a query; or the client's
            package is missing.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    host = parts.hostname
    if host and (parts.username or parts.password or parts.query):
        message = (
            f"The address of {host} holds a user, a password or a query, which would show wherever"
            " the address does. Give the address up to /v1, and the key as api_key=."
        )
        raise CheckpointError(message)
    if not host:
        message = (
            f"{without_secrets(url)!r} is no server's address. Expected one such as"
            " http://localhost:8000/v1."
        )
        raise CheckpointError(message)
    if importlib.util.find_spec("openai") is None:
        message = (
            "Asking a server needs the package openai, which is not installed. Install it with"
            ' pip install "langchain-metaaligner[server]".'
        )
        raise CheckpointError(message)


def _tokenizer(options: LoadOptions) -> Any:
    from pathlib import Path

    from tokenizers import Tokenizer

    name = str(options.tokenizer)
    file = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    try:
        if not file.is_file():
            from huggingface_hub import hf_hub_download

            from langchain_metaaligner.options import hub_token

            file = Path(
                hf_hub_download(
                    name,
                    "tokenizer.json",
                    token=hub_token(options),
                    cache_dir=options.cache_dir,
                    local_files_only=options.local_files_only,
                )
            )
        return Tokenizer.from_file(str(file))
    except Exception as error:
        message = f"tokenizer={name!r} can't be used: {type(error).__name__}. Give a folder or the"
        message += " hub id of a model with a tokenizer.json."
        raise CheckpointError(message) from error


def _list_of(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _window_in(entry: Mapping[str, Any]) -> int | None:
    meta = entry.get("meta")
    found = [_whole(entry.get(name)) for name in _WINDOWS]
    if isinstance(meta, Mapping):
        found.append(_whole(meta.get("n_ctx")))
    return next((one for one in found if one), None)


def _llama_speculates(slot: Mapping[str, Any]) -> bool | None:
    told = slot.get("speculative")
    types = (slot.get("params") or {}).get("speculative.types")
    if isinstance(types, str):
        return types not in ("", "none")
    return told if isinstance(told, bool) else None


def _choice_in(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = reply.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return choices[0]
    return None


def _text_in(choice: Mapping[str, Any], *, chat: bool) -> str:
    said = choice
    if chat:
        said = choice.get("delta") or choice.get("message") or {}
    text = said.get("content" if chat else "text")
    return text if isinstance(text, str) else ""


async def _openai_pieces(
    replies: AsyncGenerator[Any, None], *, chat: bool
) -> AsyncGenerator[Piece, None]:
    """Read the reply of an OpenAI-compatible server: one object, or events."""
    usage: dict[str, int] = {}
    finish: FinishReason | None = None
    async for reply in replies:
        usage |= _usage_in(reply)
        choice = _choice_in(reply)
        if choice is None:
            continue
        finish = _finish_of(choice.get("finish_reason")) or finish
        if text := _text_in(choice, chat=chat):
            yield Piece(text)
    if finish is None:
        raise ServerError(_BROKEN, retryable=True)
    yield Piece(finish_reason=finish, usage=usage or None)


async def _ollama_pieces(
    replies: AsyncGenerator[Any, None], *, chat: bool
) -> AsyncGenerator[Piece, None]:
    """Read the reply of Ollama's own interface: one object, or lines."""
    async for reply in replies:
        said = reply.get("message") if chat else reply
        text = said.get("content" if chat else "response") if isinstance(said, Mapping) else None
        if text and isinstance(text, str):
            yield Piece(text)
        if reply.get("done") is True:
            finish = _finish_of(reply.get("done_reason") or "stop")
            yield Piece(finish_reason=finish, usage=_ollama_usage(reply))
            return
    raise ServerError(_BROKEN, retryable=True)


def _finish_of(told: Any) -> FinishReason | None:
    if not isinstance(told, str) or not told:
        return None
    if told in _FAILURES:
        message = f"The server ended the edit with {told!r}. The answer was not edited."
        raise ServerError(message, retryable=told != "content_filter")
    return "length" if told in _LENGTHS else "stop"


def _usage_in(reply: Mapping[str, Any]) -> dict[str, int]:
    """What a reply tells of tokens: read, written, drafted and accepted."""
    usage, found = reply.get("usage"), {}
    if isinstance(usage, Mapping):
        found["input_tokens"] = usage.get("prompt_tokens")
        found["output_tokens"] = usage.get("completion_tokens")
        details = usage.get("completion_tokens_details")
        if isinstance(details, Mapping):
            accepted = details.get("accepted_prediction_tokens")
            rejected = details.get("rejected_prediction_tokens")
            if _whole(accepted) or _whole(rejected):
                found["draft_tokens"] = (accepted or 0) + (rejected or 0)
                found["accepted_draft_tokens"] = accepted or 0
    metrics = reply.get("metrics")
    drafts = metrics.get("speculative_decoding") if isinstance(metrics, Mapping) else None
    if isinstance(drafts, Mapping):  # vLLM
        found["draft_tokens"] = drafts.get("num_draft_tokens")
        found["accepted_draft_tokens"] = drafts.get("num_accepted_draft_tokens")
    timings = reply.get("timings")
    if isinstance(timings, Mapping) and "draft_n" in timings:  # llama-server
        found["draft_tokens"] = timings.get("draft_n")
        found["accepted_draft_tokens"] = timings.get("draft_n_accepted")
    return {
        name: count
        for name, count in found.items()
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0
    }


def _ollama_usage(reply: Mapping[str, Any]) -> dict[str, int] | None:
    counts = {
        "input_tokens": reply.get("prompt_eval_count"),
        "output_tokens": reply.get("eval_count"),
    }
    found = {name: count for name, count in counts.items() if isinstance(count, int)}
    return found or None
