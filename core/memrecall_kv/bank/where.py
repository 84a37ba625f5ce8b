"""A filter as SQL over the metadata's JSON, with three answers: yes, no, and NULL where only Python can tell.

SQL's own logic carries NULL through AND, OR and NOT as it should: what is decided without the unknown part is decided.
SQLite reads some numbers with a point a bit off, stops at a zero byte and knows no case outside ASCII; there, and for
operands that are no texts or plain numbers, the answer is NULL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from memrecall_kv.filters import AmongIds, And, Compare, Not, Operator, Or
from memrecall_kv.types import Where

UNKNOWN = "NULL"
"""The whole of a condition that SQL can say nothing of."""
_EXACT = 2**53
"""Beyond this, whole numbers and numbers with a point are not told apart everywhere."""
_MOST_NUMBERS = 100
_FEW = 4
"""Texts that are looked for in the JSON before it is read: each look costs a third of reading it."""
_DEEPEST = 12
"""Levels of a filter; the stack of SQLite's parser holds 100 things."""
_MOST_PARTS = 500
"""Conditions; of those beside each other SQLite takes 1000."""
_PLAIN_KEY = re.compile(r'[^"\\\x00-\x1f]+')
_PLAIN = (str, int, float, bool, type(None))
_ORDER = {Operator.GT: ">", Operator.GTE: ">=", Operator.LT: "<", Operator.LTE: "<="}


