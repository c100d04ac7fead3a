from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tui.models import llama
from tui.planning.draft import Draft
from tui.planning.layer_tree import LayerTree, Numbers, Place, shape_words
from tui.planning.prices import Prices

MODEL = llama(layers=4, hidden=64, keys=32, mlp=128, heads=4, vocabulary=512)


@pytest.fixture
def draft() -> Draft:
    draft = Draft()
    draft.change_all({"model.name_or_path": "m", "data.train": "rows.jsonl"})
    draft.architecture = MODEL
    return draft


@pytest.fixture
def tree() -> LayerTree:
    return LayerTree(MODEL)


def places(place: Place) -> Iterator[Place]:
    yield place
    for child in place.children():
        yield from places(child)


def at(tree: LayerTree, name: str) -> Place:
    return next(place for place in places(tree.root) if place.names[0] == name)


def test_identical_layers_are_one_place_that_stands_for_all(tree: LayerTree) -> None:
    folded = at(tree, "model.layers.0")
    assert folded.label == "layers.0-3  x4"
    assert folded.names == tuple(f"model.layers.{number}" for number in range(4))
    assert at(tree, "model.layers.0.mlp.up_proj").targets == tuple(
        f"model.layers.{number}.mlp.up_proj" for number in range(4)
    )
    assert [place.label for place in folded.layers()] == [f"layers.{number}" for number in range(4)]


def test_acting_on_a_node_takes_its_linear_layers_and_leaves_embedding_and_head_alone(tree: LayerTree) -> None:
    assert len(tree.root.offered) == 4 * 7
    assert at(tree, "model.embed_tokens").offered == ("model.embed_tokens",)


def test_parameters_of_a_folded_place_count_all_its_layers(tree: LayerTree) -> None:
    assert at(tree, "model.layers.0").parameters == sum(
        module.parameter_count for module in MODEL.modules if module.name.startswith("model.layers.")
    )
    assert tree.root.parameters == MODEL.total_parameters


def test_a_place_is_chosen_in_all_some_or_none_of_what_it_offers(draft: Draft, tree: LayerTree) -> None:
    numbers = Numbers(draft, tree)
    assert numbers.of(at(tree, "model.layers.0.self_attn")).chosen == "all"
    assert numbers.of(at(tree, "model.layers.0.mlp")).chosen == "none"
    assert numbers.of(tree.root).chosen == "some"
    assert numbers.of(at(tree, "model.norm")).chosen == "cannot"
    draft.save_in_full(["model.norm"], True)
    assert numbers.of(at(tree, "model.norm")).chosen == "cannot"  # of the draft as it was
    assert Numbers(draft, tree).of(at(tree, "model.norm")).chosen == "in full"


def test_figures_add_up_from_the_bottom(draft: Draft, tree: LayerTree) -> None:
    numbers = Numbers(draft, tree)
    attention = at(tree, "model.layers.0.self_attn")
    parts = [numbers.of(child) for child in attention.children()]
    assert numbers.of(attention).lora_parameters == sum(part.lora_parameters for part in parts)
    assert numbers.of(attention).lora_parameters == draft.totals().trainable_parameters
    assert numbers.of(attention).extra_bytes == pytest.approx(sum(part.extra_bytes or 0 for part in parts))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("rows", [1, 16])
def test_the_price_of_a_module_is_what_the_formula_changes_by(
    draft: Draft, tree: LayerTree, checkpointing: bool, dropout: float, rows: int
) -> None:
    draft.change_all(
        {
            "training.activation_checkpointing": checkpointing,
            "lora.lora_dropout": dropout,
            "training.per_device_train_batch_size": rows,
        }
    )
    down = at(tree, "model.layers.0.mlp.down_proj")
    price = Numbers(draft, tree).of(down).extra_bytes
    before = draft.footprint
    draft.select(down.targets, True)
    after = draft.footprint
    assert before is not None
    assert after is not None
    assert price == pytest.approx(after.device_bytes - before.device_bytes, rel=0.01, abs=64)


def test_prices_follow_quantization_and_optimizer(draft: Draft) -> None:
    def price() -> float:
        assert draft.footprint is not None
        return Prices.of(draft.spec, MODEL, draft.footprint, None, on_cpu=False).trained_bytes

    paged = price()
    draft.change("training.optim", "adamw_8bit")
    assert price() == paged - 6


def test_layers_move_what_is_chosen_at_a_place_and_leave_the_rest(draft: Draft, tree: LayerTree) -> None:
    chosen = draft.selection.targets
    moved = tree.in_layers(at(tree, "model.layers.0.self_attn.q_proj"), chosen, [2, 3])
    assert {name for name in moved if "q_proj" in name} == {f"model.layers.{n}.self_attn.q_proj" for n in (2, 3)}
    assert {name for name in moved if "k_proj" in name} == {name for name in chosen if "k_proj" in name}


def test_layers_can_be_taken_back_to_all(draft: Draft, tree: LayerTree) -> None:
    chosen = draft.selection.targets
    last = tree.in_layers(tree.root, chosen, [3])
    assert len(last) == 4
    assert tree.in_layers(tree.root, last, range(4)) == chosen


def test_shapes_are_told_as_they_are_adapted() -> None:
    assert shape_words(MODEL.by_name["model.layers.0.mlp.down_proj"], "->") == "128->64"
    assert shape_words(MODEL.by_name["model.embed_tokens"], "->") == "512x64"
    assert shape_words(MODEL.by_name["model.layers.0.mlp"], "->") == ""
