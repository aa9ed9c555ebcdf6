"""``/v1/models`` on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """``created`` is when the gateway's model list was made, and stable while it runs.

    ``capabilities``: see ``contracts.capabilities``; ``default_for``: the routes that it serves when no
    model is asked for; ``revision``: of a Hugging Face repository; the last three are for image models.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vision-insight"
    kind: str
    path: str
    revision: str | None = None  # the commit that is loaded, else the one that is asked for
    names: list[str]
    capabilities: list[str]
    default_for: list[str] = []  # what an older gateway does not tell
    memory_gb: float
    state: str
    family: str | None = None
    max_images: int | None = None  # of an edit
    max_pixels: int | None = None  # of what is drawn


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]
