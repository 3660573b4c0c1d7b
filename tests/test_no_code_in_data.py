"""What comes from outside of a process is data: nothing in it is ever run.

Found in the syntax of our packages, whatever it is imported as: modules that make objects of bytes by running what
these say, functions of others that do so, and Python's own evaluation.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("features", "learners", "deployments")
MODULES: Final = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "code"}
FUNCTIONS: Final = {
    "eval": "evaluates",
    "exec": "executes",
    "compile": "compiles",
    "__import__": "imports by name",
    "import_module": "imports by name",
    "torch.load": "unpickles",
    "np.load": "unpickles where it is allowed to",
    "numpy.load": "unpickles where it is allowed to",
    "pd.read_pickle": "unpickles",
    "runpy.run_path": "executes",
}
ALLOWED_ARGUMENT: Final = "allow_pickle"


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def dangers(tree: ast.AST) -> Iterator[str]:
    """What a module does of that kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                yield f"from {node.module} import"
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {alias.name for alias in node.names}
            yield from sorted(names & set(FUNCTIONS))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FUNCTIONS:
                yield called
            yield from (f"{called}({word.arg}=)" for word in node.keywords if word.arg == ALLOWED_ARGUMENT)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    """Ray's own transport, between processes that have its token, is its affair: see DESIGN.md."""
    assert list(dangers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as c",
        "from yaml import load",
        "from torch import load",
        "import torch\ntorch.load(path)",
        "np.load(path)",
        "np.savez(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
    ],
)
def test_what_would_be_is_found(source: str) -> None:
    assert len(list(dangers(ast.parse(source)))) >= 1
