"""The packages that each extra brings, and which of them are missing here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

_PROJECT = "langchain-metaaligner"
_ALL = "all"  # repeats the others
_EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")


@dataclass(frozen=True, slots=True)
class Needed:
    """A package that this one needs.

    Attributes:
        name: Its name.
        wanted: Its versions that will do.
        extra: The extra that brings it; empty if it always comes along.
        found: Its version here; `None` if it is missing.
        fits: Whether it is here, in a version that will do.
    """

    name: str
    wanted: str
    extra: str
    found: str | None
    fits: bool


def needed_packages() -> Iterator[Needed]:
    """List the packages that this one needs, as its own metadata names them.

    Yields:
        Each package, once for each extra that brings it.
    """
    for text in requires(_PROJECT) or ():
        one = Requirement(text)
        extra = found[1] if one.marker and (found := _EXTRA.search(str(one.marker))) else ""
        if extra == _ALL or one.name == _PROJECT:
            continue
        try:
            here: str | None = version(one.name)
        except PackageNotFoundError:
            here = None
        fits = here is not None and one.specifier.contains(here, prereleases=True)
        yield Needed(one.name, str(one.specifier), extra, here, fits)


def pip_line(extra: str) -> str:
    """The command that installs an extra.

    Args:
        extra: Its name; empty for the package alone.

    Returns:
        The command.
    """
    return f'pip install "{_PROJECT}[{extra}]"' if extra else f"pip install --upgrade {_PROJECT}"


def extra_with(module: str) -> str | None:
    """Find the extra that brings a module.

    Args:
        module: The module's name.

    Returns:
        The extra; `None` if none does.
    """
    top = module.partition(".")[0].lower()
    for one in needed_packages():
        name = re.sub(r"[-.]+", "_", one.name).lower()
        if one.extra and (name == top or name.startswith(f"{top}_")):
            return one.extra
    return None
