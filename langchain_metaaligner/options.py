"""Declares every option once: its type, default, description and effect."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import uuid
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    Secret,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.pickles import reduce_at_root


class Effect(StrEnum):
    """What an option changes. Each option has exactly one effect.

    A cache of replies is keyed by the options that affect the weights or the text. Engines are
    shared by the options that affect the weights and those that say how the engine runs.
    """

    WEIGHTS = "weights"
    """Which weights are loaded, and in what form."""

    TEXT = "text"
    """The edited text."""

    NEITHER = "neither"
    """Time, memory, access or reports, but never the text."""


class TakenBy(frozenset[str]):
    """The engines that an option is for: `local`, `server`, `llama.cpp`; by default `local`."""

    def __new__(cls, *engines: str) -> Self:
        """Take the engines as arguments."""
        return super().__new__(cls, engines)


GUARDS = (
    *("citations", "urls", "emails", "numbers", "fences", "tables", "json", "language"),
    *("repetition", "contradiction"),
)
"""The guards of this package, in the order in which they look at a passage."""


def _as_guards(given: Any) -> Any:
    """Read the option `guards`: names and callables, or one of them; `all` stands for all names."""
    ours = given is not None and (isinstance(given, str) or callable(given))
    guards: list[Any] = []
    try:
        each = [given] if ours else list(given)
    except TypeError:
        each = [given]
    for one in each:
        if one == "all":
            guards += GUARDS
        elif (isinstance(one, str) and one in GUARDS) or callable(one):
            guards.append(one)
        else:
            what = repr(one) if isinstance(one, str) else f"a {type(one).__name__}"
            message = (
                f"guards must be names of guards or functions of yours, not {what}. The names are"
                f" {', '.join(GUARDS)}; 'all' stands for all of them, and () for none."
            )
            raise ValueError(message)
    names = [one for one in guards if isinstance(one, str)]
    return (*(name for name in GUARDS if name in names), *(one for one in guards if callable(one)))


CAUTION = 2.0
"""The default of `caution` where an engine can keep it, in nats."""


class Static:
    """The type of an option in the signatures, for types that other modules define.

    Args:
        source: The annotation, as source code.
    """

    def __init__(self, source: str) -> None:
        self.source = source


def _as_path(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _as_folder(given: Any) -> Any:
    given = _as_path(given)
    return normal_name(given) if isinstance(given, str) else given


def _as_dtype(given: Any) -> Any:
    is_torch = type(given).__module__ == "torch"
    return str(given).removeprefix("torch.") if is_torch or isinstance(given, str) else given


class HiddenStr(SecretStr):
    """A secret that was found by its name, such as `api_key`, and is given out by `revealed`."""


class Hidden(Secret[Any]):
    """Any other value that is a secret or contains one, and is given out by `revealed`."""

    def _display(self) -> str:
        return _MASK


_MASK = "**********"
# What is in the name of a secret, and a whole word of it. Whatever is in headers may be one.
_SECRET_PARTS = re.compile(
    r"token(?!iz)|secret|passw|passphrase|api_?key|authoriz|credential|cookie|bearer|conn(?:ection)?_?str",
    re.IGNORECASE,
)
_SECRET_WORDS = frozenset({
    "auth", "dsn", "jwt", "key", "otp", "pass", "passcode", "pat", "private", "pwd", "sas", "sig",
})  # fmt: skip
_ALL_SECRET = frozenset({
    "auth", "authentication", "authorization", "cookie", "cookies", "cred", "credential",
    "credentials", "creds", "env", "environ", "environment", "header", "headers", "passwords",
    "secrets",
})  # fmt: skip
# What is a secret under any name: a header's value, or a user's name and password before a host.
_SECRET_VALUE = re.compile(
    r"\s*+(?:(?:bearer|basic|token)\s++(?=\S*[\d_=.+/-])\S{6,}|(?!mailto:|sips?:)[^\s/\\@:]++:[^\s/\\@]++@\S+)\s*",
    re.IGNORECASE,
)


def hidden(value: Any) -> Any:
    """Hide the secrets in nested mappings from whatever shows them.

    Args:
        value: A mapping, a list or any other value; it is not modified.

    Returns:
        The value, whose secrets can't be read before `revealed`. They are told by the names of
        their keys; so are URLs with a password. An object of another type than Python's own
        mappings and lists is hidden as a whole if it contains a secret.
    """
    return _with_secrets(value, lambda said: (HiddenStr if isinstance(said, str) else Hidden)(said))


def masked(value: Any) -> Any:
    """Replace the secrets in nested mappings, for traces; as `hidden`.

    Args:
        value: The value, which is not modified.

    Returns:
        The value without its secrets.
    """
    return _with_secrets(value, lambda _: _MASK)


def digested(value: Any) -> Any:
    """Replace the secrets in nested mappings by their hashes, for keys of caches; as `masked`."""
    return _with_secrets(value, _digest)


def revealed(value: Any) -> Any:
    """Give out what `hidden` has hidden, to whom it is for.

    Args:
        value: A value from `hidden`.

    Returns:
        The value with its secrets.
    """
    if isinstance(value, HiddenStr | Hidden):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: revealed(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(revealed, value))
    return value


def without_secrets(name: str) -> str:
    """Make a model's name fit for messages.

    Args:
        name: Any name; only a URL may contain secrets.

    Returns:
        The name; of a URL with secrets, only what comes before its parameters, without a password.
    """
    if not _has_secrets(name):
        return name
    hosts = re.sub(r"://[^/\s]*@", "://", name)
    shown = re.split(r"[?#]", hosts, maxsplit=1)[0]
    return _MASK if _has_secrets(shown) else shown


def _has_secrets(text: str) -> bool:
    """Whether a text contains a URL with a password or a secret parameter, or is a secret value."""
    for rest in text.split("://")[1:]:
        if "@" in re.split(r"[/\s]", rest, maxsplit=1)[0]:
            return True
        parameters = re.split("[?&;#]", rest)[1:]
        if any("=" in one and _names_secret(one.partition("=")[0], "") for one in parameters):
            return True
    return "://" not in text and _SECRET_VALUE.fullmatch(text) is not None


def _digest(value: Any) -> str:
    said = value if isinstance(value, str) else repr(value)
    return hashlib.sha256(said.encode()).hexdigest()


def _with_secrets(value: Any, hide: Callable[[Any], Any], *, secret: bool = False) -> Any:
    if isinstance(value, HiddenStr | Hidden):
        return hide(value.get_secret_value())
    if isinstance(value, str):
        return hide(value) if value and (secret or _has_secrets(value)) else value
    if isinstance(value, dict):
        return {
            key: _with_secrets(item, hide, secret=secret or _names_secret(key, item))
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_with_secrets(item, hide, secret=secret) for item in value)
    return hide(value) if _contains_secret(value, secret, set()) else value


def _contains_secret(value: Any, secret: bool, seen: set[int]) -> bool:
    """Whether a value of any type is a secret, or has one among its items or fields."""
    if isinstance(value, str | bytes):
        said = value if isinstance(value, str) else value.decode("latin-1")
        return bool(said) and (secret or _has_secrets(said))
    if isinstance(value, type) or id(value) in seen:
        return False
    seen.add(id(value))
    fields: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        fields = value.items()
    elif isinstance(value, BaseModel):
        fields = vars(value).items()
    elif is_dataclass(value):
        fields = ((one.name, getattr(value, one.name, None)) for one in dataclass_fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=False)
    elif isinstance(value, list | tuple | set | frozenset):
        return any(_contains_secret(item, secret, seen) for item in value)
    else:
        return False
    return any(
        _contains_secret(item, secret or _names_secret(name, item), seen) for name, item in fields
    )


@lru_cache(maxsize=1024)
def _words_of(name: str) -> tuple[frozenset[str], bool]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return frozenset(re.split(r"[^a-z0-9]+", apart.lower())), bool(_SECRET_PARTS.search(name))


def _names_secret(name: Any, item: Any) -> bool:
    """Whether a key of a mapping names a secret, or a mapping that may contain nothing else."""
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        return False
    words, in_part = _words_of(name)
    if isinstance(item, Mapping):
        return not words.isdisjoint(_ALL_SECRET)
    # The name of a secret, such as that of a profile with credentials, is none.
    is_secret = in_part or not words.isdisjoint(_SECRET_WORDS | _ALL_SECRET)
    return is_secret and not name.lower().endswith("name")


def _as_model(given: Any, as_name: ValidatorFunctionWrapHandler) -> Any:
    given = _as_path(given)
    # The table of engines decides what to do with an object that is no name.
    is_object = all(callable(getattr(given, name, None)) for name in ("invoke", "astream"))
    return given if is_object else as_name(given)


_Model = Annotated[
    str, WrapValidator(_as_model), PlainSerializer(lambda given: given, return_type=Any)
]
_Folder = Annotated[str, BeforeValidator(_as_folder)]


class _Options(BaseModel):
    """What all sets of options have in common."""

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        # A value may be a secret that was meant for another option.
        hide_input_in_errors=True,
    )

    __reduce_ex__ = reduce_at_root

    @model_validator(mode="wrap")
    @classmethod
    def _without_inputs(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(given)
        except ValidationError as error:
            raise _without_inputs(error) from None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, masked(value)

    def __getstate__(self) -> dict[Any, Any]:
        # Only what was given is pickled: everything else takes the defaults of the version that
        # reads it. A token must not end up in a file.
        fields = type(self).model_fields
        given = self.model_fields_set - {"token", "api_key"}
        state: dict[str, Any] = {
            "given": {name: getattr(self, name) for name in fields if name in given}
        }
        if self.__pydantic_private__:
            state["private"] = self.__pydantic_private__
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        given = state.get("given")
        if given is None:
            # Pickles of 0.1 contain every field, with the defaults of that version.
            set_then, fields = state["__pydantic_fields_set__"], type(self).model_fields
            given = {
                name: value
                for name, value in state["__dict__"].items()
                if name in set_then and name in fields
            }
        type(self).__init__(self, **given)
        for name, value in state.get("private", {}).items():
            setattr(self, name, value)


class LoadOptions(_Options):
    """How a checkpoint is found, loaded and run; the names follow transformers."""

    adapter: Annotated[
        _Folder | None,
        Effect.WEIGHTS,
        Static("str | os.PathLike[str] | None"),
        TakenBy("local", "llama.cpp"),
    ] = None
    """Folder or hub id of a PEFT adapter, merged into the weights where possible. For a GGUF model,
    the adapter's GGUF file, or `hub_id:file.gguf`."""

    adapter_revision: Annotated[str | None, Effect.WEIGHTS, TakenBy("local", "llama.cpp")] = None
    """Branch, tag or commit of the adapter on the hub."""

    dtype: Annotated[str, BeforeValidator(_as_dtype), Effect.WEIGHTS, Static("Any")] = "auto"
    """Format of the weights: a name such as `bfloat16`, a `torch.dtype`, or `auto`. `auto` is
    bfloat16 if the device has instructions for it (AVX-512 BF16 or AMX on a CPU), else float16 on
    an accelerator and float32 on a CPU. Only float32 gives the same tokens as plain greedy
    decoding, with `caution=0` and except where two tokens are exactly tied."""

    device_map: Annotated[Any, Effect.WEIGHTS] = "auto"
    """Device of the weights; `auto` spreads them over the devices that accelerate finds."""

    tp_plan: Annotated[dict[str, str] | Literal["auto"] | None, Effect.WEIGHTS] = None
    """Split the weights over the GPUs of several processes, which `torchrun` starts and of which
    each makes the same edits: `auto`, or a plan of transformers. `device_map` stays `auto`."""

    revision: Annotated[str | None, Effect.WEIGHTS, TakenBy("local", "llama.cpp")] = None
    """Branch, tag or commit of the checkpoint on the hub."""

    token: Annotated[
        SecretStr | bool | None,
        Effect.NEITHER,
        Static("SecretStr | str | bool | None"),
        TakenBy("local", "server", "llama.cpp"),
    ] = Field(default=None, repr=False)
    """Token for the hub. By default, huggingface_hub uses the token that it finds itself. The
    token is never pickled."""

    cache_dir: Annotated[
        _Folder | None,
        Effect.NEITHER,
        Static("str | os.PathLike[str] | None"),
        TakenBy("local", "server", "llama.cpp"),
    ] = None
    """Folder for downloads."""

    local_files_only: Annotated[bool, Effect.NEITHER, TakenBy("local", "server", "llama.cpp")] = (
        False
    )
    """Use only files that are already on this machine."""

    attn_implementation: Annotated[str | None, Effect.WEIGHTS] = None
    """Attention implementation, such as `sdpa`, `eager` or `flash_attention_2`, for models that
    can't process several edits in one forward pass. Models that can (LLaMA and its relatives)
    always use torch's `scaled_dot_product_attention`."""

    quantization_config: Annotated[Any, BeforeValidator(hidden), Effect.WEIGHTS] = None
    """A quantisation config of transformers, such as `BitsAndBytesConfig`, applied while
    loading."""

    torch_compile: Annotated[bool | dict[str, Any], Effect.WEIGHTS] = False
    """Compile the feed-forward part of each layer: `True`, or arguments for `torch.compile`. The
    first edits wait for the compiler."""

    prepack_weights: Annotated[bool | None, Effect.WEIGHTS] = None
    """On a CPU, keep a second copy of the linear layers' weights in the order in which its kernels
    read them, which makes edits faster. `None` does so if the copies take at most 1 GiB, or a
    quarter of the free memory. With `torch_compile` no copies are made."""

    native_kernels: Annotated[bool | None, Effect.WEIGHTS] = None
    """On a CPU with AVX-512, prepacked weights are used by kernels of this package, which makes
    edits faster still. They are compiled once for a machine, in seconds, if it has a C++ compiler.
    `None` uses them where they can be had, `True` insists on them, `False` uses torch's."""

    max_memory: Annotated[dict[Any, Any] | None, Effect.WEIGHTS] = None
    """Memory to use on each device, in accelerate's format."""

    offload_folder: Annotated[
        _Folder | None, Effect.NEITHER, Static("str | os.PathLike[str] | None")
    ] = None
    """Folder for layers that fit on no device."""

    prefix_cache_bytes: Annotated[
        int | None, Field(ge=0), Effect.NEITHER, TakenBy("local", "llama.cpp")
    ] = None
    """Limit in bytes for keys and values of earlier prompts, which later edits reuse. 0 keeps none;
    `None` chooses a limit that suits the device."""

    max_queue: Annotated[
        int, Field(gt=0), Effect.NEITHER, TakenBy("local", "server", "llama.cpp")
    ] = 256
    """How many edits may wait; further ones are refused with `OverloadedError`."""

    served_model: Annotated[str | None, Effect.WEIGHTS, TakenBy("server")] = None
    """The name of the model at a server that serves several; of one, it is found out."""

    api_key: Annotated[
        SecretStr | None, Effect.NEITHER, Static("SecretStr | str | None"), TakenBy("server")
    ] = Field(default=None, repr=False)
    """Key for a server. `None` uses the environment variable `METAALIGNER_API_KEY`, if it is set.
    The key is never pickled."""

    max_connections: Annotated[int, Field(gt=0), Effect.NEITHER, TakenBy("server")] = 64
    """How many requests a server gets at the same time; further ones wait."""

    tokenizer: Annotated[
        _Folder | None, Effect.TEXT, Static("str | os.PathLike[str] | None"), TakenBy("server")
    ] = None
    """Folder or hub id with the `tokenizer.json` of a server's model. It counts the tokens of
    prompts if the server can't, which are estimated otherwise."""

    n_ctx: Annotated[int | None, Field(gt=0), Effect.WEIGHTS, TakenBy("llama.cpp")] = None
    """How many tokens the prompt and the edit may have together in llama.cpp, whose memory for them
    is taken at once. `None` is what the model was trained for, at most 4096."""

    n_parallel: Annotated[int | None, Field(gt=0), Effect.WEIGHTS, TakenBy("llama.cpp")] = None
    """How many edits llama.cpp works on at the same time; each takes memory for `n_ctx` tokens.
    `None` is up to 4, as far as their keys and values take no more than 2 GiB."""

    n_gpu_layers: Annotated[int | None, Field(ge=0), Effect.WEIGHTS, TakenBy("llama.cpp")] = None
    """How many layers llama.cpp keeps on the GPU, if it was built for one. `None` is as many as
    fit."""

    n_threads: Annotated[int | None, Field(gt=0), Effect.NEITHER, TakenBy("llama.cpp")] = None
    """Threads of llama.cpp on the CPU. `None` is one for each processor that this process may
    use."""

    spec_type: Annotated[
        Literal["ngram-simple", "ngram-mod", "none"], Effect.NEITHER, TakenBy("llama.cpp")
    ] = "ngram-simple"
    """How llama.cpp drafts tokens: from what the prompt and the output contain already, by one of
    its two ways, or not at all."""

    model_kwargs: Annotated[dict[str, Any], AfterValidator(hidden), Effect.WEIGHTS] = Field(
        default_factory=dict
    )
    """Further arguments for transformers' `from_pretrained`. Secrets among them are shown
    nowhere."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = _own_names(given)
        # None means the default, as in transformers.
        return {
            name: value
            for name, value in given.items()
            if value is not None or _default(LoadOptions, name) is None
        }


class AlignerOptions(LoadOptions):
    """What an aligner is, and how it edits."""

    model: Annotated[
        _Model | None, Effect.WEIGHTS, Static("str | os.PathLike[str] | BaseChatModel | None")
    ] = None
    """Hub id or folder of the checkpoint, address of a server, a GGUF file (its path, or
    `hub_id:file.gguf`), or a LangChain chat model, which is asked to edit. `None` uses the
    environment variable `METAALIGNER_MODEL`, or the embedded aligner if it is not set."""

    family: Annotated[str | None, Effect.TEXT] = None
    """Prompt family, if it can't be told from the checkpoint's name and files."""

    engine: Annotated[Any, Effect.WEIGHTS, Static("Engine | EngineLike | None")] = None
    """An engine object to use instead of loading a model."""

    max_new_tokens: Annotated[int, Field(gt=0), Effect.TEXT] = 1024
    """Maximum length of an edit, in tokens."""

    temperature: Annotated[float, Field(ge=0.0), Effect.TEXT] = 0.0
    """Sampling temperature; 0 decodes greedily."""

    timeout: Annotated[float | None, Field(gt=0), Effect.NEITHER] = None
    """Seconds after which an edit is stopped with `EditTimeout`, counted from the call. Time spent
    waiting and loading counts too."""

    system: Annotated[Literal["first_turn"] | None, Effect.TEXT] = None
    """What to do with system messages: `None` leaves them out of the context, `first_turn` puts
    them in front of the first human turn."""

    keep_above: Annotated[float | None, Field(le=0.0), Effect.TEXT] = None
    """Keep the answer as it is, without decoding, if its agreement is at least this value.
    Agreement is the mean log-probability of the answer's tokens under the aligner, at most 0.
    Engines that don't report agreement ignore this option."""

    caution: Annotated[float | None, Field(ge=0.0, allow_inf_nan=False), Effect.TEXT] = None
    """By how much another token must be likelier than the answer's next one for the edit to leave
    the answer after its first three tokens, in nats; after that, decoding is plain. 0 is plain
    greedy decoding. `None` is 2 where the engine sees log-probabilities, else 0. Other engines
    refuse a value above 0, and so does sampling."""

    guards: Annotated[
        tuple[Any, ...], BeforeValidator(_as_guards), Effect.TEXT, Static("Guards")
    ] = GUARDS
    """What an edit that keeps most of the answer must keep, too: names of guards, functions of
    yours, or both; `"all"` stands for all names, and `()` for none. See docs/failures.md."""

    token_agreement: Annotated[bool, Effect.NEITHER] = False
    """Record the agreement of each token of the answer, for diffs. It is never part of a message.
    The first forward pass then covers the whole answer: it is larger, but no pass is added."""

    eager: Annotated[bool | None, Effect.NEITHER] = None
    """Prefill the context and the answer while the policy is still generating. `None` does so in
    streams, unless tools are bound."""

    @model_validator(mode="after")
    def _cautious_if_greedy(self) -> Self:
        if self.caution and self.temperature:
            message = (
                f"caution={self.caution} is a margin for greedy decoding, but"
                f" temperature={self.temperature} samples. Give only one of the two."
            )
            raise ValueError(message)
        return self


