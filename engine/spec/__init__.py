"""RunSpec: what a run is. Names, meanings and defaults are those of transformers, peft, trl and bitsandbytes.

The docstring under each field is its help: `loradeck new` writes it into the starter spec and the app shows it beside
the form. `auto` stands for a choice that needs the machine; `engine.prepare` makes it before a run starts, so that
the `run.yaml` in a run folder holds none.
"""

from engine.spec.data import SAMPLE_SETTINGS, DataSection
from engine.spec.hardware import HardwareSection
from engine.spec.model import LoraSection, ModelSection, QuantizationSection
from engine.spec.run import SPEC_VERSION, TOP_SETTINGS, ParentSection, RunSpec
from engine.spec.section import Section
from engine.spec.training import Metric, Tracker, TrainingSection

__all__ = [
    "SAMPLE_SETTINGS",
    "SPEC_VERSION",
    "TOP_SETTINGS",
    "DataSection",
    "HardwareSection",
    "LoraSection",
    "Metric",
    "ModelSection",
    "ParentSection",
    "QuantizationSection",
    "RunSpec",
    "Section",
    "Tracker",
    "TrainingSection",
]
