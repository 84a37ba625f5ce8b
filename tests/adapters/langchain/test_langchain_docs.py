"""Every block of code in `docs/langchain.md` runs, one after the other, and does what the text around it says."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.language_models import FakeListChatModel
from memrecall_kv.hosts import lazy

PAGE = Path(__file__).parents[3] / "docs" / "langchain.md"
ANSWER = "Dana Whitfield does."


class Polite(FakeListChatModel):
    """LangChain's fake, which an agent may give tools to."""

    def bind_tools(self, tools, **kwargs):
        return self


@pytest.fixture
def page(scripted, documents, monkeypatch, tmp_path):
    """Returns what runs the blocks of a section and gives the value of each one's last line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(lazy._loaded, (None, "auto"), scripted)  # what a name would load
    for document in documents:
        document.metadata["source"] = f"{document.id}.md"
    scope = {"documents": documents, "model": Polite(responses=["Dana, if you please."])}
    text = PAGE.read_text(encoding="utf-8")

    async def run(heading):
        section = text[text.index(heading) :]
        values = []
        for block in re.findall(r"```python\n(.*?)```", section[: section.find("\n## ")], re.S):
            tree = ast.parse(block, str(PAGE))
            last = tree.body[-1]
            if isinstance(last, ast.Expr):
                tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], last.value), last)
            code = compile(ast.fix_missing_locations(tree), str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            scope["_"] = None
            if inspect.isawaitable(waiting := eval(code, scope)):  # noqa: S307 - it is ours
                await waiting
            values.append(scope["_"])
        return values

    run.scope = scope
    yield run
    for value in [*scope.values()]:
        if hasattr(value, "close") and not isinstance(value, type):
            value.close()


async def test_every_block_of_the_page_runs(page, capsys):
    answered, spent, polite, _, _, batch = await page("## Answering")
    assert answered[0] == ANSWER
    assert {source.metadata["team"] for source in answered[1]} == {"finance"}
    assert spent is None  # this model does not say what it used
    assert polite.text == "Dana, if you please."
    assert [result["answer"] for result in batch] == [ANSWER, ANSWER]
    printed = capsys.readouterr().out
    assert printed.count(ANSWER) == 2
    assert 0 <= printed.find("travel") < printed.index(ANSWER)  # the sources come first

    retrieved, score = await page("## Retrieving")
    assert {document.id for document in retrieved} == {"travel", "limits"}

    (stored,) = await page("## Storing")
    assert {document.page_content for document in stored} == {"Dana approves trips.", "The limit is 800 euros."}

    (reranked,) = await page("## Reranking")
    assert isinstance(reranked, ContextualCompressionRetriever)
    assert len(reranked.invoke("Who approves travel?")) == 3

    assert 0.0 <= score <= 1.0
    agent, forgotten, chat = await page("## Agents")
    assert forgotten == 1
    assert agent["messages"][-1].text == "Dana, if you please."
    assert chat["messages"][-1].text == ANSWER

    capsys.readouterr()
    by_function, stepped, _, wide = await page("## All of them")
    assert [document.page_content for document in by_function] == ["Dana approves trips."]
    opened = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in opened] == [
        source.metadata["memrecall"]["chunk_id"] for source in stepped["context"]
    ]
    assert page.scope["again"].bank == "handbook.bank"
    assert len(wide["context"]) == 4
