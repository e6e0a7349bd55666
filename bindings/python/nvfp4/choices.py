"""Calls about calls: loading what one takes, and measuring which kernel is best for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import INSTEAD, Call
from ._library import library
from .enums import Operation
from .errors import InvalidArgumentError


@dataclass(frozen=True)
class Tuned:
    """What a measurement found."""

    #: Kernels that were timed; 0: there was nothing to choose.
    candidates: int
    kernel: str
    splits: int
    #: Microseconds of the kernel that is taken without tuning, and of the choice.
    default_us: float
    best_us: float


def prepare_for(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Loads what `function(*args, **kwargs)` takes, without running it: prepare_for(nvfp4.quantize, context, x)."""

    def prepare(call: Call, name: str, raw: ctypes.Structure) -> None:
        asked = _abi.nvfp4_prepare_args(operation=_operation(name), args=ctypes.addressof(raw))
        library().call("nvfp4_prepare", call.handle, ctypes.byref(asked))

    _ask(prepare, function, args, kwargs)


def tune(function: Callable[..., Any], *args: Any, repeats: int = 0, **kwargs: Any) -> Tuned:
    """Times every kernel that can carry out a product, and uses the fastest for such products from now on:
    tune(nvfp4.grouped_gemm, context, a, weights, groups=groups), or the products of a layer (`linear`, `moe_forward`, a
    `Linear`, `MoE`, ... that is called). `out` is overwritten. Keep the choices with
    Context.save_tuning."""
    found: list[Tuned] = []

    def measure(call: Call, name: str, raw: ctypes.Structure) -> None:
        asked = _abi.nvfp4_tune_args(operation=_operation(name), repeats=repeats, args=ctypes.addressof(raw))
        result = _abi.nvfp4_tune_result()
        library().call("nvfp4_tune", call.handle, ctypes.byref(asked), call.stream.handle, ctypes.byref(result))
        found.append(Tuned(result.candidates, result.kernel.decode(), result.splits, result.default_us, result.best_us))

    _ask(measure, function, args, kwargs)
    return found[0]


def _operation(name: str) -> Operation:
    return Operation.GROUPED_GEMM if name == "gemm" else Operation[name.upper()]


def _ask(
    instead: Callable[[Call, str, ctypes.Structure], None], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    asked = []

    def of_running(call: Call, name: str, raw: ctypes.Structure) -> None:
        asked.append(name)
        instead(call, name, raw)

    if getattr(INSTEAD, "of_running", None) is not None:
        raise InvalidArgumentError("a call about a call cannot ask about another one")
    INSTEAD.of_running = of_running
    try:
        function(*args, **kwargs)
    finally:
        INSTEAD.of_running = None
    if not asked:
        raise InvalidArgumentError(f"{getattr(function, '__name__', function)} made no call to ask about")
