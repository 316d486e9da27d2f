"""A name that is nearly an option's or a parameter's is refused with the one that was meant, wherever it is given."""

from __future__ import annotations

import inspect
import json

import pytest

import groq_queue
from groq_queue import ConfigurationError, GroqQueue, Limits, UnknownArgument
from groq_queue.wiring.options import OF_MAPS, OF_SUBMIT, check_parameters, harmless, meant_by

PATIENCE_S = 10.0

MISSPELT = [
    ("prioritty", "did you mean 'priority'"),
    ("max_wiat", "did you mean 'max_wait'"),
    ("notBefore", "did you mean 'not_before'"),
    ("custom-id", "did you mean 'custom_id'"),
    ("dedup", "did you mean 'dedupe'"),
    ("temprature", "did you mean 'temperature'"),
    ("max_token", "did you mean 'max_tokens'"),
    ("maxCompletionTokens", "did you mean 'max_completion_tokens'"),
    ("respons_format", "did you mean 'response_format'"),
    ("extra_headers", "GroqQueue(session=...)"),
    ("extra_body", "give what is in it as keywords"),
    ("extra_query", "session.params"),
    ("http_client", "GroqQueue(session=...)"),
    ("timeout", "GroqQueue(), for all its requests"),
    ("api_key", "GroqQueue(), for all its requests"),
    ("max_retrys", "did you mean 'max_retries'"),
    ("modle", "did you mean 'model'"),
    ("mdoel", "did you mean 'model'"),
    ("omdel", "did you mean 'model'"),
    ("rpiority", "did you mean 'priority'"),
    ("Model", "did you mean 'model'"),
    ("buffer_size", "did you mean 'buffersize', which map() and map_column() take"),
    ("progres", "did you mean 'progress', which map() and map_column() take"),
    ("error", "did you mean 'errors', which map() and map_column() take"),
]

OF_MAP = [
    ("buffersize", "give it to map() or map_column()"),
    ("errors", "give it to map() or map_column()"),
    ("progress", "give it to map() or map_column()"),
    ("done", "give it to map_column()"),
]
"""Keywords of ``map`` and ``map_column``; both have all but the last."""

