"""The estimate of a load without a queue, and what it takes of the options of ``submit``.

Here and not in ``reporting``, which adds up and knows no option: a name that ``submit`` refuses is refused by both
estimates, with the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from groq_queue.api.requests import check_options
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import MAX_PAYLOAD_BYTES, Prompt, build_payload, encode_payload, tier_of
from groq_queue.core.token_estimate import size_of
from groq_queue.core.validation import check_order, check_path, check_text
from groq_queue.reporting.estimate import Estimate, Sized, estimate_load, fresh_meters, sized_prompts
from groq_queue.wiring.options import OF_SUBMIT

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from groq_queue.core.priority import PriorityLike
    from groq_queue.core.response import Completion


if TYPE_CHECKING:

    def estimate(
        prompts: Iterable[Prompt],
        *,
        model: str | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        latency: float = 1.0,
        max_workers: int = 8,
        output_share: float | None = None,
        endpoint: str = "chat/completions",
        messages: NoReturn = ...,
        priority: PriorityLike | None = None,
        client: str | None = None,
        custom_id: str | None = None,
        tokens: int | None = None,
        audio_seconds: float | None = None,
        shrink: bool = False,
        max_wait: float | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        dedupe: bool = False,
        callback: Callable[[Future[Completion]], object] | None = None,
        **params: Any,
    ) -> Estimate: ...

else:

    def estimate(
        prompts: Iterable[Any],
        *,
        model: str | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        latency: float = 1.0,
        max_workers: int = 8,
        output_share: float | None = None,
        endpoint: str = "chat/completions",
        **params: Any,
    ) -> Estimate:
        """Say what *prompts* would take: tokens, money and time. Needs no key, no network and no queue.

        Args:
            prompts: What ``GroqQueue.submit`` takes, one after the other; read once, not kept.
            model: Used where a prompt names none.
            limits: ``Limits`` of every model, or ``{model: Limits}``.
            prices: ``{model: (prompt, completion)}`` in USD per million tokens, over the built-in table.
            latency: Seconds an answer takes.
            max_workers: Most requests on their way at once.
            output_share: Share of its ``max_completion_tokens`` that an answer uses on average,
                above 0 and at most 1; None takes all of it.
            endpoint: Path below the base URL.
            params: Part of every payload, such as ``max_completion_tokens``; *tokens* and *audio_seconds* as for
                ``submit``, whose other options are checked and make no difference.

        Raises:
            ConfigurationError: An argument or a prompt cannot be used.
            UnknownArgument: A keyword is a slip of an option or of a parameter, or belongs to another call.

        >>> plan = estimate(["Why?"] * 90, model="m", limits=Limits(rpm=30), latency=1, max_completion_tokens=10)
        >>> plan.requests, plan.seconds, plan.bottleneck, plan.cost
        (90, 122.0, 'RPM', None)
        """
        return estimate_load(
            load_of(prompts, model, endpoint, params),
            meter_of=fresh_meters(limits),
            price_table=PriceTable(prices),
            latency_s=latency,
            max_workers=max_workers,
            output_share=output_share,
        )


def load_of(prompts: Iterable[Any], model: str | None, endpoint: str, options: Mapping[str, Any]) -> Iterator[Sized]:
    """Return the requests that *prompts* would make with these *options* of ``submit``, one at a time.

    Raises:
        ConfigurationError: At once, if an argument cannot be used; later, if a prompt cannot.
        UnknownArgument: At once: a name is a slip, or belongs to another call.
    """
    check_options({name: value for name, value in options.items() if name != "custom_id"})
    check_order(options.get("not_before"), options.get("max_wait"), options.get("deadline"))
    params = {name: value for name, value in options.items() if name not in OF_SUBMIT}
    return sized_prompts(prompts, model, endpoint, params, options.get("tokens"), options.get("audio_seconds"))


def request_of_line(
    place: int, prompt: Any, custom_id: str | None, model: str | None, endpoint: str, options: Mapping[str, Any]
) -> Sized:
    """Return the request that ``submit`` would make, and refuse what it would refuse, in its words.

    Args:
        place: Among the others of the load.
        prompt: What ``submit`` takes; so are *custom_id* and *endpoint*.
        custom_id: Of this request.
        model: The queue's.
        endpoint: Of this request.
        options: The other options of ``submit``.

    Raises:
        ConfigurationError: It could not be sent.
    """
    path = check_path("endpoint", endpoint)
    check_text("custom_id", custom_id, optional=True)
    check_options(options)
    check_order(options.get("not_before"), options.get("max_wait"), options.get("deadline"))
    payload = build_payload(prompt, None, model, {}, path)
    encode_payload(payload, MAX_PAYLOAD_BYTES)
    size = size_of(payload, options.get("tokens"), options.get("audio_seconds") or 0)
    return Sized(place, custom_id, payload["model"], tier_of(payload), size)
