import threading

import pytest
from llama_index.core import Document
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import TextNode
from patience import PATIENCE
from pydantic import Field

from llama_index_memrecall import MemRecallQueryEngine


@pytest.fixture
def documents():
    return [
        Document(id_="travel", text="Dana approves trips.", metadata={"team": "finance", "year": 2024}),
        Document(id_="limits", text="The limit is 800 euros.", metadata={"team": "finance", "year": 2025}),
        Document(id_="lunch", text="Lunch is at noon.", metadata={"team": "kitchen", "tags": ["food", "time"]}),
        Document(id_="lift", text="The lift is broken.", metadata={"team": "facilities"}),
    ]


@pytest.fixture
def nodes(documents):
    return [
        TextNode(
            id_=f"node-{document.id_}",
            text=document.text,
            metadata=dict(document.metadata),
            excluded_llm_metadata_keys=["year"],
        )
        for document in documents
    ]


class EventLog(BaseEventHandler):
    """Keeps every event LlamaIndex dispatches."""

    events: list = Field(default_factory=list)

    @classmethod
    def class_name(cls):
        return "EventLog"

    def handle(self, event, **kwargs):
        self.events.append(event)

    def names(self):
        return [event.class_name() for event in self.events]

    def of(self, name):
        return [event for event in self.events if event.class_name() == name]


@pytest.fixture
def event_log():
    handler, root = EventLog(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def span_log():
    handler, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)


@pytest.fixture
def engine(scripted, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2)
    yield engine
    engine.close()


@pytest.fixture
def streaming(scripted, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2, streaming=True)
    yield engine
    engine.close()


@pytest.fixture
def waiting_compressor(memory, monkeypatch):
    """Two events: that compressing has begun, and that it may go on."""
    entered, go, compress = threading.Event(), threading.Event(), type(memory)._compress

    def waiting(self, chunks):
        entered.set()
        assert go.wait(PATIENCE)
        return compress(self, chunks)

    monkeypatch.setattr(type(memory), "_compress", waiting)
    return entered, go


class RecordingLLM(CustomLLM):
    """Writes the same words to every prompt, and keeps the prompts."""

    words: list[str] = Field(default_factory=lambda: ["Dana ", "says ", "yes."])
    prompts: list[str] = Field(default_factory=list)
    written: list[str] = Field(default_factory=list)
    context_window: int = 4096

    @property
    def metadata(self):
        return LLMMetadata(context_window=self.context_window, num_output=64, model_name="recording")

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)
        return CompletionResponse(text="".join(self.words))

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)

        def words():
            text = ""
            for word in self.words:
                self.written.append(word)
                text += word
                yield CompletionResponse(text=text, delta=word)

        return words()


@pytest.fixture
def llm():
    return RecordingLLM()
