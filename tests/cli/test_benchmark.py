from pathlib import Path

import pytest
from verb_functions import run


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


def test_benchmark_predict_passes_its_options_on_and_prints_the_table(calls, capsys):
    calls.summary = "| prediction | s |"
    options = "-d 501 -i in -p P -f 1 --size tiny --cases 3 -device cuda -o out --no-stock"
    assert run(f"benchmark predict {options}") == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "images": Path("in"),
        "plans": "P",
        "fold": "1",
        "size": "tiny",
        "n_cases": 3,
        "device": "cuda",
        "out": Path("out"),
        "stock": False,
    }
    assert capsys.readouterr().out == "| prediction | s |\n"


def test_benchmark_predict_with_a_profile_calls_it_with_the_model(calls, capsys):
    calls.summary = "| step | s |"
    assert run("benchmark predict --profile --model m -i in --size tiny --cases 3 -device cpu -o out") == 0
    assert calls.name == "profile_prediction"
    assert calls.kwargs == {
        "model": Path("m"),
        "images": Path("in"),
        "size": "tiny",
        "n_cases": 3,
        "device": "cpu",
        "out": Path("out"),
    }
    assert capsys.readouterr().out == "| step | s |\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [("--profile -d 501 --no-stock", "dataset_id, stock is not for it"), ("--model m", "--model is for --profile")],
)
def test_benchmark_predict_refuses_options_of_the_other_kind(calls, capsys, options, message):
    assert run(f"benchmark predict {options}") == 1
    assert message in capsys.readouterr().err


def test_benchmark_methods_passes_its_options_on_and_prints_the_table(calls, capsys):
    calls.summary = "| method | weights |"
    people = "--train-people 01..07 --test-people 08 09 --name n --device cuda"
    assert run(f"benchmark methods -i heads {people} --only AnatomyNet --seeds 0 1 --marks 10 40 -np 2 -o out") == 0
    assert calls.kwargs == {
        "cases": Path("heads"),
        "train_people": ["01..07"],
        "test_people": ["08", "09"],
        "name": "n",
        "device": "cuda",
        "only": ["AnatomyNet"],
        "seeds": [0, 1],
        "marks_min": [10.0, 40.0],
        "n_processes": 2,
        "out": Path("out"),
    }
    assert capsys.readouterr().out == "| method | weights |\n"


def test_benchmark_convert_passes_its_options_on_and_prints_the_table(calls, capsys):
    calls.summary = "| step | CPU s |"
    options = "-i in --modalities CT T1 --size full --cases 3 --unregistered --register --no-preview -o out --no-stock"
    assert run(f"benchmark convert {options}") == 0
    assert calls.kwargs == {
        "source": Path("in"),
        "modalities": ["CT", "T1"],
        "size": "full",
        "n_cases": 3,
        "unregistered": True,
        "register": True,
        "preview": False,
        "out": Path("out"),
        "stock": False,
    }
    assert capsys.readouterr().out == "| step | CPU s |\n"


def test_benchmark_learning_passes_its_options_on_and_prints_the_table(calls, capsys):
    calls.summary = "| system | min |"
    data = "-i heads --name h --train-people 01..03 --test-people 04 --train 3 --test 2 --modalities CT --planner P"
    options = "--only default stock --seeds 0 1 --marks 2.5 10 --true-boxes --costs --list -np 2 -o out --runs r"
    assert run(f"benchmark learning {data} {options} --device cuda --table t.md --curves c.png") == 0
    assert calls.kwargs == {
        "cases": Path("heads"),
        "name": "h",
        "train_people": ["01..03"],
        "test_people": ["04"],
        "n_train": 3,
        "n_test": 2,
        "modalities": ["CT"],
        "planner": "P",
        "device": "cuda",
        "only": ["default", "stock"],
        "seeds": [0, 1],
        "marks_min": [2.5, 10.0],
        "true_boxes": True,
        "costs_only": True,
        "list_systems": True,
        "n_processes": 2,
        "out": Path("out"),
        "runs": Path("r"),
        "table_file": Path("t.md"),
        "curves_file": Path("c.png"),
    }
    assert capsys.readouterr().out == "| system | min |\n"


@pytest.mark.parametrize("mark", ["0", "-1", "nan", "inf", "ten"])
def test_benchmark_learning_refuses_a_mark_that_is_no_time(calls, capsys, mark):
    with pytest.raises(SystemExit):
        run(f"benchmark learning --marks={mark}")
    assert f"{mark} is not a number of minutes above 0" in capsys.readouterr().err
