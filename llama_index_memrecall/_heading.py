"""What LlamaIndex adds to a node's text for models, as the heading of the core's document."""

from __future__ import annotations

from llama_index.core.schema import BaseNode, MetadataMode
from memrecall_kv.types import Heading

_TEXT = "memrecall-text-9f3a1c7e"
"""Stands for a node's text in what the host makes of it; no template of anybody's holds it."""


def to_heading(node: BaseNode) -> Heading:
    """Return what an embedding model would see in front of a node's text as judged, and what an LLM would as read.

    The node's templates and excluded keys decide. What a template puts behind the text comes in front of it too.
    """
    probe = node.model_copy()
    probe.set_content(_TEXT)
    return Heading(_added(probe, MetadataMode.EMBED), _added(probe, MetadataMode.LLM))


def _added(probe: BaseNode, mode: MetadataMode) -> str:
    metadata = probe.get_metadata_str(mode=mode).strip()
    if not metadata:
        return ""
    content = probe.get_content(metadata_mode=mode)
    before, found, after = content.partition(_TEXT)
    if not found:  # a class of its own, which shows its text in some other form
        return f"{metadata}\n\n"
    behind = after.replace(_TEXT, "").strip()
    return f"{behind}\n\n{before}" if metadata in behind else before
