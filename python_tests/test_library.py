"""Finding and loading the compiled libraries: every mismatch says what was found, what was expected and what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import symkern
from symkern import _library as library

PACKAGE = Path(symkern.__file__).parent


def run(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python code in a fresh process, with `folder` before everything else on the path."""
    prefix = "" if folder is None else f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True)


# ---- the messages ----------------------------------------------------------------------------------------------------


def test_torch_version() -> None:
    for good in ("2.10.0", "2.13.0+cpu", "2.11.0a0+git123", "3.0"):
        assert library.check_torch(good) is None
    for old in ("2.9.1", "2.9.1+cu128", "1.13.1"):
        problem = library.check_torch(old)
        assert problem is not None
        assert f"found torch {old}" in problem
        assert "expected torch >= 2.10" in problem
        assert "pip install -U 'torch>=2.10'" in problem


def test_driver_version() -> None:
    for driver, built_by in ((13000, "13.0"), (12040, "12.8"), (13010, "12.9"), (0, "13.0")):
        assert library.check_driver(driver, built_by) is None
    problem = library.check_driver(12080, "13.0")
    assert problem is not None
    for part in ("found a GPU driver for CUDA 12.8", "expected one for CUDA 13", "driver >= 580", "update the driver"):
        assert part in problem
    assert "driver >= 525" in (library.check_driver(11080, "12.8") or "")
    assert "CUDA 14" in (library.check_driver(13000, "14.1") or "")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "libsymkern_cpu.so"
    problem = library.check_files(path, {}, "do this")
    assert problem == f"found no libsymkern_cpu.so in {tmp_path}, expected it there; do this"
    path.touch()
    assert library.check_files(path, {"version": symkern.__version__}, "") is None
    for build, found in (({"version": "0.0.9"}, "symkern 0.0.9"), ({}, "an unknown version")):
        problem = library.check_files(path, build, "")
        assert problem is not None
        for part in (found, f"expected {symkern.__version__}", "stale", "pip install --no-build-isolation"):
            assert part in problem


# ---- the package -----------------------------------------------------------------------------------------------------


def _remove_library(package: Path) -> None:
    for file in (package / "lib").glob("libsymkern_cpu.*"):
        file.unlink()


def _remove_folder(package: Path) -> None:
    shutil.rmtree(package / "lib")


def _make_stale(package: Path) -> None:
    (package / "lib" / "symkern_cpu.json").write_text(json.dumps({"version": "0.0.1"}))


def _remove_description(package: Path) -> None:
    (package / "lib" / "symkern_cpu.json").unlink()


def _corrupt(package: Path) -> None:
    next((package / "lib").glob("libsymkern_cpu.*")).write_bytes(b"not a library")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (_remove_library, ["found no libsymkern_cpu.so", "expected it there", "build it: make build"]),
        (_remove_folder, ["found no libsymkern_cpu.so", "build it: make build"]),
        (_make_stale, ["of symkern 0.0.1", f"expected {symkern.__version__}", "stale build", "pip install"]),
        (_remove_description, ["of symkern an unknown version", "pip install"]),
        (_corrupt, ["found libsymkern_cpu.so", f"expected it to load with torch {torch.__version__}", "pip install"]),
    ],
)
def test_damaged_package(tmp_path: Path, damage: Callable[[Path], None], parts: list[str]) -> None:
    package = tmp_path / "symkern"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "libsymkern_cuda*"))
    damage(package)
    result = run("import symkern; symkern.neighbor_list", tmp_path)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: symkern: ")
    for part in parts:
        assert part in message
    # NumPy users do not need the op library
    assert run("from symkern import host; host.neighbor_list([[0.0, 0, 0]], 1.0)", tmp_path).returncode == 0


def test_missing_host_module(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "symkern", ignore=shutil.ignore_patterns("__pycache__", "_host*.so", "lib"))
    result = run("from symkern import host", tmp_path)
    assert "expected the compiled module symkern._host for this Python, but:" in result.stderr
    assert "build it: make build" in result.stderr


