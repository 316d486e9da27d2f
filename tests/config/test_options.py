"""One table of options: it agrees with the methods, with the files, with the engines and with the command line."""

from __future__ import annotations

import inspect

import pytest

from groq_queue import ConfigurationError, GroqQueue
from groq_queue.cli import main
from groq_queue.wiring.options import CONSTRUCTOR, OF_CALLS, SUBMIT, check_parameters
from groq_queue.wiring.settings import Settings, checked
from groq_queue.wiring.typed_options import CallOptions, ConstructorOptions, SimulatedOptions

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def keywords_of(method):
    return [(each.name, each.default) for each in inspect.signature(method).parameters.values() if each.kind is KEYWORD]


@pytest.mark.parametrize(
    ("method", "table"), [(GroqQueue.__init__, CONSTRUCTOR), (GroqQueue.submit, SUBMIT)], ids=["constructor", "submit"]
)
def test_the_table_and_the_method_have_the_same_options_in_the_same_order_with_the_same_defaults(method, table):
    assert keywords_of(method) == [(option.name, option.default) for option in table]


def types_of(method):
    parameters = inspect.signature(method).parameters.values()
    return {each.name: each.annotation for each in parameters if each.kind is KEYWORD}


def declared_in(typed):
    return {name: annotation.__forward_arg__ for name, annotation in typed.__annotations__.items()}


def test_a_type_checker_is_told_of_the_constructors_options_as_the_constructor_writes_them():
    assert len(CONSTRUCTOR) == len(ConstructorOptions.__annotations__)
    assert types_of(GroqQueue.__init__) == declared_in(ConstructorOptions)
    assert not ConstructorOptions.__required_keys__


def test_a_simulated_queue_takes_all_of_them_but_those_that_the_simulator_decides():
    its_own = {"api_key", "base_url", "limits", "engine", "broker", "state", "accounts"}
    constructor = types_of(GroqQueue.__init__)

    assert {name: kind for name, kind in constructor.items() if name not in its_own} == declared_in(SimulatedOptions)
    assert not declared_in(SimulatedOptions).keys() & types_of(GroqQueue.simulated).keys()
    assert not SimulatedOptions.__required_keys__


def test_a_type_checker_is_told_of_the_options_of_a_call_as_submit_writes_them():
    """
    But for what its Future gives, which the callable decides.
    """
    submit = types_of(GroqQueue.submit)
    expected = {name: submit[name].replace("Completion", "Any") for name in OF_CALLS}

    assert expected == declared_in(CallOptions)
    assert not CallOptions.__required_keys__


@pytest.mark.parametrize("option", [*CONSTRUCTOR, *SUBMIT], ids=lambda option: option.name)
def test_a_default_is_taken_and_what_an_option_cannot_be_is_refused_by_name(option):
    """
    But for those that are checked together with others, as addresses and keys are.
    """
    if option in CONSTRUCTOR:
        option.check(option.name, option.default)
    if option.name in ("api_key", "base_url", "accounts", "journal", "session", "messages"):
        return
    with pytest.raises(ConfigurationError, match=f"^{option.name}"):
        option.check(option.name, object())


def test_each_setting_comes_from_an_option():
    made = {"resolved_accounts", "only_base_url", "ageing_ns", "price_table", "timeout_s", "policy", "observers"}
    taken = {option.name for option in CONSTRUCTOR} & set(Settings._fields)

    assert made | taken == set(Settings._fields)


def given(**changes):
    return {option.name: option.default for option in CONSTRUCTOR} | changes


def test_an_engine_that_sends_elsewhere_refuses_what_it_does_not_decide_and_says_what_to_do():
    other = {"on_outage": "raise", "on_daily_limit": "wait", "timeout": 7, "margin": 0.5}
    refused = [option for option in CONSTRUCTOR if option.celery]

    assert 16 == len(refused)
    for option in refused:
        with pytest.raises(ConfigurationError) as raised:
            checked(given(engine="celery", **{option.name: other.get(option.name, 1)}))
        assert f"{option.name}: with engine='celery' {option.celery}" == str(raised.value)


def test_every_flag_of_the_table_is_one_of_the_run(capsys):
    main(["run", "--help"])
    text = capsys.readouterr().out
    flags = {option.flag for option in (*CONSTRUCTOR, *SUBMIT) if option.flag}

    assert len(flags) > 8
    assert [] == [flag for flag in sorted(flags) if flag not in text]


def test_the_calls_of_ones_own_take_what_does_not_need_a_payload():
    assert {option.name for option in SUBMIT} - set(OF_CALLS) == {"messages", "endpoint", "shrink", "dedupe"}


def test_no_option_is_taken_for_a_parameter_that_was_mistyped():
    check_parameters(option.name for option in SUBMIT)
    with pytest.raises(ConfigurationError, match=r"^max_retries: no option of a request"):
        check_parameters(["max_retries"])
