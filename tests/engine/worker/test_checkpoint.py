"""Training state on disk: every value and type comes back, and no pickle is involved."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.worker.checkpoint import (
    STATE_FILE,
    load_training_state,
    random_states,
    restore_random_states,
    save_training_state,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text() | st.integers(), plain, max_size=4))
def test_plain_data_of_any_shape_comes_back_with_its_types(tree: dict[Any, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_training_state(Path(folder), tree)
        back = load_training_state(Path(folder))
    assert back == tree
    assert repr(back) == repr(tree)  # 1 == 1.0 == True, and a list is no tuple


def test_an_optimizer_and_its_scheduler_go_on_bit_for_bit(tmp_path: Path) -> None:
    def train(steps: int, resume_from: Path | None = None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(4, 3, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)]
        optimizer = torch.optim.AdamW(weights, lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if resume_from is not None:
            state = load_training_state(resume_from)
            for weight, saved in zip(weights, state["weights"], strict=True):
                weight.data.copy_(saved)
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
        for _ in range(steps):
            optimizer.zero_grad()
            sum((weight.float() ** 3).sum() for weight in weights).backward()  # type: ignore[union-attr]
            optimizer.step()
            scheduler.step()
        if resume_from is None:
            state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            save_training_state(tmp_path, {**state, "weights": [weight.data for weight in weights]})
        return [weight.data.clone() for weight in weights]

    whole = train(6)
    train(3)
    resumed = train(3, resume_from=tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    save_training_state(tmp_path, random_states())
    drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
    restore_random_states(load_training_state(tmp_path))
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == drawn


def test_what_cannot_be_stored_without_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="function"):
        save_training_state(tmp_path, {"f": test_random_generators_go_on_where_they_were})


def test_the_file_is_no_pickle(tmp_path: Path) -> None:
    save_training_state(tmp_path, {"a": torch.zeros(3)})
    with open(tmp_path / STATE_FILE, "rb") as file, pytest.raises(pickle.UnpicklingError):
        pickle.load(file)
