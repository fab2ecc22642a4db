"""The house: imports point one way and never in a circle, and what is called pure is pure. Read from the sources.

An import counts wherever it stands, within a function or for types alone, but for circles of modules: those are about
what happens when a module is imported.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.commands import ROOT

ROOMS = (
    "runtime",
    "sharding",
    "replication",
    "counters",
    "likes",
    "counter_project",
)  # each may import from those before it
OUTSIDE = ("cluster", "monitoring", "benchmarks", "tests")  # imported by none of the rooms

# What a pure module may come to by its imports: nothing that does I/O or needs Django to be set up.
PURE_LIBRARIES = {"msgspec", "uuid_utils"}
PURE_STANDARD = {
    *(
        "__future__",
        "ast",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "contextlib",
        "csv",
        "dataclasses",
        "datetime",
        "decimal",
    ),
    *(
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "itertools",
        "json",
        "math",
        "operator",
        "random",
        "re",
        "string",
        "struct",
    ),
    *("typing", "uuid", "zlib"),
}


@dataclass(frozen=True)
class Import:
    """One import: the module that is imported, and whether that happens when the importing module is imported."""

    module: str
    at_once: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the product, by its name."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "migrations" not in path.parts]
    return {name_of(path): path for path in paths}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """The package that a module is in; a package is in itself."""
    return module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything that a module of the product imports, of the product or not, without itself."""
    found = set(_imports(module, ast.parse(modules()[module].read_text()), at_once=True))
    return tuple(sorted((one for one in found if one.module != module), key=lambda one: (one.module, one.at_once)))


