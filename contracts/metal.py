"""Explain Metal's error messages: cause and fix. Pure.

When the GPU fails, MLX throws ``[METAL] Command buffer execution failed: ...`` on its own thread, and
the process aborts: this message is all that is left. Some failures are Python exceptions with the same
text. ``FAULTS`` is the whole table. Its texts come from reports of others (mlx#3267, mlx-lm#1572,
llama.cpp#22214); this project has not seen them on a Mac.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# A line without any of these is not about the GPU.
_MARKS = ("[METAL]", "(Metal)", "[metal::", "kIOGPUCommandBufferCallbackError")
_LINES = 3  # at the end of the log; the process survived earlier ones


@dataclass(frozen=True, slots=True)
class Fault:
    texts: tuple[str, ...]  # any of them
    cause: str
    cure: str

    def __str__(self) -> str:
        return f"{self.cause}; {self.cure}"


FAULTS = (
    Fault(
        ("Impacting Interactivity", "ErrorImpactingInteractivity"),
        "macOS stopped the GPU's work because it held up the display",
        "let the display sleep (System Settings > Lock Screen) or use a smaller size",
    ),
    Fault(
        ("Insufficient Memory", "ErrorOutOfMemory", "Unable to allocate", "Resource limit"),
        "the GPU ran out of memory",
        "use a smaller size, or load fewer models: lower memory.max_unified_memory_gb",
    ),
    Fault(
        ("maximum allowed buffer size",),
        "one buffer was larger than the GPU allows",
        "use a smaller size or a shorter prompt",
    ),
    Fault(
        ("GPU Timeout", "ErrorTimeout", "GPU Hang", "ErrorHang"),
        "one GPU operation took too long",
        "use a smaller size, let the display sleep, and close other programs that use the GPU",
    ),
    Fault(
        ("ErrorSubmissionsIgnored", "ErrorInnocentVictim", "ErrorAccessRevoked", "ErrorStopped"),
        "macOS reset the GPU after an earlier fault of this or another program",
        "retry; if it happens again, restart the Mac",
    ),
    # Last: any other message of Metal.
    Fault(
        ("[METAL]", "kIOGPUCommandBufferCallbackError"),
        "a GPU operation failed",
        "retry; if it happens again, use a smaller size or load fewer models",
    ),
)


def fault_of(lines: Iterable[str]) -> Fault | None:
    """The newest GPU fault in *lines*, the end of a process's log; None if there is none."""
    for line in reversed(list(lines)[-_LINES:]):
        if any(mark in line for mark in _MARKS):
            return next((f for f in FAULTS if any(text in line for text in f.texts)), None)
    return None
