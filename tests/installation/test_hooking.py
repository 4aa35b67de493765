import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_ext.cli.main import main
from nnunet_ext.installation import hooking
from nnunet_ext.installation.hooking import LOOKUP_FILES, LOOKUP_FOLDERS, find_nnunetv2, write_hooks


@pytest.fixture
def nnunetv2(tmp_path, monkeypatch):
    """An empty stand-in for nnU-Net's package folder, in a site-packages of its own."""
    folder = tmp_path / "checkout" / "nnunetv2"
    for target in LOOKUP_FOLDERS.values():
        (folder / target).parent.mkdir(parents=True)
    monkeypatch.setattr(hooking, "find_nnunetv2", lambda: (folder, False))
    monkeypatch.setattr(hooking.sysconfig, "get_path", lambda name: str(tmp_path))
    return folder


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_write_hooks_writes_the_three_lookup_packages(nnunetv2):
    written = write_hooks()
    assert set(written) == files_below(nnunetv2)
    assert set(written) == {nnunetv2 / target / name for target in LOOKUP_FOLDERS.values() for name in LOOKUP_FILES}
    source = Path(hooking.__file__).parents[1] / "hooks" / "training" / "lookup.py"
    assert (nnunetv2 / LOOKUP_FOLDERS["training"] / "lookup.py").read_bytes() == source.read_bytes()


def test_write_hooks_does_nothing_the_second_time(nnunetv2):
    write_hooks()
    assert write_hooks() == []


def test_write_hooks_replaces_a_file_that_differs(nnunetv2):
    write_hooks()
    stale = nnunetv2 / LOOKUP_FOLDERS["preprocessing"] / "lookup.py"
    stale.write_text("LOOKUPS = {}\n")
    assert write_hooks() == [stale]
    assert "CascadeOARPreprocessor" in stale.read_text()


def test_remove_takes_files_bytecode_and_folders_away(nnunetv2):
    before = set(nnunetv2.rglob("*"))
    written = write_hooks()
    for path in written:
        bytecode = path.parent / "__pycache__" / f"{path.stem}.cpython-310.pyc"
        bytecode.parent.mkdir(exist_ok=True)
        bytecode.write_bytes(b"")
    assert set(write_hooks(remove=True)) == set(written)
    assert set(nnunetv2.rglob("*")) == before
    assert write_hooks(remove=True) == []


def test_remove_leaves_files_of_others(nnunetv2):
    write_hooks()
    other = nnunetv2 / LOOKUP_FOLDERS["training"] / "mine.py"
    other.write_text("")
    write_hooks(remove=True)
    assert files_below(nnunetv2) == {other}


def test_files_that_pip_installed_are_never_touched(nnunetv2, monkeypatch):
    written = write_hooks()
    monkeypatch.setattr(hooking, "_files_of_pip", lambda: {path.resolve() for path in written})
    assert write_hooks(remove=True) == []
    written[0].write_text("edited\n")
    with pytest.raises(RuntimeError, match="was installed by pip and differs"):
        write_hooks()
    assert written[0].read_text() == "edited\n"


def test_read_only_folder_is_reported_with_what_to_do(nnunetv2, monkeypatch):
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(RuntimeError, match=r"aa_nnunet_ext.*Permission denied.*owner of that folder"):
        write_hooks()
    assert files_below(nnunetv2) == set()


def test_a_hidden_checkout_gets_a_path_file_that_names_its_folder(nnunetv2, tmp_path, monkeypatch):
    monkeypatch.setattr(hooking, "find_nnunetv2", lambda: (nnunetv2, True))
    path_file = tmp_path / hooking.PATH_FILE
    assert path_file in write_hooks()
    assert path_file.read_text() == f"{nnunetv2.parent}\n"
    assert write_hooks() == []
    monkeypatch.setattr(hooking, "find_nnunetv2", lambda: (nnunetv2, False))  # the next process sees this
    assert path_file in write_hooks(remove=True)
    assert not path_file.exists()


def test_find_nnunetv2_looks_behind_a_namespace_package(monkeypatch, tmp_path):
    namespace = SimpleNamespace(find_spec=lambda name, path: ModuleSpec(name, None, is_package=True))
    origin = str(tmp_path / "nnunetv2" / "__init__.py")
    checkout = SimpleNamespace(find_spec=lambda name, path: ModuleSpec(name, None, origin=origin, is_package=True))
    with monkeypatch.context() as patch:  # only while looking: with these finders nothing else can be imported
        patch.setattr(sys, "meta_path", [namespace, checkout])
        found = find_nnunetv2()
        patch.setattr(sys, "meta_path", [checkout])
        plain = find_nnunetv2()
    assert found == (tmp_path / "nnunetv2", True)
    assert plain == (tmp_path / "nnunetv2", False)


def test_find_nnunetv2_says_how_to_install_it(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [])
        with pytest.raises(FileNotFoundError, match="pip install"):
            find_nnunetv2()


def test_hook_verb_says_what_it_wrote_and_how_to_remove_it(nnunetv2, capsys):
    assert main(["hook"]) == 0
    out = capsys.readouterr().out
    assert str(nnunetv2 / LOOKUP_FOLDERS["training"] / "lookup.py") in out
    assert "hook --remove" in out
    assert main(["hook"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["hook", "--remove"]) == 0
    assert files_below(nnunetv2) == set()
