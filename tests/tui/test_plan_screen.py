from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.memory.card import Card, OtherProcess
from tests.tui.conftest import GIB, until
from tests.tui.models import KnownModels, llama, llama_405b
from tests.tui.planning import FREE, SMOLLM, draft_of, line, planned, planning_app, rows_of, tree_of
from tui.app import LoradeckApp
from tui.screens.choose import ChooseScreen
from tui.screens.fit import FitScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.plan import PlanScreen
from tui.screens.runs import RunsScreen
from tui.widgets.module_tree import ModuleTree
from tui.widgets.prompt import Prompt
from tui.widgets.settings_panel import SettingsPanel
from tui.widgets.words import Words

LAYERS = range(30)
WIDE = (120, 40)


def of(part: str, layers: range | list[int] = LAYERS) -> set[str]:
    return {f"model.layers.{number}.{part}" for number in layers}


ATTENTION = {name for part in "qkvo" for name in of(f"self_attn.{part}_proj")}
MLP = {name for part in ("gate", "up", "down") for name in of(f"mlp.{part}_proj")}


async def go_to(pilot: Pilot[None], name: str) -> None:
    tree_of(pilot).go_to(name)
    await pilot.pause()


async def type_in(pilot: Pilot[None], key: str, text: str) -> None:
    await pilot.press(key)
    assert pilot.app.screen.query_one(Prompt).display
    await pilot.press(*text, "enter")
    await pilot.pause()


def row_of(pilot: Pilot[None], label: str) -> str:
    return next(row for row in rows_of(pilot) if label in row)


async def test_the_tree_shows_layers_folded_with_shapes_and_figures() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        assert "▾ [-] layers.0-29  x30" in row_of(pilot, "layers.0-29")
        assert row_of(pilot, "q_proj").split() == [
            *("[x]", "q_proj", "Linear4bit", "576->576", "+553", "k", "r16", "+6.3", "MiB")
        ]
        assert row_of(pilot, "gate_proj").split()[-4:] == ["(1.01", "M)", "(11.6", "MiB)"]
        assert "[" not in row_of(pilot, "input_layernorm")


async def test_space_selects_and_unselects_what_is_below() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("space")
        assert draft_of(pilot).selection.targets == ATTENTION | MLP
        assert "[x] SmolLM2-135M-Instruct" in rows_of(pilot)[0]
        await pilot.press("space")
        assert draft_of(pilot).selection.targets == set()
        await go_to(pilot, "model.layers.0.self_attn.v_proj")
        await pilot.press("space")
        assert draft_of(pilot).selection.targets == of("self_attn.v_proj")
        assert draft_of(pilot).spec.lora.target_modules == ["v_proj"]


async def test_edits_are_undone_and_done_again() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("space", "ctrl+z")
        assert draft_of(pilot).selection.targets == ATTENTION
        assert "[-]" in rows_of(pilot)[0]
        await pilot.press("ctrl+y")
        assert draft_of(pilot).selection.targets == ATTENTION | MLP


async def test_a_rank_and_an_alpha_of_its_own() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "model.layers.0.self_attn.q_proj")
        await pilot.press("r", *["backspace"] * 2, *"64", "enter")
        await pilot.pause()
        assert draft_of(pilot).spec.lora.rank_pattern == {"q_proj": 64}
        assert "r64" in row_of(pilot, "q_proj")
        assert "r16-64" in row_of(pilot, "self_attn")
        await pilot.press("R", *["backspace"] * 2, *"128", "enter")
        await pilot.pause()
        assert draft_of(pilot).spec.lora.alpha_pattern == {"q_proj": 128}


async def test_what_is_no_rank_stays_in_the_prompt_with_the_reason() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "model.layers.0.self_attn.q_proj")
        before = draft_of(pilot).spec
        await pilot.press("r", *["backspace"] * 2, *"big", "enter")
        await pilot.pause()
        prompt = pilot.app.screen.query_one(Prompt)
        assert prompt.display
        assert "big is no whole number" in str(prompt.query(".hint").first().render())
        await pilot.press("escape")
        assert not prompt.display
        assert draft_of(pilot).spec is before
        assert isinstance(pilot.app.focused, ModuleTree)


@pytest.mark.parametrize(
    ("typed", "layers"), [("0-15", range(16)), ("-8:", range(22, 30)), ("3,5,7", [3, 5, 7]), ("", LAYERS)]
)
async def test_a_range_of_layers(typed: str, layers: range | list[int]) -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await type_in(pilot, "l", typed)
        assert draft_of(pilot).selection.targets == {
            name for part in "qkvo" for name in of(f"self_attn.{part}_proj", layers)
        }


