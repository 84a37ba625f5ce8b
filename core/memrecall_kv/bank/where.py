"""A filter that is asked of all documents at once: of each value that they have, not of each document."""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrecall_kv.bank.fields import Column, Fields, Mask, raw_of, read_json, texts_of
from memrecall_kv.filters import AmongIds, And, Compare, Not, Operator, Or
from memrecall_kv.types import Where

_EXACT = 2**53
"""Beyond this, whole numbers and numbers with a point are not told apart everywhere."""
_FEW = 4
"""Texts that are looked for in a row before its JSON is read."""
_PLAIN = (str, int, float, bool, type(None))
_AMONG = {Operator.EQ: True, Operator.NE: False, Operator.IN: True, Operator.NIN: False}
"""Whether a value is to be among the operands."""
_OF_ONE_TYPE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.GT: python.gt,
    Operator.GTE: python.ge,
    Operator.LT: python.lt,
    Operator.LTE: python.le,
    Operator.CONTAINS: python.contains,
    Operator.TEXT: python.contains,
}
"""Tests that a text stands with texts alone."""


def let_through(where: Where, fields: Fields) -> tuple[Mask, Mask]:
    """Return the documents that a filter lets through, and those that it may let through: it has to be asked itself.

    Raises:
        ValueError: If a row that is read is not as it was written.
    """
    if isinstance(where, And | Or):
        is_and = isinstance(where, And)
        sure = possible = fields.everything if is_and else fields.nothing()
        for part in where.parts:
            its_sure, its_possible = let_through(part, fields)
            sure = sure & its_sure if is_and else sure | its_sure
            possible = possible & its_possible if is_and else possible | its_possible
        return sure, possible
    if isinstance(where, Not):
        sure, possible = let_through(where.part, fields)
        return fields.everything & ~possible, fields.everything & ~sure
    if isinstance(where, AmongIds):
        found = fields.with_ids(where.ids)
        return found, found
    if isinstance(where, Compare):
        try:
            plain = Compare(_plain(where.key), where.operator, _plain(where.operand))
        except TypeError:
            return fields.nothing(), fields.everything
        found = _holders(plain, fields)
        return found, found
    return fields.nothing(), fields.everything


def key_of(where: Where) -> tuple[object, ...] | None:
    """Return what two filters have in common that let the same documents through; `None` if that cannot be told.

    A filter's lists are the caller's, who may change them: the key holds what is in them now.
    """
    match where:
        case And() | Or():
            parts = tuple(key_of(part) for part in where.parts)
            return None if None in parts else (type(where), *parts)
        case Not():
            part = key_of(where.part)
            return None if part is None else (Not, part)
        case AmongIds():
            return AmongIds, where.ids
        case Compare():
            is_list = type(where.operand) in (list, tuple)
            operands = tuple(where.operand) if is_list else (where.operand,)
            if all(type(each) in _PLAIN for each in operands):
                kinds = type(where.operand), *map(type, operands)  # 1 and True are equal, and not the same
                return Compare, where.key, where.operator, kinds, operands
    return None


def _plain(operand: Any) -> Any:
    """Return an operand as what JSON holds is; raises `TypeError` if it is something else."""
    if type(operand) in _PLAIN:
        return operand
    if type(operand) in (list, tuple):
        return type(operand)(map(_plain, operand))
    for kind, made in ((str, str.__str__), (Integral, int), (float, float)):
        if isinstance(operand, kind):  # members of enums, numbers of numpy
            return made(operand)
    raise TypeError(f"{type(operand).__name__} is none of JSON's")


def _holders(compare: Compare, fields: Fields) -> Mask:
    """Return the documents whose field compares as it should, or that have no such field where that matches."""
    column = fields.column(compare.key)
    mask = fields.nothing()
    if compare.matches_absent:
        mask |= fields.everything
        mask[column.slots] = False
    mask[column.slots[np.repeat(_verdicts(compare, column), column.counts)]] = True
    return mask


