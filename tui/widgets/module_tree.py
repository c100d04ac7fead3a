"""The model's module tree, where layers are chosen. Rows are drawn from the draft; nothing is stored in labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from engine.targets import matching
from tui.glyphs import Glyphs
from tui.planning.draft import Draft
from tui.planning.layer_tree import Figures, LayerTree, Numbers, Place, names_above
from tui.widgets.tree_columns import INDENT, ROLES, Columns, Drawing, Role, row

EXPANDED_MATCHES = 400
"""A filter with at most this many matches opens the tree down to them."""


class ModuleTree(Tree[Place], inherit_bindings=False):
    """Places of the model, one a line. Acting on a folded line acts on all the layers that it stands for."""

    HELP = (
        "The model's own modules. Space puts a LoRA adapter on what is below the cursor, or takes it off. Identical "
        "layers are one line; acting on it acts on all of them, and u shows them one by one. Numbers in brackets are "
        "what choosing it would add. Memory is predicted by a formula. Embeddings and the vision tower are only "
        "taken when the cursor is on them."
    )
    COMPONENT_CLASSES: ClassVar[set[str]] = {"module-tree--quiet", "module-tree--class", "module-tree--chosen"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "select", id="tree.select", tooltip="Adapters on all below, or none."),
        Binding("r", "ask('rank')", "rank", show=False, id="tree.rank", tooltip="Another r here (rank_pattern)."),
        Binding("R", "ask('alpha')", "alpha", show=False, id="tree.alpha", tooltip="Another lora_alpha here."),
        Binding("l", "ask('layers')", "layers", id="tree.layers", tooltip="Only some layers: 0-15, -8:, all."),
        Binding("slash", "ask('filter')", "filter", key_display="/", id="tree.filter", tooltip="By name or regex."),
        Binding("a", "select_matching", "all matching", show=False, id="tree.all", tooltip="Select what matches."),
        Binding("n", "next_match(1)", "next match", show=False, id="tree.next"),
        Binding("N", "next_match(-1)", "previous match", show=False, id="tree.previous"),
        Binding(
            "p", "preset", "preset", show=False, id="tree.preset", tooltip="Attention, attention + MLP, all-linear, ..."
        ),
        Binding("m", "in_full", "train in full", show=False, id="tree.full", tooltip="modules_to_save, or not."),
        Binding("x", "exclude", "leave out", show=False, id="tree.exclude", tooltip="No adapter on anything below."),
        Binding(
            "u",
            "unfold",
            "unfold",
            show=False,
            id="tree.unfold",
            tooltip="Identical layers one by one, or as one line.",
        ),
        Binding("enter,o", "toggle_node", "open", show=False, id="tree.open", tooltip="Show or hide what is below."),
        Binding("left", "close", "close", show=False, id="tree.close", tooltip="Hide what is below, or go up."),
        Binding("right", "open", "open", show=False, id="tree.right"),
        Binding("up,k", "cursor_up", "up", show=False, id="tree.up"),
        Binding("down,j", "cursor_down", "down", show=False, id="tree.down"),
        Binding("pageup", "page_up", "page up", show=False, id="tree.page_up"),
        Binding("pagedown", "page_down", "page down", show=False, id="tree.page_down"),
        Binding("home", "scroll_home", "first", show=False, id="tree.first"),
        Binding("end", "scroll_end", "last", show=False, id="tree.last"),
        Binding("escape", "clear_filter", "all modules", show=False, id="tree.clear"),
    ]

    class Asked(Message):
        """A person wants to type something for the place under the cursor."""

        def __init__(self, tree: ModuleTree, what: str) -> None:
            super().__init__()
            self.tree = tree
            self.what = what
            """`rank`, `alpha`, `layers`, `filter`, or `preset`."""

        @property
        def control(self) -> ModuleTree:
            return self.tree

    def __init__(
        self,
        draft: Draft,
        glyphs: Glyphs,
        *,
        edited: Callable[[str], object] = lambda note: None,
        moved: Callable[[], object] = lambda: None,
        id: str | None = None,
    ) -> None:
        """`edited` is called when a key has changed the draft, with what was not done and why, or nothing; `moved` when
        the cursor or a column has moved. Calls and not messages, so that what they change is painted in the same frame.
        """
        super().__init__(Text("model"), id=id)
        self._tell_edited, self._tell_moved = edited, moved
        self.draft = draft
        self.glyphs = glyphs
        self.layer_tree: LayerTree | None = None
        """The model that is shown; set it with `show_model`."""
        self.pattern = ""
        """The filter; empty shows all."""
        self.matches: list[str] = []
        """Full names of the modules that the filter names."""
        self._in_sight: set[str] | None = None
        self._matched: set[str] = set()
        self._unfolded: set[tuple[str, ...]] = set()
        self._numbers: Numbers | None = None
        self._styles: dict[Role, Style] = {}
        self.show_guides = False
        self.guide_depth = INDENT
        self.auto_expand = False
        self.show_root = True

    # ---- what is shown

    def show_model(self) -> None:
        """Show the draft's architecture from now on, or nothing while there is none."""
        architecture = self.draft.architecture
        self.layer_tree = LayerTree(architecture) if architecture is not None else None
        self._numbers = None
        self._unfolded.clear()
        self.pattern, self.matches, self._in_sight, self._matched = "", [], None, set()
        self._rebuild()

    def refresh_figures(self) -> None:
        """Draw the rows again after the draft has changed."""
        self._numbers = None
        self._line_cache.clear()
        self._updates += 1
        self.refresh()

    @property
    def numbers(self) -> Numbers | None:
        """Figures of the rows for the draft as it is now."""
        if self._numbers is None and self.layer_tree is not None:
            self._numbers = Numbers(self.draft, self.layer_tree)
        return self._numbers

    @property
    def place(self) -> Place | None:
        """What the cursor is on."""
        return self.cursor_node.data if self.cursor_node is not None and self.layer_tree is not None else None

    def figures(self) -> Figures | None:
        """Of the place under the cursor."""
        place, numbers = self.place, self.numbers
        return numbers.of(place) if place is not None and numbers is not None else None

    def _rebuild(self) -> None:
        self.clear()
        tree = self.layer_tree
        self.root.data = tree.root if tree is not None else None
        if tree is None:
            self.cursor_line = -1
            return
        self._fill(self.root)
        self.root.expand()
        # Straight down to where the model branches, and all of a layer: that is where a person starts.
        node = self.root
        while (branch := _largest_branch(node)) is not None and branch.data is not None:
            node = branch
            self._open(node)
            if branch.data.node.folded > 1:
                for child in node.children:
                    self._open(child)
                break
        self.cursor_line = 0

    def _fill(self, node: TreeNode[Place]) -> None:
        """Add the places right below, once."""
        place = node.data
        if place is None or node.children:
            return
        for child in place.children():
            shown = child.layers() if child.names in self._unfolded else [child]
            for one in shown:
                if self._in_sight is None or any(name in self._in_sight for name in one.names):
                    node.add(Text(""), one, allow_expand=bool(one.node.children))

    def _open(self, node: TreeNode[Place]) -> None:
        if node.allow_expand and not node.is_expanded:
            self._fill(node)
            node.expand()

    def _on_tree_node_expanded(self, event: Tree.NodeExpanded[Place]) -> None:
        event.stop()
        self._fill(event.node)

    def watch_cursor_line(self, previous_line: int, line: int) -> None:
        super().watch_cursor_line(previous_line, line)
        if line != previous_line and self.is_mounted:
            self._tell_moved()

    def on_resize(self) -> None:
        self._tell_moved()

    # ---- rows

    def get_label_width(self, node: TreeNode[Place]) -> int:
        return 1  # rows are cut to the widget's width; nothing is scrolled sideways

    def render_label(self, node: TreeNode[Place], base_style: Style, style: Style) -> Text:
        place, numbers = node.data, self.numbers
        if place is None or numbers is None:
            return Text("")
        depth, parent = 0, node.parent
        while parent is not None:
            depth, parent = depth + 1, parent.parent
        plain = base_style + style
        if style.bgcolor is not None or style.reverse:  # under the cursor, one colour is enough
            styles = dict.fromkeys(ROLES, plain)
        else:
            styles = {role: plain + own for role, own in self._role_styles().items()}
        drawing = Drawing(self.columns, self.glyphs, self.draft.spec.quantization.load_in)
        is_open = node.is_expanded if node.allow_expand else None
        matches = bool(self._matched) and any(name in self._matched for name in place.names)
        return row(drawing, place, numbers.of(place), depth, is_open, styles, matches)

    def _role_styles(self) -> dict[Role, Style]:
        if not self._styles:
            self._styles = {
                role: Style() if role == "name" else self.get_component_rich_style(f"module-tree--{role}")
                for role in ROLES
            }
        return self._styles

    def notify_style_update(self) -> None:
        self._styles = {}
        super().notify_style_update()

    @property
    def columns(self) -> Columns:
        """The columns at the present width."""
        shape = self.layer_tree.longest_shape if self.layer_tree is not None else 0
        return Columns.at(self.size.width - 1, max(shape, len("shape")))  # one is the scrollbar's

    # ---- keys

    def action_ask(self, what: str) -> None:
        if self.layer_tree is not None:
            self.post_message(self.Asked(self, what))

    def action_preset(self) -> None:
        self.action_ask("preset")

    def action_choose(self) -> None:
        place, figures, tree = self.place, self.figures(), self.layer_tree
        if place is None or figures is None or tree is None:
            return None
        if figures.chosen == "in full":
            return self._edited(self.draft.save_in_full(place.names, False))
        if figures.chosen == "cannot":
            return self._edited(self.why_not(place))
        refused = {name: why for name in place.offered if (why := tree.why_refused(name))}
        wanted = [name for name in place.offered if name not in refused]
        return self._select(wanted, figures.chosen != "all", next(iter(refused.values()), ""))

    def action_exclude(self) -> None:
        if (place := self.place) is None:
            return
        self.draft.save_in_full(place.names, False)
        self._select(place.targets, False)

    def action_in_full(self) -> None:
        place, figures = self.place, self.figures()
        if place is None or figures is None:
            return None
        if place.module is None or not place.parameters:
            return self._edited("modules_to_save takes a module with weights of its own: go down to one.")
        if place.node.children:
            return self._edited("Training a whole block in full takes far more memory: choose a single module.")
        if figures.chosen != "in full" and place.module.quantized and self.draft.spec.quantization.load_in != "none":
            return self._edited(
                "Quantized weights cannot be trained: name it in llm_int8_skip_modules to keep its own."
            )
        return self._edited(self.draft.save_in_full(place.names, figures.chosen != "in full"))

    def action_unfold(self) -> None:
        """Show the layers of a folded line one by one; on one of them, or below, fold them again."""
        node = self.cursor_node
        while node is not None and node.data is not None:
            place = node.data
            if place.node.folded > 1:
                self._unfolded.add(place.names)
                return self._rearranged(place.names[0])
            together = next((names for names in self._unfolded if place.names[0] in names), None)
            if together is not None:
                self._unfolded.discard(together)
                return self._rearranged(together[0])
            node = node.parent
        return None

    def action_select_matching(self) -> None:
        tree = self.layer_tree
        if tree is None:
            return None
        if not self.pattern:
            return self._edited("Type a filter first, with /.")
        named = dict.fromkeys(name for module in self.matches for name in tree.meant_by(module))
        refused = next((why for name in named if (why := tree.why_refused(name))), "")
        wanted = [name for name in named if not tree.why_refused(name)]
        if not wanted:
            return self._edited(refused or "Nothing that matches can be adapted.")
        return self._select(wanted, not self.draft.selection.targets.issuperset(wanted), refused)

    def action_close(self) -> None:
        node = self.cursor_node
        if node is not None and node.is_expanded and node.allow_expand:
            node.collapse()
        elif node is not None and node.parent is not None:
            self.move_cursor(node.parent)

    def action_open(self) -> None:
        if (node := self.cursor_node) is not None:
            self._open(node)

    def action_toggle_node(self) -> None:
        node = self.cursor_node
        if node is not None and node.is_expanded:
            node.collapse()
        elif node is not None:
            self._open(node)

    def action_next_match(self, by: int) -> None:
        if self.matches:
            place = self.place
            here = next((at for at, name in enumerate(self.matches) if place and name in place.names), -1)
            self.go_to(self.matches[(here + by) % len(self.matches)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # Escape goes on to the screen where there is no filter to clear.
        return bool(self.pattern) if action == "clear_filter" else True

    def action_clear_filter(self) -> None:
        place = self.place
        self.filter("")
        if place is not None and place.names[0]:
            self.go_to(place.names[0])
        self._edited()

    # ---- filter and places

    def filter(self, pattern: str) -> None:
        """Show only what `pattern` names, with what it lies in; empty shows all again. Raises BadPattern."""
        tree = self.layer_tree
        if tree is None:
            return
        matches = matching(tree.architecture, pattern) if pattern else []
        self.pattern, self.matches, self._matched = pattern, matches, set(matches)
        self._in_sight = names_above(matches) if pattern else None
        self._rebuild()
        if pattern and len(matches) <= EXPANDED_MATCHES:
            self._open_all(self.root)
        elif pattern and matches:
            self.go_to(matches[0])

    def _open_all(self, node: TreeNode[Place]) -> None:
        self._open(node)
        for child in node.children:
            self._open_all(child)

    def go_to(self, name: str) -> None:
        """Put the cursor on a module, opening what hides it."""
        node = self.root
        while node.data is not None and name not in node.data.names:
            self._open(node)
            inside = (child for child in node.children if child.data and _holds(child.data.names, name))
            closer = next(inside, None)
            if closer is None:
                break
            node = closer
        _ = self._tree_lines  # numbers the lines, which moving the cursor goes by
        self.move_cursor(node)

    def _rearranged(self, name: str) -> None:
        """Build the tree again, as open as it was, with the cursor on `name`."""
        opened = [node.data.names[0] for node in _walk(self.root) if node.is_expanded and node.data is not None]
        self._rebuild()
        for node in _walk(self.root):
            if node.data is not None and node.data.names[0] in opened:
                self._open(node)
        self.go_to(name)

    def why_not(self, place: Place) -> str:
        """For a person: why nothing here can be adapted."""
        if place.module is None:
            return "Nothing in this model can be adapted."
        if place.module.obstacle:
            return f"{place.label}: {place.module.obstacle}"
        reasons = dict.fromkeys(
            module.obstacle for module in place.tree.architecture.below(place.names[0]) if module.obstacle
        )
        return f"{place.label}: {'; '.join(reasons)}" if reasons else f"{place.label} has no weights."

    def _select(self, names: Iterable[str], on: bool, note: str = "") -> None:
        self._edited(self.draft.select(names, on) or note)

    def _edited(self, note: str = "") -> None:
        self.refresh_figures()
        self._tell_edited(note)


def _largest_branch(node: TreeNode[Place]) -> TreeNode[Place] | None:
    branches = [child for child in node.children if child.allow_expand]
    return max(branches, key=lambda child: child.data.parameters if child.data else 0, default=None)


def _walk(node: TreeNode[Place]) -> Iterable[TreeNode[Place]]:
    yield node
    for child in list(node.children):
        yield from _walk(child)


def _holds(names: tuple[str, ...], name: str) -> bool:
    return any(name == above or name.startswith(f"{above}.") for above in names)
