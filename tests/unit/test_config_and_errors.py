"""Settings refuse what cannot be right; every error has a remedy and a place in the tree."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from memrecall_kv import config as settings
from memrecall_kv import errors
from memrecall_kv.errors import ConfigError, MemRecallError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        ("GateConfig", {"treshold": 0.5}, "treshold"),
        ("GateConfig", {"threshold": 1.5}, "threshold"),
        ("CompressorConfig", {"compression_ratio": 0}, "compression_ratio"),
        ("CompressorConfig", {"kind": "magic"}, "kind"),
        ("CompressorConfig", {"layout": "reference", "window": 30, "compression_ratio": 4}, "window"),
        ("ChunkingConfig", {"chunk_tokens": 16, "overlap_tokens": 16}, "overlap_tokens"),
        ("ScanConfig", {"top_k": 0}, "top_k"),
        ("MemRecallConfig", {"gate": {"treshold": 1}}, "treshold"),
        ("MemRecallConfig", {"format_version": 2}, "format_version"),
    ],
)
def test_a_setting_that_cannot_be_right_is_refused_with_its_name(cls: str, values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        getattr(settings, cls)(**values)
    assert "Known settings" in caught.value.hint


def test_settings_are_frozen_and_survive_json() -> None:
    config = settings.MemRecallConfig(scan=settings.ScanConfig(top_k=None))
    assert settings.MemRecallConfig(**config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="frozen"):
        config.gate.threshold = 0.1


def classes() -> dict[str, type]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in found if issubclass(cls, MemRecallError)}


def test_the_tree_is_the_same_in_code_docstring_and_docs() -> None:
    def tree(text: str) -> list[str]:
        block = re.search(r"```\n(MemRecallError\n.*?)```", text, re.S)
        assert block is not None
        return block.group(1).splitlines()

    drawn = tree(errors.__doc__ or "")
    assert drawn == tree((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    names = {re.findall(r"\w+Error", line)[0]: line for line in drawn}
    assert set(names) == set(classes())
    parents = {"": "MemRecallError"}
    for name, line in names.items():
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 3
        parents[depth] = name
        if name != "MemRecallError":
            assert parents[depth - 1] in [base.__name__ for base in classes()[name].__mro__[1:]]


def test_every_error_shows_message_and_hint() -> None:
    for name, cls in classes().items():
        extra = ("the text",) if name == "ReasonerOutputError" else ()
        error = cls("What is wrong.", "What to do.", *extra)
        assert str(error) == "What is wrong. What to do."
        assert error.hint == "What to do."
