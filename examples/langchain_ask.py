"""Ask LangChain documents a question and stream the answer, sources first."""

from __future__ import annotations

import tempfile

from langchain_core.documents import Document
from memrecall_kv import MemRecall

from langchain_memrecall import MemRecallRunnable


def main(memory: MemRecall | None = None) -> None:
    """Answer with `memory`, or with the default backbone."""
    documents = [
        Document(id="travel", page_content="Trips above the limit are approved by Dana Whitfield."),
        Document(id="limits", page_content="The finance team sets the travel limit at 800 euros."),
    ]
    with tempfile.TemporaryDirectory() as bank:
        ask = MemRecallRunnable.from_documents(documents, bank=bank, memory=memory, top_k=2)
        for chunk in ask.stream("Who approves trips above the limit?"):
            for source in chunk.get("context", []):
                print(f"{source.metadata['memrecall']['score']:.2f}  {source.id}: {source.page_content}")
            print(chunk.get("answer", ""), end="", flush=True)
        ask.close()


if __name__ == "__main__":
    main()
