"""Put the gate behind any LlamaIndex retriever: it keeps the nodes that matter, in the order it opens them."""

from __future__ import annotations

from llama_index.core.schema import NodeWithScore, TextNode
from memrecall_kv import MemRecall

from llama_index_memrecall import MemRecallPostprocessor


def main(memory: MemRecall | None = None) -> None:
    """Select with `memory`, or with the default backbone."""
    texts = {
        "menu": "The canteen opens at noon.",
        "travel": "Dana Whitfield approves trips.",
        "lift": "The lift is out of order.",
    }
    retrieved = [NodeWithScore(node=TextNode(id_=name, text=text)) for name, text in texts.items()]
    gate = MemRecallPostprocessor(top_n=2, memory=memory)
    for source in gate.postprocess_nodes(retrieved, query_str="Who approves trips?"):
        print(f"{source.score:.2f}  {source.node_id}: {source.get_content()}")
    gate.close()


if __name__ == "__main__":
    main()
