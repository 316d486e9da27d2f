"""A stream that is left in the middle gives its slot back, whether or not a garbage collection comes by."""

from __future__ import annotations

import gc
import logging
import threading

import pytest
import requests
from extras import needs
from waiting import wait_until

from groq_queue import ConfigurationError, Limits
from groq_queue.clock import FakeClock
from groq_queue.integrations import requests_adapter, sdk_http_client
from groq_queue.integrations.request_gate import StreamSlot

from .conftest import KEY, MODEL, PATIENCE_S, InThread

QUESTION = [{"role": "user", "content": "Why?"}]
IDLE_S = 5
LOOK_S = 1


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def no_collection_comes_by():
    """Leave what is forgotten in a circle where it is, as between two collections of a real program."""
    usual = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*usual)


@pytest.fixture(params=["groq", "openai", "requests"])
def open_stream(request, simulator):
    """Return what opens a stream of a queue, by each of the adapters, and then the first of its pieces."""
    opened = []

    def by_sdk(queue, **options):
        sdk = needs(request.param)
        is_groq = sdk.__name__ == "groq"
        base_url = simulator.base_url.removesuffix("/openai/v1") if is_groq else simulator.base_url
        client = (sdk.Groq if is_groq else sdk.OpenAI)(
            api_key=KEY, base_url=base_url, http_client=sdk_http_client(queue, sdk, **options), max_retries=0
        )
        opened.append(client)
        return lambda: client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=20, stream=True)

    def by_requests(queue, **options):
        session = requests.Session()
        session.mount(simulator.base_url, requests_adapter(queue, **options))
        session.headers["Authorization"] = f"Bearer {KEY}"
        opened.append(session)
        body = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "stream": True}

        def ask():
            return session.post(simulator.base_url + "/chat/completions", json=body, stream=True).iter_lines()

        return ask

    yield by_requests if request.param == "requests" else by_sdk
    for client in opened:
        client.close()


by_requests = pytest.mark.parametrize("open_stream", ["requests"], indirect=True)


def stands_unread(clock, seconds=LOOK_S):
    """Wait until somebody looks at a stream in *seconds*."""
    wait_until(lambda: clock.is_awaited(seconds))


def test_a_stream_that_is_kept_and_not_read_gives_its_slot_back_after_a_while(make_queue, open_stream, clock):
    queue = make_queue(max_workers=2, clock=clock)
    ask = open_stream(queue)
    streams = [ask(), ask()]
    for stream in streams:
        next(iter(stream))

    third = InThread(ask)
    wait_until(lambda: queue.stats().pending == 1)
    stands_unread(clock)
    clock.advance(IDLE_S - 0.001)
    stands_unread(clock, 0.001)
    assert 2 == queue.stats().in_flight
    clock.advance(0.001)

    next(iter(third.result()))
    assert all(2 < len(list(stream)) for stream in streams), "it is read on without a slot"


@pytest.mark.parametrize("leave", ["next", "break", "raise"])
def test_a_stream_that_is_left_and_forgotten_is_looked_for_as_soon_as_others_wait(
    make_queue, open_stream, clock, leave, no_collection_comes_by
):
    queue = make_queue(max_workers=2, clock=clock)
    ask = open_stream(queue)

    def abandon() -> None:
        try:
            for _ in ask():
                if leave == "raise":
                    raise LookupError
                break
        except LookupError:
            return

    for _ in range(2):
        abandon() if leave != "next" else next(iter(ask()))
    third = InThread(lambda: list(ask()))
    wait_until(lambda: queue.stats().attempts == 3 or (queue.stats().pending == 1 and clock.is_awaited(LOOK_S)))
    clock.advance(LOOK_S)

    assert 2 < len(third.result())


@by_requests
@pytest.mark.parametrize(("is_begun", "is_given_back"), [(True, False), (False, False), (True, True)])
def test_a_collection_closes_no_stream_on_the_thread_it_interrupts(
    make_queue, open_stream, clock, monkeypatch, no_collection_comes_by, is_begun, is_given_back
):
    """
    That thread may hold the lock of the pool of connections, which closing takes as well.
    """
    here, closed = threading.get_ident(), []
    close = StreamSlot._close_source

    def watched(hold):
        closed.append((threading.get_ident(), type(hold._source).__name__))
        close(hold)
        closed.append(hold._source)

    monkeypatch.setattr(StreamSlot, "_close_source", watched)
    queue = make_queue(max_workers=1, clock=clock)
    stream = open_stream(queue)()
    if is_begun:
        next(iter(stream))
    if is_given_back:
        stands_unread(clock)
        clock.advance(LOOK_S)
        stands_unread(clock, IDLE_S - LOOK_S)
        clock.advance(IDLE_S - LOOK_S)
        queue.join()

    del stream
    gc.collect()
    wait_until(lambda: len(closed) == 2)

    assert here != closed[0][0]
    assert closed[1] is None
    queue.join()


