import sys
from importlib import metadata
from pathlib import Path

import pytest

from nnunet_ext.cli.main import main
from nnunet_ext.installation import doctor as doctor_module
from nnunet_ext.installation import hooking
from nnunet_ext.installation.doctor import Finding, doctor

FIVE = (
    "CascadeOARPlanner",
    "CascadeOARPlannerSmall",
    "CascadeOARPreprocessor",
    "CascadeOARTrainer",
    "CascadeOARTrainerReference",
)


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    for variable in doctor_module.NNUNET_FOLDERS:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture
def no_classes(monkeypatch):
    """Leave the classes out: to find them imports nnU-Net and torch."""
    monkeypatch.setattr(doctor_module, "_classes", lambda: iter(()))


def by_topic() -> dict[str, Finding]:
    return {finding.topic: finding for finding in doctor()}


def test_doctor_finds_everything_in_order(nnunet_folders, capsys):
    findings = by_topic()
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert findings["nnunetv2"].value == f"{metadata.version('nnunetv2')} (supported: <2.9,>=2.8)"
    for name in FIVE:
        assert findings[name].value.endswith(".py")
    assert main(["doctor"]) == 0
    assert "everything is in order" in capsys.readouterr().out


def test_doctor_names_each_folder_that_is_not_set_or_missing(nnunet_folders, no_classes, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "absent"))
    findings = by_topic()
    assert "export nnUNet_raw=" in findings["nnUNet_raw"].advice
    assert f"mkdir -p '{nnunet_folders / 'absent'}'" in findings["nnUNet_results"].advice
    assert findings["nnUNet_preprocessed"].ok
    (nnunet_folders / "absent").touch()
    assert "move it away" in by_topic()["nnUNet_results"].advice
    assert main(["doctor"]) == 1
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("MEND")]) == 2


@pytest.mark.parametrize(
    ("package", "found", "advice"),
    [
        ("torch", "2.9.1+cu128", "!=2.9.*"),
        ("torch", "2.5.1", ">=2.6"),
        ("batchgeneratorsv2", "0.4.0", "<0.4"),
        ("nnunetv2", "2.6.2", ">=2.8"),
        ("nnunetv2", "2.9.0", "<2.9"),
    ],
)
def test_doctor_rejects_versions_that_we_do_not_support(no_classes, monkeypatch, package, found, advice):
    installed = doctor_module.version
    monkeypatch.setattr(doctor_module, "version", lambda name: found if name == package else installed(name))
    finding = by_topic()[package]
    assert finding.value.startswith(found)
    assert finding.advice.startswith("run: pip install")
    assert advice in finding.advice


def test_doctor_survives_without_packaging(no_classes, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert by_topic()["packaging"].advice == "run: pip install packaging"


def test_doctor_survives_without_nnunet(nnunet_folders, monkeypatch):
    def absent():
        raise FileNotFoundError("nnU-Net (nnunetv2) is not installed")

    monkeypatch.setattr(doctor_module, "find_nnunetv2", absent)
    wrong = [finding.topic for finding in doctor() if not finding.ok]
    assert wrong == ["nnU-Net's folder"]


def test_doctor_reports_a_hidden_checkout(nnunet_folders, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_module, "find_nnunetv2", lambda: (tmp_path, True))
    wrong = [finding for finding in doctor() if not finding.ok]
    assert ["run `nnunet_ext hook`" in finding.advice for finding in wrong] == [True]


def test_doctor_survives_a_torch_that_cannot_be_imported(no_classes, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "reinstall torch" in by_topic()["device"].advice


def test_doctor_survives_a_class_that_cannot_be_found_or_imported(nnunet_folders, monkeypatch):
    def find(name: str, folder: str) -> type | None:
        if name == "CascadeOARTrainer":
            raise OSError("libcudart.so:\nno such file")
        return None if folder == "preprocessing" else pytest.MonkeyPatch

    monkeypatch.setattr(doctor_module, "_find_as_nnunet_does", find)
    findings = by_topic()
    assert findings["CascadeOARTrainer"].value == "OSError: libcudart.so: no such file"
    assert "nnunet_ext hook" in findings["CascadeOARPreprocessor"].advice
    assert "another class of that name" in findings["CascadeOARPlanner"].advice


def test_doctor_reports_a_check_that_fails_in_an_unforeseen_way(no_classes, monkeypatch):
    def fail():
        raise AttributeError("surprise")

    monkeypatch.setattr(doctor_module, "_device", fail)
    finding = by_topic()["device"]
    assert not finding.ok
    assert "surprise" in finding.value


def test_lookup_modules_of_another_version_are_named_with_the_remedy(nnunet_folders, no_classes, monkeypatch, tmp_path):
    package = tmp_path / "nnunetv2"
    monkeypatch.setattr(hooking, "find_nnunetv2", lambda: (package, False))
    monkeypatch.setattr(doctor_module, "find_nnunetv2", lambda: (package, False))
    for source, target in hooking.LOOKUP_FOLDERS.items():
        (package / target).mkdir(parents=True)
        for name in hooking.LOOKUP_FILES:
            (package / target / name).write_bytes(
                (Path(hooking.__file__).parents[1] / "hooks" / source / name).read_bytes()
            )
    assert "lookup modules" not in by_topic()
    (package / "training/nnUNetTrainer/aa_nnunet_ext/lookup.py").write_text("LOOKUPS = {}\n")
    found = by_topic()["lookup modules"]
    assert found.value == "of another version: training/nnUNetTrainer/aa_nnunet_ext/lookup.py"
    assert found.advice.startswith("run `nnunet_ext hook`")
