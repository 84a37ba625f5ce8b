"""Change one place of a function at a time, and print the changes that no test notices; `make mutants` runs a sample.

    scripts/mutants.py [--sample 20] [--seed 0] [MODULE ...]

A change is put into the functions that are loaded already, in a fork of a process that has run the tests once: it costs
what its tests take, and no import. Which changes are left, and why, stands in docs/log.md.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import inspect
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TESTS = {
    "evaluate.measures.metrics": ["tests/evaluate/test_metrics.py"],
    "evaluate.measures.calibration": ["tests/evaluate/test_metrics.py"],
    # without the two hundred cases that compare two schedules on a model, which take a minute
    "recall.scan": ["tests/properties/test_scan_schedules.py", "-k", "not like_sequential"],
    "recall.kind_asked": ["tests/unit/test_kind_asked.py"],
    "recall.spans": ["tests/unit/test_nearest_sentence.py", "tests/unit/test_kind_asked.py"],
    "filters": ["tests/properties/test_filters.py"],
    "bank.bank": ["tests/unit/test_bank.py", "tests/unit/test_bank_damage.py", "tests/unit/test_fields.py"],
    "bank.where": ["tests/unit/test_fields.py", "tests/properties/test_filters.py"],
}
"""By module of the core: the tests that are to notice, as pytest is told of them."""
SECONDS = 300
"""What keeps its tests busy for longer is noticed."""
_INSTEAD: dict[type[Any], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Break: ast.Continue, ast.Continue: ast.Break, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where something can be changed: a node, its innermost statement, and the outermost function around it."""

    function: str
    statement: ast.stmt
    node: ast.AST


@dataclass(frozen=True)
class Mutant:
    """A function with one place changed, its line as it was and as it is now, and its code."""

    line: int
    function: str
    before: str
    after: str
    code: CodeType


def main() -> int:
    """Return 1 if the tests fail without a change, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[*TESTS], metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--sample", type=int, default=20, help="changes of each module")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.chdir(ROOT)
    for name in asked.modules:
        module, begun = importlib.import_module(f"memrecall_kv.{name}"), time.process_time()
        if tested(TESTS[name]) != 0:
            return 1
        say(f"{name}: {time.process_time() - begun:.0f} CPU seconds without a change")
        outcomes: dict[str, int] = {}
        for mutant in drawn(module, asked.sample, random.Random(asked.seed)):
            outcome = tried(module, mutant, TESTS[name])
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if outcome == "survived":
                say(f"  line {mutant.line}, {mutant.function}\n    - {mutant.before}\n    + {mutant.after}")
        say(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(outcomes.items()))}")
    return 0


def drawn(module: ModuleType, count: int, draw: random.Random) -> Iterator[Mutant]:
    """Yield a sample of a module's mutants, in the order of their places."""
    file = str(module.__file__)
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    all_ways = [(index, way) for index, place in enumerate(places(tree)) for way in range(len(ways(place.node)))]
    for index, way in sorted(draw.sample(all_ways, min(count, len(all_ways)))):
        changed = copy.deepcopy(tree)
        place = list(places(changed))[index]
        before = ast.unparse(place.statement)
        ways(place.node)[way]()
        code = code_of(compile(ast.fix_missing_locations(changed), file, "exec"), place.function)
        told = [text.split("\n")[0] for text in (before, ast.unparse(place.statement))]
        yield Mutant(place.statement.lineno, place.function, *told, code)


def places(node: ast.AST, function: str = "", inside: bool = False) -> Iterator[Place]:
    """Yield the nodes of the bodies of functions; without docstrings, annotations, and what errors say."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = function if inside else f"{function}.{child.name}".lstrip(".")
            is_function = inside or isinstance(child, ast.FunctionDef)
            for statement in child.body:
                yield from (
                    _within(statement, statement, name) if is_function else places(ast.Module([statement], []), name)
                )


def _within(node: ast.AST, statement: ast.stmt, function: str) -> Iterator[Place]:
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    yield Place(function, statement, node)
    skipped = [getattr(node, name, None) for name in ("annotation", "returns")]
    for child in ast.iter_child_nodes(node):
        if child not in skipped and not isinstance(child, ast.arguments):
            yield from _within(child, child if isinstance(child, ast.stmt) else statement, function)


def ways(node: Any) -> list[Callable[[], None]]:
    """Return what can be done to a node in place."""
    found: list[Callable[[], None]] = []
    if isinstance(node, ast.Compare):
        for number, each in enumerate(node.ops):
            found.append(lambda number=number, each=each: node.ops.__setitem__(number, _INSTEAD[type(each)]()))
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in _INSTEAD:
        found.append(lambda: setattr(node, "op", _INSTEAD[type(node.op)]()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(lambda: setattr(node, "operand", _negated(node.operand)))
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        found.append(lambda: setattr(node, "test", _negated(node.test)))
    elif isinstance(node, ast.comprehension) and node.ifs:
        found.append(lambda: node.ifs.__setitem__(0, _negated(node.ifs[0])))
    elif isinstance(node, ast.Return) and not isinstance(node.value, ast.Constant | None):
        found.append(lambda: setattr(node, "value", ast.Constant(None)))
    elif isinstance(node, ast.Break | ast.Continue):
        found.append(lambda: setattr(node, "__class__", _INSTEAD[type(node)]))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        found.append(lambda: setattr(node, "value", _other(node.value)))
    return found


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value + 1


def code_of(code: CodeType, name: str) -> CodeType:
    """Return the code of a function that stands in another code."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    for each in inner:
        if each.co_qualname == name:
            return each
    return next(code_of(each, name) for each in inner if name.startswith(f"{each.co_qualname}."))


def tried(module: ModuleType, mutant: Mutant, tests: Sequence[str]) -> str:
    """Return what became of a mutant, in a child that has it in the place of the function."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        function_of(module, mutant.function).__code__ = mutant.code
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        os._exit(tested(tests))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "survived" if code == 0 else "too slow" if code == -signal.SIGALRM else "killed"


def function_of(module: ModuleType, name: str) -> FunctionType:
    """Return a function that is loaded, without what is wrapped around it."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    found = inspect.unwrap(getattr(found, "fget", None) or getattr(found, "__func__", found))
    if not isinstance(found, FunctionType):
        raise TypeError(f"{name} is a {type(found).__name__}")
    return found


def tested(tests: Sequence[str]) -> int:
    """Return the exit code of the tests, up to the first that fails."""
    # what was imported before cannot be rewritten again, and need not be
    once = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-seed=0"]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *once, *tests]))


def say(text: str) -> None:
    """Print a line, whatever pytest did to what prints."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