OF_CHAT = [
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens"),
    *("max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty"),
    *("prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed"),
    *("service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
    *("top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    # Groq's own.
    *("citation_options", "compound_custom", "disable_tool_validation", "documents", "exclude_domains"),
    *("include_domains", "include_reasoning", "reasoning_format", "search_settings"),
    # The other endpoints of both.
    *("background", "conversation", "include", "input", "instructions", "max_output_tokens", "max_tool_calls"),
    *("previous_response_id", "prompt", "reasoning", "text", "truncation", "dimensions", "encoding_format", "file"),
    *("language", "timestamp_granularities", "chunking_strategy", "url", "voice", "speed", "stream_format"),
    *("sample_rate", "input_type", "size", "style", "quality"),
]
"""What the reference pages of OpenAI and Groq name, 2026."""

OF_APIS = [
    *("temperature", "top_p", "seed", "stop", "tools", "tool_choice", "response_format", "reasoning_effort", "user"),
    *("service_tier", "include_reasoning", "metadata", "store", "logit_bias", "parallel_tool_calls", "documents"),
    *("search_settings", "max_tokens", "max_completion_tokens", "n", "prompt_cache_key", "safety_identifier"),
]

OF_OTHERS = [
    *("top_k", "top_a", "min_p", "repetition_penalty", "length_penalty", "min_tokens", "stop_token_ids", "best_of"),
    *("guided_json", "guided_choice", "structured_outputs", "chat_template_kwargs", "cache_salt", "ignore_eos"),
    *("models", "route", "provider", "transforms", "plugins", "usage", "reasoning", "preset", "safe_prompt"),
    *("random_seed", "prompt_mode", "thinking", "enable_thinking", "keep_alive", "options", "num_ctx", "mirostat"),
    *("cache_prompt", "n_predict", "n_probs", "grammar", "typical_p", "tfs_z", "dry_multiplier", "xtc_probability"),
    *("search_domain_filter", "return_images", "search_parameters", "web_search_options", "image_url", "file_url"),
    *("safety_settings", "generation_config", "num_beams", "do_sample", "max_new_tokens", "inputs", "truncate"),
    *("request_id", "session", "limits", "state", "engine", "lora_path", "regex", "ebnf", "context_length", "tier"),
    *("fallbacks", "passages", "message", "function", "token", "customer_id", "exclude_reasoning", "min_output_tokens"),
    *("min_completion_tokens", "page_url", "fallback", "rollback", "bad_tokens"),
    *("dimension", "instruction", "input_text", "languages", "mode", "prefix", "speaker", "query", "passage", "k"),
]


@pytest.fixture
def queue():
    with GroqQueue.simulated(limits=Limits(rpm=10**6), latency=0) as made:
        yield made


def slips():
    return pytest.mark.parametrize(("name", "cure"), MISSPELT, ids=[name for name, _ in MISSPELT])


def refusal(name, cure):
    """What is to be raised: the library's own error, and Python's for an unknown keyword, with the name first."""
    return pytest.raises(UnknownArgument, match=rf"^{name}: .*{cure.replace('(', '[(]').replace(')', '[)]')}")


@slips()
def test_submit_refuses_it(queue, name, cure):
    before = queue.stats().submitted

    with refusal(name, cure) as refused:
        queue.submit("Why?", **{name: "gsk_secret"})

    assert isinstance(refused.value, ConfigurationError)
    assert isinstance(refused.value, TypeError)
    assert "gsk_secret" not in str(refused.value)
    assert before == queue.stats().submitted


@slips()
def test_complete_map_and_map_column_refuse_it_before_a_prompt_is_read(queue, name, cure):
    with refusal(name, cure):
        queue.complete("Why?", **{name: 1})
    if name == "timeout":  # of the whole map
        return
    with refusal(name, cure):
        queue.map((pytest.fail("read") for _ in range(1)), **{name: 1})
    with refusal(name, cure):
        queue.map_column(["a"], **{name: 1})


@slips()
def test_with_options_and_so_an_executor_of_it_refuse_it(queue, name, cure):
    with refusal(name, cure):
        queue.with_options(**{name: 1}).executor()


@slips()
def test_estimate_refuses_it(queue, name, cure):
    with refusal(name, cure):
        queue.estimate(["Why?"], **{name: 1})


@slips()
def test_the_estimate_without_a_queue_refuses_it(name, cure):
    with refusal(name, cure):
        groq_queue.estimate(["Why?"], model="m", **{name: 1})


@pytest.mark.parametrize(("name", "cure"), OF_MAP, ids=[name for name, _ in OF_MAP])
def test_a_keyword_of_map_goes_to_no_api(queue, name, cure):
    """
    It would be sent with every request, and do nothing here.
    """
    for refuses in (queue.submit, queue.complete, queue.estimate):
        with refusal(name, cure):
            refuses(["Why?"], **{name: 1})
    with refusal(name, cure):
        queue.with_options(**{name: 1})
    if name == "done":
        with refusal(name, cure):
            queue.map(["Why?"], done=[None])


def test_the_keywords_of_map_in_the_table_are_those_of_the_methods():
    own = {
        name: {each for each in inspect.signature(method).parameters if each not in OF_SUBMIT}
        for name, method in (("map", GroqQueue.map), ("map_column", GroqQueue.map_column))
    }

    taken = own["map"] | own["map_column"]
    assert {"prompts", "params", "column", "template", "options", "self", "timeout", *OF_MAPS} == taken
    assert {"done"} == own["map_column"] - own["map"] - {"column", "template", "options"}


def test_map_column_has_the_timeout_and_the_buffersize_of_map(queue):
    with pytest.raises(TimeoutError) as late:
        queue.map_column(["a", "b"], timeout=1e-9)
    with pytest.raises(ConfigurationError, match=r"^timeout=-1"):
        queue.map_column(["a"], timeout=-1)
    with pytest.raises(ConfigurationError, match=r"^buffersize=0"):
        queue.map_column(["a"], buffersize=0)

    assert 2 == len(late.value.partial)
    assert 3 == len(queue.map_column(["a", "b", "c"], buffersize=1, timeout=PATIENCE_S))


@pytest.mark.parametrize(
    ("make", "name", "cure"),
    [
        (GroqQueue.simulated, "latncy", "did you mean 'latency'"),
        (GroqQueue.simulated, "max_worker", "did you mean 'max_workers'"),
        (GroqQueue.simulated, "priority", "'priority' is an option of a request: give it to submit(), map()"),
        (GroqQueue, "priority", "'priority' is an option of a request: give it to submit(), map() or with_options()"),
        (GroqQueue, "deadline", "'deadline' is an option of a request: give it to submit()"),
        (GroqQueue, "prioritty", "'priority' is an option of a request: give it to submit()"),
        (GroqQueue, "temperature", "'temperature' is a parameter of the API: give it to submit()"),
        (GroqQueue, "extra_headers", "headers are a session's"),
        (GroqQueue, "buffersize", "'buffersize' is a keyword of map() and map_column()"),
        (GroqQueue, "modle", "did you mean 'model'"),
        (GroqQueue, "time_out", "did you mean 'timeout'"),
        (GroqQueue, "models", "did you mean 'model'"),
        (GroqQueue, "latency", "known are accounts, "),
    ],
)
def test_the_constructor_says_where_else_a_name_belongs(make, name, cure):
    with pytest.raises(UnknownArgument) as refused:
        make(model="m", **{name: "gsk_secret"})

    what = "GroqQueue.simulated" if make != GroqQueue else "GroqQueue"
    assert str(refused.value).startswith(f"{what}({name}=...): there is no such argument; {cure}")
    assert "gsk_secret" not in str(refused.value)


def test_a_name_that_was_looked_at_is_not_taken_for_a_parameter(queue):
    check_parameters(["colour"])

    with pytest.raises(UnknownArgument, match="there is no such argument; known are"):
        GroqQueue(colour=1)


def test_the_options_of_a_call_are_the_only_ones_it_takes(queue):
    with pytest.raises(UnknownArgument, match=r"queue_options\['prioritty'\]: unknown; did you mean 'priority'"):
        queue.submit_call(int, queue_options={"prioritty": "high"})


def test_what_an_executor_is_given_is_its_callables_own(queue):
    with queue.executor() as executor:
        given = executor.submit(dict, model="m", prioritty=1, extra_headers={"X": "1"}).result(PATIENCE_S)

    assert {"model": "m", "prioritty": 1, "extra_headers": {"X": "1"}} == given


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("max_worker", "did you mean 'max_workers'"),
        ("prioritty", "'priority' is an option of a request: give it to submit"),
        ("not_before", "'not_before' is an option of a request: give it to submit"),
        ("temprature", "'temperature' is a parameter of the API: give it to submit"),
        ("extra_headers", "headers are a session's: GroqQueue(session=...)"),
    ],
)
def test_a_settings_file_refuses_it_by_file_and_name(tmp_path, name, cure):
    path = tmp_path / "queue.json"
    path.write_text(json.dumps({"api_key": "k", name: 1}))

    with pytest.raises(UnknownArgument) as refused:
        GroqQueue.from_config(path)

    assert f"{path}: {name} is unknown: {cure}" in str(refused.value)


