"""The server's pages: one that holds nothing and needs no key, and those of what a key may see."""

import asyncio
import re
from base64 import b64encode
from hashlib import sha256

import pytest
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.types import Document
from serve_samples import ANSWER, LUNCH, TRAVEL, Line, add, served

ASK = {"bank": "handbook", "question": "Who approves trips?"}


def hashed(code):
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


def directives(response):
    policy = response.headers["content-security-policy"]
    return {name: values.split() for name, _, values in (each.partition(" ") for each in policy.split("; "))}


async def test_the_page_lets_nothing_in_but_its_own_code(client):
    page = await client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    rules = directives(page)
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    explorer = await client.get("/v1/banks/handbook/page")
    scripts = [*re.findall(r"<script>(.*?)</script>", page.text, re.S)]
    scripts += re.findall(r"<script>(.*?)</script>", explorer.text, re.S)
    assert len(scripts) == 2
    # what is shown in a frame is also held to the policy of the page around it
    assert sorted(rules["script-src"]) == sorted(map(hashed, scripts))
    report = await client.post("/v1/report", json=ASK)
    for each in (page, explorer, report):
        assert rules["style-src"] == [hashed(re.search(r"<style>(.*?)</style>", each.text, re.S)[1])]
        assert "set-cookie" not in each.headers
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"(?:https?:)?//\w", re.sub(r"<(script|style)>.*?</\1>", "", each.text, flags=re.S))
    assert "<script" not in report.text
    assert not re.search(r"localStorage|sessionStorage|cookie|indexedDB|innerHTML", page.text)


async def test_a_report_is_the_page_of_the_answer(client):
    report = await client.post("/v1/report", json=ASK)
    assert report.status_code == 200
    assert f"<mark>{ANSWER.rstrip('.')}</mark>" in report.text
    assert TRAVEL["id"] in report.text
    assert LUNCH["text"] in report.text  # refused, and read from the bank


async def test_a_page_of_a_bank_goes_by_the_name_it_is_served_under(client):
    page = await client.get("/v1/banks/handbook/page")
    assert "<title>handbook – bank</title>" in page.text
    assert TRAVEL["id"] in page.text


@pytest.mark.parametrize("path", ["/v1/report", "/v1/banks/handbook/page"])
async def test_mistakes_are_problems_on_these_routes_too(client, path):
    got = (
        await client.post(path, json={**ASK, "bank": "other"})
        if path == "/v1/report"
        else await client.get("/v1/banks/other/page")
    )
    assert (got.status_code, got.headers["content-type"]) == (404, "application/problem+json")


async def test_pages_show_a_tenant_its_own_banks_alone(memory, tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    ann, operator = keys.add("ann", ["a"]), keys.add("operator", None)
    async with served(memory, tmp_path / "a.bank", tmp_path / "b.bank", keys=keys) as client:
        client.headers = {"authorization": f"Bearer {operator}"}
        await add(client, "b", TRAVEL)
        client.headers = {}
        page = await client.get("/")
        assert page.status_code == 200
        assert TRAVEL["id"] not in page.text
        assert "b.bank" not in page.text
        for headers, status in (({}, 401), ({"authorization": f"Bearer {ann}"}, 404)):
            asked = await client.post("/v1/report", json={**ASK, "bank": "b"}, headers=headers)
            shown = await client.get("/v1/banks/b/page", headers=headers)
            assert asked.status_code == shown.status_code == status


async def test_who_leaves_cancels_its_report(waiting_gate, tmp_path):
    memory, gate = waiting_gate
    with memory.open_bank(tmp_path / "handbook.bank") as bank:
        memory.ingest(bank, [Document(TRAVEL["id"], TRAVEL["text"])])
    async with served(memory, tmp_path / "handbook.bank") as client:
        line = Line(client.app, "/v1/report", ASK)
        await asyncio.to_thread(gate.entered.wait)
        line.leave()
        await line.task
        assert line.status == 499
        gate.go.set()


async def test_without_keys_only_local_names_are_answered(client):
    assert (await client.get("/", headers={"host": "elsewhere.example"})).status_code == 400
