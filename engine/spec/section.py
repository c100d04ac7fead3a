"""What all sections of a spec share: how they are checked, and the kinds of values that several of them hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, lt=1)]
DType = Literal["auto", "bfloat16", "float16", "float32"]


class Section(BaseModel):
    """A group of settings. Unknown names are errors: a misspelt setting that is ignored trains the wrong thing."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