async def test_presets_are_chosen_from_a_list() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        assert "preset: attention" in line(pilot, "head")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "one is chosen")
        assert draft_of(pilot).spec.lora.target_modules == "all-linear"
        assert draft_of(pilot).selection.targets == ATTENTION | MLP
        await pilot.press("p")
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "another one is chosen")
        assert draft_of(pilot).selection.targets == {*of("self_attn.q_proj"), *of("self_attn.v_proj")}
        assert "preset: qv" in line(pilot, "head")


async def test_the_head_says_why_it_cannot_be_chosen() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "lm_head")
        assert "TRL computes the loss from the head's weight" in line(pilot, "note")
        before = draft_of(pilot).spec
        await pilot.press("space")
        assert draft_of(pilot).spec is before
        assert "lm_head: TRL computes the loss" in line(pilot, "note")


async def test_a_norm_can_be_trained_in_full_and_a_quantized_layer_cannot() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "model.norm")
        assert "LoRA cannot adapt it" in line(pilot, "note")
        await pilot.press("m")
        assert draft_of(pilot).selection.modules_to_save == {"model.norm"}
        assert "[*] norm" in row_of(pilot, "] norm")
        assert "full" in row_of(pilot, "] norm")
        await pilot.press("m")
        assert draft_of(pilot).selection.modules_to_save == set()
        await go_to(pilot, "model.layers.0.mlp.up_proj")
        await pilot.press("m")
        assert draft_of(pilot).selection.modules_to_save == set()
        assert "Quantized weights cannot be trained" in line(pilot, "note")


async def test_x_leaves_out_what_is_below() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "model.layers.0.self_attn")
        await pilot.press("x")
        assert draft_of(pilot).selection.targets == set()
        assert "nothing is chosen" in line(pilot, "head")


async def test_u_shows_single_layers_and_folds_them_again() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await go_to(pilot, "model.layers.0")
        await pilot.press("u")
        assert "layers.1 " in " ".join(rows_of(pilot))
        await go_to(pilot, "model.layers.7")
        await pilot.press("space")
        assert {name for name in draft_of(pilot).selection.targets if "mlp" in name} == {
            f"model.layers.7.mlp.{part}_proj" for part in ("gate", "up", "down")
        }
        await pilot.press("u")
        place = tree_of(pilot).place
        assert place is not None
        assert len(place.names) == 30
        assert "[-] layers.0-29" in row_of(pilot, "layers.0-29")


async def test_a_filter_shows_what_it_names_and_selects_it() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("space", "space")
        await pilot.press("slash", *r"layers\.[0-3]\..*up")
        await pilot.pause()
        assert "4 matches" in line(pilot, "head")
        await pilot.press("enter", "a")
        await pilot.pause()
        assert draft_of(pilot).selection.targets == of("mlp.up_proj", range(4))
        assert not any("q_proj" in row for row in rows_of(pilot))
        await pilot.press("escape")
        await pilot.pause()
        assert any("q_proj" in row for row in rows_of(pilot))
        place = tree_of(pilot).place
        assert place is not None
        assert "mlp.up_proj" in place.names[0]


async def test_a_filter_that_is_no_regular_expression_says_so() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("slash", *"(q", "enter")
        await pilot.pause()
        prompt = pilot.app.screen.query_one(Prompt)
        assert prompt.display
        assert "no regular expression" in str(prompt.query(".hint").first().render())


async def test_totals_and_memory_follow_each_edit() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        screen.draft.train_rows = 7472
        screen.draft_changed()
        assert line(pilot, "totals").startswith("trainable 1.84 M of 165 M (1.12 %)   adapter 3.5 MiB")
        assert "batch 4 x 4 = 16   467 steps an epoch, 1,401 in all" in line(pilot, "totals")
        assert "of 11.1 GiB free   FITS" in line(pilot, "memory")
        assert "predicted, formula" in line(pilot, "memory")
        await pilot.press("space")
        assert line(pilot, "totals").startswith("trainable 4.88 M of 168 M (2.91 %)")


