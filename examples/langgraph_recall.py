"""A LangGraph conversation over documents: one node recalls and answers, a checkpointer keeps the history.

Besides the extra `langchain`, it needs `pip install langgraph`.
"""

from __future__ import annotations

import tempfile

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from memrecall_kv import MemRecall

from langchain_memrecall import MemRecallRunnable


class Conversation(MessagesState):
    """The messages so far, and what the last answer rests on.

    Attributes:
        sources: Ids of the recalled documents.
    """

    sources: list[str]


def main(memory: MemRecall | None = None) -> None:
    """Ask a question and a follow-up with `memory`, or with the default backbone."""
    documents = [
        Document(id="travel", page_content="Trips above the limit are approved by Dana Whitfield."),
        Document(id="office", page_content="Dana Whitfield works in the office in Porto."),
    ]
    with tempfile.TemporaryDirectory() as bank:
        ask = MemRecallRunnable.from_documents(documents, bank=bank, memory=memory, top_k=1)

        def recall(state: Conversation, config: RunnableConfig) -> dict[str, list[object]]:
            *before, question = state["messages"]
            result = ask.invoke({"input": question.text, "chat_history": before}, config)
            return {"messages": [AIMessage(result["answer"])], "sources": [found.id for found in result["context"]]}

        graph = StateGraph(Conversation)
        graph.add_node("recall", recall)
        graph.add_edge(START, "recall")
        chat = graph.compile(checkpointer=InMemorySaver())
        thread: RunnableConfig = {"configurable": {"thread_id": "1"}}
        for text in ("Who approves trips above the limit?", "Where is her office?"):
            state = chat.invoke({"messages": [HumanMessage(text)]}, thread)
            print(f"{text}\n  {state['messages'][-1].text} {state['sources']}")
        print(f"{len(chat.get_state(thread).values['messages'])} messages in the checkpoint")
        ask.close()


if __name__ == "__main__":
    main()
