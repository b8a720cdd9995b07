"""Finds a checkpoint's folder on this machine, or downloads it from the hub."""

from __future__ import annotations

import errno
import glob
import json
import logging
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from langchain_metaaligner.engines.local.progress import bars_of_hub
from langchain_metaaligner.engines.local.weight_files import WeightFiles, is_index, shards
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions, hub_token

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# All small files of configurations and tokenizers; never *.py.
_DESCRIPTION = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "vocab.txt",
    "tekken.json",
)  # fmt: skip
_CONFIGS = ("config.json", "adapter_config.json")
_DEFAULT = "main"
_PATIENCE = 20.0  # seconds for the hub to answer
_SECRET_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)

_Part = Literal["description", "weights"]


class HubFiles:
    """The files of one checkpoint or adapter: a folder, or a hub repository.

    Only the needed files are downloaded from a hub repository: small ones first, weights on
    request, pickles only if there are no safetensors, and never code. The folder is then read like
    any local folder. If transformers were given the hub id, it would also look for converted
    weights in pull requests, which are outside the chosen revision.

    All parts are of one commit. Without an answer from the hub, files that were downloaded earlier
    are used.

    Args:
        name: A hub id or a folder.
        options: Options with the token and the cache folder.
        revision: Branch, tag or commit; `None` is the default branch.
    """

    def __init__(self, name: str, options: LoadOptions, *, revision: str | None) -> None:
        self.name = name
        self._options = options
        self._revision = revision or _DEFAULT
        self._pinned: Path | None = None  # the commit's folder, once a part of it was found
        self._listed: tuple[str, dict[str, int]] | None = None
        self._folder = find_folder(name)

    def description(self) -> Path:
        """Download the configuration and the tokenizer, if necessary.

        Returns:
            The folder that contains them.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._find("description", WeightFiles(()))

    def weights(self, files: WeightFiles) -> Path:
        """Download the weights too, if necessary.

        Args:
            files: The names that they may have.

        Returns:
            The folder that contains all files.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._find("weights", files)

    def _find(self, part: _Part, files: WeightFiles) -> Path:
        if self._folder is not None:
            return self._folder
        pinned = self._pinned
        if pinned is not None and part == "weights" and files.complete_in(pinned):
            if self._listed is not None:
                self._note_revision(pinned, part)
            return pinned
        failure = None
        if not self._options.local_files_only:
            try:
                return self._download(part, files)
            except CheckpointError:
                raise
            except Exception as error:  # noqa: BLE001 - from the hub, its client or the disk
                failure = error
        folder, lacks = self._kept(part, files)
        if folder is None:
            raise CheckpointError(self._advice(failure, lacks)) from failure
        if failure is not None and folder != pinned:
            level = logging.INFO if _is_offline(failure) else logging.WARNING
            logger.log(
                level, "Using the copy of %s on this machine: %s", self.name, cause_of(failure)
            )
        self._pinned = folder
        return folder

    def _download(self, part: _Part, files: WeightFiles) -> Path:
        commit, sizes = self._listing()
        wanted = [name for name in sizes if name in _DESCRIPTION]
        chosen = files.choose(sizes.__contains__)
        if chosen is not None:
            wanted.append(chosen)
            if is_index(chosen):
                names = shards(self._fetch(commit, [chosen]) / chosen)
                if lost := [name for name in names if name not in sizes]:
                    message = (
                        f"{self.name} lacks {len(lost)} of the {len(names)} weight files that its"
                        f" {chosen} names, such as {lost[0]}. Use another revision=... of it."
                    )
                    raise CheckpointError(message)
                wanted += names
        if part == "weights":
            self._announce(commit, {name: sizes[name] for name in wanted})
        folder = self._fetch(commit, wanted)
        self._pinned = folder
        self._note_revision(folder, part)
        return folder

    def _fetch(self, commit: str, names: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.name,
                revision=commit,
                allow_patterns=[glob.escape(name) for name in names],
                cache_dir=self._options.cache_dir,
                token=hub_token(self._options),
                tqdm_class=bars_of_hub(),
            )
        )

    def _note_revision(self, folder: Path, part: _Part) -> None:
        """Note in the cache which commit the revision is, as a download by its name would do."""
        if folder.parent.name != "snapshots" or self._revision == folder.name:
            return
        ref = folder.parents[1] / "refs" / self._revision
        try:
            # Only what is complete takes the place of what loaded before.
            if part == "weights" or not ref.exists():
                ref.parent.mkdir(parents=True, exist_ok=True)
                new = ref.with_name(f"{ref.name}.{folder.name}")
                new.write_text(folder.name)
                new.replace(ref)
        except OSError as error:
            logger.info("Can't note the revision of %s: %s", self.name, first_line(error))

    def _kept(self, part: _Part, files: WeightFiles) -> tuple[Path | None, list[str]]:
        """Find the folder of files that were downloaded earlier, without any connection.

        Returns:
            The folder, if there is a complete one; and the weight files that the best one lacks.
        """
        found = [
            folder
            for folder in self._snapshots()
            if any((folder / name).is_file() for name in _CONFIGS)
        ]
        if part == "weights":
            whole = next(filter(files.complete_in, found), None)
            lacks = [] if whole or not found else files.find(found[0])
            return whole, [file.name for file in lacks if not file.is_file()]
        # Whose weights are complete, if there are any: nobody may be there to complete others.
        return next(filter(self._is_whole, found), found[0] if found else None), []

    def _snapshots(self) -> Iterator[Path]:
        """The commits in the cache that may be meant, the best first."""
        from huggingface_hub import constants, snapshot_download

        named = None
        for config in _CONFIGS:
            try:
                named = Path(
                    snapshot_download(
                        self.name,
                        revision=self._wanted_revision(),
                        allow_patterns=[config],
                        cache_dir=self._options.cache_dir,
                        local_files_only=True,
                    )
                )
            except (OSError, ValueError):  # not there, not readable, or no hub id
                continue
            yield named
            break
        if self._revision == _DEFAULT:
            # A cache that was filled by commits does not know which one the default branch is.
            cache = Path(self._options.cache_dir or constants.HF_HUB_CACHE).expanduser()
            folder = cache / f"models--{self.name.replace('/', '--')}" / "snapshots"
            others = [one for one in folder.glob("*") if one != named and one.is_dir()]
            others.sort(key=lambda one: one.stat().st_mtime, reverse=True)
            # A configuration that was read already goes with weights of another commit only if it
            # is the same there.
            yield from (one for one in others if _same_description(one, self._pinned))

    def _wanted_revision(self) -> str:
        return self._revision if self._pinned is None else self._pinned.name

    def _is_whole(self, folder: Path) -> bool:
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return WeightFiles.of_adapter().complete_in(folder)
        return WeightFiles.of_checkpoint(config, self._options).complete_in(folder)

    def _listing(self) -> tuple[str, dict[str, int]]:
        """List the commit and its files with their sizes."""
        if self._listed is None:
            from huggingface_hub import HfApi

            revision = self._wanted_revision()
            info = HfApi(token=hub_token(self._options)).model_info(
                self.name, revision=revision, files_metadata=True, timeout=_PATIENCE
            )
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            self._listed = (info.sha or revision, sizes)
        return self._listed

    def _announce(self, commit: str, sizes: dict[str, int]) -> None:
        """Log the size of a download before it starts.

        `snapshot_download(dry_run=True)` could tell too, but makes a request for every file.
        """
        from huggingface_hub import try_to_load_from_cache

        missing = {
            name: size
            for name, size in sizes.items()
            if not isinstance(
                try_to_load_from_cache(
                    self.name, name, cache_dir=self._options.cache_dir, revision=commit
                ),
                str,
            )
        }
        if missing:
            logger.warning(
                "Downloading %s: %.1f GB in %d files.",
                self.name,
                sum(missing.values()) / 1e9,
                len(missing),
            )

    def _advice(self, error: BaseException | None, lacks: list[str]) -> str:
        from huggingface_hub.errors import (
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        name, revision = self.name, self._revision
        copy = "this machine has no complete copy" + (f" ({lacks[0]} is missing)" if lacks else "")
        if error is None:
            return (
                f"{name} can't be loaded: {copy}, and local_files_only prevents a download. Leave"
                " local_files_only out, or give the folder of the checkpoint."
            )
        cause = cause_of(error)
        if isinstance(error, GatedRepoError):
            return (
                f"{name} is gated: its owners require you to accept their terms ({cause}). Accept"
                f" them at https://huggingface.co/{name}, then run `hf auth login` or pass"
                " token=..."
            )
        if isinstance(error, RevisionNotFoundError):
            return (
                f"{name} has no revision {revision!r} ({cause}). Check the revision, or leave it"
                " out."
            )
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"There is no checkpoint {name!r} on the hub ({cause}), and no folder of that name"
                " here. Check the spelling. A private checkpoint needs `hf auth login` or"
                " token=..."
            )
        return f"{name} can't be downloaded from the hub ({cause}), and {copy}. {remedy_for(error)}"