def _imports(module: str, node: ast.AST, *, at_once: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types(child)
        match child:
            case ast.Import():
                yield from (Import(alias.name, at_once) for alias in child.names)
            case ast.ImportFrom():
                package = package_of(module).split(".")
                above = package[: len(package) + 1 - child.level] if child.level else []
                base = ".".join([*above, *filter(None, [child.module])])
                for alias in child.names:  # a module of a package, or a name in a module
                    inner = f"{base}.{alias.name}"
                    yield Import(inner if inner in modules() else base, at_once)
            case _:
                yield from _imports(module, child, at_once=at_once and not later)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def pure_modules() -> list[str]:
    """Those that pyproject.toml holds to the strict rules of mypy."""
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    return next(one["module"] for one in overrides if one.get("strict"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    below = ROOMS[: ROOMS.index(room) + 1]
    for module in modules():
        if module.split(".")[0] == room:
            rooms = {one.module.split(".")[0]: one.module for one in imports(module)}
            upwards = {target for name, target in rooms.items() if name in {*ROOMS, *OUTSIDE} and name not in below}
            assert not upwards, f"{module} imports {upwards}"


def test_no_package_imports_one_that_imports_it() -> None:
    """Packages as the folders of the rooms; what lies in a room's own folder counts by itself."""

    def place(module: str) -> str:
        return ".".join(module.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for module in modules():
        targets = {place(one.module) for one in imports(module) if one.module in modules()}
        graph.setdefault(place(module), set()).update(targets - {place(module)})
    assert_no_circle(graph)


def test_no_module_is_imported_while_it_is_imported() -> None:
    assert_no_circle(
        {
            module: {one.module for one in imports(module) if one.at_once and one.module in modules()}
            for module in modules()
        }
    )


@pytest.mark.parametrize("module", pure_modules())
def test_what_is_called_pure_comes_to_nothing_impure(module: str) -> None:
    """Through all that it imports, and the packages that those are in."""
    ways: list[tuple[str, ...]] = [(module,)]
    found = {module}
    while ways:
        way = ways.pop()
        targets = {one.module for one in imports(way[-1])} | {way[-1].rpartition(".")[0]} - {""}
        for target in sorted(targets - found):
            found.add(target)
            if target in modules():
                ways.append((*way, target))
            else:
                assert target.split(".")[0] in PURE_STANDARD | PURE_LIBRARIES, " imports ".join((*way, target))


def test_every_module_that_is_called_pure_is_there() -> None:
    assert set(pure_modules()) <= set(modules())


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").glob("*.py")), ids=lambda path: path.stem)
def test_the_cluster_starts_without_django(path: Path) -> None:
    """It starts Patroni several times for each of Tally's own processes, and imports only pure modules of theirs, and three
    that need no Django."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [(node.module or "", alias.name) for node in nodes if not node.level for alias in node.names]
    found = {name if (name := f"{base}.{inner}") in modules() else base for base, inner in names}
    assert found & modules().keys() <= {*pure_modules(), "runtime.garbage", "runtime.polling", "runtime.showing"}


# Loads what a process loads, and prints what it did not need.
WORKER = """
import gc, sys
import counter_project
assert gc.get_freeze_count(), "what was loaded is not scanned for garbage"
from counter_project.__main__ import app
app.loader.import_default_modules()
assert "counters.apply.tasks" in sys.modules
of_libraries = {"opentelemetry", "pygments", "rest_framework.views", "rich", "tornado", "yaml"}
print(*sorted(({"counters.admin", "counters.api"} | of_libraries) & sys.modules.keys()))
"""
API = """
import sys
import counter_project.asgi
assert "pyarrow" in sys.modules
print(*sorted({"numpy", "opentelemetry", "pygments", "requests", "rich", "tornado"} & sys.modules.keys()))
"""


COMMAND = """
import sys
import cluster.commands
print(*sorted({"psycopg", "redis", "urllib3", "yaml"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("program", [WORKER, API, COMMAND], ids=["worker", "api", "cluster"])
def test_a_process_loads_what_it_needs(program: str) -> None:
    """Processes are started again and again, as after each kill: loading takes most of that."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# Patroni starts PostgreSQL through a child that loads the main module, and the module of this function.
STARTER = """
import inspect, sys
from cluster.guarded_patroni import start_postmaster
print(*sorted({"patroni", "psutil", "yaml"} & sys.modules.keys()))

from patroni.postgresql.postmaster import PostmasterProcess, pg_ctl_start
assert start_postmaster.__module__ == "cluster.guarded_patroni"
assert "pg_ctl_start" in PostmasterProcess.start.__code__.co_names, "or ours is never called"
assert len(inspect.signature(pg_ctl_start).parameters) == len(inspect.signature(start_postmaster).parameters)
"""


def test_what_starts_postgres_loads_no_patroni() -> None:
    done = subprocess.run([sys.executable, "-c", STARTER], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# What is kept at module level and changes. Everything else is a part of `runtime.resources.Resources`.
KEPT = {
    "sharding.breakers": {"_seldom"},
    "runtime.resources": {"_open", "_closers", "_of_parents"},
    "counters.admin.login": {"_seldom"},  # how often a line was logged
    "counters.api.problems": {"_seldom"},
    "counters.apply.effects": {"_handlers"},  # filled when Django is set up, as are the next
    "counters.apply.partitions": {"_purges"},
    "counters.reading.pending": {"_looks"},
    "counters.reconciliation.checks": {"_checks"},
    "counter_project.asgi": {"application"},  # entry points
    "counter_project.celery": {"app", "resources"},
}
# Functions whose results are kept for ever: they depend on the arguments alone, and hold nothing.
MEMOS = {
    "counters.api.answers": {"moment"},
    "counters.api.application": {"_refusal"},
    "counters.api.base": {"_allowed"},
    "counters.api.media": {"_json", "_msgpack"},
    "counters.intake.append": {"_append_keys"},
    "counters.limits.addresses": {"_network"},
    "runtime.redis": {"_digest"},
}
CACHES = {"cache", "once", "lru_cache", "functools.cache", "functools.lru_cache"}
UNCHANGING = {"RegexValidator"}
CONTAINERS = {"list", "dict", "set", "defaultdict", "deque", "local", "count"}


@pytest.mark.parametrize("module", modules())
def test_what_changes_is_owned(module: str) -> None:
    """No module has state of its own: no `global`, no cached function that holds something, no object that is filled or
    opened later."""
    tree = ast.parse(modules()[module].read_text())
    assert not [node.names for node in ast.walk(tree) if isinstance(node, ast.Global)]
    found = {name for node in tree.body for name in _kept_by(node)}
    assert found == KEPT.get(module, set()) | MEMOS.get(module, set())


def _kept_by(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name, decorator_list=decorators):
            if CACHES & {ast.unparse(one).partition("(")[0] for one in decorators}:
                yield name
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ):
            if name.islower() and _may_change(value):
                yield name


def _may_change(value: ast.expr | None) -> bool:
    """Whether a value is made to be filled, opened or replaced. Codecs of msgspec are not."""
    match value:
        case ast.Constant(value=None) | ast.List(elts=[]) | ast.Dict(keys=[]):
            return True
        case ast.Call(func=ast.Name(id=name)):
            return (name[0].isupper() and name not in UNCHANGING) or name in CONTAINERS
    return False
