"""Every option once: its type, its default, its words, and what it changes."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import uuid
import weakref
from collections.abc import Hashable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.pickles import reduce_at_root


class Effect(StrEnum):
    """What an option changes. Each has exactly one effect.

    The weights' options make up the key by which engines are shared, together with those of how
    the engine runs; the weights' and the text's make up the key of a cache of replies.
    """

    WEIGHTS = "weights"
    """Which weights are loaded, and in which form."""

    TEXT = "text"
    """What text comes out."""

    NEITHER = "neither"
    """Time, memory, access or reports, but no text."""


class Static:
    """The type of an option in the signatures, where it is made of names from other modules.

    Args:
        source: The annotation.
    """

    def __init__(self, source: str) -> None:
        self.source = source


def _as_path(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _as_folder(given: Any) -> Any:
    given = _as_path(given)
    return normal_name(given) if isinstance(given, str) else given


def _as_dtype(given: Any) -> Any:
    return str(given).removeprefix("torch.")


_Name = Annotated[str, BeforeValidator(_as_path)]
_Folder = Annotated[str, BeforeValidator(_as_folder)]


class _Options(BaseModel):
    """What all sets of options have in common."""

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        # A value can be a secret that was meant for another option.
        hide_input_in_errors=True,
    )

    __reduce_ex__ = reduce_at_root

    def __getstate__(self) -> dict[Any, Any]:
        # What was given is all: the rest is the defaults of whoever reads it, and a token is not
        # for files.
        fields = type(self).model_fields
        given = self.model_fields_set - {"token"}
        state: dict[str, Any] = {
            "given": {name: getattr(self, name) for name in fields if name in given}
        }
        if self.__pydantic_private__:
            state["private"] = self.__pydantic_private__
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        given = state.get("given")
        if given is None:
            # Pickles of 0.1 hold every field, with that version's defaults.
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
    """How a checkpoint is found, loaded and run; the names are those of transformers."""

    adapter: Annotated[_Folder | None, Effect.WEIGHTS, Static("str | os.PathLike[str] | None")] = (
        None
    )
    """Folder or hub id of a PEFT adapter, merged into the weights where possible."""

    dtype: Annotated[str, BeforeValidator(_as_dtype), Effect.WEIGHTS, Static("Any")] = "auto"
    """Format of the weights: a name such as `bfloat16`, a `torch.dtype`, or `auto`: bfloat16 where
    the device has instructions for it (AVX-512 BF16 or AMX on a CPU), else float16 on an
    accelerator and float32 on a CPU. Only in float32 are edits those of plain greedy decoding,
    token for token, up to exact ties."""

    device_map: Annotated[Any, Effect.WEIGHTS] = "auto"
    """Where the weights go; `auto` spreads them over what accelerate finds."""

    revision: Annotated[str | None, Effect.WEIGHTS] = None
    """Branch, tag or commit of the checkpoint on the hub."""

    token: Annotated[
        SecretStr | bool | None, Effect.NEITHER, Static("SecretStr | str | bool | None")
    ] = Field(default=None, repr=False)
    """Token for the hub, if the one that huggingface_hub finds by itself is the wrong one. It is
    not pickled."""

    cache_dir: Annotated[
        _Folder | None, Effect.NEITHER, Static("str | os.PathLike[str] | None")
    ] = None
    """Folder for downloads."""

    local_files_only: Annotated[bool, Effect.NEITHER] = False
    """Use only what is on this machine."""

    attn_implementation: Annotated[str | None, Effect.WEIGHTS] = None
    """Attention of models whose rows can't share a pass: `sdpa`, `eager`, `flash_attention_2`, ...
    Where rows share passes (models of the LLaMA kind), each row's attention is computed by torch's
    `scaled_dot_product_attention`."""

    quantization_config: Annotated[Any, Effect.WEIGHTS] = None
    """A quantisation of transformers, such as a `BitsAndBytesConfig`, applied while loading."""

    torch_compile: Annotated[bool | dict[str, Any], Effect.WEIGHTS] = False
    """Compile the feed-forward part of each layer: `True`, or arguments of `torch.compile`. The
    first edits wait for the compiler."""

    prepack_weights: Annotated[bool | None, Effect.WEIGHTS] = None
    """On a CPU, keep a second copy of the linear layers' weights in the order that its kernels
    read, which makes edits faster. `None` does so if the copies take 1 GiB at most. With
    `torch_compile` there are none."""

    max_memory: Annotated[dict[Any, Any] | None, Effect.WEIGHTS] = None
    """Memory to use on each device, as accelerate takes it."""

    offload_folder: Annotated[
        _Folder | None, Effect.NEITHER, Static("str | os.PathLike[str] | None")
    ] = None
    """Where layers go that fit nowhere else."""

    prefix_cache_bytes: Annotated[int | None, Field(ge=0), Effect.NEITHER] = None
    """Most bytes of keys and values that are kept of prompts' beginnings. 0 keeps none, `None`
    suits the device."""

    max_queue: Annotated[int, Field(gt=0), Effect.NEITHER] = 256
    """Edits that may wait before others are refused with `OverloadedError`."""

    model_kwargs: Annotated[dict[str, Any], Effect.WEIGHTS] = Field(default_factory=dict)
    """Further arguments for transformers' `from_pretrained`."""

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

    model: Annotated[_Name | None, Effect.WEIGHTS, Static("str | os.PathLike[str] | None")] = None
    """Hub id or folder of the checkpoint. `None` is the environment variable `METAALIGNER_MODEL`,
    else the embedded aligner."""

    family: Annotated[str | None, Effect.TEXT] = None
    """Prompt family, if the checkpoint's name and files don't tell it."""

    engine: Annotated[Any, Effect.WEIGHTS, Static("Engine | EngineLike | None")] = None
    """An engine object to use instead of loading a model."""

    max_new_tokens: Annotated[int, Field(gt=0), Effect.TEXT] = 1024
    """Most tokens of an edit."""

    temperature: Annotated[float, Field(ge=0.0), Effect.TEXT] = 0.0
    """0 decodes greedily."""

    timeout: Annotated[float | None, Field(gt=0), Effect.NEITHER] = None
    """Seconds after which an edit is stopped with `EditTimeout`. They count from the call, waiting
    and loading included."""

    system: Annotated[Literal["first_turn"] | None, Effect.TEXT] = None
    """What becomes of system messages: `None` leaves them out of the context, `first_turn` joins
    them to the first human turn."""

    keep_above: Annotated[float | None, Field(le=0.0), Effect.TEXT] = None
    """Agreement (mean log-probability of the answer's tokens under the aligner, at most 0) from
    which the answer stays as it is, without decoding. Engines that don't report agreement ignore
    it."""

    token_agreement: Annotated[bool, Effect.NEITHER] = False
    """Record the agreement of each token of the answer, for diffs. Messages never carry it. The
    whole answer is then tried together with the prompt: a larger first pass, but no further one."""

    eager: Annotated[bool | None, Effect.NEITHER] = None
    """Prefill context and answer while the policy works. `None` does so in streams, unless tools
    are bound."""


