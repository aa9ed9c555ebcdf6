"""``/v1/models`` on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """One model. ``created``: the start time of the gateway.

    ``capabilities``: see ``contracts.capabilities``. ``default_for``: the routes that use this model if
    the request names none. ``revision``: for Hugging Face repositories. The last three fields are for
    image models.
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
