"""What adapters are given is checked the same everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from memrecall_kv.config import check_count
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import Count, check_memory, distinct
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document
from pydantic import TypeAdapter, ValidationError

COUNTS: TypeAdapter[int | None] = TypeAdapter(Count | None)


@pytest.mark.parametrize("given", [None, 1, 50])
def test_a_count_or_none_is_taken(given: int | None) -> None:
    assert check_count("top_k", given) == COUNTS.validate_python(given) == given


@pytest.mark.parametrize("given", [0, -1, 2.5, "many", []])
def test_what_is_no_count_is_refused_by_name(given: Any) -> None:
    with pytest.raises(InputError, match="Expected top_k to be a whole number of at least 1, got "):
        check_count("top_k", given)
    with pytest.raises(ValidationError):
        COUNTS.validate_python(given)


def test_only_a_memory_is_one() -> None:
    check_memory(None)
    check_memory(tiny_memory())
    with pytest.raises(InputError, match="got str 'a model'"):
        check_memory("a model")


def test_documents_come_once_and_different_ones_share_no_id() -> None:
    one, two = Document("1", "one"), Document("2", "two")
    assert distinct([two, one, Document("2", "two")]) == [two, one]
    with pytest.raises(InputError, match="under the id '1'"):
        distinct([one, Document("1", "one", {"another": "field"})])
