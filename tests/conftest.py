"""What holds for every test: no network, no tracing, the same random examples on every CI run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before any test imports the libraries that read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("METAALIGNER_MODEL", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)

# Machines differ in speed, so no example has a deadline; on CI a failure must repeat itself.
settings.register_profile("here", deadline=None)
settings.register_profile("metaaligner-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("metaaligner-ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skipif(not _has_gpu(), reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
