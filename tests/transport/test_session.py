"""What sending through the user's own session adds to the contract."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter

from groq_queue.transport import PooledTransport, Secret, make_transport
from groq_queue.transport.session import SessionTransport

from .conftest import KEY, Opener
from .raw_server import Peer, RawServer

PATH = "chat/completions"
CALM = (5.0, 5.0)


def test_netrc_cannot_replace_the_key(open_transport: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """
    requests prefers a netrc entry of the host to an Authorization header.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    with RawServer(Peer.serve) as server:
        open_transport(server.url).send(PATH, b"{}", timeout=CALM)

        assert f"Bearer {KEY}" == server.requests[0].headers["authorization"]


def test_the_sessions_own_headers_are_sent_and_the_key_wins(open_session: Opener):
    """
    Their User-Agent and extra headers stay; a stale Authorization or auth does not.
    """
    session = requests.Session()
    session.headers.update({"User-Agent": "theirs/1", "X-Team": "blue", "Authorization": "Bearer old"})
    session.auth = ("user", "password")

    with RawServer(Peer.serve) as server:
        open_session(server.url, session).send(PATH, b"{}", timeout=CALM)
        headers = server.requests[0].headers

    assert "theirs/1" == headers["user-agent"]
    assert "blue" == headers["x-team"]
    assert f"Bearer {KEY}" == headers["authorization"]


def test_the_session_is_neither_changed_nor_closed(open_session: Opener, key: Secret):
    """
    Same headers, auth, adapters and proxies after as before; still usable after close().
    """
    session = requests.Session()
    names = ("auth", "adapters", "proxies", "verify", "cert", "params", "stream", "max_redirects", "trust_env")
    before = {name: repr(getattr(session, name)) for name in names} | {"headers": dict(session.headers)}

    with RawServer(Peer.serve) as server:
        transport = open_session(server.url, session)
        transport.send(PATH, b"{}", timeout=CALM)
        transport.close()

        assert before == {name: repr(getattr(session, name)) for name in names} | {"headers": dict(session.headers)}
        assert 200 == session.get(server.url, timeout=5).status_code
        assert 1 == server.connections


def test_an_adapter_of_their_own_carries_the_request(open_session: Opener):
    """
    A mounted adapter sees the prepared request.
    """
    seen = []

    class Tracing(HTTPAdapter):
        def send(self, request, *args, **options):
            seen.append(request.url)
            return super().send(request, *args, **options)

    session = requests.Session()
    session.mount("http://", Tracing())

    with RawServer(Peer.serve) as server:
        open_session(server.url, session).send(PATH, b"{}", timeout=CALM)

        assert [f"{server.url}/{PATH}"] == seen


def complain(response: requests.Response, **options) -> None:
    response.raise_for_status()


def peek(response: requests.Response, **options) -> None:
    assert response.text


@pytest.mark.parametrize("hook", [complain, peek])
def test_hooks_of_the_session_do_not_hide_the_answer(open_session: Opener, hook):
    """
    One that raises for a status, one that reads the body: the engine still gets the reply.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b'{"error": 1}', "400 Bad Request")

    session = requests.Session()
    session.hooks["response"].append(hook)

    with RawServer(handler) as server:
        reply = open_session(server.url, session).send(PATH, b"{}", timeout=CALM)

    assert (400, b'{"error": 1}') == (reply.status, reply.body)


def test_an_adapter_that_retries_is_told_once(open_session: Opener, caplog: pytest.LogCaptureFixture):
    """
    Its attempts would multiply with the queue's and escape the meter.
    """
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=3))

    open_session("http://127.0.0.1:1/v1", session)
    open_session("http://127.0.0.1:1/v1")

    assert ["WARNING"] == [record.levelname for record in caplog.records]
    assert "max_retries=0" in caplog.text


def test_the_transport_is_chosen_by_the_session(key: Secret):
    """
    make_transport checks the address, and takes the session if there is one.
    """
    with requests.Session() as session:
        assert isinstance(make_transport(base_url="https://api.groq.com", key=key), PooledTransport)
        assert isinstance(make_transport(base_url="https://api.groq.com", key=key, session=session), SessionTransport)


def test_importing_the_transport_does_not_import_requests():
    """
    Half a second of import for those who never need it.
    """
    code = "import sys, groq_queue.transport; print('requests' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert "False" == result.stdout.strip()


def test_nothing_of_ours_is_logged_in_the_good_case(open_session: Opener, caplog: pytest.LogCaptureFixture):
    """
    A library is silent unless something is wrong.
    """
    with caplog.at_level(logging.DEBUG, "groq_queue"), RawServer(Peer.serve) as server:
        open_session(server.url).send(PATH, b"{}", timeout=CALM)

    assert [] == [record for record in caplog.records if record.name.startswith("groq_queue")]
