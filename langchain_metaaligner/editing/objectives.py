"""Objectives of edits: the catalogue, and the parsing of what users give."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from langchain_metaaligner.editing.prompts import FAMILIES, Objective
from langchain_metaaligner.errors import UnknownObjectiveError

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "UNTRAINED",
    "Objective",
    "ObjectiveLike",
    "Objectives",
    "Parsed",
    "catalogue_key",
    "check_allowed",
    "objective_key",
    "parse_objective",
    "parse_objectives",
]

# No checkpoint was trained on these, but Yang et al. 2024 (arXiv 2403.17141) show that their
# descriptions work.
UNTRAINED: Mapping[str, str] = {
    "specificity": (
        "Specificity: the response should refer to facts and details and avoid vague arguments."
    ),
    "factuality": (
        "Factuality: the response should be factually correct and avoid hallucinated statements."
    ),
    "readability": (
        "Readability: the response should be easy to read and understand, not too technical for"
        " laymen."
    ),
    "fairness": (
        "Fairness: the response should avoid biased or one-sided arguments and consider different"
        " points of view."
    ),
    "repetition": "Repetition: the response should avoid repetitive statements of one point.",
    "length": "Length: the response should be concise and avoid redundant content.",
}
# If several families know a name, the first family's wording is used.
CATALOGUE: Mapping[str, str] = {
    **UNTRAINED,
    **{key: text for family in reversed(FAMILIES) for key, text in family.objectives.items()},
}

ALIASES: Mapping[str, str] = {
    "humor": "humour",
    "harmless": "harmlessness",
    "helpful": "helpfulness",
    "informative": "informativeness",
    "professional": "professionalism",
}

_NAME = 60  # characters

ObjectiveLike = str | Objective | Mapping[str, Any]
"""A name, a sentence, an `Objective`, or a mapping with `name` and `description`."""

Objectives = ObjectiveLike | Iterable[ObjectiveLike]
"""One or more objectives."""


def catalogue_key(name: str) -> str | None:
    """Find the catalogue's key for a name, in any case, spacing or known variant.

    Args:
        name: The name.

    Returns:
        The key; `None` if the name is not in the catalogue.
    """
    key = objective_key(name)
    return key if key in CATALOGUE else None


def objective_key(name: str) -> str:
    """What all spellings of an objective's name have in common.

    Args:
        name: The name.

    Returns:
        The name without differences in case, spacing and known variants.
    """
    plain = unicodedata.normalize("NFKC", name).strip()
    key = re.sub(r"[\s_-]+", "_", plain).lower()
    return ALIASES.get(key, key)


def parse_objective(given: ObjectiveLike) -> Objective:
    """Parse one objective as given by a user.

    A name from the catalogue gets the wording of the first family that knows it; the prompt
    family may reword it in its own style (`PromptFamily.word`). Text with at least three words or
    a colon is a description: its name is the part before the colon, or the whole text.

    Args:
        given: A name, an `Objective`, a mapping with `name` and `description`, or a sentence.

    Returns:
        The objective. An objective from the catalogue has the catalogue's key as its name.

    Raises:
        UnknownObjectiveError: The name is not in the catalogue, or the value is not one of the
            above.
    """
    if isinstance(given, Objective):
        return _checked(given)
    if isinstance(given, Mapping):
        name, description = given.get("name"), given.get("description")
        if not isinstance(name, str) or not isinstance(description, str | None):
            msg = (
                "An objective given as a mapping needs a string for 'name' and for 'description',"
                f" but it has the keys {sorted(map(str, given))}."
            )
            raise UnknownObjectiveError(msg)
        return (
            parse_objective(name) if description is None else _checked(Objective(name, description))
        )
    if not isinstance(given, str):
        msg = (
            "An objective is a name, a sentence, an Objective or a mapping with 'name' and"
            f" 'description', not {type(given).__name__}."
        )
        raise UnknownObjectiveError(msg)
    key = catalogue_key(given)
    if key is not None:
        return Objective(key, CATALOGUE[key], catalogued=True)
    text = given.strip()
    if len(text.split()) >= 3 or ":" in text:
        name = text.partition(":")[0] if ":" in text else text
        return _checked(Objective(name.strip().lower() if ":" in text else name, text))
    raise UnknownObjectiveError(_unknown(given))


class Parsed(tuple[Objective, ...]):
    """Objectives that are already parsed; `parse_objectives` returns them unchanged."""

    __slots__ = ()


def parse_objectives(given: ObjectiveLike | Iterable[ObjectiveLike]) -> tuple[Objective, ...]:
    """Parse one or more objectives, without duplicates and in the given order.

    Args:
        given: One or more objectives, each as for `parse_objective`.

    Returns:
        At least one objective.

    Raises:
        UnknownObjectiveError: An objective is unknown, or none was given.
    """
    if type(given) is Parsed:
        return given
    if isinstance(given, str | Objective | Mapping):
        given = [given]
    try:
        parsed = Parsed(dict.fromkeys(parse_objective(one) for one in given))
    except TypeError as error:
        msg = f"Objectives are a list of names or descriptions, not {type(given).__name__}."
        raise UnknownObjectiveError(msg) from error
    if not parsed:
        msg = f"No objective was given. Give at least one, for instance {_known()}."
        if isinstance(given, Iterator):
            msg += " An iterator can be read once only; for several calls, give a list."
        raise UnknownObjectiveError(msg)
    return parsed


def check_allowed(wanted: Iterable[Objective], allowed: Iterable[Objective] | None) -> None:
    """Refuse objectives that are not on the allow-list.

    Args:
        wanted: The objectives that a caller asks for.
        allowed: The objectives that a caller may ask for. Both name and description must match: a
            known name with another description is another objective. `None` allows everything.

    Raises:
        UnknownObjectiveError: An objective is not allowed.
    """
    if allowed is None:
        return
    permitted = tuple(dict.fromkeys(allowed))
    for objective in wanted:
        if objective not in permitted:
            same = any(
                objective_key(one.name) == objective_key(objective.name) for one in permitted
            )
            what = "with this description " if same else ""
            msg = (
                f"The objective {_short(objective.name)} {what}is not on the allow-list of this"
                f" aligner. Allowed are: {', '.join(_short(one.name) for one in permitted)}."
            )
            raise UnknownObjectiveError(msg)


def _checked(objective: Objective) -> Objective:
    if not isinstance(objective.name, str) or not isinstance(objective.description, str):
        msg = (
            "The name and the description of an objective must be strings, not"
            f" {type(objective.name).__name__} and {type(objective.description).__name__}."
        )
        raise UnknownObjectiveError(msg)
    if not objective.name.strip() or not objective.description.strip():
        msg = (
            f"The objective {objective.name!r} has an empty name or description. The provenance"
            " needs the name and the prompt the description, so give both."
        )
        raise UnknownObjectiveError(msg)
    known = CATALOGUE.get(objective.name) == objective.description
    return objective if known == objective.catalogued else replace(objective, catalogued=known)


def _unknown(name: str) -> str:
    key = re.sub(r"[\s_-]+", "_", name.strip()).lower()
    known = [*CATALOGUE, *ALIASES]
    # A longer text is like none of them, and comparing it would take long.
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) if len(key) <= _NAME else []
    near = list(dict.fromkeys(ALIASES.get(name, name) for name in near))
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return (
        f"There is no objective {_short(name)}.{hint} Known are {_known()}. Describe any other"
        " objective: give a sentence such as 'The response should rhyme', or"
        " Objective(name, description)."
    )


def _known() -> str:
    return ", ".join(sorted(CATALOGUE))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