class ReplyOptions(AlignerOptions):
    """How replies are edited; shared by the runnable, the middleware and the chat model."""

    objectives: Annotated[Any, Effect.TEXT, Static("Objectives")] = ("harmlessness", "helpfulness")
    """What edits should improve: names, sentences or `Objective`s."""

    aligner: Annotated[Any, Effect.WEIGHTS, Static("Aligner | None")] = None
    """An existing `Aligner` to use, instead of options for a new one."""

    on_error: Annotated[Literal["raise", "pass", "block"], Effect.TEXT] = "raise"
    """What to do when an edit fails: raise the error, pass the original through, or block it and
    return a fixed message."""

    block_message: Annotated[str, Field(min_length=1), Effect.TEXT] = (
        "I can't show this answer, because it could not be checked. Please try again."
    )
    """The text that replaces a blocked answer."""

    on_leak: Annotated[Literal["raise", "ignore"], Effect.NEITHER] = "raise"
    """What to do when tokens of the unedited reply have already reached a consumer: raise
    `LeakError`, or ignore it."""

    keep_original: Annotated[bool, Effect.TEXT] = False
    """Keep the original text in the message's metadata."""

    apply: Annotated[bool, Effect.TEXT] = True
    """`False` is shadow mode: edit and report, but return the original."""

    allow_objectives: Annotated[Any, Effect.TEXT, Static("Objectives | None")] = None
    """Objectives that a call may ask for, besides the aligner's own; `None` allows any."""

    required_objectives: Annotated[Any, Effect.TEXT, Static("Objectives")] = ()
    """Objectives that every edit pursues, whatever a call asks for. They come first."""

    allow_context: Annotated[bool, Effect.TEXT] = True
    """Whether a call may replace the context by its config; if not, that is an error."""

    config_keys: Annotated[Any, Effect.NEITHER, Static("Mapping[str, str] | None")] = None
    """Other names for the keys `objectives` and `context` in a call's config, where an
    application uses these names for something else."""

    edit_tool_text: Annotated[bool, Effect.TEXT] = False
    """Also edit text that comes with tool calls."""

    edit_refusals: Annotated[bool, Effect.TEXT] = False
    """Also edit the refusals that providers mark as such, which then become text. Otherwise their
    status is `skipped`."""

    when: Annotated[Any, Effect.TEXT, Static("When | None")] = Field(default=None, exclude=True)
    """`when(reply, context) -> bool` decides whether a reply is edited; if not, its status is
    `skipped`. `reply` is the message or text; `context` is what it answers (messages, a `Context`
    or text), or `None` if that is not known."""

    on_edit: Annotated[Any, Effect.NEITHER, Static("Callable[[Alignment], object] | None")] = Field(
        default=None, exclude=True
    )
    """A function that is called with the `Alignment` of each edit or failure; `EditRecords` writes
    them to a file."""


