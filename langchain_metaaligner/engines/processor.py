"""What the local engine uses on this machine's processor, for whoever looks at the machine."""

from __future__ import annotations


def kernels_in_use() -> tuple[str, str | None]:
    """Say which kernels edit on the CPU by default; they are compiled if they aren't yet.

    Returns:
        The name of the weights' format there, and why this package's kernels are not used for it;
        `None` if they are.

    Raises:
        ImportError: torch is not installed.
    """
    from langchain_metaaligner.engines.local.native_kernels import why_not
    from langchain_metaaligner.engines.local.placement import choose_dtype

    dtype = choose_dtype("auto", "cpu")
    return str(dtype).removeprefix("torch."), why_not(dtype)
