"""What all sections of the settings share: strict frozen models, units, and the error."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

GIB = 1 << 30

Port = Annotated[int, Field(ge=1, le=65535)]
Gigabytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IdleSeconds = Annotated[float, Field(ge=-1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
