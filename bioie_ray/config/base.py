"""The base of every settings model: frozen, and unknown keys are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings; a key that does not exist is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
