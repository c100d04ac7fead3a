"""Which adapters one base can carry at once."""

from __future__ import annotations

from engine.jobs.subject import Subject

DECIDE = {
    "model": ("name_or_path", "revision", "dtype", "trust_remote_code"),
    "quantization": (
        "load_in",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_compute_dtype",
        "llm_int8_threshold",
        "llm_int8_skip_modules",
    ),
}
"""The settings by which two runs have the same base: the same weights, quantized alike."""


def why_not_together(first: Subject, other: Subject) -> str:
    """Why `other` cannot answer beside `first`; empty where it can."""
    one, two = first.spec.model_dump(mode="json"), other.spec.model_dump(mode="json")
    for section, settings in DECIDE.items():
        for setting in settings:
            if one[section][setting] != two[section][setting]:
                return (
                    f"{other.run.id} has another base than {first.run.id}: {section}.{setting} is "
                    f"{two[section][setting]} there, and {one[section][setting]} here. Only adapters of one base can "
                    "answer beside each other."
                )
    return ""
