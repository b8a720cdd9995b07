"""Finds a checkpoint's folder on this machine, or downloads it from the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from langchain_metaaligner.errors import CheckpointError
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
_NOTHING = re.compile(r"(?!)")
_SAFETENSORS = {
    "description": _NOTHING,
    "weights": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    "adapter": re.compile(r"adapter_model\.safetensors"),
}
_PATIENCE = 20.0  # seconds for the hub to answer
_PICKLES = {
    "description": _NOTHING,
    "weights": re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"),
    "adapter": re.compile(r"adapter_model\.bin"),
}
_KEPT = {
    "description": ((),),
    "weights": (("model*.safetensors*",), ("pytorch_model*.bin*",)),
    "adapter": (("adapter_model.safetensors",), ("adapter_model.bin",)),
}


class HubFiles:
    """The files of one checkpoint or adapter: a folder, or a hub repository.

    Only the needed files are downloaded from a hub repository: small ones first, weights on
    request, pickles only if there are no safetensors, and never code. The folder is then read like
    any local folder. If transformers were given the hub id, it would also look for converted
    weights in pull requests, which are outside the chosen revision.

    Args:
        name: A hub id or a folder.
        options: Options with the revision, the token and the cache folder.
        revision: Takes precedence over the revision in the options.
    """

    def __init__(self, name: str, options: LoadOptions, *, revision: str | None = None) -> None:
        self.name = name
        self._options = options
        self._revision = revision
        self._listed: tuple[str, dict[str, int]] | None = None
        self._folder = find_folder(name)

    def description(self) -> Path:
        """Download the configuration and the tokenizer, if necessary.

        Returns:
            The folder that contains them.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._folder or self._download("description")

    def weights(self) -> Path:
        """Download the weights too, if necessary.

        Returns:
            The folder that contains all files.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._folder or self._download("weights")

    def adapter(self) -> Path:
        """Download an adapter and its configuration, if necessary.

        Returns:
            The folder that contains all files.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._folder or self._download("adapter")

    def _download(self, part: str) -> Path:
        from huggingface_hub import snapshot_download

        try:
            listed = None if self._options.local_files_only else self._listing()
            if listed is None:
                return self._kept(part)
            revision, sizes = listed
            wanted = _wanted(sizes, part)
            if part != "description":
                self._announce(revision, {name: sizes[name] for name in wanted})
            return Path(
                snapshot_download(
                    self.name,
                    revision=revision,
                    allow_patterns=wanted,
                    cache_dir=self._options.cache_dir,
                    token=hub_token(self._options),
                )
            )
        except Exception as error:  # from huggingface_hub, its HTTP library or the disk
            raise CheckpointError(self._advice(error)) from error

    def _kept(self, part: str) -> Path:
        """Find the folder of files that were downloaded earlier, without any connection."""
        from huggingface_hub import snapshot_download

        # Both patterns at once would fail if the repository has pickles that were not downloaded
        # because it has safetensors too.
        for patterns in _KEPT[part]:
            folder = Path(
                snapshot_download(
                    self.name,
                    revision=self._revision or self._options.revision,
                    allow_patterns=[*_DESCRIPTION, *patterns],
                    cache_dir=self._options.cache_dir,
                    local_files_only=True,
                )
            )
            if any(any(folder.glob(pattern)) for pattern in patterns):
                break
        return folder

    def _listing(self) -> tuple[str, dict[str, int]] | None:
        """List the commit and its files with their sizes; `None` if the hub can't be reached."""
        if self._listed is None:
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError

            try:
                info = HfApi(token=hub_token(self._options)).model_info(
                    self.name,
                    revision=self._revision or self._options.revision,
                    files_metadata=True,
                    timeout=_PATIENCE,
                )
            except HfHubHTTPError as error:
                response = getattr(error, "response", None)
                if response is not None and response.status_code < 500:
                    raise
                return None
            except Exception:  # noqa: BLE001 - files that were downloaded earlier may be enough
                logger.info("Can't reach the hub; looking for %s on this machine.", self.name)
                return None
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            self._listed = (info.sha or "main", sizes)
        return self._listed

    def _announce(self, revision: str, sizes: dict[str, int]) -> None:
        """Log the size of a download before it starts.

        `snapshot_download(dry_run=True)` could tell too, but makes a request for every file.
        """
        from huggingface_hub import try_to_load_from_cache

        missing = {
            name: size
            for name, size in sizes.items()
            if not isinstance(
                try_to_load_from_cache(
                    self.name, name, cache_dir=self._options.cache_dir, revision=revision
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

    def _advice(self, error: BaseException) -> str:
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        name, revision = self.name, self._revision or self._options.revision
        if isinstance(error, GatedRepoError):
            return (
                f"{name} is gated: its owners require you to accept their terms. Accept them at"
                f" https://huggingface.co/{name}, then run `hf auth login` or pass token=..."
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{name} has no revision {revision!r}. Check revision=... or leave it out."
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"There is no checkpoint {name!r} on the hub, and no folder of that name here."
                " Check the spelling. A private checkpoint needs `hf auth login` or token=..."
            )
        if isinstance(error, LocalEntryNotFoundError) and self._options.local_files_only:
            return (
                f"{name} is not completely on this machine, and local_files_only prevents a"
                " download. Leave local_files_only out, or give the folder of the checkpoint."
            )
        return (
            f"{name} can't be downloaded from the hub ({type(error).__name__}), and this machine"
            " has no complete copy. Check the connection (HF_ENDPOINT selects a mirror;"
            " HF_HUB_OFFLINE must not be set), or download the checkpoint elsewhere and give its"
            " folder."
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
        )
        raise CheckpointError(message)
    return None


def _wanted(names: dict[str, int], part: str) -> list[str]:
    """List the files of a repository that are needed to load a part of it."""
    safe = [name for name in names if _SAFETENSORS[part].fullmatch(name)]
    return [name for name in names if name in _DESCRIPTION] + (
        safe or [name for name in names if _PICKLES[part].fullmatch(name)]
    )