def test_a_collection_under_the_lock_of_the_pool_ends(make_queue, open_stream, no_collection_comes_by):
    queue = make_queue(max_workers=1)
    ask = open_stream(queue)
    stream = ask()
    next(iter(stream))
    lock = lock_of(stream)

    def collect_under_it():
        with lock:
            holder.clear()
            gc.collect()
        return True

    holder = [stream]
    del stream

    assert InThread(collect_under_it).result()


def lock_of(stream):
    """Return the lock that httpcore's pool holds while it looks for a connection."""
    response = getattr(stream, "response", None)
    if response is None:
        pytest.skip("urllib3 takes none here")
    for found in gc.get_objects():
        kind = type(found)
        if kind.__name__ == "ConnectionPool" and kind.__module__.startswith("httpcore") and found.connections:
            return found._optional_thread_lock
    pytest.skip("another httpcore")


@pytest.mark.parametrize("sdk", ["groq", "openai"])
def test_a_stream_that_is_handed_on_is_a_response_like_any_other(make_queue, simulator, sdk):
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "stream": True}
    with sdk_http_client(make_queue(), needs(sdk)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        with client.stream("POST", simulator.base_url + "/chat/completions", json=body) as response:
            lines = list(response.iter_lines())

        assert "data: [DONE]" in lines
        assert response.num_bytes_downloaded > 100
        assert (True, True, 200) == (response.is_closed, response.is_stream_consumed, response.status_code)
        assert response.elapsed.total_seconds() > 0
        assert response.request.url.path.endswith("/chat/completions")


@by_requests
def test_nothing_is_looked_for_while_nobody_waits(make_queue, open_stream, clock, monkeypatch):
    collections = []
    monkeypatch.setattr(gc, "isenabled", lambda: True)
    monkeypatch.setattr(gc, "collect", lambda: collections.append(1))
    queue = make_queue(max_workers=2, clock=clock)
    stream = open_stream(queue)()
    next(iter(stream))

    stands_unread(clock)
    clock.advance(LOOK_S)
    stands_unread(clock, IDLE_S - LOOK_S)

    assert [] == collections
    assert 1 == queue.stats().in_flight


@by_requests
def test_each_piece_that_is_read_gives_a_stream_its_time_anew(make_queue, open_stream, clock):
    queue = make_queue(max_workers=1, clock=clock)
    pieces = iter(open_stream(queue)())

    next(pieces)
    stands_unread(clock)
    clock.advance(LOOK_S)
    stands_unread(clock, IDLE_S - LOOK_S)
    clock.advance(IDLE_S - LOOK_S - 0.5)
    rest = list(pieces)
    clock.advance(0.5)
    queue.join()

    assert 2 < len(rest)
    assert 10 == queue.stats().completion_tokens, "it was settled by the usage in its last piece"


@by_requests
def test_a_slot_that_was_given_back_is_counted_in_full(make_queue, open_stream, clock):
    """
    Nobody knows yet what the server charges; what is read later changes nothing.
    """
    queue = make_queue(limits=Limits(tpm=1000), clock=clock)
    stream = open_stream(queue)()
    in_use = queue.stats().lanes[0].limits[0].used

    stands_unread(clock)
    clock.advance(LOOK_S)
    stands_unread(clock, IDLE_S - LOOK_S)
    clock.advance(IDLE_S - LOOK_S)
    queue.join()
    given_back = queue.stats()
    list(stream)

    assert 1 == given_back.completed
    assert in_use > 20
    assert in_use - 1000 * IDLE_S / 60 - 1 <= given_back.lanes[0].limits[0].used
    assert given_back == queue.stats()


@by_requests
def test_it_is_told_once_how_to_leave_a_stream(make_queue, open_stream, clock, caplog):
    queue = make_queue(clock=clock)
    ask = open_stream(queue)

    with caplog.at_level(logging.DEBUG, "groq_queue"):
        streams = [ask(), ask()]
        stands_unread(clock)
        clock.advance(LOOK_S)
        stands_unread(clock, IDLE_S - LOOK_S)
        clock.advance(IDLE_S - LOOK_S)
        queue.join()
        for stream in streams:
            list(stream)

    (told,) = [record for record in caplog.records if record.groq_queue_event == "stream_unread"]
    assert logging.WARNING == told.levelno
    assert "5 s" in told.getMessage()
    assert "close" in told.getMessage()


@by_requests
def test_the_time_is_the_users_to_set(make_queue, open_stream, clock):
    queue = make_queue(max_workers=1, clock=clock)
    ask = open_stream(queue, idle_timeout=0.5)

    stream = ask()
    second = InThread(ask)
    stands_unread(clock, 0.5)
    clock.advance(0.5)

    next(iter(second.result()))
    assert 2 < len(list(stream))


@pytest.mark.parametrize("seconds", [0, -1, "5", True, float("nan")])
def test_a_time_that_is_none_is_refused(make_queue, seconds):
    with pytest.raises(ConfigurationError, match="idle_timeout="):
        requests_adapter(make_queue(), idle_timeout=seconds)


@by_requests
def test_without_a_time_a_stream_that_is_kept_keeps_its_slot(make_queue, open_stream, clock):
    queue = make_queue(clock=clock)
    stream = open_stream(queue, idle_timeout=None)()
    next(iter(stream))

    stands_unread(clock)
    clock.advance(LOOK_S)
    clock.advance(100_000)
    assert 1 == queue.stats().in_flight

    assert 2 < len(list(stream))
    queue.join()
    assert 1 == queue.stats().completed


def test_shutdown_ends_though_streams_stand_unread(make_queue, open_stream, clock):
    queue = make_queue(max_workers=2, clock=clock)
    ask = open_stream(queue)
    streams = [ask(), ask()]

    InThread(queue.shutdown).result()

    assert all(2 < len(list(stream)) for stream in streams)


@by_requests
def test_a_stream_that_a_callback_opens_and_leaves_does_not_hold_up_a_shutdown(make_queue, open_stream, clock):
    queue = make_queue(max_workers=1, clock=clock)
    ask = open_stream(queue)
    streams = []
    is_closing, has_opened = threading.Event(), threading.Event()

    def again(future) -> None:
        is_closing.wait(PATIENCE_S)
        streams.append(ask())
        has_opened.set()

    queue.submit("Why?", model=MODEL, callback=again)
    leaving = InThread(queue.shutdown)
    wait_until(lambda: not queue.stats().running)
    is_closing.set()
    assert has_opened.wait(PATIENCE_S)
    stands_unread(clock)
    clock.advance(LOOK_S)
    stands_unread(clock, IDLE_S - LOOK_S)
    clock.advance(IDLE_S - LOOK_S)

    leaving.result()
    assert 2 < len(list(streams[0]))


@pytest.mark.parametrize("by", ["readline", "readinto"])
def test_reading_by_lines_or_into_a_buffer_is_reading_too(make_queue, simulator, clock, by):
    queue = make_queue(max_workers=1, clock=clock)
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "stream": True}
    with requests.Session() as session:
        session.mount(simulator.base_url, requests_adapter(queue))
        session.headers["Authorization"] = f"Bearer {KEY}"
        raw = session.post(simulator.base_url + "/chat/completions", json=body, stream=True).raw

        def read():
            return raw.readline() if by == "readline" else raw.readinto(bytearray(50))

        stands_unread(clock)
        clock.advance(LOOK_S - 0.5)
        assert read()
        clock.advance(0.5)
        stands_unread(clock, 0.5)  # a second after the last read, not after the first
        while read():
            pass
        queue.join()

    assert 10 == queue.stats().completion_tokens, "it was settled by the usage in its last piece"