@pytest.mark.parametrize(("share", "verdict"), [(20, "FITS"), (1.04, "TIGHT"), (0.9, "DOES NOT FIT")])
async def test_the_verdict_is_held_against_what_is_free(share: float, verdict: str) -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        free_bytes = int(screen.memory.footprint.device_bytes * share) if screen.memory.footprint else 0
        screen.post_message(PlanScreen.CardRead("auto", replace(FREE, free_bytes=free_bytes)))
        await pilot.pause()
        assert line(pilot, "memory").splitlines()[0].endswith(verdict)


async def test_others_on_the_card_are_named_where_it_gets_tight() -> None:
    others = (OtherProcess(4121, "anna", "[b]ollama\x1b", GIB // 2), OtherProcess(7, None, None, None))
    async with planning_app(free=replace(FREE, others=others)).run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        assert "others" not in line(pilot, "note")
        screen.post_message(PlanScreen.CardRead("auto", replace(FREE, others=others, free_bytes=GIB // 4)))
        await pilot.pause()
        assert line(pilot, "note").endswith("others on the card: [b]ollama␛ (pid 4121, anna) 512 MiB, pid 7")


async def test_what_fits_can_be_looked_for_without_a_trace_and_is_one_edit() -> None:
    card = Card("RTX 4070 SUPER", 3 * GIB // 4, compute_capability=(8, 9))
    async with planning_app(free=card).run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        screen.draft.change("training.per_device_train_batch_size", 16)
        screen.draft_changed()
        before = screen.draft.spec
        assert "DOES NOT FIT" in line(pilot, "memory")
        await pilot.press("g")
        await until(pilot, lambda: isinstance(pilot.app.screen, FitScreen), "what fits is listed")
        fit = pilot.app.screen
        assert isinstance(fit, FitScreen)
        text = "\n".join(str(words.render()) for words in fit.query(Words))
        assert "now" in text
        assert "predicted, formula" in text
        assert "training.per_device_train_batch_size  16 → " in text
        assert f"is an effective batch of {before.effective_batch_size}, as before" in text
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen, "it is left")
        assert screen.draft.spec is before
        await pilot.press("g")
        await until(pilot, lambda: isinstance(pilot.app.screen, FitScreen), "what fits is listed again")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen, "it is taken")
        assert screen.draft.spec.training.per_device_train_batch_size < 16
        assert screen.draft.spec.effective_batch_size == before.effective_batch_size
        assert "DOES NOT FIT" not in line(pilot, "memory")
        await pilot.press("ctrl+z")
        assert screen.draft.spec == before


async def test_where_nothing_fits_the_smallest_card_is_named() -> None:
    async with planning_app(free=replace(FREE, free_bytes=GIB // 4)).run_test(size=(80, 24)) as pilot:
        screen = await planned(pilot)
        await pilot.press("g")
        await until(pilot, lambda: isinstance(pilot.app.screen, FitScreen), "it is said")
        text = "\n".join(str(words.render()) for words in pilot.app.screen.query(Words))
        assert "Nothing fits   256 MiB free on RTX 4070 SUPER" in text
        assert "the smallest card for it is " in text
        keys = pilot.app.screen.query(Words).last()
        assert keys.region.bottom <= 24, "the last line is in sight"
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen, "it is closed")


async def test_without_a_model_there_is_nothing_to_fit() -> None:
    async with LoradeckApp(inspector=KnownModels(), tracing=False).run_test(size=WIDE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        await pilot.press("g")
        await until(pilot, lambda: "Choose a model first" in line(pilot, "note"), "it says so")


async def test_a_model_that_is_not_there_is_told_in_its_own_words_as_text() -> None:
    app = planning_app()
    async with app.run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        screen.draft.change("model.name_or_path", "org/[red]x[/red]\x1b[2J")
        screen.draft_changed()
        await until(pilot, lambda: screen.model_error, "the refusal is there")
        assert "The hub has no model org/[red]x[/red]␛[2J." in line(pilot, "note")
        assert screen.draft.architecture is None
        assert not tree_of(pilot).display


async def test_module_names_with_markup_and_escape_codes_are_text() -> None:
    model = llama("org/[b]bad\x1b[31m", layers=2)
    async with planning_app(model).run_test(size=WIDE) as pilot:
        await planned(pilot)
        assert "[b]bad␛[31m" in rows_of(pilot)[0]


async def test_the_settings_panel_edits_the_same_draft() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        screen.show_field("lora.r")
        await pilot.press("enter", *["backspace"] * 2, "8", "enter")
        await pilot.pause()
        assert draft_of(pilot).spec.lora.r == 8
        assert "r8" in row_of(pilot, "q_proj")
        await pilot.press("e")
        assert isinstance(pilot.app.focused, ModuleTree)


async def test_at_80_columns_the_settings_take_the_place_of_the_layers() -> None:
    async with planning_app().run_test(size=(80, 24)) as pilot:
        screen = await planned(pilot)
        panel = screen.query_one(SettingsPanel)
        assert panel.size.width == 0
        assert "FITS" in line(pilot, "memory")
        await pilot.press("e")
        await pilot.pause()
        assert panel.size.width > 60
        assert tree_of(pilot).size.width == 0
        assert screen.query_one("#memory").size.height == 2
        await pilot.press("e")
        await pilot.pause()
        assert tree_of(pilot).size.width > 60


async def test_help_is_about_what_has_the_focus_and_names_the_ids() -> None:
    async with planning_app().run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, HelpScreen)
        text = "\n".join(str(words.render()) for words in pilot.app.screen.query("Words"))
        assert "Space puts a LoRA adapter" in text
        assert "tree.layers" in text
        assert "plan.start" in text


async def test_tabs_lead_from_screen_to_screen_and_the_plan_is_kept(new_run: Any) -> None:
    new_run().status(state="finished", step=1)
    app = planning_app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen), "the runs are shown")
        await pilot.press("1")
        await planned(pilot)
        await pilot.press("space", "2")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "the newest run is shown")
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen), "the runs are shown")
        await pilot.click("TabLine", offset=(12, 0))
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is back")
        assert draft_of(pilot).selection.targets == ATTENTION | MLP


