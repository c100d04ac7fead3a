"""What is asked of a trace: a run, the batches it is traced on, and the device that it is meant for. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from engine.spec import RunSpec

Recipe = Literal["trl", "plain", "plain+kbit"]
"""`trl` is Loradeck's own trainer. `plain` is a bare loop with transformers' loss and AdamW, `plain+kbit` the same
after `prepare_model_for_kbit_training`: so that measurements of other programs can be compared."""


@dataclass(frozen=True)
class Batch:
    """The batch of a step, the largest that is expected."""

    rows: int
    tokens: int
    """Length of a row, padding included."""
    padded: bool = False
    """Whether any row is shorter: the attention mask is then a tensor, and flash attention is not taken."""
    labelled_share: float = 1.0
    """Part of the tokens that is learnt; TRL's head on a GPU expands only these."""
    packed_lengths: tuple[int, ...] = ()
    """Of the rows that one packed row is made of; empty without packing."""


@dataclass(frozen=True)
class TraceRequest:
    """One trace."""

    spec: RunSpec
    """With no `auto` left (`engine.prepare.for_card`)."""
    config_folder: str
    """Holds the model's config.json."""
    train: Batch
    evaluation: Batch | None = None
    capability: tuple[int, int] | None = None
    """Compute capability of the GPU; None traces a run on the CPU."""
    layers: int | None = None
    """Trace only so many layers; None takes all."""
    recipe: Recipe = "trl"
    adapter_dtype: str | None = None
    """Type the adapters are trained in where it is not the recipe's own."""
    expandable_segments: bool = False

    def shortened(self, layers: int) -> TraceRequest:
        return replace(self, layers=layers)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "spec": self.spec.model_dump()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TraceRequest:
        """What `to_json` wrote. Raises pydantic's ValidationError, KeyError or TypeError for another shape."""
        evaluation = raw["evaluation"]
        return cls(
            **{
                **raw,
                "spec": RunSpec.model_validate(raw["spec"]),
                "train": _batch(raw["train"]),
                "evaluation": None if evaluation is None else _batch(evaluation),
                "capability": None if raw["capability"] is None else tuple(raw["capability"]),
            }
        )


def _batch(raw: dict[str, Any]) -> Batch:
    return Batch(**{**raw, "packed_lengths": tuple(raw["packed_lengths"])})