class ReplyOptions(AlignerOptions):
    """What becomes of a reply; the options of every face in LangChain."""

    objectives: Annotated[Any, Effect.TEXT, Static("Objectives")] = ("harmlessness", "helpfulness")
    """What edits are made towards: names, sentences or `Objective`s."""

    aligner: Annotated[Any, Effect.WEIGHTS, Static("Aligner | None")] = None
    """An `Aligner` to share, instead of options for a new one."""

    on_error: Annotated[Literal["raise", "pass", "block"], Effect.TEXT] = "raise"
    """When an edit fails: raise the error, pass the original on, or block it with a fixed
    message."""

    block_message: Annotated[str, Field(min_length=1), Effect.TEXT] = (
        "I can't show this answer, because it could not be checked. Please try again."
    )
    """What takes a blocked answer's place."""

    on_leak: Annotated[Literal["raise", "ignore"], Effect.NEITHER] = "raise"
    """When tokens of the unedited reply have already reached a consumer."""

    keep_original: Annotated[bool, Effect.TEXT] = False
    """Keep the original text in the message's metadata."""

    apply: Annotated[bool, Effect.TEXT] = True
    """`False` is shadow mode: edit, report, return the original."""

    allow_objectives: Annotated[Any, Effect.TEXT, Static("Objectives | None")] = None
    """What a caller may ask for beyond this aligner's own objectives; `None` is everything."""

    edit_tool_text: Annotated[bool, Effect.TEXT] = False
    """Edit the text beside tool calls too."""

    when: Annotated[Any, Effect.TEXT, Static("When | None")] = Field(default=None, exclude=True)
    """`when(reply, context) -> bool` decides whether a reply is edited at all; otherwise it is
    `skipped`. `reply` is the message or text, `context` what it answers (messages, a `Context` or
    text), `None` if that is not known."""

    on_edit: Annotated[Any, Effect.NEITHER, Static("Callable[[Alignment], object] | None")] = Field(
        default=None, exclude=True
    )
    """Called with the record of each edit or failure."""


def parse_load_options(given: Mapping[str, Any]) -> LoadOptions:
    """Check the options of the local engine.

    Args:
        given: Name and value of each; `None` means the default.

    Returns:
        All options.

    Raises:
        CheckpointError: One would run code that comes with a checkpoint, or can't be combined with
            passes for many rows.
        TypeError: One is unknown.
        pydantic.ValidationError: One is of the wrong type or out of range.
    """
    given = _own_names(given)
    if unknown := sorted(given.keys() - LoadOptions.model_fields.keys()):
        message = (
            f"The local engine has no option {unknown[0]!r}.{_suggestion(unknown[0], LoadOptions)}"
            f" It has {', '.join(sorted(LoadOptions.model_fields))}."
        )
        raise TypeError(message)
    return LoadOptions(**given)


