"""Compiles the step from its source without probes, and writes the object code to a file.

    python without_probes.py FILE

Every call of a function that `boli.cpu.probe.watching` made, every such function, and every import of one
is taken out of the syntax tree before Python sees it. A program of its own, because modules that Numba has
compiled from cannot be replaced. Prints how many calls there were.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

import boli.cpu
from boli.cpu import compiler

FOLDER = Path(boli.cpu.__path__[0])
PROBED = ("step", "stages", "heads")


def is_probe(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(made_by, ast.Name) and made_by.id == "watching" for made_by in node.decorator_list
    )


def probes() -> set[str]:
    """Names of functions that exist in the watched step only."""
    trees = [ast.parse((FOLDER / f"{name}.py").read_text()) for name in ("probe", *PROBED)]
    return {
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and is_probe(node)
    }


class Strip(ast.NodeTransformer):
    """Takes probes out of a module."""

    def __init__(self) -> None:
        self.names, self.calls = probes(), 0

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self.names:
            self.calls += 1
            return None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if is_probe(node) else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        node.names = [alias for alias in node.names if alias.name not in self.names]
        return node if node.names and node.module != "boli.cpu.probe" else None


STRIP = Strip()


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = ast.fix_missing_locations(STRIP.visit(ast.parse(Path(self.path).read_text())))
        return compile(tree, self.path, "exec", dont_inherit=True)


class Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package != "boli.cpu" or module not in PROBED:
            return None
        return importlib.util.spec_from_loader(name, Loader(name, str(FOLDER / f"{module}.py")))


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder)
    from boli.cpu import step

    code = compiler._compile(compiler.Unit("step", 4, lambda: step.entry))
    Path(sys.argv[1]).write_bytes(code)
    print(STRIP.calls)
