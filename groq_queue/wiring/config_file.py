"""A queue's arguments from a file: ``GroqQueue.from_config(path)``.

TOML or JSON, as the suffix says, with the constructor's own names::

    model = "llama-3.1-8b-instant"
    api_key_env = "TEAM_KEY"            # or api_key; else GROQ_API_KEY
    max_workers = 16

    [limits]                            # of every model, or one table for each: [limits."some-model"]
    rpm = 30
    tpm = 6_000

    [models."openai/gpt-oss-120b"]      # what one model has of its own
    base_url = "https://elsewhere.example/v1"
    api_key_env = "OTHER_KEY"
    limits = {rpm = 10}

and, unchanged, the ``config.json`` of CustomGroqChat: ``{model: {base_url, api_key,
req_per_minute, req_per_day, token_per_minute, token_per_day, context_window}}``,
where -1 is unlimited. Every model keeps its own limits, address and key;
``context_window`` is read and not used, since the server refuses what is too long.

Whatever is wrong is a ``ConfigurationError`` that names the file and the place in
it, such as ``models.llama.limits.rpm``. A key is never shown.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from groq_queue.core.limits import Limits
from groq_queue.errors import ConfigurationError, MissingExtraError, UnknownArgument, excerpt, nearest, safe_repr
from groq_queue.wiring.options import CONSTRUCTOR, other_place_of

_TYPES = {option.name: option.types for option in CONSTRUCTOR}
_OURS = (*(name for name, types in _TYPES.items() if types), "api_key_env", "models")
_OF_A_MODEL = {"limits": (dict,), "base_url": (str,), "api_key": (str,), "api_key_env": (str,)}
_THEIR_LIMITS = {
    "req_per_minute": "rpm",
    "req_per_day": "rpd",
    "token_per_minute": "tpm",
    "token_per_day": "tpd",
}
_THEIRS = ("base_url", "api_key", *_THEIR_LIMITS, "context_window")

_warned: set[str] = set()  # files that were warned about since others may read them; a race only warns twice


def read_config(path: str | os.PathLike[str], overrides: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments for ``GroqQueue`` that the file at *path* holds.

    Args:
        path: Ends in ``.toml`` or ``.json``.
        overrides: Names of arguments that are not taken from the file.

    Raises:
        ConfigurationError: It cannot be read, or something in it cannot be used.
        MissingExtraError: TOML, Python 3.10 and no ``tomli``.
    """
    name, content = _load(path)
    place = _Place(name, overrides)
    if not content:
        raise place.wrong("", 'is empty: write at least model = "…", or leave from_config out')
    options = _theirs(content, place) if _is_theirs(content) else _ours(content, place)
    if place.holds_key:
        _warn_if_readable(name)
    return {field: value for field, value in options.items() if field not in overrides}


class _Place:
    """The file and the place in it, for messages; and what does not count because the caller overrides it."""

    def __init__(self, file: str, overrides: Collection[str]) -> None:
        self.file = file
        self.overrides = overrides
        self.holds_key = False

    def wrong(self, where: str, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}: {where}{' ' if where else ''}{what}")

    def check_names(self, table: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
        for name in table:
            if name not in known:
                raise self.unknown(name, known, where)

    def unknown(self, name: str, known: Iterable[str], where: str) -> UnknownArgument:
        cure = (other_place_of(name) if known is _OURS else None) or nearest(name, tuple(known))
        return UnknownArgument(str(self.wrong(_join(where, name), f"is unknown: {cure}")))

    def typed(self, value: Any, kinds: tuple[type, ...], where: str) -> Any:
        is_bool_for_number = isinstance(value, bool) and bool not in kinds
        if is_bool_for_number or not isinstance(value, kinds):
            wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise self.wrong(where, f"is {_shown(where, value)}: use {wanted}")
        return value

    def account(self, table: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
        """Return the address and the key of a model's own, each None if it has none or the caller overrides it."""
        return None if "base_url" in self.overrides else table.get("base_url"), self.key(table, where)

    def key(self, table: Mapping[str, Any], where: str) -> str | None:
        """Return the key that *table* holds or names; None if neither, or if the caller overrides it."""
        if "api_key" in self.overrides:
            return None
        if "api_key" in table and "api_key_env" in table:
            raise self.wrong(_join(where, "api_key_env"), "is given together with api_key: keep one of the two")
        if (variable := table.get("api_key_env")) is not None:
            found = os.environ.get(variable)
            if not found:
                raise self.wrong(
                    _join(where, "api_key_env"), f"names {variable!r}, which is not set: export {variable}=…"
                )
            return found
        key: str | None = table.get("api_key")
        if key is None:
            return None
        if _is_placeholder(key):
            raise self.wrong(_join(where, "api_key"), "is a placeholder: put the key in, or leave the line out")
        self.holds_key = True
        return key


def _is_placeholder(key: str) -> bool:
    return not key or "YOUR_" in key.upper()


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a pair",
}


def _join(where: str, name: str) -> str:
    safe_repr = name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)
    return f"{where}.{safe_repr}" if where else safe_repr


