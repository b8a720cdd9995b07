"""This package's kernels: the numbers of torch's up to rounding, and where they can't be had."""

from __future__ import annotations

import pickle
import stat
import subprocess

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local import native_kernels
from langchain_metaaligner.engines.local.cpu_kernels import kernels_of, prepack
from langchain_metaaligner.engines.local.decoder import costs_for
from langchain_metaaligner.engines.local.drafting import CPU, NATIVE
from langchain_metaaligner.engines.local.forward import ForwardInput
from langchain_metaaligner.engines.local.packed_forward import PackedForward
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import save

SHAPE = {
    "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64,
    "max_position_embeddings": 2048,
}  # fmt: skip
KINDS = {
    "grouped heads": {},
    "no groups": {"num_attention_heads": 2},
    "many groups": {"num_attention_heads": 48, "num_key_value_heads": 1},
    "large heads": {"head_dim": 128},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "scaled positions": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    },
}
FORMATS = {torch.float32: 2e-5, torch.bfloat16: 0.06}
REQUESTS = [
    Request(f"the question is {one} | Edit: ", draft=one, max_new_tokens=30)
    for one in ("you should not do this", "hello world", "here are some safe ideas for you")
]


def there(dtype: torch.dtype) -> bool:
    return native_kernels.native_kernels(dtype) is not None


@pytest.fixture
def needed(request):
    callspec = getattr(request.node, "callspec", None)
    dtype = callspec.params.get("dtype", torch.float32) if callspec else torch.float32
    if not there(getattr(torch, str(dtype).removeprefix("torch."))):
        pytest.skip("the kernels are for Linux, AVX-512 and a machine with a compiler")


with_kernels = pytest.mark.usefixtures("needed")


def llama(dtype: torch.dtype = torch.float32, **changed) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=101, **SHAPE | changed)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.1, 0.1)
    return model.to(dtype)


def passes(model) -> torch.Tensor:
    """Two sequences: prompts together, single tokens, drafts, and one that was dropped."""
    forward = PackedForward(model)
    one, two = forward.new_cache(0), forward.new_cache(0)
    long = [number * 7 % 101 for number in range(1100)]
    made = [forward.run([ForwardInput(one, long, 70), ForwardInput(two, [7], 1)])]
    made.append(forward.run([ForwardInput(one, [9], 1)]))
    made.append(forward.run([ForwardInput(one, [9, 10, 11], 3), ForwardInput(two, [12], 1)]))
    one.length -= 2
    made.append(forward.run([ForwardInput(one, [13], 1), ForwardInput(two, [14, 15] * 20, 40)]))
    return torch.cat(made)


@with_kernels
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_torch_up_to_rounding(kind, dtype) -> None:
    wanted = passes(llama(torch.float32, **KINDS[kind]))
    model = llama(dtype, **KINDS[kind])
    prepack(model)
    assert kernels_of(model.lm_head) is not None
    made = passes(model).float()
    spread = wanted.std()
    assert (made - wanted).abs().max() < FORMATS[dtype] * 5 * spread
    assert (made - wanted).abs().mean() < FORMATS[dtype] * spread


@with_kernels
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(1, 2), (64, 32), (65, 34), (130, 96), (7, 500)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_any_shape_are_right_row_by_row(shape, bias, dtype) -> None:
    layer = nn.Linear(shape[1], shape[0], bias=bias, dtype=dtype)
    rows = torch.randn(23, shape[1], dtype=dtype)
    exact = torch.nn.functional.linear(
        rows.double(), layer.weight.double(), layer.bias.double() if bias else None
    )
    prepack(layer)
    with torch.inference_mode():
        made = layer(rows)
        for count in range(1, 23):
            assert torch.equal(layer(rows[:count]), made[:count])
    torch.testing.assert_close(made, exact.to(dtype), atol=1e-5, rtol=0.01)


@with_kernels
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_token_gets_the_same_bits_from_any_number_of_threads(dtype) -> None:
    model, before, made = llama(dtype), torch.get_num_threads(), []
    prepack(model)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(passes(model))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@with_kernels
