"""Finds a checkpoint's folder on this machine, or brings it from the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import LoadOptions, hub_token

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Everything small that a configuration or a tokenizer may be read from; never *.py.
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

    From a hub repository comes what is needed and nothing else: the small files first, the
    weights when they are asked for, pickles only where there are no safetensors, never code. The
    folder is then read as any folder on this machine: given a hub id itself, transformers would
    also look for converted weights in a pull request, which nobody has pinned.

    Args:
        name: A hub id or a folder.
        options: Revision, token and cache.
        revision: Goes before the revision in the options.
    """

    def __init__(self, name: str, options: LoadOptions, *, revision: str | None = None) -> None:
        self.name = name
        self._options = options
        self._revision = revision
        self._listed: tuple[str, dict[str, int]] | None = None
        self._folder = find_folder(name)

    def description(self) -> Path:
        """Bring the configuration and the tokenizer.

        Returns:
            The folder that they are in.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._folder or self._download("description")

    def weights(self) -> Path:
        """Bring the weights too.

        Returns:
            The folder that all files are in.

        Raises:
            CheckpointError: They can't be found or downloaded.
        """
        return self._folder or self._download("weights")

    def adapter(self) -> Path:
        """Bring an adapter and what describes it.

        Returns:
            The folder that all files are in.

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
        except Exception as error:  # huggingface_hub's own, its HTTP library's, the disk's
            raise CheckpointError(self._advice(error)) from error

    def _kept(self, part: str) -> Path:
        """The folder of what was downloaded before; no connection is tried."""
        from huggingface_hub import snapshot_download

        # A repository may list pickles that nobody downloaded because it has safetensors too, so
        # both can't be asked for at once.
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
        """The commit and its files with their sizes; `None` where the hub is out of reach."""
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
            except Exception:  # noqa: BLE001 - whatever it is, what was downloaded before may do
                logger.info("The hub can't be reached; looking for %s on this machine.", self.name)
                return None
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            self._listed = (info.sha or "main", sizes)
        return self._listed

    def _announce(self, revision: str, sizes: dict[str, int]) -> None:
        """Say how much is about to be downloaded, before it starts.

        `snapshot_download(dry_run=True)` would tell too, but asks the hub again for every file.
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
                f"{name} is gated: its owners ask for consent first. Accept the terms on"
                f" https://huggingface.co/{name}, then run `hf auth login` or give token=..."
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{name} has no revision {revision!r}. Check revision=... or leave it out."
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"There is no checkpoint {name!r} on the hub, nor a folder of that name here."
                " Check the spelling; a private one needs `hf auth login` or token=..."
            )
        if isinstance(error, LocalEntryNotFoundError) and self._options.local_files_only:
            return (
                f"{name} is not, or not wholly, on this machine, and local_files_only forbids to"
                " bring it. Leave local_files_only out, or give the folder that it is in."
            )
        return (
            f"{name} can't be brought from the hub ({type(error).__name__}), and is not wholly on"
            " this machine. Check the connection (HF_ENDPOINT for a mirror, HF_HUB_OFFLINE must be"
            " unset), or download it elsewhere and give the folder."
        )


def find_folder(name: str) -> Path | None:
    """Find the folder that a checkpoint's name stands for.

    Args:
        name: A hub id or a folder.

    Returns:
        The folder; `None` for a hub id.

    Raises:
        CheckpointError: There is no such folder, and it can't be a hub id.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        message = (
            f"{name!r} is a file; expected a folder with config.json, a tokenizer and weights, or"
            " a hub id."
        )
        raise CheckpointError(message)
    if not _HUB_ID.fullmatch(name):
        message = (
            f"There is no folder {name!r}, and it is no hub id either (owner/name). Check the"
            " path, or name a checkpoint such as MetaAligner/MetaAligner-HH-RLHF-7B."
        )
        raise CheckpointError(message)
    return None


def _wanted(names: dict[str, int], part: str) -> list[str]:
    """The files of a repository that loading a part of it takes."""
    safe = [name for name in names if _SAFETENSORS[part].fullmatch(name)]
    return [name for name in names if name in _DESCRIPTION] + (
        safe or [name for name in names if _PICKLES[part].fullmatch(name)]
    )