async def test_without_runs_the_app_opens_on_the_plan_and_key_2_says_there_is_none() -> None:
    app = planning_app()
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await planned(pilot)
        await pilot.press("2")
        assert isinstance(app.screen, PlanScreen)
        assert "There are no runs yet" in next(iter(app._notifications)).message


async def test_leaving_with_unsaved_changes_asks() -> None:
    app = planning_app()
    async with app.run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("q")
        await until(pilot, lambda: app.screen.id != "plan" and not isinstance(app.screen, PlanScreen), "it asks")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "it stays")
        await pilot.press("q")
        await until(pilot, lambda: not isinstance(app.screen, PlanScreen), "it asks again")
        await pilot.press("d")
        await until(pilot, lambda: not app.is_running, "it is closed")


async def test_the_command_palette_has_the_presets() -> None:
    app = planning_app()
    async with app.run_test(size=WIDE) as pilot:
        await planned(pilot)
        names = [command.title for command in app.get_system_commands(app.screen)]
        assert {"Start", "Adapt: qv", "Theme: contrast", "Runs"} <= set(names)
        await pilot.press("ctrl+p", *"adapt qv")
        await pilot.pause(0.3)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "it is done")
        await until(pilot, lambda: draft_of(pilot).spec.lora.target_modules == ["q_proj", "v_proj"], "it is chosen")


async def test_rows_are_counted_again_when_bad_ones_are_to_be_skipped(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "one"}\n{"text": 2}\n{"text": "three"}\n')
    async with planning_app(data=str(rows)).run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        await until(pilot, lambda: screen.data_problems, "a bad row is told")
        assert screen.draft.train_rows is None
        screen.draft.change_all({"data.on_bad_row": "skip"})
        screen.draft_changed()
        await until(pilot, lambda: screen.draft.train_rows == 2, "those that are left are counted")
        assert not screen.data_problems


async def test_the_shape_of_a_405b_model_is_selected_whole() -> None:
    async with planning_app(llama_405b()).run_test(size=WIDE) as pilot:
        await planned(pilot)
        await pilot.press("space")
        assert len(draft_of(pilot).selection.targets) == 126 * 7
        assert "DOES NOT FIT" in line(pilot, "memory")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (220, 60)])
async def test_in_ascii_nothing_else_is_on_the_screen(size: tuple[int, int]) -> None:
    app: LoradeckApp = planning_app(llama("org/größe", layers=3), ascii=True)
    async with app.run_test(size=size) as pilot:
        await planned(pilot)
        for keys in ((), ("e",), ("f1",)):
            await pilot.press(*keys)
            await pilot.pause()
            painted = "".join(
                strip.text
                for strip in app.screen._compositor.render_strips(app.size)  # all that a terminal gets
            )
            assert painted.isascii(), sorted({sign for sign in painted if not sign.isascii()})


def test_the_model_of_these_tests_has_the_size_of_the_real_one() -> None:
    assert SMOLLM.total_parameters == 134_515_008 + 49152 * 576  # with a head of its own
