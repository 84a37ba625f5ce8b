"""LlamaIndex's metadata filters as the core's: what matches is what LlamaIndex's own vector store matches."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from memrecall_kv.filters import AmongIds, And, Compare, Filter, Not, Operator, Or, all_of, any_of

from llama_index_memrecall._convert import REF_DOC_KEY

_OPERATORS: dict[FilterOperator, Operator] = {
    FilterOperator.EQ: Operator.EQ,
    FilterOperator.NE: Operator.NE,
    FilterOperator.GT: Operator.GT,
    FilterOperator.GTE: Operator.GTE,
    FilterOperator.LT: Operator.LT,
    FilterOperator.LTE: Operator.LTE,
    FilterOperator.IN: Operator.IN,
    FilterOperator.NIN: Operator.NIN,
    FilterOperator.CONTAINS: Operator.CONTAINS,
    FilterOperator.ANY: Operator.ANY,
    FilterOperator.ALL: Operator.ALL,
    FilterOperator.TEXT_MATCH: Operator.TEXT,
    FilterOperator.TEXT_MATCH_INSENSITIVE: Operator.TEXT_ANY_CASE,
    FilterOperator.IS_EMPTY: Operator.EMPTY,
}


def to_where(filters: MetadataFilters | None) -> Filter | None:
    """Return the core's filter for LlamaIndex's, with every operator and condition, nested at will.

    Unlike LlamaIndex's store, a value that cannot be compared with the filter's does not match instead of raising.

    Raises:
        InputError: If a filter's value is not of the kind its operator needs.
    """
    return None if filters is None else _group(filters)


def narrowed(
    filters: MetadataFilters | None, node_ids: Sequence[str] | None, doc_ids: Sequence[str] | None
) -> Filter | None:
    """Return the core's filter for LlamaIndex's, further narrowed to nodes, and to nodes of documents, by their ids."""
    parts = [part for part in (to_where(filters),) if part is not None]
    if node_ids is not None:
        parts.append(AmongIds(frozenset(node_ids)))
    if doc_ids is not None:
        # in a bank filled with documents these are the documents' own ids
        parts.append(Or((AmongIds(frozenset(doc_ids)), Compare(REF_DOC_KEY, Operator.IN, list(doc_ids)))))
    return all_of(parts) if parts else None


def _group(filters: MetadataFilters) -> Filter:
    parts = [_group(item) if isinstance(item, MetadataFilters) else _single(item) for item in filters.filters]
    if not parts:
        return And(())
    match filters.condition:
        case FilterCondition.OR:
            return any_of(parts)
        case FilterCondition.NOT:
            return Not(any_of(parts))
        case _:
            return all_of(parts)


def _single(condition: MetadataFilter) -> Filter:
    # to LlamaIndex None is no value: nothing equals it, and everything differs from it
    if condition.value is None and condition.operator == FilterOperator.EQ:
        return Or(())
    if condition.value is None and condition.operator == FilterOperator.NE:
        return And(())
    return Compare(condition.key, _OPERATORS[condition.operator], condition.value)
