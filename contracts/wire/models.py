"""``/v1/models`` on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """One model.

    ``capabilities`` lists what it can do, and ``default_for`` the routes that use it if the request
    names no model. ``created`` is the start time of the gateway. ``revision`` is the commit of a
    Hugging Face repository. Only image models have ``family``, ``max_images`` (input images of an edit)
    and ``max_pixels`` (of a generated image).
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vision-insight"
    kind: str
    path: str
    revision: str | None = None  # the loaded commit, else the configured revision
    names: list[str]
    capabilities: list[str]
    default_for: list[str] = []  # missing from older gateways
    memory_gb: float
    state: str
    family: str | None = None
    max_images: int | None = None  # inputs of an edit
    max_pixels: int | None = None  # of a generated image


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]
