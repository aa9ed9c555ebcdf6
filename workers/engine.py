"""The engine protocol: jobs go in, events come out.

Rules: jobs and events are frozen data without any model library's types. Images go in as RGB PIL images
and come out as raw bytes, so no MLX array leaves the model thread. One thread loads an engine, steps it
and closes it (``workers.serving.model_thread``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from PIL.Image import Image

from contracts.control import Caches, Download, Phase, Work
from contracts.tasks import Skill

Role = Literal["system", "user", "assistant"]
Part: TypeAlias = "str | Image"
FinishReason = Literal["stop", "length"]  # tool calls are parsed later, from the text


class Report(Protocol):
    """Receives the progress of a load: its phase, a detail for people, and the download's progress."""

    def __call__(self, phase: Phase, detail: str, download: Download | None = None) -> None: ...


class LoadError(Exception):
    """The model cannot be loaded. The message is one line: the reason and what to do."""


class Cancelled(Exception):
    """Raised by ``emit`` inside a job whose client has gone."""


# --- vision-language models ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its texts and RGB images, in order.

    ``workers.vlm.tool_calls`` writes tools, tool calls and tool results into the texts first, so an
    engine knows three roles only.
    """

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is sampled. ``temperature`` 0 is greedy; ``top_k`` 0 means no limit."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled Lark grammar that a completion must match (``workers.vlm.grammar.Matcher``)."""

    lark: str


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A request for *n* completions of a conversation. Completion *i* uses the seed ``seed + i``.

    ``logprobs``: report each token's log-probability and the ``top_logprobs`` most likely tokens, from
    the model's own distribution. ``logit_bias``: (token id, value added to its logit). ``skill``: for
    models with built-in skills (Moondream2); the turns hold the question too, for all other models.
    ``unset``: the fields of ``sampling`` that the client did not send, for which the checkpoint may
    have defaults.
    """

    turns: tuple[Turn, ...]
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None
    skill: Skill = "query"
    unset: frozenset[str] = frozenset()

    @property
    def images(self) -> list[Image]:
        """The images of all turns, in order."""
        return [part for turn in self.turns for part in turn.parts if not isinstance(part, str)]


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is prefilled. The first event of a chat job."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TopToken:
    """A likely token: its bytes, which may be part of a character, and its log-probability."""

    token_id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token. ``top``: the most likely tokens at its position, best first."""

    token_id: int
    data: bytes
    logprob: float
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of completion *index*.

    ``logprobs``: the tokens sampled since the previous delta, if the job asks for them. Text may lag
    behind its tokens (an incomplete character is held back), so a delta may have logprobs and no text.
    All deltas together hold the same text and tokens.
    """

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Completion *index* is complete.

    ``completion_tokens`` includes the end token. ``cached_tokens`` of the prompt came from the prefix
    cache.
    """

    index: int
    finish_reason: FinishReason
    completion_tokens: int
    cached_tokens: int = 0


ChatEvent = Prefilled | Delta | Finished


# --- image models ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageJob:
    """A request for *n* images. Image *i* uses the seed ``seed + i`` (modulo 2**64).

    The inputs select the mode (``contracts.families`` lists what each family supports):

    * neither *source* nor *references*: generate from the prompt, ``run_steps == steps``.
    * *source* without *references*: edit by strength. The last *run_steps* (1 to *steps*) of the
      *steps* redraw the source. If all steps run without a mask, nothing of it remains.
    * *references*: edit by instruction; all steps run from noise (``run_steps == steps``). RGB images
      of at least 16 x 16 pixels, at most ``max_images``; the first is the one to edit.
    * *mask*, only with a *source* (with or without *references*): 255 is repainted, 0 keeps the source
      bit by bit, values between mix the two. Families with native masks take *source* and *mask*
      without *references*, and ``run_steps == steps``.

    *source* is RGB and *mask* is "L", both *width* x *height*, multiples of 16. *negative_prompt* is
    None for families without one. *previews* (0 to 3) are emitted for each image, fewer if there are
    not enough steps before the last. Previews never change the image.
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
    references: tuple[Image, ...] = ()
    mask: Image | None = None
    negative_prompt: str | None = None
    previews: int = 0


@dataclass(frozen=True, slots=True)
class PromptEncoded:
    """The prompt is tokenized. The first event of an image job."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """Step *step* of *steps* of image *index* is done."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview *number* (from 0) of image *index*: an estimate of the final image after the last step.

    *width* x *height* is the preview's own size: smaller than the image, with the same aspect ratio.
    *rgb*: RGB bytes, row by row.
    """

    index: int
    number: int
    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """Image *index* is complete. *rgb*: RGB bytes, row by row."""

    index: int
    width: int
    height: int
    rgb: bytes


ImageEvent = PromptEncoded | StepFinished | Preview | ImageFinished


# --- engines ---------------------------------------------------------------------------------------

Job = TypeVar("Job")
Event = TypeVar("Event")
JobIn = TypeVar("JobIn", contravariant=True)
EventIn = TypeVar("EventIn", contravariant=True)
EventOut = TypeVar("EventOut", covariant=True)


@dataclass(frozen=True, slots=True)
class Located:
    """The files of a model. *commit*: the Hub commit, "" for a folder. *newer*: the Hub's current
    commit, if its files are not all downloaded."""

    folder: Path
    commit: str = ""
    newer: str = ""


class Sink(Protocol[EventIn]):
    """Where the events of one job go. Used on the model thread; nothing here raises."""

    @property
    def cancelled(self) -> bool:
        """Whether the client has gone."""

    def begin(self) -> None:
        """The model starts to work on the job."""

    def put(self, event: EventIn) -> None: ...

    def advance(self) -> None:
        """The job has made progress without an event."""

    def end(self, error: BaseException | None) -> None:
        """The last call: the job is finished or cancelled (None), or it has failed."""


class Engine(Protocol[JobIn, EventOut]):
    """One model and a batch of jobs: several for a vision-language model, one for an image model.

    ``prepare`` and ``prebuild`` run on the preparer thread. ``work``, ``caches`` and ``located`` may be
    read from any thread. The model thread calls everything else.
    """

    located: Located

    def load(self, report: Report) -> None:
        """Import the libraries, load the weights, warm up, and report each phase.

        Raises ``LoadError``. Any other exception is a failed load too.
        """

    def prepare(self, job: JobIn) -> Any:
        """Turn *job* into what ``admit`` takes. Raises ``ApiError`` if the client is at fault."""

    def prebuild(self) -> None:
        """Build what later jobs may need. Called once, while no job waits."""

    def admit(self, prepared: Any, sink: Sink[Any]) -> None:
        """Queue a job. Jobs start in the order of admission."""

    @property
    def busy(self) -> bool:
        """Whether a job has not ended."""

    def step(self) -> None:
        """Do one step of work.

        Jobs whose sink is cancelled end first. A failure of one job ends that job with the error. If
        ``step`` raises, all jobs are lost.
        """

    def rest(self) -> bool:
        """Free a bounded amount of cached memory while idle. True if there is more to free."""

    def work(self) -> Work:
        """Counters since the load."""

    def caches(self) -> Caches: ...

    def close(self) -> None:
        """Free the model and the thread's MLX streams."""


ChatEngine = Engine[ChatJob, ChatEvent]
ImageEngine = Engine[ImageJob, ImageEvent]
AnyEngine = ChatEngine | ImageEngine