def test_import_does_not_import_torch() -> None:
    code = """
        import sys, symkern
        assert "neighbor_list" in dir(symkern) and symkern.__version__
        assert "torch" not in sys.modules and "numpy" not in sys.modules
        try:
            symkern.no_such_name
        except AttributeError as error:
            assert "no attribute 'no_such_name'" in str(error)
        else:
            raise AssertionError
        symkern.neighbor_list
        assert "torch" in sys.modules
    """
    result = run("\n".join(line[8:] for line in code.splitlines()))
    assert result.returncode == 0, result.stderr


def test_every_export_exists() -> None:
    for name in symkern.__all__:
        assert getattr(symkern, name) is not None
    assert set(symkern._EXPORTS) <= set(dir(symkern))


# ---- CUDA ------------------------------------------------------------------------------------------------------------


def test_every_op_has_a_cpu_kernel() -> None:
    assert {"neighbor_list", "edge_vectors", "safe_norm", "sender_order", "reverse_edges"} <= set(library.op_names())
    for op in library.op_names():
        assert library.has_kernel(op, "CPU")
        # real or the one that says why there is none
        assert library.has_kernel(op, "CUDA")
    assert not library.has_kernel("safe_norm", "XPU")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_cpu_only_torch_is_named() -> None:
    assert library.cpu.problem is None
    assert library.cuda.problem is not None
    assert f"found torch {torch.__version__}, expected a torch with CUDA" in library.cuda.problem


@pytest.mark.skipif(library.cuda.problem is None, reason="CUDA kernels are there")
def test_cuda_tensors_get_the_reason() -> None:
    """A fake CUDA tensor reaches the CUDA dispatch key on any machine."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    for op in library.op_names():
        overload = getattr(torch.ops.symkern, op).default
        arguments = [_value(argument.type) for argument in overload._schema.arguments]
        with pytest.raises(RuntimeError, match="symkern has no CUDA kernels here: found") as caught:
            overload.redispatch(keys, *arguments)
        assert str(library.cuda.problem) in str(caught.value)


def _value(kind: torch.Type) -> object:
    values = {"Tensor": torch.zeros((1, 3)), "float": 1.0, "int": 1, "bool": True}
    return values.get(str(kind))


@pytest.mark.parametrize(
    ("cuda", "driver", "build", "parts"),
    [
        ("13.0", 12080, {"version": symkern.__version__, "cuda": "13.0"}, ["driver for CUDA 12.8", "driver >= 580"]),
        ("13.0", 13000, {"version": "0.0.1", "cuda": "13.0"}, ["of symkern 0.0.1", "stale"]),
        ("13.0", 13000, None, ["found no libsymkern_cuda.so", "SYMKERN_CUDA=ON"]),
        ("13.0", 13000, {"version": symkern.__version__, "cuda": "13.0"}, ["found libsymkern_cuda.so", "to load with"]),
    ],
    ids=["old driver", "stale", "not built", "does not load"],
)
def test_cuda_library_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cuda: str,
    driver: int,
    build: dict[str, str] | None,
    parts: list[str],
) -> None:
    """The status says why; it is not an error to import."""
    path = tmp_path / "libsymkern_cuda.so"
    if build is not None:
        path.write_bytes(b"not a library")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(library, "_driver", lambda: driver)
    monkeypatch.setattr(library, "_locate", lambda name: (path, build or {}))
    status = library._load_cuda()
    assert status.problem is not None
    for part in parts:
        assert part in status.problem


def test_ops_are_called_where_their_fakes_are():
    """A fake kernel that only another module registers is missing under torch.compile until that module is imported."""
    package = Path(symkern.__file__).parent
    text = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}
    home = {op: name for name, code in text.items() for op in re.findall(r'^@fake\("(\w+)"\)', code, re.MULTILINE)}
    assert home["sender_order"] == "ops/edge_order.py"
    for name, code in text.items():
        for op in set(re.findall(r"torch\.ops\.symkern\.(\w+)", code)):
            if name != home[op] and not name.startswith("testing/"):
                module = "symkern." + home[op].removesuffix(".py").replace("/", ".")
                assert f"from {module} import" in code, f"{name} calls {op}, whose fake kernel {module} registers"
