"""Who may come in: keys, tenants, limits; and what is told of them afterwards."""

import asyncio
import json
import logging
import stat

import httpx
import pytest
from memrecall_kv.errors import ConfigError, InputError
from memrecall_kv.serve import ServeSettings, build_app
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.serve.server import check_access
from patience import PATIENCE
from serve_samples import ANSWER, LUNCH, TRAVEL, Line, add, config, ended, listed, served

QUESTION = "Who approves trips?"


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    return {"file": file, "all": file.add("operator", None), "a": file.add("ann", ["a"]), "b": file.add("bob", ["b"])}


@pytest.fixture
async def tenants(memory, tmp_path, keys):
    """A server of the banks `a`, which holds TRAVEL, and `b`, which holds LUNCH, each with a key of its own."""
    async with served(memory, tmp_path / "a.bank", tmp_path / "b.bank", keys=keys["file"]) as client:
        client.headers = bearer(keys["all"])
        await add(client, "a", TRAVEL)
        await add(client, "b", LUNCH)
        client.headers = {}
        yield client


ROUTES = [
    ("GET", "/v1/banks/a", None),
    ("GET", "/v1/banks/a/documents", None),
    ("GET", f"/v1/banks/a/documents?id={TRAVEL['id']}", None),
    ("POST", "/v1/banks/a/documents", {"documents": [TRAVEL]}),
    ("DELETE", f"/v1/banks/a/documents?id={TRAVEL['id']}", None),
    ("POST", "/v1/banks/a/compact", None),
    ("POST", "/v1/ask", {"bank": "a", "question": QUESTION}),
    ("POST", "/v1/ask", {"bank": "a", "question": QUESTION, "stream": True}),
    ("POST", "/v1/recall", {"bank": "a", "question": QUESTION}),
    ("POST", "/v1/chat/completions", {"model": "a", "messages": [{"role": "user", "content": QUESTION}]}),
    ("POST", "/v1/responses", {"model": "a", "input": QUESTION}),
    ("GET", "/v1/models/a", None),
    ("POST", "/v1/report", {"bank": "a", "question": QUESTION}),
    ("GET", "/v1/banks/a/page", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: str(value)[:30])
async def test_one_tenants_bank_is_to_the_other_as_one_that_is_not_there(tenants, keys, method, path, body):
    theirs = await tenants.request(method, path, json=body, headers=bearer(keys["b"]))
    nobodys = await tenants.request(
        method,
        path.replace("s/a", "s/nope"),
        json=json.loads(json.dumps(body).replace('"a"', '"nope"')),
        headers=bearer(keys["b"]),
    )
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.text.replace("'a'", "'nope'") == nobodys.text
    assert ANSWER not in theirs.text
    own = await tenants.request(method, path, json=body, headers=bearer(keys["a"]))
    assert own.status_code in {200, 202}


async def test_lists_show_a_tenant_its_own_banks_alone(tenants, keys):
    for key, expected in (("a", ["a"]), ("b", ["b"]), ("all", ["a", "b"])):
        banks = (await tenants.get("/v1/banks", headers=bearer(keys[key]))).json()["banks"]
        models = (await tenants.get("/v1/models", headers=bearer(keys[key]))).json()["data"]
        assert [bank["name"] for bank in banks] == [model["id"] for model in models] == expected


async def test_one_tenants_job_is_to_the_other_as_one_that_is_not_there(tenants, keys):
    taken = await tenants.post("/v1/banks/a/compact", headers=bearer(keys["a"]))
    for path in (taken.headers["location"], taken.headers["location"] + "/events"):
        theirs = await tenants.get(path, headers=bearer(keys["b"]))
        nobodys = await tenants.get(path.replace(taken.json()["id"], "0" * 16), headers=bearer(keys["b"]))
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(taken.json()["id"], "0" * 16) == nobodys.text
        assert (await tenants.get(path, headers=bearer(keys["a"]))).status_code == 200


async def test_counts_of_all_are_for_a_key_of_all(tenants, keys):
    assert (await tenants.get("/metrics", headers=bearer(keys["a"]))).status_code == 403
    assert (await tenants.get("/metrics", headers=bearer(keys["all"]))).status_code == 200


PATHS = [
    "/v1/banks",
    "/v1/models",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/nope",
    "/v1/banks/a/documents",
    "/v1//banks",
]


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_key_nothing_is_told(tenants, keys, path):
    wrong = [
        {},
        bearer(""),
        bearer("mrk_wrong"),
        bearer(keys["a"][:-1]),
        bearer(keys["a"] + "x"),
        {"authorization": keys["a"]},
        {"authorization": f"Basic {keys['a']}"},
        {"authorization": "Bearer"},
        {"x-api-key": keys["a"]},
        bearer("ÿ".encode("latin-1").decode("latin-1")),
    ]
    for headers in wrong:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        refused = await tenants.get(path, headers=raw)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in refused.json()["hint"]


async def test_a_body_without_a_key_is_not_even_read(tenants):
    line = Line(tenants.app, "/v1/ask", {}, whole=False)
    await asyncio.wait_for(line.task, PATIENCE)
    assert line.status == 401


async def test_health_needs_no_key(tenants):
    assert (await tenants.get("/healthz")).json() == {"status": "ok"}


def test_a_file_of_keys_holds_no_key_and_is_readable_by_its_owner_alone(keys, tmp_path):
    path = tmp_path / "keys.json"
    text = path.read_text(encoding="utf-8")
    for name in ("all", "a", "b"):
        assert keys[name] not in text
        assert keys[name].removeprefix("mrk_") not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = KeyFile(path)
    assert len(read) == 3
    assert read.caller(keys["a"]).banks == {"a"}
    assert read.caller(keys["all"]).banks is None
    read.revoke("ann")
    assert KeyFile(path).caller(keys["a"]) is None
    assert KeyFile(path).caller(keys["b"]).name == "bob"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"keys": [{"name": "a", "sha256": "short"}]}', '{"keyz": []}'])