def test_each_forward_of_a_model_sees_changed_weights() -> None:
    model = llama()
    prepack(model)
    forwards = [PackedForward(model), PackedForward(model)]

    def logits(forward):
        return forward.run([ForwardInput(forward.new_cache(0), [5, 6, 7], 3)])

    before = [logits(forward) for forward in forwards]
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1.5)
        model.model.layers[2].mlp.down_proj.weight.mul_(1.5)
    after = [logits(forward) for forward in forwards]
    assert torch.equal(before[0], before[1])
    assert torch.equal(after[0], after[1])
    assert not torch.equal(before[0], after[0])


@with_kernels
@pytest.mark.parametrize("part", ["embed_tokens", "norm", "layers.1.input_layernorm"])
def test_parts_in_another_format_are_left_to_torch(part) -> None:
    model = llama()
    prepack(model)
    forward = PackedForward(model)
    model.model.get_submodule(part).to(torch.bfloat16)
    made = forward.run([ForwardInput(forward.new_cache(0), [5, 6, 7], 3)])
    wanted = PackedForward(llama()).run([ForwardInput(forward.new_cache(0), [5, 6, 7], 3)])
    assert (made - wanted).abs().max() < 0.1 * wanted.std()


@with_kernels
def test_what_torch_refuses_is_refused() -> None:
    layer = nn.Linear(32, 8)
    prepack(layer)
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(torch.ones(3, 31))
        with pytest.raises(RuntimeError, match="meta"):
            layer(torch.ones(3, 32, device="meta"))
        with pytest.raises(RuntimeError, match="dtype"):
            layer(torch.ones(3, 32, dtype=torch.bfloat16))
        layer.bias = nn.Parameter(torch.ones(8, dtype=torch.float64))
        with pytest.raises(RuntimeError, match="Double"):
            layer(torch.ones(3, 32))


@with_kernels
def test_a_prepacked_model_can_be_pickled() -> None:
    model = llama()
    prepack(model)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(passes(again), passes(model))
    assert kernels_of(again.lm_head) is not None


@with_kernels
def test_what_a_dropped_token_left_does_no_harm() -> None:
    model = llama()
    prepack(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[100] = torch.nan
    forward = PackedForward(model)
    cache = forward.new_cache(0)
    clean = forward.run([ForwardInput(cache, [5, 6, 7], 3)])
    cache.length = 0
    forward.run([ForwardInput(cache, [5, 6, *[100] * 40], 1)])
    cache.length = 0
    assert torch.equal(forward.run([ForwardInput(cache, [5, 6, 7], 3)]), clean)


@with_kernels
def test_numbers_far_from_zero_stay_finite() -> None:
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight.mul_(1e4)
            layer.self_attn.q_proj.weight.mul_(1e4)
    wanted = passes(model)
    prepack(model)
    made = passes(model)
    assert made.isfinite().all()
    assert (made - wanted).abs().mean() < 1e-3 * wanted.std()


@with_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_edits_are_the_same_with_and_without_them(tmp_path, dtype) -> None:
    folder = str(save(tmp_path / "tiny", config=SHAPE))
    texts = []
    for wanted in (True, False):
        with load_engine(folder, dtype=dtype, native_kernels=wanted) as engine:
            assert engine.repeatable
            assert costs_for(engine.model) is (NATIVE if wanted else CPU)
            assert (kernels_of(engine.model.lm_head) is not None) is wanted
            texts.append([edit.text for edit in engine.edit(REQUESTS)])
    if dtype == "float32":
        assert texts[0] == texts[1]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing is compiled yet, and compiled files go into a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native_kernels._load.cache_clear()
    yield tmp_path / "langchain-metaaligner"
    native_kernels._load.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    count: list[str] = []
    run = subprocess.run

    def counted(command, **given):
        count.append(command[0])
        return run(command, **given)

    monkeypatch.setattr(subprocess, "run", counted)
    return count


@with_kernels
def test_they_are_compiled_once_for_a_machine(elsewhere, compilations) -> None:
    assert there(torch.float32)
    assert len(compilations) == 2  # compiled and linked
    assert [one.suffix for one in elsewhere.iterdir()] == [".so"]
    native_kernels._load.cache_clear()
    assert there(torch.float32)
    assert len(compilations) == 2


@with_kernels
def test_a_folder_that_others_can_write_to_is_left_alone(elsewhere, compilations) -> None:
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    assert there(torch.float32)
    assert len(compilations) == 2
    assert not any(elsewhere.iterdir())
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o777


@with_kernels
@pytest.mark.parametrize("spoil", ["cut off", "writable by others"])
def test_a_file_that_can_not_be_trusted_is_made_anew(elsewhere, compilations, spoil) -> None:
    assert there(torch.float32)
    [made] = elsewhere.iterdir()
    if spoil == "cut off":
        made.unlink()  # the process has loaded the old one
        made.write_bytes(b"\x7fELF")
    else:
        made.chmod(0o777)
    native_kernels._load.cache_clear()
    assert there(torch.float32)
    assert len(compilations) == 4
    assert made.stat().st_size > 1000
    assert not made.stat().st_mode & 0o022


@with_kernels
def test_without_a_home_they_are_compiled_for_this_process(elsewhere, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert there(torch.float32)


@with_kernels
@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        (None, "there is no compiler of C++; install g++, or set CXX"),
        ("/nowhere/g++", "No such file or directory: '/nowhere/g++'"),
        ("false", "could not be compiled or loaded"),
    ],
)
def test_without_a_compiler_torch_does_it(
    elsewhere, monkeypatch, tmp_path, caplog, compiler, said
) -> None:
    if compiler is None:
        monkeypatch.setattr(native_kernels.shutil, "which", lambda _: None)
    else:
        monkeypatch.setenv("CXX", compiler)
    folder = str(save(tmp_path / "tiny", config=SHAPE))
    with caplog.at_level("INFO", "langchain_metaaligner"), load_engine(folder) as engine:
        assert engine.edit(REQUESTS)[0].text is not None
        assert kernels_of(engine.model.lm_head) is None
    assert said in caplog.text
    with pytest.raises(CheckpointError, match="native_kernels=True was given, but the kernels"):
        load_engine(folder, native_kernels=True).load()


