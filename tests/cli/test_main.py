import inspect
import shlex
import subprocess
import sys
import tempfile
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nnunet_ext import __version__
from nnunet_ext.cli.main import _parser, main

# verb -> module and name of the function it calls
FUNCTIONS = {
    "phantom": ("nnunet_ext.phantom.making", "make_phantoms"),
    "convert": ("nnunet_ext.dataset_conversion.triplets", "convert"),
    "predict": ("nnunet_ext.prediction.predicting", "predict"),
    "rtstruct": ("nnunet_ext.dicom.rtstruct_writer", "rtstruct"),
    "evaluate": ("nnunet_ext.evaluation.evaluating", "evaluate"),
    "report": ("nnunet_ext.reporting.reporting", "report"),
    "view": ("nnunet_ext.reporting.page", "view"),
    "hook": ("nnunet_ext.installation.hooking", "write_hooks"),
    "doctor": ("nnunet_ext.installation.doctor", "doctor"),
    "demo": ("nnunet_ext.end_to_end.demo", "demo"),
    "benchmark train": ("nnunet_ext.end_to_end.training_benchmark", "benchmark_train"),
    "benchmark convert": ("nnunet_ext.end_to_end.conversion_benchmark", "benchmark_convert"),
}
SUMMARY = SimpleNamespace(
    dataset_folder=Path("Dataset501_Head"),
    written=["a"],
    skipped=[],
    failed={},
    warnings={},
    table_markdown="| organ | DSC |",
    files="4 files: 3 used as channels, 1 as labels, 0 left over",
)
WITH_FAILURE = SimpleNamespace(**{**vars(SUMMARY), "failed": {"head_03": "T2 is missing.\nAdd it."}})


def run(command: str) -> int:
    return main(shlex.split(command))


def verb_parsers():
    """Parsers by verb; those of a verb with sub-verbs by both names."""
    parsers = _parser()._subparsers._group_actions[0].choices
    kinds = parsers["benchmark"]._subparsers._group_actions[0].choices
    return {**parsers, **{f"benchmark {kind}": parser for kind, parser in kinds.items()}}


@pytest.fixture
def calls(monkeypatch):
    """What each verb's function was called with; the functions are stand-ins that return `calls.summary`."""
    record = SimpleNamespace(summary=SUMMARY, raises=None, args=(), kwargs={})

    def stand_in(*args, **kwargs):
        record.args, record.kwargs = args, kwargs
        if record.raises is not None:
            raise record.raises
        return record.summary

    for module_name, function_name in FUNCTIONS.values():
        module = ModuleType(module_name)
        setattr(module, function_name, stand_in)
        monkeypatch.setitem(sys.modules, module_name, module)
    return record


def test_phantom_passes_its_options_on(calls, capsys):
    calls.summary = [Path("out/phantom_000")]
    assert run("phantom out --cases 3 --seed 7 --size tiny --unregistered -np 2") == 0
    assert calls.args == (Path("out"),)
    assert calls.kwargs == {"n_cases": 3, "seed": 7, "size": "tiny", "unregistered": True, "n_processes": 2}
    assert capsys.readouterr().out == "out: 1 cases\n"


def test_convert_passes_its_options_on(calls, capsys):
    command = "convert src -d 501 -n Head --modalities CT T2 --labels organs.toml --test c1 c2 --allow-non-hu"
    assert run(command + " --window-hu -100 300 --no-clean --no-n4 -np 2") == 0
    assert calls.args == (Path("src"),)
    assert calls.kwargs == {
        "dataset_id": 501,
        "name": "Head",
        "modalities": ["CT", "T2"],
        "labels_file": Path("organs.toml"),
        "test_cases": ["c1", "c2"],
        "allow_non_hu": True,
        "window_hu": (-100.0, 300.0),
        "clean_ct": False,
        "n4": False,
        "n_processes": 2,
    }
    assert capsys.readouterr().out == (
        f"Dataset501_Head: 1 written, 0 skipped (already there), 0 failed\n{SUMMARY.files}\n"
    )


