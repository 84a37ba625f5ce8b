"""The server as a process: what listens, what stops it, and what is left of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from memrecall_kv.bank import MemoryBank
from patience import PATIENCE
from pytest_socket import SocketConnectBlockedError
from serve_samples import ANSWER, LUNCH, TRAVEL

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

SCRIPT = Path(__file__).parent / "loopback_server.py"
ENDED = {0, -signal.SIGTERM}
"""What a server ends with that was told to, and did what it had to do before."""
SAID = [{"role": "user", "content": "Who approves trips?"}]


class Running:
    """A server's process, what it logged so far, and a client of it."""

    def __init__(self, process):
        self.process, self.lines, self._port = process, [], threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._port.wait(PATIENCE), self.lines
        found = [match for line in self.lines if (match := re.search(r"running on http://[^ ]*:(\d+)", line))]
        assert found, self.lines
        self.url = f"http://127.0.0.1:{found[0][1]}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if "running on" in line:
                self._port.set()
        self._port.set()

    def stop(self, how=signal.SIGTERM):
        """End the process and return its exit code."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self):
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def add(self, bank, *documents):
        """Add documents, and return the job when it is over."""
        taken = self.client.post(f"/v1/banks/{bank}/documents", json={"documents": documents})
        assert taken.status_code == 202, taken.text
        with self.client.stream("GET", taken.headers["location"] + "/events") as told:
            *_, last = [line for line in told.iter_lines() if line.startswith("data: ")]
        return json.loads(last.removeprefix("data: "))


def environment():
    folders = [str(SCRIPT.parent), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def start(*arguments, port="0"):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "serve", *map(str, arguments), "--port", port],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@contextmanager
def serving(*arguments):
    process = start(*arguments)
    try:
        running = Running(process)
        with running.client:
            yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
        process.stderr.close()


def test_these_tests_reach_this_machine_alone():
    with pytest.warns(UserWarning, match="192.0.2.1"), pytest.raises(SocketConnectBlockedError):
        httpx.get("http://192.0.2.1")


def test_the_real_clients_are_answered_and_sigterm_ends_it_in_order(tmp_path):
    with serving(tmp_path / "handbook.bank") as server:
        assert server.add("handbook", TRAVEL, LUNCH)["state"] == "done"
        with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
            done = client.chat.completions.create(model="handbook", messages=SAID)
            assert done.choices[0].message.content == ANSWER
            chunks = list(client.chat.completions.create(model="handbook", messages=SAID, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
            assert client.responses.create(model="handbook", input="Who?").output_text == ANSWER
        with ThreadPoolExecutor(8) as pool:
            asked = pool.map(
                lambda _: server.client.post("/v1/ask", json={"bank": "handbook", "question": "Who?"}), range(24)
            )
            assert {answer.json()["text"] for answer in asked} == {ANSWER}
        second = start(tmp_path / "b.bank", port=server.url.rpartition(":")[2])
        _, told = second.communicate(timeout=PATIENCE)
        assert (second.returncode, "--port" in told, "Traceback" in told) == (2, True, False)
        assert server.stop() in ENDED
        logged = [json.loads(line) for line in server.lines]
        assert {"time", "level", "logger", "message"} <= set(logged[0])
        assert [line["status"] for line in logged if line.get("route") == "/v1/ask"] == [200] * 24
        assert not [line for line in server.lines if "Dana" in line or "Who" in line]
        assert any("Finished server process" in line["message"] for line in logged)
        assert not [line for line in logged if line["level"] in {"ERROR", "CRITICAL"}]
    with MemoryBank.open(tmp_path / "handbook.bank", read_only=True) as bank:
        assert bank.verify() == 2


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    documents = [{"id": f"{number}", "text": f"Note {number} says nothing new."} for number in range(400)]
    with serving(tmp_path / "handbook.bank") as server:
        assert server.add("handbook", TRAVEL)["state"] == "done"
        taken = server.client.post("/v1/banks/handbook/documents", json={"documents": documents})
        with server.client.stream("GET", taken.headers["location"] + "/events") as told:
            for line in told.iter_lines():
                if line.startswith("data: ") and json.loads(line.removeprefix("data: "))["tokens_done"] > 0:
                    break
            server.process.kill()
        server.ended()
    with serving(tmp_path / "handbook.bank") as server:
        ids = server.client.get("/v1/banks/handbook/documents").json()["documents"]
        assert ids[0]["id"] == TRAVEL["id"]
        answer = server.client.post("/v1/ask", json={"bank": "handbook", "question": "Who approves trips?"}).json()
        assert answer["text"] == ANSWER
        # the job is forgotten, and the same request does what is left of it
        assert server.client.get(taken.headers["location"]).status_code == 404
        job = server.add("handbook", *documents)
        report = job["report"]
        assert (job["state"], report["chunks_reused"] + report["documents_unchanged"] > 0) == ("done", True)
        assert server.client.get("/v1/banks/handbook").json()["stats"]["documents"] == 401
        assert server.stop() in ENDED


@pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM")
def test_several_workers_read_what_one_server_writes(tmp_path):
    with serving(tmp_path / "handbook.bank") as writer:
        writer.add("handbook", LUNCH)
        with serving(tmp_path / "handbook.bank", "--read-only", "--workers", "2") as readers:
            # a connection each, so that both workers have their share
            def ask(_):
                return httpx.post(
                    f"{readers.url}/v1/ask", json={"bank": "handbook", "question": "Who?"}, timeout=PATIENCE
                ).json()["text"]

            assert {ask(number) for number in range(4)} == {"Not found in the documents."}
            writer.add("handbook", TRAVEL)
            assert {ask(number) for number in range(8)} == {ANSWER}
            refused = readers.client.post("/v1/banks/handbook/documents", json={"documents": [LUNCH]})
            assert refused.status_code == 405
            assert readers.stop() in ENDED
        assert writer.stop() in ENDED


def test_the_commands_of_the_documentation_run(run, tmp_path, monkeypatch, capsys):
    page = (SCRIPT.parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M)
    programs = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    curls = [command for command in commands if command.startswith("curl")]
    assert len(commands) - len(curls) == 4
    with serving(tmp_path / "handbook.bank") as server:
        local = server.url.removeprefix("http://")
        for command in [*curls[:4], curls[-1], *curls[4:-1]]:
            done = subprocess.run(
                ["bash", "-c", command.replace("localhost:8000", local).replace("curl", "curl --fail", 1)],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, (command, done.stderr)
            if '"kind"' in done.stdout:
                job = json.loads(done.stdout)["id"]
                with server.client.stream("GET", f"/v1/jobs/{job}/events") as told:
                    assert any('"state":"done"' in line for line in told.iter_lines())
            if "DELETE" in command:
                assert server.client.get("/v1/banks/handbook").json()["stats"]["documents"] == 0
                server.add("handbook", TRAVEL)
        (program,) = programs
        scope = {"__name__": "__main__"}
        exec(compile(program.replace("http://localhost:8000", server.url), "serving.md", "exec"), scope)  # noqa: S102
        scope["client"].close()
        assert capsys.readouterr().out.splitlines() == [ANSWER, TRAVEL["id"]]
        monkeypatch.chdir(tmp_path)
        for command in [command for command in commands if command.startswith("memrecall-kv key")]:
            assert run(*command.split()[1:])[0] == 0
        assert server.stop() in ENDED
    assert len(json.loads((tmp_path / "keys.json").read_text(encoding="utf-8"))["keys"]) == 2
