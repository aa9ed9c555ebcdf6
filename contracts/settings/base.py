"""Base class and types of all settings sections."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

GIB = 1 << 30

Port = Annotated[int, Field(ge=1, le=65535)]
Gigabytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IdleSeconds = Annotated[float, Field(ge=-1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128)]

_HOST_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.I)


def _is_host_name(name: str) -> str:
    if len(name) > 253 or _HOST_NAME.fullmatch(name) is None:
        raise ValueError("expected a name like 'vision.example.org' or '*.example.org', no port")
    return name


HostNames = list[Annotated[str, AfterValidator(_is_host_name)]]


class Section(BaseModel):
    # Errors must not show input values: they may be keys.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
