"""What sending through the user's own session adds to the contract."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import default_user_agent
from urllib3 import Retry
from urllib3 import exceptions as urllib3_errors

from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import PooledTransport, Secret, make_transport
from groq_queue.transport.session import SessionTransport

from .conftest import KEY, HandAlarm, Opener
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


@pytest.mark.parametrize(
    ("retries", "is_told"),
    [
        (0, False),
        (False, False),
        (Retry(total=None, connect=0, read=0, status=0, other=0), False),
        (1, True),
        (Retry(total=None, connect=2), True),
        (Retry(total=None, connect=0, read=2), True),
        (Retry(total=None, connect=0, read=0, status=2), True),
        (Retry(total=None, connect=0, read=0, status=0, other=2), True),
    ],
    ids=str,
)
def test_an_adapter_retries_if_any_of_its_counts_says_so(
    open_session: Opener, caplog: pytest.LogCaptureFixture, retries: Retry | int, is_told: bool
):
    """
    Where there is no total, the single ones count.
    """
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retries))

    open_session("http://127.0.0.1:1/v1", session)

    assert ["session_retries"] * is_told == [record.groq_queue_event for record in caplog.records]


@pytest.mark.parametrize(
    ("theirs", "ours", "sent"),
    [
        (default_user_agent(), None, "groq_queue"),
        (None, None, "groq_queue"),
        ("theirs/1", None, "theirs/1"),
        ("theirs/1", "ours/2", "ours/2"),
    ],
)
def test_the_service_never_sees_the_user_agent_of_requests(open_session: Opener, theirs, ours, sent: str):
    """
    Their own stays, unless one was asked for.
    """
    session = requests.Session()
    session.headers["User-Agent"] = theirs

    with RawServer(Peer.serve) as server:
        open_session(server.url, session, user_agent=ours).send(PATH, b"{}", timeout=CALM)

        assert server.requests[0].headers["user-agent"].startswith(sent)


@pytest.mark.parametrize("session", [None, "session", requests])
def test_what_is_no_session_is_refused(key: Secret, session: object):
    """
    With what to use.
    """
    with pytest.raises(ConfigurationError, match=r"use a requests\.Session"):
        SessionTransport(session, "http://127.0.0.1:1/v1", key)


def test_a_proxy_that_the_session_names_is_used_also_for_this_machine(open_session: Opener, monkeypatch):
    """
    The user said so; what the environment says is not meant for it.
    """
    session = requests.Session()
    with RawServer(lambda peer: peer.serve(b"proxied")) as proxy, RawServer(Peer.serve) as other:
        session.proxies["http"] = f"http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other.port}")
        reply = open_session("http://127.0.0.1:1/v1", session).send(PATH, b"{}", timeout=CALM)

        assert 0 == other.connections
    assert b"proxied" == reply.body


class Canned(BaseAdapter):
    """An adapter that is not urllib3's."""

    def __init__(self, outcome: requests.Response | Exception) -> None:
        super().__init__()
        self._outcome = outcome

    def send(self, request, **options):
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def close(self) -> None:
        pass


def canned(content: bytes, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content, response._content_consumed = 200, content, True
    response.headers.update(headers)
    return response


def test_an_adapter_that_is_not_urllib3s_may_answer(open_session: Opener):
    """
    Its response is read as requests gives it.
    """
    session = requests.Session()
    session.mount("http://", Canned(canned(b"canned", **{"X-Request-Id": "req_1"})))

    reply = open_session("http://127.0.0.1:1/v1", session).send(PATH, b"{}", timeout=CALM)

    assert (200, b"canned", "req_1") == (reply.status, reply.body, reply.headers["x-request-id"])


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (requests.ConnectTimeout(urllib3_errors.ConnectTimeoutError("slow")), "no"),
        (requests.HTTPError("of a hook, without a response"), "unknown"),
        (requests.ConnectionError("odd"), "unknown"),
    ],
)
def test_an_error_of_such_an_adapter_is_translated_and_not_tried_again(open_session: Opener, error, sent: str):
    """
    What it does not report is taken from the error itself.
    """
    session = requests.Session()
    session.mount("http://", Canned(error))

    with pytest.raises(APIConnectionError) as caught:
        open_session("http://127.0.0.1:1/v1", session).send(PATH, b"{}", timeout=CALM)

    assert sent == caught.value.sent
    assert caught.value.__context__ is None


@pytest.mark.parametrize("allow_http", [False, True])
def test_key_and_prompts_go_in_clear_only_if_asked_for(key: Secret, allow_http: bool):
    """
    And not by default.
    """
    given = {"allow_http": True} if allow_http else {}
    if allow_http:
        assert "http://10.0.0.1/v1" in repr(make_transport(base_url="http://10.0.0.1/v1", key=key, **given))
    else:
        with pytest.raises(ConfigurationError, match="in clear"):
            make_transport(base_url="http://10.0.0.1/v1", key=key)


def test_options_reach_the_transport(key: Secret, alarm: HandAlarm):
    """
    How many connections are kept, and who rings.
    """
    with requests.Session() as session:
        for given in ({"max_connections": 7}, {"session": session}):
            with RawServer(Peer.serve) as server:
                transport = make_transport(base_url=server.url, key=key, alarm=alarm, **given)
                transport.send(PATH, b"{}", timeout=CALM)
                transport.close()

    assert ["set 10", "off"] * 2 == alarm.log


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
