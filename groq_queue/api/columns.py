"""A column in, a column of the same kind out: pandas, polars, list or tuple.

Neither library is imported here: a column of theirs cannot exist before they were.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from groq_queue.errors import ConfigurationError, safe_repr

Texts = list["str | None"]


class Column:
    """The values of a column, and the way back to one of the same kind.

    Attributes:
        values: A list of them; missing ones are None.
        like: Makes a column of the same type, index, name and length of texts; None is missing.
    """

    def __init__(self, values: Sequence[Any], like: Callable[[Texts], Any]) -> None:
        self.values = [None if is_missing(value) else value for value in values]
        self.like = like


def column_of(column: Any, field: str = "column") -> Column:
    """Take a pandas or polars Series, a list or a tuple.

    Raises:
        ConfigurationError: It is something else.
    """
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(column, pandas.Series):
        return Column(column.tolist(), lambda texts: pandas.Series(texts, column.index, object, column.name))
    if polars is not None and isinstance(column, polars.Series):
        return Column(column.to_list(), lambda texts: polars.Series(column.name, texts, polars.String))
    if isinstance(column, (list, tuple)):
        return Column(column, list)
    raise ConfigurationError(
        f"{field}: a {type(column).__module__}.{type(column).__qualname__}; pass one column: a pandas or polars Series "
        "(df['name']), a list or a tuple; map() takes anything that can be iterated"
    )


def refuse_table(prompts: Any) -> None:
    """Refuse a whole table in place of its rows: iterating over one gives the names of its columns, or the columns.

    Raises:
        ConfigurationError: It is a pandas or polars DataFrame.
    """
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(prompts, pandas.DataFrame):
        names = list(map(str, prompts.columns))
    elif polars is not None and isinstance(prompts, (polars.DataFrame, polars.LazyFrame)):
        names = [] if isinstance(prompts, polars.LazyFrame) else prompts.columns
    else:
        return
    name = names[0] if names else "name"
    raise ConfigurationError(
        f"prompts: a whole {type(prompts).__name__}; pass one column, as in map(df[{name!r}]) or "
        f"map_column(df[{name!r}]), or a list of prompts made of its rows"
    )


def is_missing(value: Any) -> bool:
    """Return whether *value* is None, a NaN, or pandas' NA or NaT.

    >>> [is_missing(value) for value in (None, float("nan"), "", 0, [])]
    [True, True, False, False, False]
    """
    if value is None:
        return True
    pandas = sys.modules.get("pandas")
    if pandas is not None and value is pandas.NA:
        return True
    try:
        return bool(value != value)
    except Exception:  # an array, or a signalling NaN: whatever it is, it is there
        return False


def check_template(template: Any) -> str:
    """Return *template* if it says where the value goes.

    Raises:
        ConfigurationError: It does not.
    """
    if not isinstance(template, str) or "{}" not in template:
        raise ConfigurationError(
            f"template={safe_repr(template)}: put {{}} where the value goes, as in 'Translate: {{}}'"
        )
    return template


def fill(template: str, value: Any) -> str:
    """Put *value* in place of every ``{}``; other braces, and any inside *value*, stay.

    >>> fill('{"text": "{}"}', "a {} b")
    '{"text": "a {} b"}'
    """
    return template.replace("{}", str(value))