def load_key(options: LoadOptions) -> Hashable:
    """Tell settings apart: equal keys load the same thing and run it in the same way.

    Args:
        options: The options.

    Returns:
        Something hashable, without secrets.
    """
    return tuple((name, _written(getattr(options, name))) for name in LoadOptions.model_fields)


def hub_token(options: LoadOptions) -> str | bool | None:
    """The token for the hub in plain text, for huggingface_hub alone.

    Args:
        options: The options.
    """
    token = options.token
    return token.get_secret_value() if isinstance(token, SecretStr) else token


def load_options(options: AlignerOptions) -> dict[str, Any]:
    """The options that go to the engine, without those left at their defaults.

    Args:
        options: All options of an aligner.

    Returns:
        Name and value of each.
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
    """What a cache of edited replies tells apart: all that identifies weights or changes text.

    Args:
        options: All options.

    Returns:
        Name and value, written so that equal values are written alike. An object that can't be
        written down, such as an engine or a lambda, gets a name of its own in this process.
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
        The effect; `None` for a field that is no option of this package.
    """
    found = [one for one in kind.model_fields[name].metadata if isinstance(one, Effect)]
    return found[0] if len(found) == 1 else None


def check_names(options: type[BaseModel], given: Iterable[str], *, face: str | None = None) -> None:
    """Refuse unknown options before anything looks at their values.

    Args:
        options: The class whose fields are known.
        given: The names that were given.
        face: The name of the class that was called, if it is another.

    Raises:
        pydantic.ValidationError: One of them is unknown. The error suggests the nearest name and
            holds no value: it may be a secret.
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


def normal_name(model: str) -> str:
    """Write a checkpoint's name so that two spellings of one folder are the same.

    Args:
        model: A hub id or a folder.

    Returns:
        The absolute path where there is such a folder, else the name as it is.
    """
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _suggestion(name: str, face: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, list(face.model_fields), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def _default(kind: type[BaseModel], name: str) -> Any:
    field = kind.model_fields.get(name)
    return None if field is None else field.get_default(call_default_factory=True)


def _set(options: AlignerOptions, name: str) -> bool:
    value, default = getattr(options, name), _default(AlignerOptions, name)
    # 0 equals False, and is another value.
    return type(value) is not type(default) or bool(value != default)


def _own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options among `model_kwargs` go by their own names, to be checked like the others."""
    options = dict(given)
    inner = options.get("model_kwargs")
    further = dict(inner) if isinstance(inner, Mapping) else {}
    if options.pop("trust_remote_code", False) or further.pop("trust_remote_code", False):
        message = (
            "trust_remote_code is refused: code that comes with a checkpoint is never run."
            " Use a checkpoint whose architecture is part of transformers."
        )
        raise CheckpointError(message)
    if further.get("weights_only", True) is not True:
        message = (
            "weights_only=False is refused: unpickling a checkpoint can run any code."
            " Use a checkpoint with safetensors, or one that loads with weights_only."
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
    """Refuse what transformers offers, but what can't be combined with passes for many rows."""
    if given.get("cache_implementation") is not None:
        message = (
            f"cache_implementation={given['cache_implementation']!r} is refused: rows of unequal"
            " length share passes here, and each one's keys and values grow and are taken back with"
            " its drafts, which a static cache allows neither of. Leave it out;"
            " prefix_cache_bytes=... bounds what is kept between edits."
        )
        raise CheckpointError(message)
    if str(given.get("attn_implementation")).startswith("paged"):
        message = (
            f"attn_implementation={given['attn_implementation']!r} is refused: it belongs to the"
            " continuous batching of transformers, and edits have a queue of their own. Leave it"
            " out, or give 'sdpa' or 'flash_attention_2'."
        )
        raise CheckpointError(message)
    for name in ("load_in_4bit", "load_in_8bit"):
        if given.get(name):
            message = (
                f"{name}=True is no option of transformers 5 any more. Give"
                f" quantization_config=BitsAndBytesConfig({name}=True), from transformers."
            )
            raise CheckpointError(message)


def _written(value: Any) -> str:
    """Write a value so that equal ones are written alike, whatever object holds them."""
    return json.dumps(value, default=_plain, sort_keys=True)


def _plain(value: Any) -> Any:
    """Stand-in for something that JSON doesn't know: a quantisation, a folder, an engine."""
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
    if type(value).__module__ == "torch" or isinstance(value, BaseModel):
        return repr(value)
    return _identity(value)


# Objects that can't be written down, each with a name that no other object ever gets.
_identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _identity(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str) and "<" not in name:
        return f"{value.__module__}.{name}"
    # Two objects may well be equal: too little shared costs a load or an edit, too much would hand
    # out what was made with another's settings.
    try:
        return _identities.setdefault(value, uuid.uuid4().hex)
    except TypeError:  # not hashable, or of a kind that no weak reference can point at
        return repr(value)