def _verdicts(compare: Compare, column: Column) -> Mask:
    """Return for each value of a column, in its order, whether it compares as it should."""
    integers, floats = (_of_numbers(compare, numbers).tobytes() for numbers in (column.integers, column.floats))
    others = _Verdicts(lambda text: compare.matches(read_json(text)))
    of_texts, i, f = _TextTest(compare), 0, 0
    pieces = []
    for raw_integers, raw_floats, texts, raw_others, counts, _ in column.rows:
        next_i, next_f = i + len(raw_integers) // 8, f + len(raw_floats) // 8
        of_others = bytes(map(others.__getitem__, texts_of(raw_others))) if raw_others else b""
        pieces += [integers[i:next_i], floats[f:next_f]]
        if texts:
            number = len(counts) // 2 - (next_i - i) - (next_f - f) - len(of_others)
            pieces.append(of_texts(texts, number))
        pieces.append(of_others)
        i, f = next_i, next_f
    return np.frombuffer(b"".join(pieces), np.bool_)


def _of_numbers(compare: Compare, numbers: NDArray[Any]) -> Mask:
    operands = _operands(compare)
    wanted = [each for each in operands if isinstance(each, int | float)]
    if compare.operator in _AMONG:
        if len(wanted) == 1:
            found = _compared(python.eq, numbers, wanted[0])
        elif wanted:
            found = np.array([*map(frozenset(wanted).__contains__, numbers.tolist())], np.bool_)
        else:
            found = np.zeros(len(numbers), np.bool_)
        return found if _AMONG[compare.operator] else ~found
    test = _OF_ONE_TYPE.get(compare.operator)
    if wanted and test not in (None, python.contains) and isinstance(compare.operand, int | float):
        return _compared(test, numbers, compare.operand)
    return np.full(len(numbers), compare.matches(0))  # no number is in or beside what is none


def _compared(test: Callable[[Any, Any], Any], numbers: NDArray[Any], operand: float) -> Mask:
    """Return a comparison of numbers, exact though whole numbers become such with a point in numpy."""
    is_whole = numbers.dtype.kind == "i"
    if is_whole and isinstance(operand, int):
        is_exact = -(2**63) <= operand < 2**63
    else:
        has_large = is_whole and len(numbers) > 0 and (numbers.min() < -_EXACT or numbers.max() > _EXACT)
        is_exact = not has_large and (isinstance(operand, float) or abs(operand) <= _EXACT)
    if is_exact:
        return np.asarray(test(numbers, operand), np.bool_)
    return np.array([*map(test, numbers.tolist(), repeat(operand))], np.bool_)


class _TextTest:
    """A comparison of the texts of a row."""

    def __init__(self, compare: Compare) -> None:
        operator, operand, test = compare.operator, compare.operand, _OF_ONE_TYPE.get(compare.operator)
        self._otherwise = not _AMONG.get(operator, True)
        self._near: list[bytes] | None = None
        """One of these is in the JSON of any text for which it is not so."""
        if operator in _AMONG:
            wanted = frozenset(each for each in _operands(compare) if isinstance(each, str))
            self._near = [raw_of([each])[1:-1] for each in wanted] if len(wanted) <= _FEW else None
            self._test: Callable[[list[str]], Iterable[bool]] = lambda texts: map(wanted.__contains__, texts)
        elif test is None:
            verdicts = _Verdicts(compare.matches)
            self._test = lambda texts: map(verdicts.__getitem__, texts)
        else:
            if not isinstance(operand, str):
                self._near = []
            elif test is python.contains:
                self._near = [raw_of([operand])[2:-2]]
            self._test = lambda texts: map(test, texts, repeat(operand))

    def __call__(self, raw: bytes, number: int) -> bytes:
        """Return for each text of a row, so many, whether it compares as it should."""
        if self._near is not None and not any(each in raw for each in self._near):
            return bytes([self._otherwise]) * number
        found = self._test(texts_of(raw))
        return bytes(map(python.not_, found) if self._otherwise else found)


def _operands(compare: Compare) -> Sequence[Any]:
    return compare.operand if compare.operator in (Operator.IN, Operator.NIN) else [compare.operand]


class _Verdicts(dict[str, bool]):
    """What was said of texts, each asked once."""

    def __init__(self, ask: Callable[[str], bool]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, text: str) -> bool:
        verdict = self[text] = self._ask(text)
        return verdict
