"""What a feature vector was made by: the part of a feature table that an aggregator must insist on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FeatureSource(BaseModel):
    """The trunk, and where it looked. Tables of one source may be compared, and given to one aggregator.

    `digest` is the SHA-256 of the trunk's weights and contract, `dimension` the length of a vector. Windows of
    `window_px` pixels at `spacing_um` µm/px lie `stride_px` pixels apart; one was taken where at least the share
    `minimum_tissue` of its cell is tissue (0: everywhere).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trunk: str
    digest: str
    dimension: int = Field(gt=0)
    window_px: int = Field(gt=0)
    spacing_um: float = Field(gt=0)
    stride_px: int = Field(gt=0)
    minimum_tissue: float = Field(ge=0, le=1)

    def differences(self, other: FeatureSource) -> tuple[str, ...]:
        """The fields in which two sources differ, each with both values, in words."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in type(self).model_fields)
        return tuple(f"{name} {mine} instead of {theirs}" for name, mine, theirs in pairs if mine != theirs)
