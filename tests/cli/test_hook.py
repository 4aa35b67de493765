import pytest
from verb_functions import run


@pytest.mark.parametrize(
    ("argv", "changed", "said"),
    [
        ("hook", ["a.py"], "wrote a.py\npip does not know these files: run `nnunet_ext hook --remove`"),
        ("hook", [], "nothing to do: nnU-Net has our lookup modules already\n"),
        ("hook --remove", ["a.py"], "removed a.py\n"),
        ("hook --remove", [], "nothing to remove: "),
    ],
)
def test_hook_says_what_it_did(calls, capsys, argv, changed, said):
    calls.summary = changed
    assert run(argv) == 0
    assert calls.kwargs == ({"remove": True} if "--remove" in argv else {})
    assert capsys.readouterr().out.startswith(said)
