import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module, metadata
from pathlib import Path

import pytest

from nnunet_ext import __version__
from nnunet_ext.installation.hooking import LOOKUP_FOLDERS
from nnunet_ext.starter.shipped import FILES

ROOT = Path(__file__).parents[1]
OURS = {
    "experiment_planning": {
        "CascadeOARPlanner",
        "CascadeOARPlannerSeparateZ",
        "CascadeOARPlannerSmall",
        "CascadeOARPlannerSmallSeparateZ",
        "CascadeOARPlannerFinetuned",
    },
    "preprocessing": {"CascadeOARPreprocessor"},
    "resampling": {"resample_image", "resample_label_map"},
    "training": {"CascadeOARTrainer", "CascadeOARTrainerReference"},
}

# Looks classes up the way nnU-Net's commands do, in a process of its own: what gets imported is part of the claim.
LOOK_UP = """
import json, os, sys
import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

def find(folder, name):
    if folder == "training":
        try:
            return recursive_find_trainer_class_by_name(name)
        except RuntimeError:  # how nnU-Net says that there is none
            return None
    path = ["preprocessing", "resampling"] if folder == "resampling" else [folder]
    return recursive_find_python_class(os.path.join(nnunetv2.__path__[0], *path), name, ".".join(["nnunetv2", *path]))

results = []
for wanted in json.loads(sys.argv[1]):
    found = {}
    for folder, name in wanted:
        cls = find(folder, name)
        found[name] = None if cls is None else cls.__module__
    imported = sorted(name for name in sys.modules if name.split(".")[0] == "nnunet_ext")
    lookups = sorted(name for name in sys.modules if name.endswith("aa_nnunet_ext.lookup"))
    results.append({"found": found, "imported": imported, "lookups": lookups})
print(json.dumps(results))
"""
STOCK = [
    ("experiment_planning", "ExperimentPlanner"),
    ("experiment_planning", "NoSuchPlanner"),
    ("preprocessing", "DefaultPreprocessor"),
    ("preprocessing", "NoSuchPreprocessor"),
    ("resampling", "resample_data_or_seg_to_shape"),
    ("resampling", "no_such_function"),
    ("training", "nnUNetTrainer"),
    ("training", "NoSuchTrainer"),
]


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory) -> tuple[dict, dict]:
    """What a new process finds and has imported: after looking up `STOCK`, and then our classes."""
    ours = [(folder, name) for folder, names in OURS.items() for name in sorted(names)]
    command = [sys.executable, "-c", LOOK_UP, json.dumps([STOCK, ours])]
    cwd = tmp_path_factory.mktemp("elsewhere")
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    stock, ours = json.loads(run.stdout.splitlines()[-1])
    return stock, ours


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> dict[str, bytes]:
    """Name and content of each file in a wheel built from a copy of this checkout."""
    setuptools_version = re.match(r"\d+", metadata.version("setuptools")) if has("setuptools") else None
    if setuptools_version is None or int(setuptools_version[0]) < 77:
        pytest.skip("building needs setuptools 77 or newer in this environment")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests do not lie in a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "demo")
    shutil.copytree(ROOT, folder / "source", ignore=ignore)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        "./source",
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_wheel_puts_the_lookup_modules_into_nnunet(wheel_files):
    for folder, target in LOOKUP_FOLDERS.items():
        for name in ("__init__.py", "lookup.py"):
            source = (ROOT / "nnunet_ext" / "hooks" / folder / name).read_bytes()
            assert wheel_files[f"nnunetv2/{target}/{name}"] == source
            assert wheel_files[f"nnunet_ext/hooks/{folder}/{name}"] == source, "what `nnunet_ext hook` copies from"
    assert len([name for name in wheel_files if name.startswith("nnunetv2/")]) == 8


def test_wheel_has_no_top_level_folder_with_a_generic_name(wheel_files):
    top = {name.split("/")[0] for name in wheel_files}
    assert top == {"nnunet_ext", "nnunetv2", f"nnunet_ext-{__version__}.dist-info"}
    assert not [name for name in wheel_files if "tests/" in name]