def parse_load_options(given: Mapping[str, Any], engine: str = "local") -> LoadOptions:
    """Check the options of an engine.

    Args:
        given: Names and values; `None` means the default.
        engine: The engine's name, as in `TakenBy`.

    Returns:
        All options.

    Raises:
        CheckpointError: An option would run code that comes with a checkpoint, does not work with
            forward passes that several edits share, or is for another engine.
        TypeError: An option is unknown.
        pydantic.ValidationError: A value is of the wrong type or out of range.
    """
    given = _own_names(given)
    if unknown := sorted(given.keys() - LoadOptions.model_fields.keys()):
        message = (
            f"The local engine has no option {unknown[0]!r}.{_suggestion(unknown[0], LoadOptions)}"
            f" Its options are {', '.join(sorted(LoadOptions.model_fields))}."
        )
        raise TypeError(message)
    options = LoadOptions(**given)
    taken = options_of(engine)
    for name in sorted(options.model_fields_set - taken):
        if given[name] is not None and getattr(options, name) != _default(LoadOptions, name):
            message = f"{name}= {_NOT_TAKEN[engine]} Its options are {', '.join(sorted(taken))}."
            raise CheckpointError(message)
    return options


def options_of(engine: str) -> frozenset[str]:
    """The names of the options that an engine takes.

    Args:
        engine: Its name, as in `TakenBy`.
    """
    return frozenset(
        name
        for name, field in LoadOptions.model_fields.items()
        if engine in next((one for one in field.metadata if isinstance(one, TakenBy)), _LOCAL)
    )


