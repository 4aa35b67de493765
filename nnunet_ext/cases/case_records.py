"""A case as plain JSON, so that one process finds it and another one reads its images.

Such a record holds all that is known of a case, patients' names and paths too. Only the owner of the data may read it.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from nnunet_ext.cases.case import Case
from nnunet_ext.cases.dicom_case import DicomCase
from nnunet_ext.cases.folder_case import FolderCase
from nnunet_ext.cases.prediction_cases import FilesCase
from nnunet_ext.messages import Message

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (DicomCase, FolderCase, FilesCase)}


def case_to_json(case: Case) -> dict[str, Any]:
    """Plain JSON that `case_from_json` reads. Values that are the field's default are left out."""
    return {"kind": type(case).__name__, "case": to_json(case)}


def case_from_json(content: Mapping[str, Any]) -> Any:
    """The case of a record of the same version of this package.

    Raises:
        KeyError, TypeError, ValueError: If it is another one's.
    """
    return from_json(_KINDS[content["kind"]], content["case"])


def to_json(value: Any) -> Any:
    """A dataclass, or what its fields hold, as plain JSON. A mapping becomes a list of pairs, for its keys may be None."""
    if isinstance(value, Message):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        values = {field: getattr(value, field.name) for field in fields(value)}
        return {field.name: to_json(one) for field, one in values.items() if one != _default(field)}
    if isinstance(value, Mapping):
        return [[to_json(key), to_json(one)] for key, one in value.items()]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: Any, content: Any) -> Any:
    """The value of a type as its field's annotation says it, from what `to_json` made of it."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Message:
        return Message.from_json(content)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: from_json(hints[name], one) for name, one in content.items()})
    if hasattr(kind, "_fields"):  # a named tuple
        return kind(*(from_json(one, value) for one, value in zip(_hints(kind).values(), content, strict=True)))
    if origin in (Union, types.UnionType):
        (some,) = (one for one in args if one is not type(None))
        return None if content is None else from_json(some, content)
    if origin is tuple:
        each = [args[0]] * len(content) if args[-1] is Ellipsis else args
        return tuple(from_json(one, value) for one, value in zip(each, content, strict=True))
    if origin is Counter:
        return Counter({from_json(args[0], key): n for key, n in content})
    if origin is dict:
        return {from_json(args[0], key): from_json(args[1], one) for key, one in content}
    if origin in (list, frozenset):
        return origin(from_json(args[0], one) for one in content)
    return Path(content) if kind is Path else content


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
