"""The figures, in the order of the table. Each is a module with `TITLE` and `run(context) -> Part`; its name is what
`ONLY=` takes."""

from __future__ import annotations

from types import ModuleType

from benchmarks.figures import (
    autoscale,
    bulk,
    convergence,
    copies,
    fill,
    growth,
    likes,
    likes_size,
    memory,
    overload,
    reads,
    reduction,
    single,
    wait,
    warming,
    workers,
)

_MODULES = (
    bulk,
    single,
    copies,
    reads,
    warming,
    wait,
    convergence,
    reduction,
    workers,
    autoscale,
    growth,
    memory,
    overload,
    likes,
    likes_size,
    fill,
)
FIGURES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