_LOCAL = TakenBy("local")
_NOT_TAKEN = {
    "local": "is not for a checkpoint that runs in this process.",
    "server": "can't be chosen here: a server loads its model itself, as it was started.",
    "llama.cpp": "is not for llama.cpp.",
}


def load_key(options: LoadOptions) -> Hashable:
    """The key by which engines are shared: equal keys load and run the same thing.

    Args:
        options: The options.

    Returns:
        A hashable key, without secrets.
    """
    return tuple((name, _written(getattr(options, name))) for name in LoadOptions.model_fields)


def hub_token(options: LoadOptions) -> str | bool | None:
    """The token for the hub in plain text, only for huggingface_hub.

    Args:
        options: The options.

    Returns:
        The token, or whether to use the saved token; `None` if nothing was given.
    """
    token = options.token
    return token.get_secret_value() if isinstance(token, SecretStr) else token


def load_options(options: AlignerOptions) -> dict[str, Any]:
    """The options for the engine that differ from their defaults.

    Args:
        options: All options of an aligner.

    Returns:
        Names and values.
    """
    return {
        name: getattr(options, name) for name in LoadOptions.model_fields if _set(options, name)
    }


def given_options(options: AlignerOptions) -> list[str]:
    """The names of an aligner's options that differ from their defaults.

    Args:
        options: All options.
    """
    return [name for name in AlignerOptions.model_fields if _set(options, name)]