def _same_description(one: Path, other: Path | None) -> bool:
    """Whether two commits have the same configuration and tokenizer, as far as both are here."""
    if other is None:
        return True
    pairs = [(one / name, other / name) for name in _DESCRIPTION]
    return all(
        first.is_file() == second.is_file()
        and (not first.is_file() or first.read_bytes() == second.read_bytes())
        for first, second in pairs
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the outermost first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def cause_of(error: BaseException) -> str:
    """Tell in a few words why a download failed.

    Args:
        error: What huggingface_hub raised.

    Returns:
        The hub's status, or the message of the first cause; without secrets.
    """
    chain = list(_chain(error))
    for one in chain:
        if (status := _status(one)) is not None:
            known = status in HTTPStatus._value2member_map_
            phrase = f" {HTTPStatus(status).phrase}" if known else ""
            told = getattr(one, "server_message", None)
            told = f": {first_line(ValueError(told)).rstrip('.')}" if told else ""
            return _SECRET_IN_URL.sub("", f"the hub answered {status}{phrase}{told}")
    said = next((one for one in reversed(chain) if str(one).strip()), chain[-1])
    line = first_line(said).rstrip(".")
    kind = type(said).__name__
    return _SECRET_IN_URL.sub("", line if line == kind else f"{kind}: {line}")


def _is_offline(error: BaseException) -> bool:
    return any(type(one).__name__ == "OfflineModeIsEnabled" for one in _chain(error))


def remedy_for(error: BaseException) -> str:
    """What to do about a failed download, by its cause.

    Args:
        error: What huggingface_hub raised.

    Returns:
        A sentence.
    """
    chain = list(_chain(error))
    text = " ".join(f"{type(one).__name__} {one}" for one in chain).lower()
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    elsewhere = "choose another folder with cache_dir=... or the environment variable HF_HOME."
    if "certificate" in text:
        return (
            "If a proxy of your organisation inspects connections, let SSL_CERT_FILE name the file"
            " with its certificates."
        )
    if numbers.intersection(_FULL):
        return f"Free some space on the disk, or {elsewhere}"
    if numbers.intersection(_REFUSED):
        return f"Allow writing there, or {elsewhere}"
    if _is_offline(error):
        return "Unset HF_HUB_OFFLINE, or give the folder of the checkpoint."
    status = next(filter(None, map(_status, chain)), None)
    if "proxy" in text or status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return "Check the proxy in HTTPS_PROXY, or except the hub from it with NO_PROXY."
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return "Run `hf auth login` or pass token=..., with a token that may read it."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "Wait a while; the hub allows more to those who pass token=... or `hf auth login`."
    return (
        "Check the connection (HF_ENDPOINT selects a mirror), or download the checkpoint elsewhere"
        " and give its folder."
    )


def find_folder(name: str) -> Path | None:
    """Find the folder that a checkpoint's name refers to.

    Args:
        name: A hub id or a folder.

    Returns:
        The folder; `None` for a hub id.

    Raises:
        CheckpointError: It is a file, or neither a folder nor a possible hub id.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        message = (
            f"{name!r} is a file; expected a hub id, or a folder with config.json, a tokenizer and"
            " weights. Give the folder."
        )
        raise CheckpointError(message)
    if not _HUB_ID.fullmatch(name):
        message = (
            f"There is no folder {name!r}, and it is no hub id (owner/name) either. Check the"
            " path, or give a checkpoint such as MetaAligner/MetaAligner-HH-RLHF-7B."
        ) + (
            " A revision belongs in revision=..., or adapter_revision=... for an adapter."
            if "@" in name
            else ""
        )
        raise CheckpointError(message)
    return None
