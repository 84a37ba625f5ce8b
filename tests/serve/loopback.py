"""A server in this process, on a port of this machine; and one that says what a test wants to hear."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvicorn
from memrecall_kv.serve import build_app
from patience import PATIENCE


@contextmanager
def listening(app):
    """Serve an app, and give its URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            waited = threading.Event()
            for _ in range(int(PATIENCE * 100)):
                if server.started or not thread.is_alive():
                    break
                waited.wait(0.01)
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextmanager
def serving(memory, *banks, **options):
    """Serve banks, and give the server's URL."""
    with listening(build_app(memory, banks, **options)) as url:
        yield url


class Saying(ThreadingHTTPServer):
    """Answers the requests in turn as it is told, and the last way from then on; keeps what it was sent.

    Args:
        answers: Each a status, headers and a body.
    """

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.requests = list(answers), []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @classmethod
    @contextmanager
    def listening(cls, *answers):
        with cls(*answers) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join(PATIENCE)


class _Handler(BaseHTTPRequestHandler):
    def _answer(self):
        length = int(self.headers.get("content-length", 0))
        self.server.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if "content-length" in headers:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of http.server

    def log_message(self, *said):
        """Say nothing."""
