from pathlib import Path

from verb_functions import run


def test_demo_works_in_the_folder_demo_unless_told(calls):
    assert run("demo") == 0
    assert calls.args == (Path("demo"),)