@pytest.mark.parametrize("name", OF_CHAT)
def test_a_parameter_of_the_api_is_no_slip_of_anything(name):
    """
    Neither known nor unknown: it would pass if the table did not name it, as one that comes next year.
    """
    check_parameters([name])
    assert meant_by(name) in (None, name)


@pytest.mark.parametrize("name", [*OF_APIS, *OF_OTHERS])
def test_a_parameter_of_an_api_passes(queue, name):
    future = queue.submit("Why?", **{name: None})

    future.cancel()
    next(iter(queue.with_options(**{name: None}).map(["Why?"], errors="return")))


def test_a_payload_passes_as_it_is(queue):
    """
    It is the way past the check, for an API that has such a parameter.
    """
    payload = {"messages": [{"role": "user", "content": "Why?"}], "temprature": 1, "extra_headers": {}}

    assert queue.submit(payload).result(PATIENCE_S).text


def test_names_that_were_looked_at_are_remembered_but_not_without_end(queue):
    check_parameters(f"provider_specific_{number}" for number in range(2_000))

    assert "provider_specific_0" in harmless
    assert len(harmless) <= 1_000
    with refusal("prioritty", "priority"):
        check_parameters(["prioritty"])


def test_a_subclass_may_have_arguments_of_its_own():
    class Tenants(GroqQueue):
        def __init__(self, *, tenant: str, **options):
            super().__init__(**options)
            self.tenant = tenant

    with Tenants.simulated(tenant="acme", latency=0) as made:
        assert "acme" == made.tenant
    with pytest.raises(UnknownArgument, match="max_worker"):
        Tenants.simulated(tenant="acme", max_worker=3)


def test_estimate_refuses_times_that_contradict_each_other():
    with pytest.raises(ConfigurationError, match="not_before"):
        groq_queue.estimate(["Why?"], model="m", not_before=5, deadline=1)
