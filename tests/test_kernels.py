"""The kernel: Triton (on a GPU, or in its interpreter) and the torch reference against plain numpy."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lmsearcher_kernels
import numpy as np
import pytest
import torch
from lmsearcher_kernels import reference

Run = Callable[..., Any]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module", params=["reference", "triton"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Calls a kernel by name in one implementation.

    Triton decides when it is first imported whether it interprets, and transformers has imported it by now: without a
    GPU its kernels run in a process of their own.
    """
    if request.param == "reference":
        yield lambda name, *arguments: getattr(reference, name)(*arguments)
        return
    pytest.importorskip("triton")
    from lmsearcher_kernels import gpu

    if DEVICE == "cuda":
        yield lambda name, *arguments: getattr(gpu, name)(*arguments)
        return
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        patch.setenv("TRITON_INTERPRET", "1")
        yield lambda name, *arguments: child.submit(getattr(gpu, name), *arguments).result(timeout=300)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("size", "vocabulary", "lengths"),
    [
        (1, 1, [1]),
        (64, 1000, [10] * 8),
        (80, 333, [1, 128, 0, 7, 2]),  # a size that is no power of two, ragged, one question without tokens
        (1500, 50, [3, 300]),  # several blocks of columns; more tokens than a block of the softmax, with repeats
        (192, 9, []),
    ],
)
def test_restricted_head_is_the_full_head_cut_to_the_tokens(
    run: Run, dtype: torch.dtype, size: int, vocabulary: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(size)
    hidden = torch.tensor(rng.normal(size=(len(lengths), size)), dtype=dtype, device=DEVICE)
    weight = torch.tensor(rng.normal(size=(vocabulary, size)) / size**0.5 * 3, dtype=dtype, device=DEVICE)
    questions = [rng.integers(vocabulary, size=length).tolist() for length in lengths]
    expected = []
    for state, ids in zip(hidden.double().cpu().numpy(), questions, strict=True):
        logits = (weight.double().cpu().numpy() @ state)[ids]
        expected += (logits - np.logaddexp.reduce(logits)).tolist()
    answers = run("restricted_head", hidden, weight, questions)
    assert answers.dtype == torch.float32
    np.testing.assert_allclose(answers.cpu(), expected, atol=TOLERANCE[dtype])


def test_restricted_head_takes_strided_tensors(run: Run) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 40, device=DEVICE), torch.randn(30, 40, device=DEVICE)
    questions = [[i, 29 - i, 3] for i in range(7)]
    plain = run("restricted_head", hidden, weight, questions)
    apart = torch.zeros(7, 80, device=DEVICE)[:, ::2].copy_(hidden)
    turned = weight.T.contiguous().T
    assert not apart.is_contiguous()
    assert not turned.is_contiguous()
    torch.testing.assert_close(run("restricted_head", apart, turned, questions), plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_restricted_head_spoils_only_the_question_with_a_weight_that_is_no_number(run: Run, value: float) -> None:
    hidden, weight = torch.ones(2, 8, device=DEVICE), torch.ones(5, 8, device=DEVICE)
    weight[4, 3] = value
    spoilt, sound = run("restricted_head", hidden, weight, [[4, 0], [1, 2]]).cpu().split(2)
    torch.testing.assert_close(spoilt, torch.log_softmax(torch.tensor([8 * value, 8.0]), 0), equal_nan=True)
    torch.testing.assert_close(sound, torch.full((2,), -np.log(2), dtype=torch.float32))


def test_wrong_arguments_are_refused() -> None:
    hidden, weight = torch.zeros(2, 4), torch.zeros(3, 4)
    for questions in ([[0, 3], [1]], [[-1], [1]], [[0]]):
        with pytest.raises(ValueError, match=r"head of 3 rows|do not fit"):
            lmsearcher_kernels.restricted_head(hidden, weight, questions)
    with pytest.raises(ValueError, match="do not fit"):
        lmsearcher_kernels.restricted_head(hidden[:, :3], weight, [[0], [1]])


def test_the_package_uses_triton_where_the_tensors_are_on_a_gpu() -> None:
    from lmsearcher_kernels import gpu

    backend = lmsearcher_kernels._backend(torch.zeros(1, device=DEVICE))
    assert backend is (gpu if DEVICE == "cuda" else reference)


@pytest.mark.slow
@pytest.mark.parametrize("ones", [(), ("hidden_column", "weight_column"), ("size",)], ids=str)
@pytest.mark.parametrize(
    ("name", "types", "blocks"),
    [
        ("_logits", ["*bf16"] * 2 + ["*i64"] * 2 + ["*fp32"] + ["i32"] * 5, [4, 1024]),
        ("_log_softmax", ["*fp32", "*i64"], [128]),
    ],
)
def test_kernels_compile_to_gpu_code(
    name: str,
    types: list[str],
    blocks: list[int],
    ones: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Triton's compiler needs no GPU, and takes less than its interpreter does; an argument of 1 is a constant."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # it warns where this is left to it
    triton = pytest.importorskip("triton")
    from lmsearcher_kernels import gpu
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(gpu, name)
    constants = dict(zip(kernel.arg_names[len(types) :], blocks, strict=True))
    constants |= {argument: 1 for argument in kernel.arg_names if argument in ones}
    signature = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"]
