from types import SimpleNamespace

from verb_functions import run


def test_doctor_lines_up_its_findings_and_exits_1_if_one_is_to_mend(calls, capsys):
    python = SimpleNamespace(topic="Python", value="3.11", ok=True, advice="")
    folder = SimpleNamespace(topic="nnUNet_raw", value="not set", ok=False, advice="export nnUNet_raw=...")
    calls.summary = [python]
    assert run("doctor") == 0
    assert capsys.readouterr().out == "ok    Python  3.11\neverything is in order\n"
    calls.summary = [python, folder]
    assert run("doctor") == 1
    lines = ["ok    Python      3.11", "MEND  nnUNet_raw  not set -> export nnUNet_raw=..."]
    assert capsys.readouterr().out.splitlines() == [*lines, "1 to mend, see the lines marked MEND"]
