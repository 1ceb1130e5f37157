"""The Python code in the README and the documentation runs as printed."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "symkern").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(match[1], id=f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}")
    for page in PAGES
    if page.exists()
    for match in re.finditer(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("code", BLOCKS)
def test_code_runs(code: str) -> None:
    exec(compile(code, "<documentation>", "exec"), {"__name__": "documentation"})


def test_the_readme_has_code() -> None:
    assert any("README" in str(block.id) for block in BLOCKS)


def test_every_exported_name_is_documented() -> None:
    import symkern

    api = (ROOT / "docs" / "api.md").read_text()
    functions = {line.split(".")[-1] for line in re.findall(r"^::: (\S+)$", api, re.MULTILINE)}
    missing = set(symkern._EXPORTS) - functions
    assert not missing, f"add {sorted(missing)} to docs/api.md"


def _docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def test_names_in_docstrings_exist() -> None:
    names = {name for path in SOURCES for text in _docstrings(path) for name in re.findall(r"`(symkern[.\w]*)`", text)}
    assert len(names) > 20
    missing = []
    for name in sorted(names):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("path", [path for path in SOURCES if ">>>" in path.read_text()], ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_versions_agree() -> None:
    import symkern

    declared = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert symkern.__version__ == declared[1]
    assert f"## {symkern.__version__}" in (ROOT / "CHANGELOG.md").read_text()