def test_a_file_that_holds_something_else_is_refused_without_being_told(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content + " secret", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        KeyFile(path)
    assert "secret" not in str(refused.value)


def test_a_name_has_one_key(keys):
    with pytest.raises(InputError, match="ann"):
        keys["file"].add("ann", None)
    with pytest.raises(InputError, match="zoe"):
        keys["file"].revoke("zoe")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.0.0.1.example.com"])  # noqa: S104
def test_other_machines_need_keys(host, keys, tmp_path):
    with pytest.raises(ConfigError) as refused:
        check_access(host, None)
    assert "memrecall-kv key" in refused.value.hint
    check_access(host, tmp_path / "keys.json")
    with pytest.raises(ConfigError, match="Expected keys"):
        check_access(host, tmp_path / "none.json")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_none(host):
    check_access(host, None)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", ""]
)
async def test_without_keys_a_page_of_another_name_is_not_let_in(client, host):
    assert (await client.get("/v1/banks", headers={"host": host})).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
async def test_without_keys_this_machine_is_let_in_by_all_its_names(client, host):
    assert (await client.get("/v1/banks", headers={"host": host})).status_code == 200


async def test_a_page_cannot_send_what_a_browser_sends_without_asking(client):
    refused = await client.post(
        "/v1/banks/handbook/documents",
        content=json.dumps({"documents": [LUNCH]}),
        headers={"content-type": "text/plain", "origin": "https://evil.example"},
    )
    assert refused.status_code == 422


async def test_one_key_that_comes_too_often_waits_and_the_others_do_not(memory, tmp_path, keys):
    settings = ServeSettings(requests_per_minute=3)
    async with served(memory, tmp_path / "a.bank", keys=keys["file"], settings=settings) as client:
        answers = [await client.get("/v1/banks", headers=bearer(keys["a"])) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await client.get("/v1/banks", headers=bearer(keys["b"]))).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(memory, tmp_path, told):
    taken = []

    async def pieces():
        for number in range(1000):
            taken.append(number)
            yield b"x" * 1024

    settings = ServeSettings(max_request_bytes=4096)
    async with served(memory, tmp_path / "a.bank", settings=settings) as client:
        headers = {"content-type": "application/json", **({"content-length": str(1000 * 1024)} if told else {})}
        refused = await client.post("/v1/banks/a/documents", content=pieces(), headers=headers)
        assert refused.status_code == 413
        assert "4096" in refused.json()["detail"]
        assert len(taken) <= (1 if told else 6)


@pytest.mark.parametrize("length", ["-1", "many", "1e9", "9" * 5000])
async def test_a_length_that_is_none_is_no_way_in(memory, tmp_path, length):
    async with served(memory, tmp_path / "a.bank", settings=ServeSettings(max_request_bytes=4096)) as client:
        headers = {"content-type": "application/json", "content-length": length}
        refused = await client.post("/v1/ask", content=b"{}" + b" " * 10_000, headers=headers)
        assert refused.status_code == 413


async def test_a_body_that_does_not_come_is_not_waited_for(memory, tmp_path):
    async with served(memory, tmp_path / "a.bank", settings=ServeSettings(body_seconds=0.05)) as client:
        line = Line(client.app, "/v1/ask", {}, whole=False)
        await asyncio.wait_for(line.task, PATIENCE)
        assert line.status == 408


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(client):
    line = Line(client.app, "/v1/ask", {}, whole=False)
    await asyncio.sleep(0)
    line.leave()
    await asyncio.gather(line.task, return_exceptions=True)
    assert line.status in {None, 400}