def test_predict_passes_its_options_on_and_prints_warnings(calls, capsys):
    calls.summary = SimpleNamespace(**{**vars(SUMMARY), "warnings": {"head_01": ["no organ found"]}})
    assert run("predict -d 501 -i in -o out -c C -f 0 1 -tr T -p P -chk best.pth -device cpu --mirror") == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "images": Path("in"),
        "out": Path("out"),
        "configuration": "C",
        "folds": ["0", "1"],
        "trainer": "T",
        "plans": "P",
        "checkpoint": "best.pth",
        "device": "cpu",
        "use_mirroring": True,
    }
    assert "case 'head_01': no organ found" in capsys.readouterr().err


def test_predict_takes_a_model_by_its_folder_or_by_its_dataset_not_both(calls, capsys):
    more = "--register --series s.toml --key k.csv --rtstruct --strict -num_parts 4 -part_id 0 --overwrite"
    assert run(f"predict -m T__P__C -i in -o out {more}") == 0
    assert calls.kwargs == {
        "model": Path("T__P__C"),
        "images": Path("in"),
        "out": Path("out"),
        "register": True,
        "series_file": Path("s.toml"),
        "key_file": Path("k.csv"),
        "rtstruct": True,
        "strict": True,
        "num_parts": 4,
        "part_id": 0,
        "overwrite": True,
    }
    for which in ("", "-d 501 -m T__P__C"):
        with pytest.raises(SystemExit):
            run(f"predict {which} -i in -o out")


def test_evaluate_passes_its_options_on_and_prints_the_table(calls, capsys):
    assert run("evaluate pred ref -o out --tolerance-mm 1.5 -np 2") == 0
    assert calls.args == (Path("pred"), Path("ref"), Path("out"))
    assert calls.kwargs == {"tolerance_mm": 1.5, "n_processes": 2}
    assert "| organ | DSC |" in capsys.readouterr().out


def test_evaluate_of_a_model_needs_no_references_and_tolerances_go_by_organ(calls):
    assert run("evaluate model -o out --localizer loc --tolerance-mm Lens_L=1 Eye_L=2.5") == 0
    assert calls.args == (Path("model"), None, Path("out"))
    assert calls.kwargs == {"localizer": Path("loc"), "tolerance_mm": {"Lens_L": 1.0, "Eye_L": 2.5}}


@pytest.mark.parametrize("tolerance", ["wide", "1 2", "Lens_L=x", "Lens_L=1 2"])
def test_tolerance_that_is_no_distance_is_refused(calls, capsys, tolerance):
    with pytest.raises(SystemExit):
        run(f"evaluate pred ref -o out --tolerance-mm {tolerance}")
    assert f"--tolerance-mm {tolerance}: give one distance in mm, or ORGAN=MM" in capsys.readouterr().err


def test_view_passes_its_options_on_and_says_what_is_in_the_page(calls, capsys):
    calls.summary = SimpleNamespace(path=Path("p.html"), case_bytes={"a": 5, "b": 6}, left_out={"c": "limit"})
    assert run("view pred -i imagesTs -o p.html --viewer-limit-mb 50") == 0
    assert calls.args == (Path("pred"), Path("imagesTs"), Path("p.html"))
    assert calls.kwargs == {"viewer_limit_mb": 50.0}
    assert capsys.readouterr().out == "p.html: 2 cases to look at, 1 listed without images\n"
    calls.summary.left_out["d"] = "failed"
    assert run("view pred -i imagesTs -o p.html") == 1


