"""The one table of options: what ``GroqQueue`` and ``submit`` take, and what each of them means everywhere else.

``CONSTRUCTOR`` and ``SUBMIT`` feed the checks, ``from_config``, what ``engine="celery"`` refuses, the views,
``map``, calls of the user's own, the lines of ``groq-queue run`` and ``docs/configuration.md``. The two methods
write their keywords out, since ``submit`` is called once for each request; a test holds them and the table together.

What is in neither is a parameter of the API and passes untouched, unless its name is only a slip away from
one that exists: see ``check_parameters``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.priority import parse_priority
from groq_queue.core.request import CHAT, MAX_PAYLOAD_BYTES
from groq_queue.core.validation import (
    check_choice,
    check_count,
    check_dollars,
    check_flag,
    check_limits,
    check_nanoseconds,
    check_path,
    check_seconds,
    check_share,
    check_text,
    check_timeout,
)
from groq_queue.engine.observer import Observer
from groq_queue.errors import ConfigurationError, UnknownArgument, nearest, safe_repr
from groq_queue.limiters.store import check_address
from groq_queue.transport import MAX_RESPONSE_BYTES as MAX_RESPONSE_BYTES

Check = Callable[[str, Any], Any]
"""Called with an option's name and value. Returns the value, in nanoseconds where the engine counts in them.