class Condition:
    """What a filter says of a document: SQL over `id` and `metadata` that is 1, 0 or NULL.

    Args:
        where: The filter.
        has_zeros: Whether the metadata of some document may hold a zero byte, where SQLite's functions stop.

    Attributes:
        sql: The expression.
        is_decided: Whether it is never NULL.
        ids: A condition on `id` alone that holds wherever the filter does; empty if it says nothing of ids.
        values: What its names stand for.
    """

    def __init__(self, where: Where, *, has_zeros: bool) -> None:
        self.values: dict[str, Any] = {}
        self._parts = 0
        self.sql = self._of(where, _DEEPEST)
        if self.sql != UNKNOWN and has_zeros:
            self.sql = f"CASE WHEN instr(metadata, '\\u0000') THEN NULL ELSE {self.sql} END"
        self.is_decided = UNKNOWN not in self.sql  # all that is the caller's is bound to a name
        among = [part for part in (where.parts if isinstance(where, And) else (where,)) if isinstance(part, AmongIds)]
        self.ids = self._of(among[0], 1) if among else ""
        if self.ids == UNKNOWN:
            self.ids = ""

    def _of(self, where: Where, levels: int) -> str:
        self._parts += 1
        if levels == 0 or self._parts > _MOST_PARTS:
            return UNKNOWN
        if isinstance(where, And | Or):
            joint, nothing = (" AND ", "1") if isinstance(where, And) else (" OR ", "0")
            parts = dict.fromkeys(self._of(part, levels - 1) for part in where.parts)  # what is unknown once
            return f"({joint.join(parts) or nothing})"
        if isinstance(where, Not):
            return f"(NOT {self._of(where.part, levels - 1)})"
        if isinstance(where, AmongIds) and _are_plain(where.ids):
            return f"(id IN {self._listed(sorted(where.ids))})"
        if isinstance(where, Compare) and type(where.key) is str and _PLAIN_KEY.fullmatch(where.key):
            return self._comparison(where) if _are_plain([where.key]) else UNKNOWN
        return UNKNOWN

    def _comparison(self, compare: Compare) -> str:
        path, operand = self._bound(f'$."{compare.key}"'), compare.operand
        kind, value = f"ifnull(json_type(metadata, {path}), '')", f"json_extract(metadata, {path})"
        match compare.operator:
            case Operator.EQ:
                return self._is_among([operand], kind, value)
            case Operator.NE:
                return f"(NOT {self._is_among([operand], kind, value)})"
            case Operator.IN:
                return self._is_among(operand, kind, value)
            case Operator.NIN:
                return f"(NOT {self._is_among(operand, kind, value)})"
            case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
                return self._ordered(_ORDER[compare.operator], operand, kind, value)
            case Operator.CONTAINS | Operator.TEXT:
                return self._contains([operand], kind, value)
            case Operator.ANY:
                return self._contains(operand, kind, value)
            case Operator.EMPTY:
                return (
                    f"(CASE {kind} WHEN '' THEN 1 WHEN 'null' THEN 1 WHEN 'text' THEN {value} = '' "
                    f"WHEN 'array' THEN {value} = '[]' ELSE 0 END)"
                )
            case _:
                return UNKNOWN

    def _is_among(self, operands: Sequence[Any], kind: str, value: str) -> str:
        texts = [each for each in operands if type(each) is str]
        numbers = [each for each in operands if type(each) in (bool, int, float)]
        has_none = any(each is None for each in operands)
        others = len(operands) - len(texts) - len(numbers) - sum(each is None for each in operands)
        if others or len(numbers) > _MOST_NUMBERS or not (_are_plain(texts) and _are_exact(numbers)):
            return UNKNOWN
        of_text = f"{value} IN {self._listed(texts)}" if texts else "0"
        quoted = [f'"{text}"' for text in texts]
        if 0 < len(operands) == len(texts) <= _FEW and [*map(json.dumps, texts)] == quoted:
            # finds most of what does not match before any JSON is read
            near = " OR ".join(f"instr(metadata, {self._bound(each)})" for each in quoted)
            return f"(({near}) AND {kind} = 'text' AND {of_text})"
        of_number = f"{value} IN ({', '.join(map(self._bound, numbers))})" if numbers else "0"
        return (
            f"(CASE {kind} WHEN 'text' THEN {of_text} WHEN 'integer' THEN {of_number} WHEN 'true' THEN {of_number} "
            f"WHEN 'false' THEN {of_number} WHEN 'real' THEN {UNKNOWN if numbers else 0} "
            f"WHEN 'null' THEN {int(has_none)} ELSE 0 END)"
        )

    def _ordered(self, sign: str, operand: Any, kind: str, value: str) -> str:
        is_text = type(operand) is str and _are_plain([operand])
        if not is_text and (type(operand) not in (bool, int, float) or not _are_exact([operand])):
            return UNKNOWN
        compared = f"{value} {sign} {self._bound(operand)}"
        if is_text:
            return f"(CASE {kind} WHEN 'text' THEN {compared} ELSE 0 END)"
        return (
            f"(CASE {kind} WHEN 'integer' THEN {compared} WHEN 'true' THEN {compared} WHEN 'false' THEN {compared} "
            f"WHEN 'real' THEN NULL ELSE 0 END)"
        )

    def _contains(self, operands: Sequence[Any], kind: str, value: str) -> str:
        """Return whether a text or a list holds one of some texts."""
        if not operands or not all(type(each) is str for each in operands) or not _are_plain(operands):
            return UNKNOWN
        wanted = self._listed(operands)
        in_text = f"EXISTS (SELECT 1 FROM {wanted} AS w WHERE instr({value}, w.value))"
        in_list = f"EXISTS (SELECT 1 FROM json_each({value}) AS v WHERE v.type = 'text' AND v.value IN {wanted})"
        return (
            f"(CASE {kind} WHEN 'text' THEN {in_text} WHEN 'array' THEN {in_list} WHEN 'object' THEN NULL ELSE 0 END)"
        )

    def _listed(self, texts: Sequence[str]) -> str:
        return f"(SELECT value FROM json_each({self._bound(json.dumps(list(texts), ensure_ascii=False))}))"

    def _bound(self, value: Any) -> str:
        name = f"w{len(self.values)}"
        self.values[name] = value
        return f":{name}"


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


def _are_plain(texts: Sequence[str] | frozenset[str]) -> bool:
    """Return whether SQLite takes texts as they are: no zero byte and no half of a surrogate pair."""
    return all(
        type(text) is str and (text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text))
        and "\0" not in text
        for text in texts
    )  # fmt: skip


def _are_exact(numbers: Sequence[float]) -> bool:
    return all(abs(number) <= _EXACT for number in numbers)  # never true of NaN
