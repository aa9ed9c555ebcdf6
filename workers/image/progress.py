"""How far a drawing is: for the comments of a stream, and for whoever asks ``/health``. Pure.

Rules: time is a parameter. What is left is guessed from the steps that were done: it counts what comes
between pictures as well, as that is part of what they took.
"""

from __future__ import annotations

from contracts.control import ImageProgress
from workers.engine import ImageJob, Stepped


class Progress:
    """The steps of one job, from *now* on, when its prompt had been read."""

    def __init__(self, job: ImageJob, now: float) -> None:
        self._edit = job.source is not None or bool(job.references)
        self._steps, self._pictures = job.run_steps, job.n
        self._began = now
        self.drawing = self._at(0, 0, 0.0)

    def stepped(self, event: Stepped, now: float) -> ImageProgress:
        done = event.index * self._steps + event.step
        left = self._pictures * self._steps - done
        self.drawing = self._at(event.index, event.step, (now - self._began) / done * left)
        return self.drawing

    def _at(self, index: int, step: int, eta_s: float) -> ImageProgress:
        return ImageProgress(
            kind="edit" if self._edit else "generation",
            step=step,
            steps=self._steps,
            picture=index + 1,
            pictures=self._pictures,
            eta_seconds=round(eta_s, 1),
        )


def told(drawing: ImageProgress) -> str:
    """``step 2 of 4, picture 1 of 3, about 12 s left``"""
    text = f"step {drawing.step} of {drawing.steps}"
    if drawing.pictures > 1:
        text += f", picture {drawing.picture} of {drawing.pictures}"
    return f"{text}, about {drawing.eta_seconds:.0f} s left"
