from __future__ import annotations

import gc
import weakref

import pytest
import torch

from hpo.errors import InfeasibleError
from hpo.models.memory import (
    Exhausted,
    attempt,
    free_memory,
    infeasible_where_exhausted,
    out_of_memory,
    release,
    total_memory,
)

CPU = torch.device("cpu")

OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("could not create a primitive"),
]
OF_OTHER_THINGS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
    RuntimeError("CUDA error: device-side assert triggered"),
    ValueError("CUDA error: out of memory"),
    OSError("Cannot allocate memory"),
]


def failing(error: Exception) -> object:
    raise error


@pytest.mark.parametrize("error", OF_MEMORY, ids=lambda error: str(error)[-40:])
def test_out_of_memory_errors_are_recognised(error: Exception) -> None:
    assert out_of_memory(error)
    outcome = attempt(lambda: failing(error))
    assert isinstance(outcome, Exhausted)
    assert outcome.reason == (str(error).splitlines() or ["MemoryError"])[0]
    with (
        pytest.raises(InfeasibleError, match="a giant does not fit into the memory: "),
        infeasible_where_exhausted("a giant"),
    ):
        raise error


@pytest.mark.parametrize("error", OF_OTHER_THINGS, ids=lambda error: str(error)[-40:])
def test_other_errors_pass_untouched(error: Exception) -> None:
    assert not out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        attempt(lambda: failing(error))
    assert raised.value is error
    with pytest.raises(type(error)) as context, infeasible_where_exhausted("a giant"):
        raise error
    assert context.value is error


def test_an_impossible_allocation_is_an_out_of_memory_error() -> None:
    outcome = attempt(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert isinstance(outcome, Exhausted)
    assert "1152921504606846976 bytes" in outcome.reason


def test_a_failed_attempt_keeps_no_tensor_alive() -> None:
    """The next attempt needs the memory."""
    seen: list[weakref.ref[torch.Tensor]] = []

    def action() -> None:
        activations = torch.ones(3)
        seen.append(weakref.ref(activations))
        raise MemoryError

    gc.disable()
    try:
        attempt(action)
        assert seen[0]() is None
    finally:
        gc.enable()


def test_free_memory_is_less_than_total_memory() -> None:
    release(CPU)
    assert 2**20 < free_memory(CPU) < total_memory(CPU)
