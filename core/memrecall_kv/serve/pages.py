"""Pages for people: one that asks, the report of an answer, and what a bank holds."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from memrecall_kv.report.bank import bank_page
from memrecall_kv.report.page import page_policy, render
from memrecall_kv.serve.asking import Recalling, answer_of, question_from
from memrecall_kv.serve.documents import Name
from memrecall_kv.serve.service import Asker, Parts
from memrecall_kv.serve.stream import gathered, while_connected

router = APIRouter(tags=["pages"], default_response_class=HTMLResponse)

_SCRIPT = "server.js"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@router.get("/", include_in_schema=False)
def ask_in_a_page() -> HTMLResponse:
    """Show a page that lists banks and asks; it holds nothing of anybody's and needs no key."""
    # a page in a frame is also held to the policy of the page around it
    policy = page_policy([_SCRIPT, "bank.js"], also="connect-src 'self'")
    headers = {**_HEADERS, "Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
    return HTMLResponse(render("server.html", script=_SCRIPT, policy=policy), headers=headers)


@router.post("/v1/report")
async def report(body: Recalling, service: Parts, caller: Asker, request: Request) -> HTMLResponse:
    """Answer a question, and show how the answer came about as a page."""
    question = question_from(body, service, caller)
    answer = answer_of(await while_connected(request, gathered(service.questions.ask(question))))
    return HTMLResponse(await run_sync(lambda: answer.to_html(question.bank.get())), headers=_HEADERS)


@router.get("/v1/banks/{bank}/page")
def show_bank(bank: Name, service: Parts, caller: Asker) -> HTMLResponse:
    """Show what a bank holds as a page to search in."""
    return HTMLResponse(bank_page(service.bank(bank, caller).get(), bank), headers=_HEADERS)
