"""The seam between HTTP and the libraries: jobs go in, events come out.

Rules: frozen data only; no library of models is known here; pictures go in as RGB ``PIL`` images and
come out as raw bytes, text as ``str``: nothing that MLX owns leaves the model thread. An engine is
loaded, run and closed by one thread (``workers.thread``). Today it runs one job at a time; an engine
that batches needs another ``ModelThread``, and neither the jobs and events nor the app change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from PIL.Image import Image

from contracts.control import Download, Phase

Role = Literal["system", "user", "assistant"]
Part: TypeAlias = "str | Image"
FinishReason = Literal["stop", "length"]


class Report(Protocol):
    """Takes where a load is: its phase, a detail for people, and how far the download is."""

    def __call__(self, phase: Phase, detail: str, download: Download | None = None) -> None: ...


class LoadError(Exception):
    """The model can't be loaded; the message is one line that says why and what to do."""


class Cancelled(Exception):
    """Raised by ``emit`` inside a job that nobody waits for any more."""


# --- vision-language models ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, its texts and RGB images in order."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; ``temperature`` 0 is greedy, ``top_k`` 0 means all."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ChatJob:
    """*n* answers to a conversation; answer *i* is drawn with the seed ``sampling.seed + i``."""

    turns: tuple[Turn, ...]
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...] = ()
    n: int = 1

    @property
    def images(self) -> list[Image]:
        """All pictures of all turns, in order."""
        return [part for turn in self.turns for part in turn.parts if not isinstance(part, str)]


@dataclass(frozen=True, slots=True)
class Prompted:
    """The prompt was read; the first event of a chat job."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of answer *index*."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Answer *index* is whole. ``completion_tokens``: all that were drawn, the end token among them."""

    index: int
    finish_reason: FinishReason
    completion_tokens: int


ChatEvent = Prompted | Delta | Answered


# --- image models ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageJob:
    """*n* pictures; picture *i* is drawn with the seed ``seed + i`` (modulo 2**64).

    With a *source* (RGB, of the size to draw) the last *run_steps* of the *steps* redraw it; without,
    ``run_steps == steps``.
    """

    prompt: str
    width: int
    height: int
    steps: int
    run_steps: int
    guidance: float
    seed: int
    n: int = 1
    source: Image | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """The prompt has so many tokens; the first event of an image job."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """Step *step* of *steps* of picture *index* is done."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """Picture *index*: RGB bytes, row by row."""

    index: int
    width: int
    height: int
    rgb: bytes


ImageEvent = Encoded | Stepped | Drawn


# --- engines ---------------------------------------------------------------------------------------

Job = TypeVar("Job")
Event = TypeVar("Event")
JobIn = TypeVar("JobIn", contravariant=True)
EventOut = TypeVar("EventOut", covariant=True)


class Engine(Protocol[JobIn, EventOut]):
    """One model. All three methods are called on the same thread."""

    def load(self, report: Report) -> None:
        """Import the library, load the weights and warm up; tells *report* the phase it is in.

        Raises ``LoadError``; any other exception is a failed load, too.
        """

    def run(self, job: JobIn, emit: Callable[[EventOut | None], None]) -> None:
        """Do *job*, handing each event to *emit*.

        *emit* raises ``Cancelled`` when the job is cancelled, and takes None to ask only that; it is
        called at least once per token or step. Raises ``contracts.errors.ApiError`` for what the
        client did; other exceptions fail this job alone.
        """

    def close(self) -> None:
        """Free what the thread holds."""


ChatEngine = Engine[ChatJob, ChatEvent]
ImageEngine = Engine[ImageJob, ImageEvent]
AnyEngine = ChatEngine | ImageEngine