Raises ``ConfigurationError``, which names the option.
"""


class Option(NamedTuple):
    """One option.

    Attributes:
        name: As it is written.
        default: What leaving it out means.
        check: Of what was given.
        help: What it means, for the page of the configuration.
        types: What a settings file or a JSON line may give; none if only Python can.
        unit: What its number counts, or ``""``.
        shown: The default as the page shows it, where it is not the value itself.
        celery: Why ``engine="celery"`` accepts the default only, and what to do instead; ``""`` if it takes it.
        flag: What sets it for a whole run of ``groq-queue run``, or ``""``.
        no_call: Why ``submit_call`` cannot use it; ``""`` if it takes it.
        alone: Why many requests cannot share it; ``""`` if they can.
    """

    name: str
    default: Any
    check: Check
    help: str
    types: tuple[type, ...] = ()
    unit: str = ""
    shown: str = ""
    celery: str = ""
    flag: str = ""
    no_call: str = ""
    alone: str = ""


_NUMBER = (int, float)
_WORKERS_DECIDE = "the workers decide; use groq-queue worker"

_text_or_none = partial(check_text, optional=True)
_count_or_none = partial(check_count, optional=True)


def _one_of(*choices: str) -> Check:
    return partial(check_choice, choices=choices)


def _later(name: str, value: Any) -> Any:
    """Return *value*: it can only be checked together with others, which ``settings`` does."""
    return value


def _check_engine(name: str, value: Any) -> Any:
    return None if value is None else check_choice(name, value, ("celery",))


def _check_limiter(name: str, value: Any) -> Any:
    return None if value is None else check_address(value)


def _check_prices(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name}={safe_repr(value)}: use {{model: (prompt, completion)}}, USD per million tokens"
        )
    return value


def _check_observers(name: str, value: Any) -> tuple[Observer, ...]:
    observers = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for each in observers:
        if not callable(each):
            raise ConfigurationError(f"{name}={safe_repr(each)}: use a callable of one argument, the Event, or a list")
    return observers


def _check_clock(name: str, value: Any) -> Clock:
    if value is None:
        return SystemClock()
    missing = [method for method in ("now_ns", "wall_s", "wait") if not callable(getattr(value, method, None))]
    if missing:
        raise ConfigurationError(
            f"{name}={safe_repr(value)}: it has no {missing[0]}(); use groq_queue.testing.FakeClock(), or None"
        )
    if not isinstance(now := value.now_ns(), int):
        raise ConfigurationError(
            f"{name}={safe_repr(value)}: its now_ns() returned {safe_repr(now)} instead of nanoseconds, an int"
        )
    known: Clock = value
    return known


def check_callback(name: str, value: Any) -> Any:
    """Return *value* if it can be called.

    Raises:
        ConfigurationError: It cannot.
    """
    if not callable(value):
        raise ConfigurationError(f"{name}={safe_repr(value)}: use a callable of one argument, the Future")
    return value


CONSTRUCTOR = (
    Option(
        "api_key",
        None,
        _later,
        "without a key: an error, never a fake answer",
        (str,),
        shown="`GROQ_API_KEY`",
    ),
    Option(
        "base_url",
        None,
        _later,
        "where the API is; without a path it gets Groq's",
        (str,),
        shown="`GROQ_BASE_URL`, else Groq",
        flag="--base-url",
    ),
    Option("model", None, _text_or_none, "the model of requests that name none", (str,), flag="--model"),
    Option(
        "organization",
        None,
        _text_or_none,
        "queues of one process with the same name (or key) and base URL share their budgets",
        (str,),
        celery=f"{_WORKERS_DECIDE} --organization",
    ),
    Option(
        "limits",
        None,
        lambda name, value: check_limits(value),
        "learnt from the server's first answer; or `Limits(rpm=…, tpm=…)`, or one per model",
        (dict,),
        celery=f"{_WORKERS_DECIDE} --rpm, --rpd, --tpm, --tpd",
        flag="--rpm",
    ),
    Option("engine", None, _check_engine, '`"celery"`: workers send; see [Scaling](scaling.md)', (str,)),
    Option(
        "broker",
        None,
        _text_or_none,
        "with an engine: where its messages go",
        (str,),
        shown="`GROQ_QUEUE_BROKER`",
    ),
    Option(
        "state",
        None,
        _text_or_none,
        "with an engine: the Redis that keeps the requests",
        (str,),
        shown="`broker`",
    ),
    Option(
        "max_workers",
        8,
        check_count,
        "most requests on their way at once; about limit per second × seconds per answer",
        (int,),
        "requests",
        flag="--workers",
    ),
    Option("max_pending", 10_000, _count_or_none, "most requests waiting", (int,), "requests"),
    Option("max_pending_per_client", None, _count_or_none, "the same for one client", (int,), "requests"),
    Option(
        "when_full",
        "block",
        _one_of("block", "raise", "shed"),
        '`submit` waits; `"raise"`: `QueueFull`; `"shed"`: the least urgent one is dropped',
        (str,),
    ),
    Option(
        "max_concurrency",
        None,
        _count_or_none,
        "most requests of one model on their way at once",
        (int,),
        "requests",
        celery=f"{_WORKERS_DECIDE} --lanes",
    ),
    Option(
        "fair_by",
        "requests",
        _one_of("requests", "tokens"),
        'clients of a level take turns; `"tokens"`: they share tokens',
        (str,),
    ),
    Option(
        "ageing",
        None,
        check_nanoseconds,
        "strict levels; or seconds after which a waiting request rises one level",
        _NUMBER,
        "s",
        celery="order is strict between lanes: leave it out; each lane has threads of its own",
    ),
    Option(
        "margin",
        0.0,
        check_share,
        "share of every limit to leave unused, for other programs of the organisation",
        _NUMBER,
        celery=f"{_WORKERS_DECIDE} --margin",
    ),
    Option(
        "limiter",
        None,
        _check_limiter,
        'where budgets are counted: this process; or `"sqlite:///budgets.db"`, `"redis://host/0?scope=acme"`',
        (str,),
        celery=f"{_WORKERS_DECIDE} --limiter",
        flag="--limiter",
    ),
    Option(
        "on_outage",
        "wait",
        _one_of("wait", "raise", "local_share"),
        'while a shared limiter is away: requests wait; `"raise"`: `LimiterUnavailable`; `"local_share"`: go on '
        "with a part",
        (str,),
        celery=f"{_WORKERS_DECIDE} --on-outage",
        flag="--on-outage",
    ),
    Option(
        "on_daily_limit",
        "raise",
        _one_of("raise", "wait"),
        '`DailyLimitReached` with `.resets_in`; `"wait"`: the lane waits, other models go on',
        (str,),
        celery=f"{_WORKERS_DECIDE} --on-daily-limit",
    ),
    Option(
        "max_cost",
        None,
        check_dollars,
        "most to be spent, set aside before sending",
        _NUMBER,
        "USD",
        celery="nobody counts the cost of all workers: leave it out, or set a spend limit at the provider",
    ),
    Option(
        "prices",
        None,
        _check_prices,
        "`{model: (prompt, completion)}` per million tokens, over a dated table of prices",
        (dict,),
        "USD",
    ),
    Option(
        "journal",
        None,
        _later,
        "a SQLite file that keeps requests and answers; see [Journal](journal.md)",
        (str,),
        celery="requests stand in Redis already: leave it out, and let Redis write its data (appendonly yes)",
        flag="--journal",
    ),
    Option(
        "durability",
        "full",
        _one_of("full", "normal"),
        'accepted requests survive a power cut; `"normal"`: a crash of the program, and it is faster',
        (str,),
        flag="--durability",
    ),
    Option(
        "on_unknown",
        "resend",
        _one_of("resend", "hold"),
        'what becomes of a request that was on its way at a crash; `"hold"`: it fails, for you to decide',
        (str,),
    ),
    Option(
        "timeout",
        (5, 60),
        lambda name, value: check_timeout(value),
        "to connect and of silence, for one attempt; header lines and blank ones are silence, an answer that grows "
        "may take ten times that",
        (*_NUMBER, list),
        "s",
        celery=f"{_WORKERS_DECIDE} --timeout",
        flag="--timeout",
    ),
    Option(
        "max_retries",
        5,
        partial(check_count, least=0),
        "after 408, 409, 425, 429 without a time to wait, 498, 5xx (not 501, 505), lost connections and timeouts; "
        "at most 2 after what may "
        "have been billed",
        (int,),
        "attempts",
        celery=f"{_WORKERS_DECIDE} --max-retries",
        flag="--max-retries",
    ),
    Option(
        "accounts",
        None,
        _later,
        "`{model: (base_url, api_key)}` of models that are served elsewhere or paid for otherwise; a file has "
        "`models` for it",
        celery="keys do not travel: leave it out, and start workers with GROQ_API_KEY and GROQ_BASE_URL",
    ),
    Option(
        "observer",
        None,
        _check_observers,
        "called with an `Event` after each attempt",
        celery="attempts are made elsewhere: leave it out, use callbacks here and the log of the workers",
    ),
    Option(
        "clock",
        None,
        _check_clock,
        "`groq_queue.testing.FakeClock` in your tests",
        shown="the machine's",
    ),
    Option(
        "session",
        None,
        _later,
        "your own `requests.Session`; otherwise urllib3 directly",
        celery="a session cannot travel: leave it out, workers read proxies and certificates as curl does",
    ),
    Option("allow_http", False, check_flag, "send to a plain `http` address off this machine", (bool,)),
    Option("max_payload_bytes", MAX_PAYLOAD_BYTES, check_count, "`submit` refuses what is larger", (int,), "bytes"),
    Option(
        "max_response_bytes",
        MAX_RESPONSE_BYTES,
        check_count,
        "of an answer, no more is read",
        (int,),
        "bytes",
        celery="it is the workers that read answers: leave it out",
    ),
)

SUBMIT = (
    Option(
        "messages",
        None,
        _later,
        "the conversation, in place of a prompt",
        (list,),
        no_call="a callable has arguments of its own",
        alone="the prompts are given to each call",
    ),
    Option(
        "model",
        None,
        check_text,
        "which model answers, and so which limits count",
        (str,),
        shown="the queue's",
        flag="--model",
    ),
    Option(
        "endpoint",
        CHAT,
        check_path,
        "below the base URL",
        (str,),
        no_call="a callable sends where it likes",
    ),
    Option(
        "priority",
        None,
        lambda name, value: parse_priority(value),
        "`critical` 0, `high` 1, `normal` 5, `low` 8, `background` 10, or any whole number from 0 to 10",
        (str, int),
        shown='`"normal"`',
        flag="--priority",
    ),
    Option(
        "client",
        None,
        check_text,
        "whose turn it is; clients of one priority take turns",
        (str,),
        shown='`"default"`',
        flag="--client",
    ),
    Option(
        "custom_id",
        None,
        check_text,
        "your own id of the request; in a journal it names one request for good",
        (str,),
        alone="each request needs its own; give it to submit(), or map(custom_id='row-{}')",
    ),
    Option(
        "tokens",
        None,
        _count_or_none,
        "prompt and completion tokens to reserve, instead of our estimate",
        (int,),
        "tokens",
        shown="estimated",
    ),
    Option(
        "audio_seconds",
        None,
        check_seconds,
        "length of the audio, for limits that count seconds",
        _NUMBER,
        "s",
    ),
    Option(
        "shrink",
        False,
        check_flag,
        "lower `max_completion_tokens` to what the limits hold",
        (bool,),
        no_call="the arguments of a callable are not changed",
    ),
    Option(
        "max_wait",
        None,
        check_seconds,
        "seconds from now after which a request that has not started ends with `QueueTimeout`",
        _NUMBER,
        "s",
    ),
    Option(
        "deadline",
        None,
        check_seconds,
        "seconds from now after which no further attempt starts",
        _NUMBER,
        "s",
    ),
    Option(
        "not_before",
        None,
        check_seconds,
        "seconds from now before which no attempt starts",
        _NUMBER,
        "s",
    ),
    Option(
        "dedupe",
        False,
        check_flag,
        "requests with an equal payload share one answer",
        (bool,),
        no_call="nobody knows which callables do the same",
    ),
    Option("callback", None, check_callback, "called with the Future when it has ended"),
)

OF_SUBMIT = {option.name: option for option in SUBMIT}
OF_CALLS = tuple(option.name for option in SUBMIT if not option.no_call)
_PLACED = ("messages", "model", "custom_id", "endpoint")
IN_LINES = tuple(option.name for option in SUBMIT if option.types and option.name not in _PLACED)
"""Those that are beside the payload in a JSON line; the others are the payload's own, or the line's."""


# -- parameters: every other keyword of a request

_OF_THE_API = frozenset(
    """
    audio documents citation_options compound_custom dimensions disable_tool_validation encoding_format exclude_domains
    file frequency_penalty function_call functions include_domains include_reasoning input input_type instructions
    language logit_bias logprobs max_completion_tokens max_output_tokens max_tokens metadata modalities n
    parallel_tool_calls prediction presence_penalty prompt prompt_cache_key prompt_cache_retention reasoning
    reasoning_effort reasoning_format response_format safety_identifier sample_rate search_settings seed service_tier
    speed stop store stream stream_options suffix temperature timestamp_granularities tool_choice tools top_logprobs
    top_p truncation url user verbosity voice web_search_options
    """.split()  # noqa: SIM905
)
"""Parameters of the APIs of Groq and of OpenAI."""

_OF_OTHERS = frozenset(
    """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_prompt chat_template
    chat_template_kwargs continue_final_message customer_id dimension document echo enable_thinking fallbacks
    format function grammar guided_choice guided_grammar guided_json guided_regex ignore_eos
    include_stop_str_in_output instruction keep_alive languages length_penalty max_new_tokens message min_p
    min_tokens mirostat mm_processor_kwargs models num_ctx options passages plugins preset prompt_logprobs
    prompt_mode provider random_seed raw regex repeat_penalty repetition_penalty request_id route safe_prompt
    safety_model safety_settings search_mode search_parameters skip_special_tokens spaces_between_special_tokens
    stop_sequences stop_token_ids structured_outputs think thinking token top_a top_k top_n transforms
    truncate_prompt_tokens typical_p usage use_beam_search
    """.split()  # noqa: SIM905
)
"""Parameters of other servers of the same dialect. Any other name passes, too: these are only not taken for slips."""

_OF_SDKS = {
    "extra_headers": "headers are a session's: GroqQueue(session=...), with session.headers.update(...)",
    "default_headers": "headers are a session's: GroqQueue(session=...), with session.headers.update(...)",
    "extra_query": "what stands behind the ? is a session's: GroqQueue(session=...), with session.params",
    "default_query": "what stands behind the ? is a session's: GroqQueue(session=...), with session.params",
    "extra_body": "give what is in it as keywords, or the whole payload as a dict: both go to the API untouched",
    "http_client": "give a requests.Session to GroqQueue(session=...)",
}
"""What the SDKs of Groq and OpenAI take beside parameters, and what to do instead: it is never part of a payload."""

_OF_GROQ_QUEUE = frozenset(option.name for option in CONSTRUCTOR)

_OF_THE_QUEUE = frozenset({name for name in _OF_GROQ_QUEUE if "_" in name} | {"timeout", "queue_options"})
"""Arguments of other calls that no API knows: in a payload they would travel to it, a key too.

