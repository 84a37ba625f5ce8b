"""Ask LlamaIndex documents a question; the answer comes with its sources."""

from __future__ import annotations

from llama_index.core import Document
from memrecall_kv import MemRecall

from llama_index_memrecall import MemRecallQueryEngine


def main(memory: MemRecall | None = None) -> None:
    """Answer with `memory`, or with the default backbone."""
    documents = [
        Document(id_="travel", text="Trips above the limit are approved by Dana Whitfield."),
        Document(id_="limits", text="The finance team sets the travel limit at 800 euros."),
    ]
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2)
    response = engine.query("Who approves trips above the limit?")
    print(response)
    for source in response.source_nodes:
        print(f"{source.score:.2f}  {source.node.ref_doc_id}: {source.get_content()}")
    engine.close()


if __name__ == "__main__":
    main()
