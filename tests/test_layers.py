"""Every import is compared with the list of allowed imports in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

# The only imports of a later part, with the functions that contain them.
EXCEPTIONS = {("falloff.schemes.base", name, "falloff.views") for name in ("plot", "show", "_repr_html_")}


def drawn():
    """What each part may import, in the order of the list."""
    (block,) = re.findall(r"```arrows\n(.*?)```", TEXT, re.DOTALL)
    rows = [line.split() for line in block.splitlines()]
    return {part: set(targets) - {"-"} for part, *targets in rows}


def modules():
    for path in sorted((SOURCE / "falloff").rglob("*.py")):
        yield ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"), path


MODULES = dict(modules())


def part_of(module, arrows):
    """The part that a module belongs to: the longest name of the list that it begins with."""
    inside = module.removeprefix("falloff").removeprefix(".") or "falloff"
    return max((part for part in arrows if f"{inside}.".startswith(f"{part}.")), key=len, default="")


def imports(module, code):
    """Every module of falloff that a module imports, anywhere in it, with the function that contains the import."""
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]

    def found(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Import):
            yield from ((name.name, function) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for name in node.names:
                inner = f"{base}.{name.name}"
                yield (inner if inner in MODULES else base), function
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from ((argument.value, function) for argument in node.args if isinstance(argument, ast.Constant))
        for child in ast.iter_child_nodes(node):
            yield from found(child, function)

    for name, function in found(ast.parse(code), ""):
        if name == "falloff" or name.startswith("falloff."):
            yield name, function


def wrong_arrows(module, code, arrows):
    here = part_of(module, arrows)
    wrong = []
    for name, function in imports(module, code):
        there = part_of(name, arrows)
        allowed = {here.partition(".")[0], *arrows[here]}
        if there.partition(".")[0] not in allowed and (module, function, name) not in EXCEPTIONS:
            wrong.append(f"{module} imports {name}{f' in {function}' if function else ''}")
    return wrong


def test_every_module_has_a_part_and_every_part_is_above_what_uses_it():
    arrows = drawn()
    assert [module for module in MODULES if not part_of(module, arrows)] == []
    above = set()
    for part, targets in arrows.items():
        assert targets <= above | {part.partition(".")[0]}, part
        assert any(part_of(module, arrows) == part for module in MODULES), f"{part} is nowhere"
        above.add(part)


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_the_arrows_of_contributing(module):
    assert wrong_arrows(module, MODULES[module].read_text(encoding="utf-8"), drawn()) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("falloff.schemes.alibi", "from falloff.views import grids"),
        ("falloff.schemes.base", "def form(self):\n    from falloff import views"),
        ("falloff.schemes.t5", "def plot(self):\n    from falloff import views"),
        ("falloff.bench.suites", "import falloff.lab.config"),
        ("falloff.lab.compare", "def run():\n    from falloff.bench import timing"),
        ("falloff.hf.swapping", "from falloff.views.palette import head_colours"),
        ("falloff.views.grids", "from falloff import attention"),
        ("falloff.ops.mask", "from falloff.schemes import Scheme"),
        ("falloff.ops.cpu", "if TYPE_CHECKING:\n    from ...schemes.base import Scheme"),
        ("falloff.forms", "from importlib import import_module\nimport_module('falloff.schemes')"),
        ("falloff.offsets", "import falloff"),
    ],
)
def test_a_wrong_arrow_is_found(module, code):
    assert len(wrong_arrows(module, code, drawn())) == 1


def test_a_right_one_is_none():
    assert wrong_arrows("falloff.ops.api", "from falloff.schemes import Scheme\nfrom falloff import forms", drawn()) == []
    assert wrong_arrows("falloff.schemes.base", "def show(self):\n    from falloff import views", drawn()) == []
