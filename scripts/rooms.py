"""Print the rooms of the core, what they import of each other, and how many imports run in a circle or up.

A room is a folder or a file right below `memrecall_kv`; an arrow is a pair of rooms of which one imports the other.
The exit code is 1 if rooms import each other in a circle, or one imports what stands above it in pyproject.toml.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
CORE = "memrecall_kv"
OUTSIDE = frozenset({"__main__"})
"""Rooms that no layer names."""

Arrow = tuple[str, str]


def main() -> int:
    """Return 1 if an import runs in a circle or up, else 0."""
    imports = count_imports()
    names, rising = rooms(), upward(imports, layers())
    height = floors(imports) if not circles(imports) else {}
    for name in sorted(names, key=lambda name: (-height.get(name, 0), name)):
        below = ", ".join(f"{target} {count}" for (source, target), count in sorted(imports.items()) if source == name)
        say(f"{height.get(name, '?'):>3} {name:<10} {names[name]:>3} files  -> {below or 'nothing'}")
    folders = sum(is_folder(name) for name in names)
    say(f"{len(names)} rooms ({folders} folders, {len(names) - folders} files), {len(imports)} arrows,")
    say(f"{len(set(height.values()))} floors, {len(circles(imports))} cycles, {len(rising)} upward arrows")
    for circle in circles(imports):
        say(f"in a circle: {', '.join(circle)}")
    for source, target in rising:
        say(f"upward: {source} -> {target}")
    return 1 if circles(imports) or rising else 0


def rooms() -> dict[str, int]:
    """Return the number of files in each room."""
    return Counter(room_of(module) for module in _graph().modules if module not in {CORE})


def count_imports() -> dict[Arrow, int]:
    """Return how many imports lead from a room to another one."""
    graph = _graph()
    pairs = (
        (room_of(source), room_of(target))
        for source in graph.modules - {CORE}
        for target in graph.find_modules_directly_imported_by(source) - {CORE}
    )
    return Counter((source, target) for source, target in pairs if source != target)


def layers() -> list[frozenset[str]]:
    """Return the core's layers as pyproject.toml has them, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        each
        for each in settings["tool"]["importlinter"]["contracts"]
        if each["type"] == "layers" and each["containers"] == [CORE]
    )
    return [frozenset(name.strip() for name in layer.split("|")) for layer in contract["layers"]]


def circles(arrows: Iterable[Arrow]) -> list[list[str]]:
    """Return the groups of rooms of which each reaches each."""
    reached = _reached(arrows)
    groups = {
        frozenset(other for other in below if room in reached.get(other, ()))
        for room, below in reached.items()
        if room in below
    }
    return sorted(sorted(group) for group in groups)


def upward(arrows: Iterable[Arrow], layers: Sequence[frozenset[str]]) -> list[Arrow]:
    """Return the arrows that do not lead to a lower layer."""
    level = {name: place for place, layer in enumerate(layers) for name in layer}
    return sorted(
        (source, target)
        for source, target in arrows
        if source not in OUTSIDE and (target in OUTSIDE or level[source] >= level[target])
    )


def floors(arrows: Iterable[Arrow]) -> dict[str, int]:
    """Return how many rooms stand below each, one on the other, in rooms without circles."""
    reached = _reached(arrows)
    height: dict[str, int] = {}
    for room in sorted(reached, key=lambda room: len(reached[room])):
        height[room] = 1 + max((height[below] for below in reached[room]), default=-1)
    return height


def room_of(module: str) -> str:
    """Return the room that a module of the core stands in."""
    return module.split(".")[1]


def is_folder(room: str) -> bool:
    """Return whether a room is a folder."""
    return (ROOT / "core" / CORE / room).is_dir()


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(CORE, cache_dir=None)


def _reached(arrows: Iterable[Arrow]) -> Mapping[str, set[str]]:
    """Return what each room imports, directly or by way of others."""
    reached: dict[str, set[str]] = {}
    for source, target in arrows:
        reached.setdefault(source, set()).add(target)
        reached.setdefault(target, set())
    for between in reached:
        for below in reached.values():
            if between in below:
                below |= reached[between]
    return reached


if __name__ == "__main__":
    sys.exit(main())
