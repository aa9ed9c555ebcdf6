"""The seam between HTTP and the libraries: jobs go in, events come out.

Rules: frozen data only; no library of models is known here; pictures go in as RGB ``PIL`` images and
come out as raw bytes, text as ``str``: nothing that MLX owns leaves the model thread. An engine is
loaded, run and closed by one thread (``workers.serving.model_thread``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from PIL.Image import Image

from contracts.control import Caches, Download, Phase, Work
from contracts.tasks import Skill

Role = Literal["system", "user", "assistant"]
Part: TypeAlias = "str | Image"
FinishReason = Literal["stop", "length"]  # of the model; that a text is a tool call, others read


class Report(Protocol):
    """Takes where a load is: its phase, a detail for people, and how far the download is."""

    def __call__(self, phase: Phase, detail: str, download: Download | None = None) -> None: ...


class LoadError(Exception):
    """The model can't be loaded; the message is one line that says why and what to do."""


class Cancelled(Exception):
    """Raised by ``emit`` inside a job that nobody waits for any more."""


# --- vision-language models ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function: ``arguments`` is JSON text, as OpenAI sends it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, its texts and RGB images in order.

    Tools, calls of tools and their results are written into the texts (``workers.vlm.tool_calls``)
    before a
    turn is made, so that an engine meets three roles only.
    """

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


def with_defaults(
    sampling: Sampling, left_open: Iterable[str], defaults: Mapping[str, float]
) -> Sampling:
    """*sampling*, whose fields *left_open* are as *defaults* say, where they say anything."""
    found: dict[str, Any] = {name: defaults[name] for name in left_open if name in defaults}
    return replace(sampling, **found)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like: a Lark grammar that compiles, for
    ``workers.vlm.grammar.Matcher``.
    """

    lark: str


@dataclass(frozen=True, slots=True)
class ChatJob:
    """*n* answers to a conversation; answer *i* is drawn with the seed ``sampling.seed + i``.

    ``logprobs``: each token is told with its logprob and the ``top_logprobs`` likeliest ones, of the
    model's own distribution. ``logit_bias``: (token id, addend to its logit). ``skill``: what a model
    with skills of its own (Moondream2) is asked for; the question stands in the turns besides, for
    models and checkpoints that have none. ``open``: the fields of ``sampling`` that the client left
    open, which the checkpoint's own defaults may fill.
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
    open: frozenset[str] = frozenset()

    @property
    def images(self) -> list[Image]:
        """All pictures of all turns, in order."""
        return [part for turn in self.turns for part in turn.parts if not isinstance(part, str)]


@dataclass(frozen=True, slots=True)
class Prompted:
    """The prompt was read; the first event of a chat job."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token that might have come: its bytes, which may be part of a character, and its logprob."""

    token_id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer; ``top``: the likeliest at its place, best first."""

    token_id: int
    data: bytes
    logprob: float
    top: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of answer *index*.

    ``logprobs``: of the tokens drawn since the delta before, when they are asked for. The texts of one
    delta need not be those tokens' (half a character is held back), all together they are; a delta may
    have logprobs and no text.
    """

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """Answer *index* is whole. ``completion_tokens``: all that were drawn, the end token among them.

    ``cached_tokens``: of the prompt, those that were not computed again for this answer.
    """

    index: int
    finish_reason: FinishReason
    completion_tokens: int
    cached_tokens: int = 0


ChatEvent = Prompted | Delta | Answered


# --- image models ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageJob:
    """*n* pictures; picture *i* is drawn with the seed ``seed + i`` (modulo 2**64).

    What is drawn depends on what the job has (``contracts.families`` says which a family can do):

    * neither *source* nor *references*: from the prompt alone, ``run_steps == steps``.
    * *source*, no *references*: a strength edit. The last *run_steps* (1 to *steps*) of the *steps*
      redraw the source; all of them leave nothing of it, unless there is a mask.
    * *references*: an instruction edit, all steps from noise (``run_steps == steps``). The pictures are
      RGB of any size of 16 x 16 and more, at most ``max_images``, the one to edit first.
    * *mask*, only with a *source* (and with or without *references*): where it is 255 is repainted,
      where it is 0 the source comes back bit by bit; between them the two are mixed. Families with
      native masks have *source* and *mask*, no *references*, and ``run_steps == steps``.

    *source* is RGB and *mask* is "L", both of *width* x *height*, multiples of 16. *negative_prompt* is
    None where the family has none. *previews* (0 to 3) of each picture are shown as it is drawn, fewer
    if there are not so many steps before the last; they never change it.
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
class Previewed:
    """What picture *index* is likely to become: preview *number* of it, counted from 0.

    An estimate of the finished picture after the step that was told last, with its aspect; smaller
    than it (*width* x *height* are the preview's own). RGB bytes, row by row.
    """

    index: int
    number: int
    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class Drawn:
    """Picture *index*: RGB bytes, row by row."""

    index: int
    width: int
    height: int
    rgb: bytes


ImageEvent = Encoded | Stepped | Previewed | Drawn


# --- engines ---------------------------------------------------------------------------------------

Job = TypeVar("Job")
Event = TypeVar("Event")
JobIn = TypeVar("JobIn", contravariant=True)
EventOut = TypeVar("EventOut", covariant=True)


@runtime_checkable
class Telling(Protocol):
    """An engine that counts what it does; asked from another thread than the model's."""

    def work(self) -> Work:
        """Since it was loaded."""

    def caches(self) -> Caches: ...


@runtime_checkable
class Resting(Protocol):
    """An engine that gives memory back between jobs; called on the model thread."""

    def rest(self) -> bool:
        """Give a bounded amount back; True when there is more, and it is to be called again."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model is. *commit*: of the Hub, "" for a folder; *newer*: what the Hub has now, when its
    files are not all here."""

    folder: Path
    commit: str = ""
    newer: str = ""


@runtime_checkable
class Hosted(Protocol):
    """An engine whose model may come from the Hub; asked from another thread than the model's."""

    located: Located


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
