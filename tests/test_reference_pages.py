"""The reference pages say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

import nnunet_ext

SCRIPT = Path(__file__).with_name("reference_pages.py")
if not (Path(__file__).parents[1] / "docs").is_dir():
    pytest.skip("the tests do not lie in a checkout", allow_module_level=True)
spec = importlib.util.spec_from_file_location("reference_pages", SCRIPT)
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)
WRITE = "`python tests/reference_pages.py` writes it"


def test_the_page_on_python_has_exactly_the_public_names():
    assert sorted(pages.documented_names(pages.PYTHON.read_text(encoding="utf-8"))) == sorted(nnunet_ext.__all__)


def test_the_page_on_python_has_the_signature_of_every_public_name():
    page = pages.PYTHON.read_text(encoding="utf-8")
    assert page == pages.with_signatures(page), WRITE
    assert page.count("```text\n") == len(nnunet_ext.__all__) - 1  # a version is not called


def test_every_public_name_has_an_example_of_its_own():
    sections = re.split(r"^### ", pages.PYTHON.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.split("`")[1]
        blocks = re.findall(r"^```python[^\n]*\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        assert any(f"nnunet_ext.{name}" in block for block in blocks), name


def test_the_page_on_commands_is_what_the_parsers_say():
    assert pages.COMMANDS.read_text(encoding="utf-8") == pages.commands_page(), WRITE
