"""Metal's error messages are explained with cause and fix; other lines are ignored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.metal import FAULTS, fault_of

ABORT = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
FAILED = "[METAL] Command buffer execution failed: "

# Messages as MLX and Metal print them, and words of the fix.
WORDS = {
    "Impacting Interactivity"
    " (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)": "display sleep",
    "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)": "fewer models",
    "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)": "smaller size",
    "Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)": "smaller size",
    "Ignored (for causing prior/excessive GPU errors)"
    " (00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)": "restart the Mac",
    "Discarded (victim of GPU error/recovery)"
    " (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)": "restart the Mac",
    "Something new (000000ff:kIOGPUCommandBufferCallbackErrorOfTomorrow)": "smaller size",
}


def test_each_gpu_fault_has_its_fix() -> None:
    for words, cure in WORDS.items():
        for line in (ABORT + FAILED + words, FAILED + words, f"RuntimeError: {FAILED}{words}"):
            fault = fault_of(["loading", line])
            assert fault is not None, line
            assert cure in fault.cure, line
    assert len({fault_of([FAILED + words]) for words in WORDS}) == 5


def test_the_error_code_alone_is_recognized() -> None:
    fault = fault_of(["error 0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity"])
    assert fault is FAULTS[0]


def test_a_failed_allocation_is_a_memory_fault() -> None:
    assert "fewer models" in str(fault_of(["[metal::malloc] Unable to allocate 123 bytes."]))
    assert "fewer models" in str(fault_of(["[metal::malloc] Resource limit (499000) exceeded."]))
    large = (
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed"
        " buffer size of 8 bytes."
    )
    assert "shorter prompt" in str(fault_of([large]))


def test_a_line_that_is_not_about_the_gpu_is_ignored() -> None:
    for line in ("Insufficient Memory", "GPU Timeout", "load failed: no weights", "", "killed"):
        assert fault_of([line]) is None, line
    assert fault_of([]) is None


def test_a_fault_before_the_last_lines_is_ignored() -> None:
    fault = FAILED + next(iter(WORDS))
    assert fault_of([fault, "one", "two", "three"]) is None
    assert fault_of([fault, "Traceback", "note"]) is not None


@given(st.lists(st.text()))
def test_no_text_raises(lines: list[str]) -> None:
    fault_of(lines)
