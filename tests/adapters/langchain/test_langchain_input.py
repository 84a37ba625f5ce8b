import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedReasoner, tiny_memory

from langchain_memrecall import MemRecallRunnable

QUESTION = "Who approves trips?"


@pytest.fixture
def asked(bank):
    """A runnable, and the questions that reach its reasoner."""
    questions = []

    def reply(question, notes):
        questions.append(question)
        return "Dana."

    return MemRecallRunnable(bank=bank, memory=tiny_memory(reasoner=ScriptedReasoner({}, reply)), top_k=1), questions


@pytest.mark.parametrize("given", [QUESTION, {"input": QUESTION}, {"question": QUESTION, "filter": None}])
def test_a_question_may_come_in_three_forms(ask, given):
    assert ask.invoke(given)["input"] == QUESTION


@pytest.mark.parametrize(
    "given",
    [
        {"input": QUESTION, "fliter": {"team": "finance"}},
        {"input": QUESTION, "question": QUESTION},
        {"filter": {"team": "finance"}},
        {"input": ["not", "text"]},
        {"input": QUESTION, "filter": "finance"},
        {"input": QUESTION, "documents": "a text"},
        {"input": QUESTION, "documents": None},
        {"input": QUESTION, "documents": [{"page_content": "a dict"}]},
        {"input": QUESTION, "chat_history": "Human: hello"},
        {"input": QUESTION, "chat_history": [("nobody", "hello")]},
        {"input": QUESTION, "chat_history": [42]},
        ["not", "a", "dict"],
        None,
    ],
)
def test_any_other_input_is_refused_with_what_was_expected_and_what_came(ask, given):
    with pytest.raises(InputError, match=r"Expected .*, got "):
        ask.invoke(given)


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_is_refused_even_after_a_conversation(ask, question):
    with pytest.raises(InputError, match="question"):
        ask.invoke({"input": question, "chat_history": [("human", "Who is that?")]})


def test_documents_of_the_input_are_recalled_instead_of_the_bank(ask):
    given = [
        Document(id="a", page_content="Ada pays.", metadata={"team": "finance"}),
        Document(page_content="Bo signs.", metadata={"team": "legal"}),
    ]
    before = [document.model_copy(deep=True) for document in given]
    context = ask.invoke({"input": QUESTION, "documents": given})["context"]
    by_text = {document.page_content: document for document in context}
    assert set(by_text) == {"Ada pays.", "Bo signs."}
    assert (by_text["Ada pays."].id, by_text["Bo signs."].id) == ("a", None)
    assert by_text["Bo signs."].metadata["team"] == "legal"
    assert set(by_text["Bo signs."].metadata["memrecall"]) == {"score", "recall_step", "chunk_id", "start_index"}
    assert given == before


def test_a_filter_holds_for_documents_of_the_input_too(ask):
    given = [Document(page_content="Ada pays.", metadata={"team": "a"}), Document(page_content="Bo signs.")]
    context = ask.invoke({"input": QUESTION, "documents": given, "filter": {"team": "a"}})["context"]
    assert [document.page_content for document in context] == ["Ada pays."]


def test_a_document_of_an_earlier_question_is_not_recalled_for_the_next(ask):
    ask.invoke({"input": QUESTION, "documents": [Document(page_content="Ada pays.")]})
    context = ask.invoke({"input": QUESTION, "documents": [Document(page_content="Bo signs.")]})["context"]
    assert [document.page_content for document in context] == ["Bo signs."]
    assert "Ada pays." not in {document.page_content for document in ask.invoke(QUESTION)["context"]}


@pytest.mark.parametrize("given", [[], [Document(page_content=" \n")]])
def test_no_documents_or_none_with_text_is_answered_as_not_found(ask, scripted, given):
    result = ask.invoke({"input": QUESTION, "documents": given})
    assert (result["context"], result["answer"]) == ([], scripted.config.reasoner.not_found)


def test_a_document_twice_or_without_text_is_recalled_once_or_not_at_all(ask):
    twice = Document(id="a", page_content="Ada pays.")
    context = ask.invoke({"input": QUESTION, "documents": [twice, Document(page_content=""), twice]})["context"]
    assert [document.id for document in context] == ["a"]


def test_a_document_seen_before_is_not_compressed_again(ask, compressions):
    for text in ("Bo signs.", "Cy checks."):
        ask.invoke({"input": QUESTION, "documents": [Document(page_content="Ada pays."), Document(page_content=text)]})
    assert compressions == ["Ada pays.", "Bo signs.", "Cy checks."]


def test_without_a_bank_each_question_brings_its_documents(scripted):
    ask = MemRecallRunnable(memory=scripted)
    assert ask.invoke({"input": QUESTION, "documents": [Document(page_content="Ada pays.")]})["context"]
    with pytest.raises(InputError, match="no bank"):
        ask.invoke(QUESTION)
    ask.close()


def test_a_follow_up_question_is_asked_after_the_answer_it_follows(asked):
    ask, questions = asked
    history = [SystemMessage("Be brief."), HumanMessage("Who approves trips?"), AIMessage("Dana Whitfield.")]
    result = ask.invoke({"input": "Where is she?", "chat_history": history})
    assert questions == ["Dana Whitfield. Where is she?"]
    assert result["input"] == "Where is she?"


def test_a_history_may_be_written_in_langchains_short_forms_and_may_be_empty(asked):
    ask, questions = asked
    ask.invoke({"input": "And?", "chat_history": [("human", "Lunch?"), {"role": "assistant", "content": "Noon."}]})
    ask.invoke({"input": "Lunch?", "chat_history": []})
    ask.invoke({"input": "Lunch?", "chat_history": [("system", "Be brief."), ("ai", " ")]})
    assert questions == ["Noon. And?", "Lunch?", "Lunch?"]


def test_a_long_answer_does_not_push_the_follow_up_out_of_the_window(asked):
    ask, questions = asked
    ask.invoke({"input": "And?", "chat_history": [("human", "Lunch?"), ("ai", "word " * 5000)]})
    assert len(questions[0]) < 400


async def test_a_prompt_or_a_model_may_ask(asked):
    ask, questions = asked
    prompt = ChatPromptTemplate.from_messages([("human", "Lunch?"), ("ai", "Noon."), ("human", "{text}")])
    assert (prompt | ask).invoke({"text": "And dinner?"})["input"] == "And dinner?"
    model = GenericFakeChatModel(messages=iter([AIMessage("Who approves trips?")] * 3))
    (model | ask).invoke("Ask something.")
    await (model | ask).ainvoke("Ask something.")
    list((model | ask).stream("Ask something."))  # its pieces are put together
    (PromptTemplate.from_template("Who does {text}?") | ask).invoke({"text": "it"})
    assert questions == ["Noon. And dinner?", *["Who approves trips?"] * 3, "Who does it?"]


def test_the_schemas_name_every_key(ask):
    asked_for, given = ask.get_input_jsonschema(), ask.get_output_jsonschema()
    assert set(asked_for["$defs"]["MemRecallInput"]["properties"]) == {
        "input",
        "question",
        "documents",
        "filter",
        "chat_history",
    }
    assert {"type": "string"} in asked_for["anyOf"]
    keys = {"input", "context", "answer", "quotes", "usage", "trace"}
    assert set(given["$defs"]["MemRecallOutput"]["properties"]) == keys