@pytest.mark.parametrize(
    "others", [{"prepack_weights": False}, {"dtype": "float16"}, {"torch_compile": True}]
)
def test_whoever_insists_is_told_when_nothing_could_use_them(tmp_path, others) -> None:
    folder = str(save(tmp_path / "tiny", config=SHAPE))
    with pytest.raises(CheckpointError, match="native_kernels=True was given, but"):
        load_engine(folder, native_kernels=True, **others).load()


@with_kernels
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sys.platform", "darwin", "for Linux on x86-64, not for darwin"),
        ("platform.machine", lambda: "aarch64", "not for linux aarch64"),
        ("torch.backends.cpu.get_cpu_capability", lambda: "AVX2", "has no AVX-512"),
        ("_thread_library", lambda: None, "no OpenMP library"),
    ],
)
def test_where_they_can_not_be_had_the_reason_is_said(
    elsewhere, monkeypatch, name, value, said
) -> None:
    monkeypatch.setattr(f"langchain_metaaligner.engines.local.native_kernels.{name}", value)
    with pytest.raises(CheckpointError, match=said):
        native_kernels.native_kernels(torch.float32, wanted=True)
    assert native_kernels.native_kernels(torch.float32) is None


@with_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_where_torch_has_better_kernels_they_are_used_only_if_wanted(monkeypatch, dtype) -> None:
    known = dict(torch.cpu.get_capabilities())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | {"amx_bf16": True})
    assert native_kernels.native_kernels(dtype) is None
    assert "AMX" in (native_kernels.why_not(dtype) or "")
    assert native_kernels.native_kernels(dtype, wanted=True) is not None
    assert native_kernels.native_kernels(torch.float32) is not None


@with_kernels
def test_other_formats_are_left_to_torch() -> None:
    with pytest.raises(CheckpointError, match=r"for float32 and bfloat16, not for torch\.float16"):
        native_kernels.native_kernels(torch.float16, wanted=True)


@with_kernels
def test_nothing_is_compiled_for_somebody_who_wants_none(elsewhere, compilations) -> None:
    assert native_kernels.native_kernels(torch.float32, wanted=False) is None
    assert not compilations
    assert not elsewhere.exists()
