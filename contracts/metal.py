"""What Metal's last words mean, and what to do about it. Pure: text in, words out.

When the GPU fails, MLX throws ``[METAL] Command buffer execution failed: ...`` on a thread of its own,
and the process aborts: these words are all that is left. Some failures come as a Python exception with
the same text. ``FAULTS`` is the whole table; its texts are as others reported them from Macs
(mlx#3267, mlx-lm#1572, llama.cpp#22214), none was seen by this project.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# A line with none of these is not about the GPU, whatever else it says.
_MARKS = ("[METAL]", "(Metal)", "[metal::", "kIOGPUCommandBufferCallbackError")
_LINES = 3  # from the end of what a process wrote; what stands before was survived


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
        "let the display sleep (System Settings > Lock Screen) or ask for a smaller size",
    ),
    Fault(
        ("Insufficient Memory", "ErrorOutOfMemory", "Unable to allocate", "Resource limit"),
        "the GPU ran out of memory",
        "ask for a smaller size, or have fewer models loaded: lower memory.max_unified_memory_gb",
    ),
    Fault(
        ("maximum allowed buffer size",),
        "one buffer was larger than the GPU allows",
        "ask for a smaller size or a shorter prompt",
    ),
    Fault(
        ("GPU Timeout", "ErrorTimeout", "GPU Hang", "ErrorHang"),
        "the GPU took too long for one piece of work",
        "ask for a smaller size, let the display sleep, and close other programs that use the GPU",
    ),
    Fault(
        ("ErrorSubmissionsIgnored", "ErrorInnocentVictim", "ErrorAccessRevoked", "ErrorStopped"),
        "macOS reset the GPU because of an earlier fault, of this or of another program",
        "ask again; if it comes back, restart the Mac",
    ),
    # Last: whatever else Metal says.
    Fault(
        ("[METAL]", "kIOGPUCommandBufferCallbackError"),
        "the GPU failed at this work",
        "ask again, with a smaller size or fewer models loaded if it comes back",
    ),
)


def fault_of(lines: Iterable[str]) -> Fault | None:
    """The fault of the GPU that *lines*, the last ones of a process, tell of; the newest counts."""
    for line in reversed(list(lines)[-_LINES:]):
        if any(mark in line for mark in _MARKS):
            return next((f for f in FAULTS if any(text in line for text in f.texts)), None)
    return None