def cache_key(options: AlignerOptions) -> dict[str, str]:
    """The key of a cache of edited replies: options that affect the weights or the text.

    Args:
        options: All options.

    Returns:
        Names and serialised values; equal values are serialised alike. An object that can't be
        serialised, such as an engine or a lambda, gets a name that is unique in this process.
    """
    return {
        name: _written(getattr(options, name))
        for name in type(options).model_fields
        if effect_of(type(options), name) in (Effect.WEIGHTS, Effect.TEXT)
    }


def effect_of(kind: type[BaseModel], name: str) -> Effect | None:
    """What an option changes.

    Args:
        kind: A set of options, or a class that has them among its fields.
        name: A field.

    Returns:
        The effect; `None` for a field that is not an option of this package.
    """
    found = [effect for effect in kind.model_fields[name].metadata if isinstance(effect, Effect)]
    return found[0] if len(found) == 1 else None


def check_names(options: type[BaseModel], given: Iterable[str], *, face: str | None = None) -> None:
    """Refuse unknown options before their values are read.

    Args:
        options: The class whose fields are the known options.
        given: The names that were given.
        face: The name of the class that was called, if it differs.

    Raises:
        pydantic.ValidationError: A name is unknown. The error suggests the nearest known name. It
            never contains the value, which may be a secret.
    """
    known = {field.alias for field in options.model_fields.values()} | options.model_fields.keys()
    unknown = [name for name in given if name not in known]
    face = face or options.__name__
    if unknown:
        errors = [
            InitErrorDetails(
                type=PydanticCustomError(
                    "unknown_option",
                    "{face} has no option {name}.{hint}",
                    {"face": face, "name": repr(name), "hint": _suggestion(name, options)},
                ),
                loc=(name,),
                input=None,
            )
            for name in unknown
        ]
        raise ValidationError.from_exception_data(face, errors, hide_input=True)


