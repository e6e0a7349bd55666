"""nvfp4/_abi.py and enums.py against include/nvfp4.h: they cannot drift apart."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from nvfp4 import _abi, enums
from nvfp4._library import library

HEADER = (ROOT / "include" / "nvfp4.h").read_text()
TEXT = re.sub(r"/\*.*?\*/|//[^\n]*", " ", HEADER, flags=re.S)
SCALARS = {
    "size_t": ctypes.c_size_t, "uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64, "float": ctypes.c_float, "char": ctypes.c_char, "uint8_t": ctypes.c_uint8,
}
ALIASES = {name: SCALARS[base] for base, name in re.findall(r"typedef\s+(u?int32_t)\s+(nvfp4_\w+);", TEXT)}
OPAQUE = set(re.findall(r"typedef struct (nvfp4_\w+) \1;", TEXT))
STRUCT_ALIASES = dict(re.findall(r"typedef struct (nvfp4_\w+) (nvfp4_\w+);", TEXT))
STRUCTS = {
    name: [field.strip() for field in body.split(";") if field.strip()]
    for name, body in re.findall(r"struct (nvfp4_\w+) \{(.*?)\}\s*\w*;", TEXT, re.S)
}
FUNCTIONS = {
    name: (" ".join(result.split()), [" ".join(a.split()) for a in arguments.split(",")] if arguments.strip() != "void" else [])
    for result, name, arguments in re.findall(r"^([\w ]+?[\s*]+)(nvfp4_\w+)\(([^()]*)\);", TEXT, re.M | re.S)
}
CONSTANTS = {name: int(value) for name, value in re.findall(r"#define (NVFP4_\w+) (\d+)", TEXT)}


def c_type(declaration: str, named: bool = True) -> object:
    """The ctypes type of 'const struct nvfp4_x *name' in an argument list."""
    stars = declaration.count("*")
    words = [w for w in declaration.replace("*", " ").split() if w not in ("const", "struct")]
    base = words[0]
    if base in _abi.STRUCTS or base in {"nvfp4_gemm_args", "nvfp4_linear_args"}:
        struct = getattr(_abi, base)
        if base in {h.__name__ for h in _abi.HANDLES}:
            return struct
        return ctypes.POINTER(struct) if stars == 1 else struct
    if hasattr(_abi, base) and base in {h.__name__ for h in _abi.HANDLES}:
        handle = getattr(_abi, base)
        return handle if stars == 1 else ctypes.POINTER(handle)
    if base == "nvfp4_log_callback":
        return _abi.nvfp4_log_callback
    if base == "void":
        return [None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)][stars]
    if base == "char" and stars == 1:
        return ctypes.c_char_p
    scalar = ALIASES.get(base) or SCALARS[base]
    return ctypes.POINTER(scalar) if stars else scalar


def test_the_header_was_understood() -> None:
    assert len(FUNCTIONS) > 60 and len(STRUCTS) > 20 and len(CONSTANTS) > 50
    assert len(FUNCTIONS) == len(re.findall(r"\bnvfp4_\w+\(", TEXT)), "a prototype was not parsed"


def test_constants() -> None:
    ours = {
        prefix + member.name: int(member)
        for prefix, cls in enums.PREFIXES.items()
        for member in cls.__members__.values()
        if not (member.name == "NONE" and issubclass(cls, enums.IntFlag))
    }
    theirs = {name: value for name, value in CONSTANTS.items() if not re.match(r"NVFP4_(VERSION_|ABI_VERSION)", name)}
    assert ours == theirs
    assert CONSTANTS["NVFP4_ABI_VERSION"] == _abi.ABI_VERSION


@pytest.mark.parametrize("name", sorted(set(STRUCTS) | set(_abi.STRUCTS)))
def test_struct_fields(name: str) -> None:
    expected = []
    if name == "nvfp4_api_table":
        fields = re.search(r"struct nvfp4_api_table \{(.*?)\};", TEXT, re.S).group(1)
        names = re.findall(r"\(\*(\w+)\)", fields)
        assert [f[0] for f in _abi.nvfp4_api_table._fields_] == ["struct_size", *names]
        return
    for field in STRUCTS[name]:
        array = re.search(r"\[(\d+)\]$", field)
        declared = re.sub(r"\[\d+\]$", "", field)
        identifier = re.search(r"(\w+)$", declared).group(1)
        kind = declared[: -len(identifier)]
        if "*" in kind:
            expected.append((identifier, ctypes.c_void_p))
        elif "struct" in kind:
            expected.append((identifier, getattr(_abi, kind.replace("struct", "").strip())))
        else:
            scalar = ALIASES.get(kind.strip()) or SCALARS[kind.strip()]
            expected.append((identifier, scalar * int(array.group(1)) if array else scalar))
    assert [(f[0], f[1]) for f in _abi.STRUCTS[name]._fields_] == expected
    sized = expected[0][0] == "struct_size"
    assert issubclass(_abi.STRUCTS[name], _abi.Sized) == sized


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) | set(_abi.PROTOTYPES)))
def test_prototype(name: str) -> None:
    result, arguments = FUNCTIONS[name]
    ours = _abi.PROTOTYPES[name]
    assert ours[0] is c_type(result) or ours[0] == c_type(result)
    assert ours[1] == [c_type(argument) for argument in arguments]


def test_aliases_and_handles() -> None:
    assert STRUCT_ALIASES["nvfp4_grouped_gemm_args"] == "nvfp4_gemm_args"
    assert STRUCT_ALIASES["nvfp4_grouped_linear_args"] == "nvfp4_linear_args"
    assert {h.__name__ for h in _abi.HANDLES} == OPAQUE - {"nvfp4_api_table"}


def test_sizes_and_offsets_as_the_c_compiler_sees_them(tmp_path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    lines, expected = [], []
    for name, struct in _abi.STRUCTS.items():
        lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
        expected.append((name, ctypes.sizeof(struct)))
        for field in struct._fields_:
            lines.append(f'printf("%zu\\n", offsetof(struct {name}, {field[0]}));')
            expected.append((f"{name}.{field[0]}", getattr(struct, field[0]).offset))
    source = tmp_path / "sizes.c"
    source.write_text('#include <stdio.h>\n#include "nvfp4.h"\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0; }\n")
    subprocess.run([compiler, "-std=c11", "-I", ROOT / "include", source, "-o", tmp_path / "sizes"], check=True)
    out = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout.split()
    assert [int(n) for n in out] == [size for _, size in expected]


def test_the_table_holds_the_exported_functions() -> None:
    table = library().functions["nvfp4_api"](_abi.ABI_VERSION).contents
    assert table.struct_size == ctypes.sizeof(_abi.nvfp4_api_table)
    for name in _abi.PROTOTYPES:
        if name != "nvfp4_api":
            symbol = ctypes.cast(getattr(library().dll, name), ctypes.c_void_p).value
            assert getattr(table, name.removeprefix("nvfp4_")) == symbol, name


def test_an_unknown_abi_version_has_no_table() -> None:
    assert not library().functions["nvfp4_api"](_abi.ABI_VERSION + 1)
    assert "abi_version" in library().last_message()