def test_wheel_holds_every_module_of_the_checkout(wheel_files):
    folders = {"nnunet_ext": "nnunet_ext"} | {
        name: f"nnunet_ext/{name}" for name in ("dataset_conversion", "trainers", "plans")
    }
    for folder, target in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{target}/{path.relative_to(ROOT / folder).as_posix()}" in wheel_files


def test_wheel_holds_what_the_report_page_is_made_of(wheel_files):
    for path in (ROOT / "nnunet_ext" / "reporting" / "assets").iterdir():
        assert wheel_files[f"nnunet_ext/reporting/assets/{path.name}"] == path.read_bytes()


def test_wheel_holds_the_template_of_the_conversion_page_and_the_marker_of_types(wheel_files):
    template = ROOT / "dataset_conversion" / "conversion.html.j2"
    assert wheel_files["nnunet_ext/dataset_conversion/conversion.html.j2"] == template.read_bytes()
    assert "nnunet_ext/py.typed" in wheel_files


def test_wheel_holds_the_snakefile_that_a_workflow_gets(wheel_files):
    assert "nnunet_ext/end_to_end/workflow/Snakefile" in wheel_files


def test_wheel_holds_the_meaning_of_label_maps(wheel_files):
    assert "nnunet_ext/phantom/from_maps/default_labels.toml" in wheel_files


def test_wheel_holds_the_starter_that_the_checkout_holds(wheel_files):
    folder = ROOT / "nnunet_ext" / "starter"
    files = [folder / "starter.json", *(folder / "model" / name for name in FILES)]
    if not any(file.is_file() for file in files):
        pytest.skip("the checkout holds no starter")
    for file in files:
        assert wheel_files[f"nnunet_ext/{file.relative_to(ROOT / 'nnunet_ext').as_posix()}"] == file.read_bytes()


def test_wheel_holds_the_texts_of_the_messages(wheel_files):
    assert wheel_files["nnunet_ext/messages.json"] == (ROOT / "nnunet_ext" / "messages.json").read_bytes()


@pytest.mark.parametrize("folder", LOOKUP_FOLDERS)
def test_lookup_names_the_classes_that_commands_use(folder):
    assert import_module(f"nnunet_ext.hooks.{folder}.lookup").LOOKUPS.keys() == OURS[folder]


@pytest.mark.parametrize("folder", LOOKUP_FOLDERS)
def test_lookup_answers_other_names_as_any_module_does(folder):
    lookup = import_module(f"nnunet_ext.hooks.{folder}.lookup")
    assert not hasattr(lookup, "nnUNetTrainer")


def test_lookup_does_not_turn_a_mistake_of_ours_into_not_found(monkeypatch):
    lookup = import_module("nnunet_ext.hooks.training.lookup")
    monkeypatch.setitem(lookup.LOOKUPS, "CascadeOARTrainer", "nnunet_ext.labels.table")  # has no such class
    with pytest.raises(ImportError, match=r"cannot import CascadeOARTrainer from nnunet_ext\.labels"):
        hasattr(lookup, "CascadeOARTrainer")


def test_nnunet_finds_our_classes(looked_up):
    expected = {
        name: module
        for folder in OURS
        for name, module in import_module(f"nnunet_ext.hooks.{folder}.lookup").LOOKUPS.items()
    }
    assert looked_up[1]["found"] == expected


def test_stock_lookups_work_and_import_nothing_of_ours(looked_up):
    result = looked_up[0]
    assert result["imported"] == []
    assert len(result["lookups"]) == 4, "they were passed, and stayed out of the way"
    assert result["found"] == {
        "ExperimentPlanner": "nnunetv2.experiment_planning.experiment_planners.default_experiment_planner",
        "NoSuchPlanner": None,
        "DefaultPreprocessor": "nnunetv2.preprocessing.preprocessors.default_preprocessor",
        "NoSuchPreprocessor": None,
        "resample_data_or_seg_to_shape": "nnunetv2.preprocessing.resampling.default_resampling",
        "no_such_function": None,
        "nnUNetTrainer": "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
        "NoSuchTrainer": None,
    }
