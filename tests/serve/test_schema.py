"""Whatever the server's own description allows, or does not, is answered as the description says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from memrecall_kv.serve import build_app
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.python import asgi
from serve_samples import ANSWER, LUNCH, TRAVEL, config

ROUTES = [
    "GET /healthz",
    "GET /metrics",
    "GET /v1/banks",
    "GET /v1/banks/{bank}",
    "GET /v1/banks/{bank}/documents",
    "POST /v1/banks/{bank}/documents",
    "DELETE /v1/banks/{bank}/documents",
    "POST /v1/banks/{bank}/compact",
    "GET /v1/jobs/{job}",
    "GET /v1/jobs/{job}/events",
    "POST /v1/recall",
    "POST /v1/ask",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/chat/completions",
    "POST /v1/responses",
    "POST /v1/rerank",
    "POST /v1/report",
    "GET /v1/banks/{bank}/page",
]

TALKATIVE = [
    route for route in ROUTES if route.endswith("documents") or (route.startswith("POST") and "{" not in route)
]
"""Those that can be told what they do not understand."""


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    memory = tiny_memory(
        config(), gate=ScriptedGate(lambda *_: 0.9), reasoner=ScriptedReasoner({}, lambda question, notes: ANSWER)
    )
    path = tmp_path_factory.mktemp("banks") / "handbook.bank"
    with memory.open_bank(path) as bank:
        memory.ingest(bank, [Document(each["id"], each["text"], each["metadata"]) for each in (TRAVEL, LUNCH)])
    app = build_app(memory, [path])
    for part in app.openapi()["components"]["schemas"].values():
        for name in ("all", "any"):
            # to break the limit of conditions that hold conditions, so many are made at each level: gigabytes
            part.get("properties", {}).get(name, {}).pop("maxItems", None)
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"})


@pytest.fixture(scope="session")
def client(api):
    with asgi.get_client(api.app, max_stream_events=10_000) as client:
        client.headers["host"] = "localhost"
        yield client


def test_every_route_is_tried(api):
    assert sorted(found.ok().label for found in api.get_all_operations()) == sorted(ROUTES)


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        *((route, GenerationMode.POSITIVE) for route in ROUTES),
        *((route, GenerationMode.NEGATIVE) for route in ROUTES if route in TALKATIVE),
    ],
)
def test_the_server_does_what_it_says(api, client, route, mode):
    operation = api.find_operation_by_label(route)
    answered = []

    # the same requests every time: other ones are looked for by hand, with more examples and a seed
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        for name, good in (("bank", "handbook"), ("model", "handbook")):
            # names that exist come up by themselves as good as never
            if isinstance(case.body, dict) and isinstance(case.body.get(name), str) and mode is GenerationMode.POSITIVE:
                case.body = {**case.body, name: good}
            if name in (case.path_parameters or {}) and len(answered) % 2:
                case.path_parameters = {**case.path_parameters, name: good}
        response = case.call(session=client)
        answered.append(response.status_code)
        # of what a question must be, some cannot be said in a schema
        case.validate_response(response, excluded_checks=[CHECKS.get_one("positive_data_acceptance")])

    ask()
    assert answered
    assert max(answered) < 500 or set(filter(lambda status: status >= 500, answered)) == {503}
