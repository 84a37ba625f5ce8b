"""Use recall as a LangChain retriever: exactly `k` chunks, filtered by metadata."""

from __future__ import annotations

import tempfile

from langchain_core.documents import Document
from memrecall_kv import MemRecall

from langchain_memrecall import MemRecallRetriever


def main(memory: MemRecall | None = None) -> None:
    """Retrieve with `memory`, or with the default backbone."""
    documents = [
        Document(id="travel", page_content="Dana Whitfield approves trips.", metadata={"team": "finance"}),
        Document(id="limits", page_content="The travel limit is 800 euros.", metadata={"team": "finance"}),
        Document(id="lift", page_content="The lift is out of order.", metadata={"team": "facilities"}),
    ]
    with tempfile.TemporaryDirectory() as bank:
        retriever = MemRecallRetriever.from_documents(documents, bank=bank, memory=memory, k=1)
        for found in retriever.invoke("Who approves trips?", k=2, filter={"team": "finance"}):
            print(f"{found.metadata['memrecall']['score']:.2f}  {found.id}: {found.page_content}")
        retriever.close()


if __name__ == "__main__":
    main()
