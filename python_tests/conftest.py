"""Options, data and determinism shared by all tests."""

from __future__ import annotations

import ast
import importlib.util
import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
hypothesis.settings.load_profile("deterministic")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that need much memory or time")
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the contract is checked")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Machines with a GPU may be offline, without ASE and other peers: what needs none of them still runs there."""
    if config.getoption("--device") == "cpu" or collection_path.suffix != ".py":
        return None
    missing = _missing(collection_path)
    if missing:
        print(f"not collected: {collection_path.name}, which needs {', '.join(sorted(missing))}")
    return True if missing else None


def _missing(file: Path) -> set[str]:
    """Packages that `file`, or a module beside it that it imports, imports at its top and that are not installed."""
    missing = set()
    for node in ast.parse(file.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for package in {name.partition(".")[0] for name in names}:
            beside = file.parent / f"{package}.py"
            if beside.exists():
                missing |= _missing(beside)
            elif importlib.util.find_spec(package) is None:
                missing.add(package)
    return missing


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device under test. Asking for one that is not there is an error, not a skip."""
    name: str = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda: no CUDA device", returncode=2)
    return name


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real systems: SYMKERN_DATA, or ../shared/data beside the checkout."""
    given = os.environ.get("SYMKERN_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if given:
            pytest.fail(f"SYMKERN_DATA names no folder: {given}")
        pytest.skip("no data: set SYMKERN_DATA")
    return folder
