"""The progress of an image job, for stream comments and for ``/health``. Pure: time is a parameter."""

from __future__ import annotations

from contracts.control import ImageProgress
from workers.engine import ImageJob, StepFinished


class Progress:
    """The steps of one job. *now* (seconds) is when its prompt had been encoded.

    The time left is extrapolated from the finished steps. Decoding and encoding between two images
    count as part of them.
    """

    def __init__(self, job: ImageJob, now: float) -> None:
        self._edit = job.source is not None or bool(job.references)
        self._steps, self._images = job.run_steps, job.n
        self._started = now
        self.current = self._at(0, 0, 0.0)

    def stepped(self, event: StepFinished, now: float) -> ImageProgress:
        done = event.index * self._steps + event.step
        left = self._images * self._steps - done
        self.current = self._at(event.index, event.step, (now - self._started) / done * left)
        return self.current

    def _at(self, index: int, step: int, eta_s: float) -> ImageProgress:
        return ImageProgress(
            kind="edit" if self._edit else "generation",
            step=step,
            steps=self._steps,
            picture=index + 1,
            pictures=self._images,
            eta_seconds=round(eta_s, 1),
        )


def step_text(progress: ImageProgress) -> str:
    """``step 2 of 4, image 1 of 3, about 12 s left``"""
    text = f"step {progress.step} of {progress.steps}"
    if progress.pictures > 1:
        text += f", image {progress.picture} of {progress.pictures}"
    return f"{text}, about {progress.eta_seconds:.0f} s left"
