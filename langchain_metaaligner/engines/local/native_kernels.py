"""Compiles and calls this package's own kernels, for a LLaMA on a processor with AVX-512."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.cpp")
_BLOCK = 64  # outputs whose weights stand together, as in the source
_LANES = 16
_QUERIES = 48  # queries that may share one head's keys, as in the source
_PATIENCE = 120.0  # seconds for the compiler, which needs about 3
# No fused multiplication and addition but where the source asks for it: results don't depend on
# the compiler then.
_FLAGS = (
    "-O3", "-std=c++17", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fopenmp", "-fPIC",
    "-w", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma",
)  # fmt: skip
_BFLOAT16_FLAG = "-mavx512bf16"

_ADDRESS, _SIZE, _NUMBER, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_PRODUCT = (*[_ADDRESS] * 4, *[_SIZE] * 3, _COUNT)
_LAYERS = (
    *[_ADDRESS] * 3, *[_NUMBER] * 2, _ADDRESS, _SIZE, *[_ADDRESS] * 3, _SIZE, *[_ADDRESS] * 3,
    _SIZE, _COUNT,
)  # fmt: skip


@dataclass(frozen=True)
class LlamaShape:
    """The numbers that a LLaMA's layers have in common.

    Attributes:
        width: Hidden size.
        inner: Intermediate size.
        heads: Number of query heads.
        kept: Number of key heads.
        size: Size of a head.
    """

    width: int
    inner: int
    heads: int
    kept: int
    size: int

    @property
    def fits(self) -> bool:
        """Whether there are kernels for it."""
        groups, rest = divmod(self.heads, self.kept)
        odd = rest or self.width % _LANES or self.inner % _LANES
        return self.size in (64, 128) and groups <= _QUERIES and not odd


class Layer(NamedTuple):
    """What one layer computes with: norms, packed weights, and packed biases or `None`."""

    before: torch.Tensor
    inputs: torch.Tensor
    inputs_bias: torch.Tensor | None
    outputs: torch.Tensor
    outputs_bias: torch.Tensor | None
    between: torch.Tensor
    gates: torch.Tensor
    gates_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class NativeKernels:
    """Computes with rows of numbers in one format; each row's result depends on that row alone.

    All tensors are contiguous and on the CPU.

    Args:
        library: The compiled kernels.
        dtype: The format.

    Attributes:
        dtype: The format.
        layers: The function that `NativeLlama` calls.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._step = 2 if dtype is torch.bfloat16 else 1
        name = str(dtype).removeprefix("torch.")
        self._product = getattr(library, f"product_{name}")
        self._product.argtypes, self._product.restype = _PRODUCT, None
        self.layers = getattr(library, f"layers_{name}")
        self.layers.argtypes, self.layers.restype = _LAYERS, None

    def takes(self, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        """Whether rows can be multiplied by weights, `[out_features, in_features]`."""
        return (
            all(one is None or one.dtype is self.dtype for one in (weight, bias))
            and weight.device.type == "cpu"
            and weight.numel() > 0
            and weight.shape[1] % self._step == 0
        )

    def takes_norm(self, weight: torch.Tensor, width: int) -> bool:
        """Whether the weights of a norm can be used, `[width]`."""
        same = weight.dtype is self.dtype and weight.device.type == "cpu"
        return same and weight.shape == (width,) and weight.is_contiguous()

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Copy weights, `[out_features, in_features]`, into the order in which they are read.

        Returns:
            `[out_features / 64, in_features / step, 64, step]`, where a step is 2 inputs in
            bfloat16 and 1 in float32. Missing outputs are 0.
        """
        outputs, inputs = weight.shape
        whole = weight.detach().contiguous()
        if outputs % _BLOCK:
            whole = pad(whole, (0, 0, 0, -outputs % _BLOCK))
        parts = whole.view(-1, _BLOCK, inputs // self._step, self._step)
        return parts.permute(0, 2, 1, 3).contiguous()

    def pack_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """Copy a bias, `[out_features]`, and fill it up with zeros."""
        return pad(bias.detach(), (0, -len(bias) % _BLOCK))

    def product(
        self, rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int
    ) -> torch.Tensor:
        """Multiply rows, `[tokens, in_features]`, by weights that `pack` has made.

        Returns:
            `[tokens, outputs]`.
        """
        count, inputs = rows.shape
        made = rows.new_empty(count, outputs)
        self._product(
            rows.data_ptr(), packed.data_ptr(), None if bias is None else bias.data_ptr(),
            made.data_ptr(), count, inputs, outputs, torch.get_num_threads(),
        )  # fmt: skip
        return made


class NativeLlama:
    """The layers of a LLaMA, as the kernels read them.

    Args:
        kernels: The kernels.
        shape: The layers' shape.
        layers: What each computes with. The tensors are kept.
        last: The weights of the norm after the last layer, `[hidden_size]`.
        epsilon: What norms add to the mean square.
        scale: Factor for the scores of attention.
    """

    def __init__(
        self,
        kernels: NativeKernels,
        shape: LlamaShape,
        layers: Sequence[Layer],
        last: torch.Tensor,
        *,
        epsilon: float,
        scale: float,
    ) -> None:
        self._function, self._dtype = kernels.layers, kernels.dtype
        self._shape = shape
        self._kept = layers, last
        numbers = [0 if one is None else one.data_ptr() for layer in layers for one in layer]
        self._addresses = (_SIZE * len(numbers))(*numbers)
        self._last = last.data_ptr()
        self._epsilon, self._scale = epsilon, scale

    def takes(self, hidden: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> bool:
        """Whether tokens can be passed through; the arguments are those of `run`."""
        size = len(hidden), self._shape.size
        return (
            all(one.dtype is self._dtype for one in (hidden, *turn))
            and hidden.shape[1] == self._shape.width
            and hidden.is_contiguous()
            and all(one.shape == size for one in turn)
        )

    def space(self, hidden: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for what is computed on the way.

        Args:
            hidden: The tokens' embeddings, `[tokens, hidden_size]`.
            longest: How many tokens the longest sequence has after the pass.

        Returns:
            For the tokens in the model's format, and for scores of attention in float32.
        """
        shape = self._shape
        rows = (2 * shape.heads + 2 * shape.kept) * shape.size
        numbers = len(hidden) * (2 * shape.width + rows + 3 * shape.inner)
        scores = 2 * _QUERIES * (longest + -longest % _LANES)
        return hidden.new_empty(numbers), torch.empty(torch.get_num_threads(), scores)

    def run(
        self,
        hidden: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        spans: Sequence[int],
        space: tuple[torch.Tensor, torch.Tensor],
        layers: int,
    ) -> torch.Tensor:
        """Pass tokens through the layers.

        Args:
            hidden: The tokens' embeddings, `[tokens, hidden_size]`; changed in place.
            turn: Cosines and sines of the tokens' places, each `[tokens, head_dim]`.
            spans: Seven numbers for each layer and sequence: the addresses of its keys and its
                values, each `[key_heads, room, head_dim]`, their room, how many tokens the
                sequence had, the index of its first new token, the number of new ones, and how
                many tokens were ever written. Those behind the new ones are set to 0.
            space: What `space` has made for this pass.
            layers: How many layers, from the first on.

        Returns:
            The normalised results, `[tokens, hidden_size]`. Those of tokens after the last
            sequence have no meaning.
        """
        made = torch.empty_like(hidden)
        rows, scores = space
        self._function(
            (_SIZE * 6)(layers, *astuple(self._shape)), self._addresses, self._last, self._epsilon,
            self._scale, hidden.data_ptr(), len(hidden), turn[0].data_ptr(), turn[1].data_ptr(),
            (_SIZE * len(spans))(*spans), len(spans) // (7 * layers), rows.data_ptr(),
            scores.data_ptr(), made.data_ptr(), scores.shape[1], len(scores),
        )  # fmt: skip
        return made


def native_kernels(dtype: torch.dtype, wanted: bool | None = None) -> NativeKernels | None:
    """Compile the kernels for a format, once for this machine, and load them.

    They need Linux on x86-64, AVX-512 (for bfloat16 with its own instructions, as in AMD's Zen 4
    and Intel's Cooper Lake), and a compiler of C++: `$CXX`, `g++` or `c++`. What it made
    is kept in `$XDG_CACHE_HOME/langchain-metaaligner`, by default under `~/.cache`.

    Args:
        dtype: The format.
        wanted: Whether they must be there; `None` returns `None` where they can't be had or torch's
            are faster, and the log says why. `False` compiles nothing.

    Returns:
        The kernels, if they can be had.

    Raises:
        CheckpointError: They are wanted, but can't be had.
    """
    if wanted is False:
        return None
    made = _load(dtype) if wanted else (_better(dtype) or _load(dtype))
    if isinstance(made, NativeKernels):
        return made
    if wanted:
        message = (
            f"native_kernels=True was given, but {made}. Leave native_kernels out to use torch's"
            " kernels instead."
        )
        raise CheckpointError(message)
    logger.info("This package's kernels are not used: %s.", made)
    return None


def why_not(dtype: torch.dtype) -> str | None:
    """Say why the kernels for a format are not used by default; `None` if they are.

    Args:
        dtype: The format.

    Returns:
        The reason, without a full stop.
    """
    made = _better(dtype) or _load(dtype)
    return made if isinstance(made, str) else None


def _better(dtype: torch.dtype) -> str | None:
    """Say why torch's kernels are better; `None` if they aren't."""
    if dtype is torch.bfloat16 and _capabilities().get("amx_bf16"):
        return "this processor has AMX, with which torch's kernels read prompts faster"
    return None


def _capabilities() -> Mapping[str, Any]:
    # Older versions of torch can't tell.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known


@cache
def _load(dtype: torch.dtype) -> NativeKernels | str:
    """Return the kernels for a format, or why there are none."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the kernels are for Linux on x86-64, not for {sys.platform} {platform.machine()}"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "this processor has no AVX-512, or torch does not use it"
    flags = list(_FLAGS)
    if dtype is torch.bfloat16:
        if not _capabilities().get("avx512_bf16"):
            return (
                "this processor has no instructions for bfloat16 (AVX512_BF16), or torch is too old"
                " to tell"
            )
        flags.append(_BFLOAT16_FLAG)
    elif dtype is not torch.float32:
        return f"the kernels are for float32 and bfloat16, not for {dtype}"
    try:
        threads = _thread_library()
        if threads is None:
            return "torch uses no OpenMP library that the kernels could share"
        # The kernels share torch's threads: a second set would wait for the same cores.
        ctypes.CDLL(threads, mode=ctypes.RTLD_GLOBAL)
        return NativeKernels(_library(flags), dtype)
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        return f"the kernels could not be compiled or loaded: {_reason(error)}"


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    lines = [line for line in str(said).splitlines() if "error" in line] or [str(error)]
    return lines[0].strip()[:300].rstrip(".")


def _thread_library() -> str | None:
    """Find the OpenMP library that torch has loaded.

    Raises:
        OSError: The process can't see what it has loaded.
    """
    lines = Path("/proc/self/maps").read_text("utf-8", errors="surrogateescape").splitlines()
    loaded = {line.split(maxsplit=5)[-1] for line in lines}
    found = [one for one in sorted(loaded) if re.search(r"/lib(gomp|iomp5)\b[^/]*$", one)]
    own = [one for one in found if "/torch" in one]
    return next(iter(own or found), None)


def _library(flags: Sequence[str]) -> ctypes.CDLL:
    """Load the compiled kernels, which are compiled if they aren't there.

    Raises:
        OSError: There is no compiler, or what it made can't be loaded.
        subprocess.SubprocessError: The compiler failed.
    """
    about = "\0".join([_SOURCE.read_text("utf-8"), *flags])
    name = f"kernels-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
    folder = _own_folder()
    if folder is not None:
        with suppress(OSError):  # there is none, or it was cut off or made for another machine
            if _is_own(folder / name):
                return ctypes.CDLL(str(folder / name))
    compiler = shlex.split(os.environ.get("CXX", ""))  # may hold arguments as well
    compiler = compiler or [one for one in map(shutil.which, ("g++", "c++")) if one][:1]
    if not compiler:
        message = "there is no compiler of C++; install g++, or set CXX"
        raise FileNotFoundError(message)
    keeps = folder is not None and os.access(folder, os.W_OK)
    with tempfile.TemporaryDirectory(dir=folder if keeps else None) as working:
        made, parts = Path(working, name), Path(working, "kernels.o")
        logger.info("Compiling kernels with %s.", compiler[0])
        _run(*compiler, *flags, "-c", str(_SOURCE), "-o", str(parts))
        # Linked without OpenMP: its functions are those of torch.
        _run(*compiler, "-shared", "-o", str(made), str(parts))
        library = ctypes.CDLL(str(made))
        if keeps and folder is not None:  # only what could be loaded
            made.replace(folder / name)
        return library


def _run(*command: str) -> None:
    subprocess.run(  # noqa: S603 - a compiler, and files of this package
        command, check=True, capture_output=True, text=True, timeout=_PATIENCE
    )


def _own_folder() -> Path | None:
    """Return the folder for compiled files, or `None` if others could write to it."""
    try:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache_home / "langchain-metaaligner"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_own(folder) else None
    except (OSError, RuntimeError):  # no home, or none that can be written to
        return None


def _is_own(path: Path) -> bool:
    """Whether nobody but this user and root could have written a file or folder."""
    about = path.stat()
    return about.st_uid in (0, os.getuid()) and not about.st_mode & 0o022