def _without_inputs(error: ValidationError) -> ValidationError:
    """The same error, without the values that it is about."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError(one["type"], "{said}", {"said": one["msg"]}),
            loc=one["loc"],
            input=None,
        )
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return ValidationError.from_exception_data(error.title, errors, hide_input=True)


def normal_name(model: str) -> str:
    """Normalise a checkpoint's name, so that two paths to the same folder or file are equal.

    Args:
        model: A hub id, a folder or a file.

    Returns:
        The absolute path if it exists, else the name unchanged.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    # A file's link is not followed: its own name tells more than that of a blob in a cache.
    return str(path.absolute()) if path.is_file() else model


def _suggestion(name: str, face: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, list(face.model_fields), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def _default(kind: type[BaseModel], name: str) -> Any:
    field = kind.model_fields.get(name)
    return None if field is None else field.get_default(call_default_factory=True)


def _set(options: AlignerOptions, name: str) -> bool:
    value, default = getattr(options, name), _default(AlignerOptions, name)
    # 0 equals False, but it is a different value.
    return type(value) is not type(default) or bool(value != default)


def _own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Move options out of `model_kwargs`, so that they are checked like all others."""
    options = dict(given)
    inner = options.get("model_kwargs")
    further = dict(inner) if isinstance(inner, Mapping) else {}
    if options.pop("trust_remote_code", False) or further.pop("trust_remote_code", False):
        message = (
            "trust_remote_code is refused, because code that comes with a checkpoint is never run."
            " Use a checkpoint whose architecture is part of transformers."
        )
        raise CheckpointError(message)
    if further.get("weights_only", True) is not True:
        message = (
            "weights_only=False is refused, because unpickling a checkpoint can run any code."
            " Use a checkpoint with safetensors, or one that loads with weights_only=True."
        )
        raise CheckpointError(message)
    _refuse_what_fails(options | further)
    for name in [name for name in further if name in LoadOptions.model_fields]:
        value = further.pop(name)
        if options.get(name) is None:
            options[name] = value
    if "torch_dtype" in further:
        dtype = further.pop("torch_dtype")
        if options.get("dtype") is None:
            options["dtype"] = dtype
    if isinstance(inner, Mapping):
        options["model_kwargs"] = further
    return options


def _refuse_what_fails(given: Mapping[str, Any]) -> None:
    """Refuse options of transformers that don't work with passes that several edits share."""
    if given.get("cache_implementation") is not None:
        message = (
            f"cache_implementation={given['cache_implementation']!r} is refused: edits of different"
            " lengths share forward passes here, and keys and values are removed again when a"
            " draft is rejected, which a static cache can't do. Leave this option out;"
            " prefix_cache_bytes=... limits what is kept between edits."
        )
        raise CheckpointError(message)
    if str(given.get("attn_implementation")).startswith("paged"):
        message = (
            f"attn_implementation={given['attn_implementation']!r} is refused: it belongs to"
            " transformers' continuous batching, but edits have their own queue. Leave it out, or"
            " give 'sdpa' or 'flash_attention_2'."
        )
        raise CheckpointError(message)
    for name in ("load_in_4bit", "load_in_8bit"):
        if given.get(name):
            message = (
                f"{name}=True is no longer an option in transformers 5. Give"
                f" quantization_config=BitsAndBytesConfig({name}=True), from transformers."
            )
            raise CheckpointError(message)


def _written(value: Any) -> str:
    """Serialise a value; equal values are serialised alike."""
    return json.dumps(value, default=_plain, sort_keys=True)


def _plain(value: Any) -> Any:
    """Replace an object that JSON can't represent, such as a quantisation, folder or engine."""
    if isinstance(value, SecretStr):
        return ["secret", hashlib.sha256(value.get_secret_value().encode()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Path):
        return str(value)
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict) and not isinstance(value, type):
        return [type(value).__qualname__, to_dict()]
    if isinstance(value, BaseModel | Hidden):
        # What is bound to a model, such as a header, may be a secret.
        value = revealed(value)
        return [type(value).__qualname__, _digest(value)]
    if type(value).__module__ == "torch":
        return repr(value)
    return _identity(value)


# Names for objects that can't be serialised; no name is ever used twice.
_identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _identity(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str) and "<" not in name:
        return f"{value.__module__}.{name}"
    # Two such objects may be equal, but treating them as different only costs a load or an edit.
    # Treating different objects as equal would return an edit made with other settings.
    try:
        return _identities.setdefault(value, uuid.uuid4().hex)
    except TypeError:  # not hashable, or without support for weak references
        return repr(value)
