"""Layering, ABI and instruction-set audits: clean on this tree, and able to find what they look for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import audit

needs_nm = pytest.mark.skipif(
    shutil.which("nm") is None or not sys.platform.startswith("linux"), reason="needs nm of binutils on Linux"
)
COMPILER = shutil.which("c++") or shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def compile_text(folder: Path, text: str, *options: str) -> Path:
    source, output = folder / "planted.cpp", folder / "planted.o"
    source.write_text(text)
    subprocess.run([str(COMPILER), "-std=c++20", "-fPIC", *options, str(source), "-o", str(output)], check=True)
    return output


def test_layering() -> None:
    assert (ROOT / "csrc" / "torch" / "shim.h").exists()
    assert audit.layering(ROOT / "csrc") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/bad.h", "inline int f(torch::stable::Tensor);"),
        ("core/bad.h", "#include <torch/csrc/stable/tensor.h>"),
        ("core/bad.h", '#include "torch/shim.h"'),
        ("host/bad.cpp", "void f() { aoti_torch_get_device_type(nullptr, nullptr); }"),
        ("ops/bad.h", "/* a comment\n */ using at::Tensor;"),
        ("ops/bad_cuda.cuh", "c10::Stream stream;"),
        ("ops/bad.cpp", "#include <torch/extension.h>"),
        ("ops/bad.cpp", "# include <ATen/ATen.h>"),
        ("ops/bad.cpp", "#include <c10/util/Exception.h>"),
    ],
)
def test_layering_finds_a_violation(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(f"// says torch:: in a comment only\n{text}\n")
    problems = audit.layering(tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}:{2 + text.count(chr(10))} ")


def test_layering_allows_what_is_meant_to_be(tmp_path: Path) -> None:
    for name, text in (
        ("ops/good.cpp", '#include "torch/shim.h"\ntorch::stable::Tensor t;'),
        ("torch/shim.h", "#include <torch/csrc/stable/ops.h>"),
        ("core/good.h", "// torch:: is named here only\nint torch_like;"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert audit.layering(tmp_path) == []


@needs_nm
def test_op_libraries_need_only_the_stable_interface() -> None:
    libraries = sorted((ROOT / "symkern" / "lib").glob("libsymkern_*.so"))
    assert libraries
    for library in libraries:
        assert audit.foreign_symbols(library) == []


@needs_nm
@needs_compiler
@pytest.mark.parametrize(
    "text",
    [
        "namespace c10 { void warn(int); } void f() { c10::warn(1); }",
        "namespace at { class Tensor; void f(const Tensor&); } void g(const at::Tensor& t) { at::f(t); }",
        "namespace torch { namespace autograd { void f(); } } void g() { torch::autograd::f(); }",
        'extern "C" void* PyList_New(long); void* f() { return PyList_New(0); }',
        'extern "C" long _Py_NoneStruct; long* f() { return &_Py_NoneStruct; }',
    ],
    ids=["c10", "at", "torch", "Python", "Python data"],
)
def test_foreign_symbols_are_found(tmp_path: Path, text: str) -> None:
    assert len(audit.foreign_symbols(compile_text(tmp_path, text, "-shared"))) == 1


@needs_nm
@needs_compiler
def test_stable_symbols_are_allowed(tmp_path: Path) -> None:
    text = 'extern "C" int aoti_torch_abi_version(); #include <string>\n'.replace(" #", "\n#")
    text += "std::string f() { return std::to_string(aoti_torch_abi_version()); }"
    assert audit.foreign_symbols(compile_text(tmp_path, text, "-shared")) == []


@needs_nm
def test_instruction_set_levels_share_nothing() -> None:
    objects = audit.level_objects(ROOT / "build" / "dev")
    if not objects:
        pytest.skip("no objects in build/dev: installed package, or not built with make build")
    assert audit.shared_symbols(objects) == []


@needs_nm
@needs_compiler
@pytest.mark.parametrize(
    "text",
    [
        "inline float twice(float x) { return 2 * x; } float (*symkern_f)(float) = &twice;",
        "template <class T> struct S { static T f(T x) { return x; } }; int (*symkern_f)(int) = &S<int>::f;",
        "int helper(int x) { return x; }",
    ],
    ids=["inline function", "template", "function without static"],
)
def test_shared_symbols_are_found(tmp_path: Path, text: str) -> None:
    assert len(audit.shared_symbols([compile_text(tmp_path, text, "-c")])) == 1


@needs_nm
@needs_compiler
def test_private_symbols_are_allowed(tmp_path: Path) -> None:
    text = """
    namespace { struct Table { int (*f)(int); }; inline int twice(int x) { return 2 * x; } }
    namespace symkern { const Table* neighbor_kernels_avx2() { static const Table t{&twice}; return &t; } }
    static int unused() { return 1; }
    extern "C" int symkern_level() { return unused(); }
    """
    object_file = compile_text(tmp_path, text, "-c")
    assert audit.shared_symbols([object_file]) == []
