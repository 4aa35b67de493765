import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from verb_functions import FUNCTIONS, OTHER, OTHER_FUNCTIONS

import nnunet_ext

SUMMARY = {
    "dataset_folder": Path("Dataset501_Head"),
    "written": ["a"],
    "skipped": [],
    "failed": {},
    "warnings": {},
    "of_models": [],
    "table_markdown": "| organ | DSC |",
    "files": "4 files: 3 used as channels, 1 as labels, 0 left over",
}


@pytest.fixture
def calls(monkeypatch):
    """What each verb's function was called with; the functions are stand-ins that return `calls.summary`."""
    record = SimpleNamespace(summary=SimpleNamespace(**SUMMARY), raises=None, args=(), kwargs={})

    def called(function_name, /, *args, **kwargs):
        record.name, record.args, record.kwargs = function_name, args, kwargs
        if record.raises is not None:
            raise record.raises
        return record.summary

    others = [(nnunet_ext._MODULES[name], name) for name in OTHER.values()]
    for module_name, function_name in (*FUNCTIONS.values(), *OTHER_FUNCTIONS, *others):
        module = ModuleType(module_name)
        setattr(module, function_name, partial(called, function_name))
        monkeypatch.setitem(sys.modules, module_name, module)
    return record