One word, such as ``session`` or ``limits``, may be a provider's own parameter and passes.
"""

OF_MAPS = {
    "errors": "map() or map_column()",
    "progress": "map() or map_column()",
    "buffersize": "map() or map_column()",
    "done": "map_column()",
}
"""Keywords of ``map`` and ``map_column``, and who takes them. In a payload they would do nothing.

Both have a ``timeout`` of their own, for the whole of it.
"""

_NEARER = {"url": "base_url", "models": "model", "token": "api_key"}
"""Parameters of an API that who gives them to ``GroqQueue`` certainly does not mean."""

_SHORTEST = 6  # letters of a name with which others are compared: ``top_k`` is not ``top_p`` mistyped
_SHORTEST_SWAP = 5  # letters of an option in which two neighbours may have changed places: ``modle``
_LONG = 8  # letters of one in which two slips are still the same name
_MOST_REMEMBERED = 1_000

harmless: set[str] = {*OF_SUBMIT, *_OF_THE_API, *_OF_OTHERS}
"""Names that ``check_parameters`` lets pass: those it knows, and up to a thousand that it has looked at.

Only added to, one name at a time, so it needs no lock.
"""


def check_parameters(names: Iterable[str], payload: str = "inside a payload, submit({...})") -> None:
    """Refuse names that are neither an option nor a parameter of the API, but were surely meant to be one.

    Args:
        names: Of what was given beside the options.
        payload: The way past this check, in words: what is in a whole payload is not compared.

    Raises:
        UnknownArgument: One belongs to another call, to an SDK, or is a slip of the pen. No value is shown, since it
            may be a key.
    """
    for name in names:
        if name in harmless:
            continue
        if name in _OF_THE_QUEUE:
            where = "submit_call()" if name == "queue_options" else "GroqQueue(), for all its requests"
            if name == "timeout":
                where += "; map() and map_column() have one of their own, for the whole of it"
            raise UnknownArgument(f"{name}: no option of a request and no parameter of the API; give it to {where}")
        if name in OF_MAPS:
            raise UnknownArgument(
                f"{name}: no option of a request and no parameter of the API; give it to {OF_MAPS[name]}"
            )
        if name in _OF_SDKS:
            raise UnknownArgument(f"{name}: no option of a request and no parameter of the API; {_OF_SDKS[name]}")
        if (meant := meant_by(name)) is not None:
            taken = f", which {OF_MAPS[meant].replace(' or ', ' and ')} take" if meant in OF_MAPS else ""
            raise UnknownArgument(
                f"{name}: no option of a request and no parameter of the API; did you mean {meant!r}{taken}? "
                f"If the API knows it, give it {payload}, which goes there untouched"
            )
        if len(harmless) < _MOST_REMEMBERED:
            harmless.add(name)


def is_parameter(name: str) -> bool:
    """Return whether some API is known to have a parameter of that name."""
    return name in _OF_THE_API or name in _OF_OTHERS


def other_place_of(name: str) -> str | None:
    """Return where *name*, which is no argument of ``GroqQueue``, belongs; None if it is not known at all."""
    if name in _NEARER:
        return f"did you mean {_NEARER[name]!r}?"
    known = name if name in OF_SUBMIT or name in _OF_SDKS or is_parameter(name) else meant_by(name)
    if known is None or known in _OF_GROQ_QUEUE:
        return None
    if known in OF_SUBMIT:
        return f"{known!r} is an option of a request: give it to submit(), map() or with_options()"
    if known in _OF_SDKS:
        return _OF_SDKS[known]
    if known in OF_MAPS:
        return f"{known!r} is a keyword of {OF_MAPS[known].replace(' or ', ' and ')}"
    if is_parameter(known):
        return f"{known!r} is a parameter of the API: give it to submit(), map() or with_options()"
    return None


def cure_for(name: str, known: Collection[str]) -> str:
    """Return the cure for a *name* that is no argument of ``GroqQueue``, or of what makes one with the *known* ones."""
    own = sorted(set(known) - _OF_GROQ_QUEUE)
    meant = next((each for each in own if is_slip(name, each)), None)
    return f"did you mean {meant!r}?" if meant is not None else other_place_of(name) or nearest(name, known)


def meant_by(name: str) -> str | None:
    """Return the known name that *name* is a slip of, or None.

    A slip keeps the first letter of each word and most of its others: ``min_tokens`` is none of ``max_tokens``.

    >>> meant_by("prioritty"), meant_by("maxTokens"), meant_by("top_q"), meant_by("min_output_tokens")
    ('priority', 'max_tokens', None, None)
    """
    best, least = None, 3
    for known in (*OF_SUBMIT, *sorted(_OF_THE_API | _OF_THE_QUEUE), *_OF_SDKS, *OF_MAPS):
        slips = _slips_between(name, known)
        if slips == 0:
            return known
        if slips is not None and slips < least:
            best, least = known, slips
    return best


def is_slip(name: str, known: str) -> bool:
    """Return whether *name* is *known*, mistyped or written in another way."""
    return _slips_between(name, known) is not None


def _slips_between(name: str, known: str) -> int | None:
    """Return how many slips make *name* of *known*, 0 if only case and lines differ; None if it is another name."""
    plain = name.lower().replace("-", "_")[:100]
    if plain.replace("_", "") == known.replace("_", ""):
        return 0
    if abs(len(plain) - len(known)) > 2:
        return None
    if len(known) >= _SHORTEST_SWAP and known in OF_SUBMIT and _is_swapped(plain, known):
        return 1
    most = 1 if known in OF_MAPS or len(known) < _LONG else 2
    words, others = plain.split("_"), known.split("_")
    if len(known) < _SHORTEST or abs(len(plain) - len(known)) > most or len(words) != len(others):
        return None
    found = [_slips(word, other) for word, other in zip(words, others, strict=True)]
    is_slip = all(
        word[:1] == other[:1] and 2 * slips < len(other)
        for word, other, slips in zip(words, others, found, strict=True)
    )
    return sum(found) if is_slip and sum(found) <= most else None


def _is_swapped(one: str, other: str) -> bool:
    """Return whether two neighbouring letters of *other* have changed places in *one*, and no more is different."""
    return sorted(one) == sorted(other) and _slips(one, other) == 1


def _slips(one: str, other: str) -> int:
    """Return how many letters were added, left out, changed or swapped with the next one between two names."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
