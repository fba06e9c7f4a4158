"""Arrows between the rooms of the house point one way, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stagescope

ROOT = Path(stagescope.__file__).parent
HEAVY = ("torch", "transformer_lens", "transformers")
LEAVES = {"stagescope", "stagescope.text", "stagescope.paths"}  # what the engine may import from above


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): ast.parse(file.read_text("utf-8")) for file in sorted(ROOT.rglob("*.py"))}


def imports(module: str, everywhere: bool) -> set[str]:
    """Names a module imports, of modules where they are ours; `everywhere`: inside functions too. Typing's never."""
    found = set()

    def visit(node: ast.AST) -> None:
        match node:
            case ast.Import():
                found.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"{module}: imports are written in full"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in MODULES else node.module)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for child in node.orelse:
                    visit(child)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not everywhere:
                pass
            case _:
                for child in ast.iter_child_nodes(node):
                    visit(child)

    visit(MODULES[module])
    return found


def ours(module: str, everywhere: bool = True) -> set[str]:
    return imports(module, everywhere) & MODULES.keys()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("stagescope.engine")])
def test_the_engine_knows_nothing_of_the_screen(module):
    found = imports(module, everywhere=True)
    assert not {name for name in found if name.split(".")[0] == "textual"}
    assert {name for name in ours(module) if not name.startswith("stagescope.engine")} <= LEAVES
    for name in LEAVES & ours(module) - {"stagescope"}:
        assert not ours(name), f"{name} is no leaf"


@pytest.mark.parametrize("module", ["stagescope.text", "stagescope.paths"])
def test_leaves_import_nothing_of_the_house(module):
    assert not ours(module)


def test_no_two_modules_need_each_other():
    """Imports inside functions count: they would hide a circle, not undo it. The package itself is a lazy door."""
    graph = {name: ours(name) - {name, "stagescope"} for name in MODULES if name != "stagescope"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES) - ("stagescope" in MODULES)


def run(code: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)


LOADED = "{name for name in sys.modules if name.split('.')[0] in %r}"


def test_the_screen_never_imports_torch():
    """One process imports them one after the other, so the first that brings torch is named."""
    screen = [
        name
        for name in MODULES
        if name.startswith("stagescope.screens")
        or name in ("stagescope", "stagescope.app", "stagescope.actions", "stagescope.cli", "stagescope.engine.client")
    ]
    assert "stagescope.cli" in screen
    code = f"""
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if found := {LOADED % (HEAVY,)}:
        sys.exit(f"{{name}} imports {{sorted(found)[:5]}}")
"""
    done = run(code, *screen)
    assert done.returncode == 0, done.stderr


def test_the_child_answers_before_torch_is_imported():
    done = run(f"import sys, stagescope.engine.child; sys.exit(sorted({LOADED % (HEAVY,)}) or 0)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["read", "--help"], ["where"]], ids=" ".join)
def test_help_comes_without_the_app_and_without_torch(words):
    code = f"""
import atexit, sys
from stagescope.cli import main
def report():
    found = {LOADED % ((*HEAVY, "textual", "numpy", "plotext"),)}
    print("imported:", sorted(found), file=sys.stderr)
atexit.register(report)
main(sys.argv[1:])
"""
    done = run(code, *words)
    assert done.returncode == 0 and done.stdout
    assert done.stderr.strip() == "imported: []"


def test_no_screen_hides_what_textual_calls_on_it():
    """A method called as one of Textual's own is called by it, or by who asks for the other."""
    from textual.screen import Screen
    from textual.widget import Widget

    import stagescope.app
    import stagescope.watch

    meant = {"notify_style_update", "compose", "render", "render_line", "focused", "check_action", "get_content_height", "get_content_width"}
    for module in [module for name, module in sys.modules.items() if name.startswith("stagescope.screens")]:
        for kind in [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]:
            base = Screen if issubclass(kind, Screen) else Widget if issubclass(kind, Widget) else None
            if base is not None:
                own = {name for name in vars(kind) if not name.isupper() and not name.startswith(("_", "on_", "can_focus"))}
                hidden = {name for name in own & set(dir(base)) - meant if not name.startswith("action_")}
                assert not hidden, f"{kind.__name__} hides {sorted(hidden)}"


def test_no_quarter_of_the_explore_screen_hides_what_another_has():
    from stagescope.screens.explore import Explore

    seen: dict[str, str] = {}
    for quarter in Explore.__bases__:
        for name in vars(quarter):
            if not name.startswith("__") and callable(getattr(quarter, name)):
                assert name not in seen, f"{quarter.__name__} and {seen[name]} both have {name}"
                seen[name] = quarter.__name__