@by_requests
def test_a_timer_thread_that_the_system_refused_is_asked_for_again(make_queue, open_stream, clock, monkeypatch):
    """
    Every worker may wait for a reader, so that nobody else is there to look at the time.
    """
    start, refused = threading.Thread.start, []

    def start_or_not(thread):
        if thread.name.endswith("-timers") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    queue = make_queue(max_workers=1, clock=clock)
    ask = open_stream(queue)
    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    stream = ask()
    assert 1 == len(refused)
    clock.advance(LOOK_S)

    second = InThread(ask)
    stands_unread(clock, IDLE_S - LOOK_S)
    clock.advance(IDLE_S - LOOK_S)

    next(iter(second.result()))
    assert 2 < len(list(stream))


class Timetable:
    """Timers that call back when a test says so."""

    def __init__(self) -> None:
        self.calls: list = []

    def at(self, when_ns, callback):
        self.calls.append((when_ns, callback))
        return lambda: None

    def run(self) -> int:
        """Call what was asked for, and return when that was to be."""
        when_ns, callback = self.calls.pop(0)
        callback()
        return when_ns


def hold_of(clock, timers, **options):
    return StreamSlot(clock=clock, timers=timers, idle_ns=5_000_000_000, **options)


def test_a_reader_who_waits_for_the_server_is_not_one_who_does_not_read(clock):
    timers, pieces = Timetable(), iter([b"a", b"b"])
    hold = hold_of(clock, timers)
    hold.opened()

    def slow():
        for piece in pieces:
            clock.advance(100)  # the server takes its time
            timers.run() if timers.calls else None
            yield piece

    assert [b"a", b"b"] == list(hold.passing(slow()))
    assert hold.has_ended


def test_a_stream_is_watched_by_one_timer_at_a_time(clock):
    timers = Timetable()
    hold = hold_of(clock, timers)
    hold.opened()

    for _ in hold.passing([b"a"] * 10):
        assert 1 == len(timers.calls)

    assert 1 == len(timers.calls)


def test_what_is_read_after_the_end_asks_for_no_timer(clock):
    timers = Timetable()
    hold = hold_of(clock, timers)
    hold.opened()
    hold.end()
    timers.run()

    assert [b"a", b"b"] == list(hold.passing([b"a", b"b"]))
    assert [] == timers.calls
