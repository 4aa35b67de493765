import inspect
import subprocess
import sys
import tempfile
import zlib
from importlib import import_module

import pytest
from verb_functions import FUNCTIONS, OTHER, run, verb_parsers

import nnunet_ext
from nnunet_ext import __version__
from nnunet_ext.cli.main import make_parser


def test_every_verb_is_tested():
    assert verb_parsers().keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("argv", ["evaluate pred ref -o out", "convert src -d 1 -n N", "predict -d 1 -i in -o out"])
def test_options_not_given_are_left_to_the_function(calls, argv):
    assert run(argv) == 0
    assert calls.kwargs.keys() <= {"n_cases", "dataset_id", "name", "images", "out"}


@pytest.mark.parametrize("argv", ["convert src -d 1 -n N", "predict -d 1 -i in -o out", "evaluate pred ref -o out"])
def test_a_failed_case_is_named_in_one_line_and_exits_1(calls, capsys, argv):
    calls.summary.failed = {"head_03": "T2 is missing.\nAdd it."}
    assert run(argv) == 1
    verb = argv.split()[0]
    assert f"nnunet_ext {verb}: error: case 'head_03': T2 is missing. Add it.\n" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, RuntimeError, PermissionError])
def test_an_expected_error_is_one_line_and_exits_1(calls, capsys, error):
    calls.raises = error("no folder 'src'.\nGive one.")
    assert run("convert src -d 1 -n N") == 1
    assert capsys.readouterr().err == "nnunet_ext convert: error: no folder 'src'. Give one.\n"


@pytest.mark.parametrize("argv", ["--debug demo", "demo --debug"])
def test_debug_shows_the_traceback(calls, capsys, argv):
    calls.raises = ValueError("no")
    assert run(argv) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, RecursionError, UnicodeError, zlib.error])
def test_our_own_mistake_is_called_ours_and_its_traceback_is_kept_for_its_owner(
    calls, capsys, tmp_path, monkeypatch, error
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls.raises = error("Meier^Hans")
    assert run("demo") == 1
    (file,) = tmp_path.iterdir()
    line = capsys.readouterr().err
    assert "this is a fault of nnunet_ext" in line
    assert "not of your data" in line
    assert __version__ in line
    assert str(file) in line
    assert len(line.splitlines()) == 1
    assert "Traceback" not in line
    assert "Meier" not in line
    assert file.stat().st_mode & 0o777 == 0o600
    assert "Meier^Hans" in file.read_text(encoding="utf-8")


def test_a_traceback_that_cannot_be_kept_says_how_to_see_it(calls, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    calls.raises = KeyError("x")
    assert run("demo") == 1
    assert "repeat with --debug" in capsys.readouterr().err


def test_interrupt_exits_130(calls):
    calls.raises = KeyboardInterrupt()
    assert run("demo") == 130


def test_a_missing_module_breaks_only_its_verb_and_points_to_the_doctor(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nnunet_ext.prediction.predicting", None)
    assert run("predict -d 1 -i in -o out") == 1
    assert "nnunet_ext doctor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    ["", "nonsense", "benchmark", "benchmark x", "phantom out", "phantom out --cases 0", "predict -d x -i in -o out"],
)
def test_arguments_that_make_no_sense_exit_2(argv):
    with pytest.raises(SystemExit) as error:
        run(argv)
    assert error.value.code == 2


def test_version(capsys):
    with pytest.raises(SystemExit) as error:
        run("--version")
    assert error.value.code == 0
    assert capsys.readouterr().out == f"nnunet_ext {__version__}\n"


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_help_of_each_verb_has_an_example_that_parses(verb):
    example = verb_parsers()[verb].epilog.splitlines()[-1].split()
    assert example[0] == "nnunet_ext"
    assert make_parser().parse_args(example[1:]).verb == verb.split()[0]


#: Options by which a verb calls another function; see the tests of that verb.
APART = {"benchmark predict": {"profile", "model"}, "workflow": {"page"}}


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_every_option_of_a_verb_is_a_parameter_of_its_function(verb):
    module_name, function_name = FUNCTIONS[verb]
    parameters = inspect.signature(getattr(import_module(module_name), function_name)).parameters
    options = {action.dest for action in verb_parsers()[verb]._actions} - {"help", "debug"} - APART.get(verb, set())
    other = inspect.signature(getattr(nnunet_ext, OTHER[verb])).parameters if verb in OTHER else {}
    assert options <= parameters.keys() | other.keys()
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    given = {action.dest for action in verb_parsers()[verb]._actions if action.required or not action.option_strings}
    assert required <= given


def test_help_of_every_verb_imports_nothing_heavy():
    code = """
import sys
from nnunet_ext.cli.main import main
for verb in [*map(str.split, sys.argv[1:]), ["benchmark"], []]:
    try:
        main([*verb, "--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = ("numpy", "SimpleITK", "matplotlib", "torch", "nnunetv2", "scipy", "pydicom", "nibabel", "skimage")
sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code, *FUNCTIONS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: nnunet_ext") == len(FUNCTIONS) + 2


def test_python_dash_m_is_the_same_command():
    finished = subprocess.run([sys.executable, "-m", "nnunet_ext", "--version"], capture_output=True, text=True)
    assert finished.stdout == f"nnunet_ext {__version__}\n"


def test_an_interrupted_command_ends_with_its_code_while_a_thread_is_inside_a_library(tmp_path):
    """A thread of C++ that comes back to an interpreter which has ended would abort the process."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import time\n"
        "from nnunet_ext.cli import main as cli\n"
        "from nnunet_ext.processes import in_background\n"
        "def main():\n"
        "    in_background(time.sleep, 60)\n"
        "    print('left', flush=False)\n"
        "    return 130\n"
        "cli.main = main\n"
        "import atexit\n"
        "atexit.register(print, 'the interpreter was taken down')\n"
        "cli.command()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (130, "left\n"), done.stderr
