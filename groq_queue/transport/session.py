"""The transport that sends through the user's own ``requests.Session``.

Their adapters, proxies, certificates, cookies, hooks and headers stay in force;
no attribute of the session is changed and it is never closed here. What we add,
per request: the key as an auth object (a ``~/.netrc`` entry replaces a mere
header), no redirects, streaming under a cap. Connections that urllib3 opens for
us are of a class that reports to ``deadline``; to that end the class named by the
adapter's inner pool is extended.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import default_user_agent
from urllib3 import HTTPHeaderDict

from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger
from groq_queue.transport.address import is_loopback
from groq_queue.transport.base import MAX_RESPONSE_BYTES, BaseTransport
from groq_queue.transport.deadline import Attempt, watched, watching
from groq_queue.transport.protocol import CallLater, Reply
from groq_queue.transport.secret import Secret

_MOST_UNREAD = 16  # kept connections that may turn out closed, one after the other, before the attempt is given up

_log = SafeLogger("groq_queue.transport")


class _Bearer(AuthBase):
    """Writes the key into the request last of all, over whatever the session would send."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        return request


class SessionTransport(BaseTransport):
    """Sends attempts through a prepared session; as safe for threads as that session is.

    Args:
        session: Used as it is.
        base_url: As returned by ``resolve_base_url``.
        key: The API key; wins over ``session.auth`` and netrc.
        user_agent: None for the session's own, or ours if it has only requests' default.
        max_response_bytes: Larger answers are refused, counted after decompression.
        alarm: Bounds what socket time-outs cannot see; see ``deadline``.
    """

    def __init__(
        self,
        session: requests.Session,
        base_url: str,
        key: Secret,
        *,
        user_agent: str | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        alarm: CallLater | None = None,
    ) -> None:
        if not isinstance(session, requests.Session):
            raise ConfigurationError(f"session={safe_repr(session)}: use a requests.Session")
        super().__init__(base_url, key, user_agent=user_agent, max_response_bytes=max_response_bytes, alarm=alarm)
        self._session = session
        self._auth = _Bearer(key)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if user_agent or session.headers.get("User-Agent") in (None, default_user_agent()):
            self._headers["User-Agent"] = self._user_agent
        self._is_local = is_loopback(urlsplit(base_url).hostname or "")
        _warn_of_retries(session.get_adapter(base_url))

    def _forget_inherited(self) -> None:
        # Closes the adapters' pools, which open again on use; nothing else of the session is touched.
        self._session.close()

    def _exchange(self, attempt: Attempt, endpoint: str, body: bytes) -> Reply:
        prepared = self._session.prepare_request(
            requests.Request("POST", f"{self._base_url}/{endpoint}", data=body, headers=self._headers, auth=self._auth)
        )
        assert prepared.url is not None
        settings = self._session.merge_environment_settings(prepared.url, {}, True, None, None)
        if self._is_local:  # to a proxy of the environment, loopback is the proxy itself
            settings["proxies"] = dict(self._session.proxies)
        try:
            with watching(attempt):
                for _ in range(_MOST_UNREAD):
                    try:
                        return self._round_trip(prepared, settings, attempt)
                    except requests.ConnectionError as error:
                        if not attempt.has_ended_unread(error):
                            raise
                    attempt.begins_anew()
                return self._round_trip(prepared, settings, attempt)
        finally:
            attempt.let_go()

    def _round_trip(self, prepared: requests.PreparedRequest, settings: Any, attempt: Attempt) -> Reply:
        self._watch_connections(prepared, settings)
        try:
            attempt.has_begun = True
            response = self._session.send(
                prepared, timeout=(attempt.connect_s, attempt.read_s), allow_redirects=False, **settings
            )
        except requests.HTTPError as error:  # a hook of the session that calls raise_for_status
            if error.response is None:
                raise
            response = error.response
        try:
            return self._received(response, attempt)
        finally:
            # Read to its end the connection is back in its pool already; else this closes it.
            response.close()

    def _received(self, response: requests.Response, attempt: Attempt) -> Reply:
        raw: Any = response.raw
        headers = getattr(raw, "headers", None)
        pairs = headers.iteritems() if isinstance(headers, HTTPHeaderDict) else response.headers.items()
        # Read already by a hook of the session, or by an adapter that is not urllib3's.
        is_read = getattr(response, "_content_consumed", False) or not hasattr(raw, "read1")
        if is_read:
            content = response.content
        else:
            read1 = functools.partial(raw.read1, decode_content=False)
            length = getattr(raw, "length_remaining", None)
            content = self._body(read1, length, response.status_code, response.headers, attempt)
        return self._reply(response.status_code, {name.lower(): value for name, value in pairs}, content)

    def _watch_connections(self, prepared: requests.PreparedRequest, settings: Any) -> None:
        """Let connections that this request may open report to the attempt."""
        assert prepared.url is not None
        adapter = self._session.get_adapter(prepared.url)
        if isinstance(adapter, HTTPAdapter):
            try:
                pool: Any = adapter.get_connection_with_tls_context(
                    prepared, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
                )
            except TypeError:  # requests stumbles over a proxy that has a user name and no host
                raise requests.exceptions.InvalidProxyURL from None
            pool.ConnectionCls = watched(pool.ConnectionCls)


def _warn_of_retries(adapter: Any) -> None:
    retries: Any = getattr(adapter, "max_retries", None)
    total = getattr(retries, "total", 0)
    counts = (total,) if total is not None else (retries.connect, retries.read, retries.status, retries.other)
    if any(count for count in counts):
        _log.warning(
            "the session's adapter retries by itself: attempts multiply with those of the queue, and the "
            "repeated ones are not metered; mount HTTPAdapter(max_retries=0)",
            extra={"groq_queue_event": "session_retries"},
        )