async def test_names_of_banks_are_looked_up_and_lead_nowhere(client, tmp_path):
    for name in (
        "..",
        "../handbook",
        "handbook.bank",
        ".",
        "/",
        "%2e%2e",
        "handbook/../handbook",
        "\0",
        "~",
        "a" * 10_000,
    ):
        for path in ("/v1/ask", "/v1/recall"):
            refused = await client.post(path, json={"bank": name, "question": QUESTION})
            assert refused.status_code == 404
            assert str(tmp_path) not in refused.text
    for path in ("..%2fhandbook", "%2e%2e", "handbook%00", "%2fetc%2fpasswd", "handbook%2f..%2f.."):
        request = httpx.Request("GET", httpx.URL(f"http://localhost/v1/banks/{path}"))
        assert (await client.send(request)).status_code == 404


def test_banks_of_one_name_or_an_odd_one_are_refused_at_the_start(memory, tmp_path):
    (tmp_path / "x").mkdir()
    for paths in (
        [tmp_path / "a.bank", tmp_path / "x" / "a"],
        [tmp_path / "a b"],
        [tmp_path / "ä.bank"],
        [tmp_path / ("a" * 65)],
    ):
        with pytest.raises(InputError) as refused:
            build_app(memory, paths)
        assert refused.value.hint == "Rename a directory." or refused.value.hint == "Rename the directory."


async def test_no_text_of_a_client_is_logged_or_counted(memory, tmp_path, keys, caplog):
    secret = {"id": "secret-id", "text": "secret text of nobody's business", "metadata": {"secret": "secret"}}
    with caplog.at_level(logging.INFO):
        async with served(memory, tmp_path / "a.bank", keys=keys["file"], raising=False) as client:
            client.headers = bearer(keys["all"])
            await add(client, "a", secret)
            await client.get("/v1/banks/a/documents", params={"id": "secret-id"})
            await client.get("/v1/banks/secret")
            await client.get("/secret")
            await client.request("SECRET", "/v1/banks")
            await client.post("/v1/ask", json={"bank": "a", "question": "secret question?"})
            await client.post("/v1/ask", json={"bank": "secret", "secret": 1})
            await client.post("/v1/rerank", json={"query": "secret", "documents": ["secret"]})
            await client.post("/v1/responses", json={"model": "a", "input": "secret"})
            await ended(client, await client.delete("/v1/banks/a/documents", params={"id": "secret-other"}))
            await client.get("/v1/banks", headers=bearer("secret"))
            counts = (await client.get("/metrics")).text
    logged = [record for record in caplog.records if record.name.startswith("memrecall_kv")]
    told = [str(record.__dict__) for record in logged]
    assert len([record for record in logged if record.name == "memrecall_kv.serve.watch"]) >= 12
    assert not [line for line in [*told, counts] if "secret" in line.lower()]
    assert not [line for line in [*told, counts] if keys["all"] in line]
    fields = logged[-1].fields
    assert set(fields) == {"request", "route", "method", "status", "key", "seconds"}
    assert (fields["key"], fields["route"]) == ("operator", "/metrics")


async def test_stages_are_timed(client):
    await client.post("/v1/ask", json={"bank": "handbook", "question": QUESTION})
    counts = (await client.get("/metrics")).text
    for stage in ("wait", "recall", "answer"):
        assert f'memrecall_stage_seconds_count{{stage="{stage}"}} 1.0' in counts
    assert 'memrecall_questions_total{outcome="found"} 1.0' in counts
    assert 'memrecall_jobs_total{kind="add",outcome="done"} 1.0' in counts
    assert 'route="/v1/ask",status="200"' in counts


async def test_what_fails_on_our_side_says_nothing_of_itself(memory, tmp_path):
    async with served(memory, tmp_path / "a.bank", raising=False) as client:
        await add(client, "a", TRAVEL)
        client.app.state.service = None
        failed = await client.get("/v1/banks/a")
        assert failed.status_code == 500
        assert failed.json()["detail"] == "The server failed."
        assert "NoneType" not in failed.text


async def test_a_damaged_bank_is_our_failure_and_hides_where_it_is(memory, tmp_path):
    async with served(memory, tmp_path / "a.bank") as client:
        await add(client, "a", TRAVEL)
        files = (path for path in (tmp_path / "a.bank").rglob("*") if path.is_file() and "sqlite" not in path.name)
        largest = max(files, key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 0xFF
        largest.write_bytes(data)
        for stream in (False, True):
            body = {"bank": "a", "question": QUESTION, "stream": stream}
            failed = await client.post("/v1/ask", json=body)
            assert (failed.status_code, failed.json()["type"]) == (500, "urn:memrecall-kv:BlockCorruptError")
            assert str(tmp_path) not in failed.text
        assert await listed(client, "a") == [TRAVEL["id"]]


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="colour"):
        ServeSettings(colour="red")
    with pytest.raises(ConfigError):
        ServeSettings(max_request_bytes=1)
    assert config().bank.wait_seconds == 0.0