def test_report_names_its_runs_and_passes_its_options_on(calls, capsys):
    content = {"out": Path("out"), "experiments": [1, 2, 3], "cases": ["a"], "tables": [], "pictures": [1]}
    calls.summary = SimpleNamespace(**content, remarks=["No p-value."], failed={})
    options = "--references ref --images in --models m1 m2 --box-organ Lens_L --cases a --reference-study -np 2"
    assert run(f"report CT=eval/ct a/T__P__3d_lowres 'a=b=c' -o out {options}") == 0
    runs = [("CT", Path("eval/ct")), ("3d_lowres", Path("a/T__P__3d_lowres")), ("a=b", Path("c"))]
    assert calls.args == (runs, Path("out"))
    assert calls.kwargs == {
        "references": Path("ref"),
        "images": Path("in"),
        "models": [Path("m1"), Path("m2")],
        "box_organ": "Lens_L",
        "cases": ["a"],
        "reference_study": True,
        "n_processes": 2,
    }
    out, err = capsys.readouterr()
    assert out == "out/report.html: 3 experiments, 1 cases, 0 tables, 1 figures\n"
    assert err == "note: No p-value.\n"


def test_report_names_failed_cases_and_exits_1(calls, capsys):
    content = {"out": Path("out"), "experiments": [1], "cases": ["a"], "tables": [], "pictures": [], "remarks": []}
    calls.summary = SimpleNamespace(**content, failed={"a (CT)": "a.nii.gz is cut off"})
    assert run("report CT=eval/ct -o out") == 1
    assert "nnunet_ext report: error: case 'a (CT)': a.nii.gz is cut off\n" in capsys.readouterr().err


def test_demo_works_in_the_folder_demo_unless_told(calls):
    assert run("demo") == 0
    assert calls.args == (Path("demo"),)


def test_benchmark_train_passes_its_options_on_and_prints_the_table(calls, capsys):
    calls.summary = "| training | ratio |"
    command = "benchmark train -d 501 -p P -c 3d_lowres -device cpu -o out --iterations 5 --threads 1 --no-stock"
    assert run(command) == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "plans": "P",
        "configurations": ["3d_lowres"],
        "device": "cpu",
        "out": Path("out"),
        "iterations": 5,
        "n_threads": 1,
        "stock": False,
    }
    assert "| training | ratio |" in capsys.readouterr().out
    assert run("benchmark train") == 0
    assert calls.kwargs == {}


@pytest.mark.parametrize("argv", ["evaluate pred ref -o out", "convert src -d 1 -n N", "predict -d 1 -i in -o out"])
def test_options_not_given_are_left_to_the_function(calls, argv):
    assert run(argv) == 0
    assert calls.kwargs.keys() <= {"n_cases", "dataset_id", "name", "images", "out"}


@pytest.mark.parametrize("argv", ["convert src -d 1 -n N", "predict -d 1 -i in -o out", "evaluate pred ref -o out"])
def test_a_failed_case_is_named_in_one_line_and_exits_1(calls, capsys, argv):
    calls.summary = WITH_FAILURE
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
    assert _parser().parse_args(example[1:]).verb == verb.split()[0]


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_every_option_of_a_verb_is_a_parameter_of_its_function(verb):
    module_name, function_name = FUNCTIONS[verb]
    if find_spec(module_name) is None:
        pytest.skip(f"{module_name} is not written yet")
    parameters = inspect.signature(getattr(import_module(module_name), function_name)).parameters
    options = {action.dest for action in verb_parsers()[verb]._actions} - {"help", "debug"}
    assert options <= parameters.keys()
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    given = {action.dest for action in verb_parsers()[verb]._actions if action.required or not action.option_strings}
    assert required <= given


def test_help_imports_neither_nnunet_nor_torch():
    code = (
        "import sys\nfrom nnunet_ext.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('nnunetv2', 'torch', 'numpy', 'SimpleITK')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_python_dash_m_is_the_same_command():
    finished = subprocess.run([sys.executable, "-m", "nnunet_ext", "--version"], capture_output=True, text=True)
    assert finished.stdout == f"nnunet_ext {__version__}\n"


def test_an_interrupted_command_ends_with_its_code_while_a_thread_is_inside_a_library(tmp_path):
    """A thread of C++ that comes back to an interpreter which has ended would abort the process."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import time\n"
        "from nnunet_ext.cli.main import main as cli\n"
        "from nnunet_ext.prediction.predicting import in_background\n"
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