def _shown(where: str, value: Any) -> str:
    """Return what may be printed of a value; of a key only what kind of thing it is."""
    return type(value).__name__ if where.endswith("api_key") else f"{value!r:.60}"


# Our own form.


def _ours(content: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    place.check_names(content, _OURS)
    options: dict[str, Any] = {}
    for name, value in content.items():
        kinds = {"api_key_env": (str,), "models": (dict,)}.get(name) or _TYPES[name]
        options[name] = None if value is None else place.typed(value, kinds, name)  # JSON has null
    key = place.key(options, "")
    for name in ("api_key", "api_key_env", *place.overrides):
        options.pop(name, None)
    if key is not None:
        options["api_key"] = key
    if isinstance(options.get("timeout"), list):
        options["timeout"] = tuple(options["timeout"])
    if options.get("prices") is not None:
        options["prices"] = _prices(options["prices"], place)
    if options.get("limits") is not None:
        options["limits"] = _limits(options["limits"], place)
    if models := options.pop("models", None):
        options |= _models(models, options, place)
    return options


def _limits(table: Mapping[str, Any], place: _Place) -> Limits | dict[str, Limits]:
    """Return the limits of all models, or those of each."""
    if table and all(isinstance(value, dict) for value in table.values()):
        return {model: _limits_of(each, place, _join("limits", model)) for model, each in table.items()}
    return _limits_of(table, place, "limits")


def _limits_of(table: Mapping[str, Any], place: _Place, where: str) -> Limits:
    place.check_names(table, Limits.__dataclass_fields__, where)
    try:
        return Limits(**table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place.file}: {where}.{error}") from None


def _prices(table: Mapping[str, Any], place: _Place) -> dict[str, tuple[Any, ...]]:
    for model, pair in table.items():
        where = _join("prices", model)
        place.typed(pair, (list,), where)
        if len(pair) != 2:
            raise place.wrong(where, "is no pair: use [prompt, completion], in USD per million tokens")
    return {model: tuple(pair) for model, pair in table.items()}


def _models(models: Mapping[str, Any], options: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    """Return ``limits`` and ``accounts`` from what each model has of its own."""
    limits: dict[str, Limits] = {}
    own: dict[str, tuple[str | None, str | None]] = {}
    for model, table in models.items():
        where = _join("models", model)
        place.typed(table, (dict,), where)
        place.check_names(table, _OF_A_MODEL, where)
        for name, value in table.items():
            place.typed(value, _OF_A_MODEL[name], _join(where, name))
        if "limits" in table:
            limits[model] = _limits_of(table["limits"], place, f"{where}.limits")
        own[model] = place.account(table, where)
    found: dict[str, Any] = {}
    if limits:
        common = options.get("limits") or {}
        if isinstance(common, Limits) or set(common) & set(limits):
            raise place.wrong(
                "limits",
                "is given together with models.….limits: a model has its limits from one of them; write them per model",
            )
        found["limits"] = {**common, **limits}
    if any(url or key for url, key in own.values()):
        found["accounts"] = {
            model: (url or options.get("base_url"), key or options.get("api_key")) for model, (url, key) in own.items()
        }
    return found


# CustomGroqChat's.


def _is_theirs(content: Mapping[str, Any]) -> bool:
    return all(isinstance(each, dict) and any(name in each for name in _THEIR_LIMITS) for each in content.values())


def _theirs(content: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    """Return the arguments of a ``config.json`` whose every model has limits, address and key of its own."""
    limits: dict[str, Limits] = {}
    accounts: dict[str, tuple[str | None, str | None]] = {}
    for model, table in content.items():
        where = _join("", model)
        for name in table:
            # Their loader passes over what it does not know; only what looks like a slip is refused.
            if name not in _THEIRS and difflib.get_close_matches(name, _THEIRS, n=1, cutoff=0.8):
                raise place.unknown(name, _THEIRS, where)
        for name in ("base_url", "api_key"):
            if name in table:
                place.typed(table[name], (str,), _join(where, name))
        units = {ours: _their_limit(table, theirs, place, where) for theirs, ours in _THEIR_LIMITS.items()}
        limits[model] = Limits(rpm=units["rpm"], rpd=units["rpd"], tpm=units["tpm"], tpd=units["tpd"])
        # Their example has YOUR_API_KEY in each model, for the reader to replace or to give in another place.
        given = {name: value for name, value in table.items() if name != "api_key" or not _is_placeholder(value)}
        accounts[model] = place.account(given, where)
    options: dict[str, Any] = {"limits": limits}
    if any(url or key for url, key in accounts.values()):
        options["accounts"] = accounts
    if len(content) == 1:
        options["model"] = next(iter(content))
    return options


def _their_limit(table: Mapping[str, Any], name: str, place: _Place, where: str) -> int | None:
    if name not in table:
        raise place.wrong(_join(where, name), "is missing: give a whole number, or -1 for unlimited")
    limit = place.typed(table[name], (int,), _join(where, name))
    if limit != -1 and limit < 1:
        raise place.wrong(_join(where, name), f"is {limit}: use a whole number >= 1, or -1 for unlimited")
    return None if limit == -1 else int(limit)


# The file.


def _load(path: Any) -> tuple[str, dict[str, Any]]:
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(f"path={safe_repr(path, 80)}: use the path of a .toml or .json file")
    suffix = Path(name).suffix.lower()
    if suffix not in (".toml", ".json"):
        raise ConfigurationError(f"path={name!r:.200}: the name must end in .toml or .json, which tells its form")
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    content = _parse_toml(name, text) if suffix == ".toml" else _parse_json(name, text)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{name}: holds a JSON {type(content).__name__}: an object {{…}} is needed")
    return name, content


def _parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:  # holds the whole text, keys too: it must not be chained
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        problem = "nested too deep"
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(f"{name}: {problem}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [key for key, _ in pairs]
        double = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"{excerpt(double)!r} appears twice in one table: the first would be lost")
    return table


def _parse_toml(name: str, text: str) -> Any:
    try:
        import tomllib as toml  # type: ignore[import-not-found, unused-ignore]
    except ImportError:  # Python 3.10
        try:
            import tomli as toml  # type: ignore[import-not-found, no-redef, unused-ignore]
        except ImportError:
            raise MissingExtraError.needed(f"{name}: TOML on Python 3.10", "toml", "use JSON") from None
    try:
        return toml.loads(text)
    except toml.TOMLDecodeError as error:  # its text names line and column
        problem = excerpt(str(error))
    except RecursionError:
        problem = "nested too deep"
    raise ConfigurationError(f"{name}: {problem}")


def _warn_if_readable(name: str) -> None:
    """Warn once of a file that holds a key and that other users of this machine may read."""
    if os.name != "posix" or (path := os.path.realpath(name)) in _warned:
        return
    mode = stat.S_IMODE(os.stat(name).st_mode)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        _warned.add(path)
        warnings.warn(
            f"{name} holds an API key and others may read it (mode {mode:03o}): chmod 600 {name}, "
            "or name a variable with api_key_env",
            UserWarning,
            stacklevel=4,
        )
