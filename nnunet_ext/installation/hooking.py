"""The lookup modules inside nnU-Net's package, their places, and writing them if pip did not.

`pip install` puts the modules of `nnunet_ext/hooks` into nnU-Net's package, because nnU-Net looks planners and
preprocessors up only there. Two installs need help. One is an editable one of ours, as pip links folders and copies no
files into other packages. The other is an editable one of nnU-Net, whose package lies in a checkout and not in
site-packages. Checked against nnunetv2 2.8.1.
"""

import importlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from nnunet_ext.files import written_whole

# Folder of `nnunet_ext/hooks` -> folder below `nnunetv2`. "aa_": nnU-Net searches in alphabetical order and imports
# what it passes. Behind all its trainer variants, ours could not be found where one of theirs fails to import (some
# need timm, which needs a torchvision that fits torch). Not plain "nnunet_ext": while nnU-Net searches, the folder is
# first on `sys.path`, and that name would hide our package.
LOOKUP_FOLDERS = {
    "experiment_planning": "experiment_planning/aa_nnunet_ext",
    "preprocessing": "preprocessing/aa_nnunet_ext",
    "resampling": "preprocessing/resampling/aa_nnunet_ext",
    "training": "training/nnUNetTrainer/aa_nnunet_ext",
}
LOOKUP_FILES = ("lookup.py", "__init__.py")
PATH_FILE = "nnunet_ext_nnunetv2_checkout.pth"  # see `write_hooks`


def write_hooks(*, remove: bool = False) -> list[Path]:
    """Lookup modules written into nnU-Net's package. With `remove`, those taken away.

    A file that is there with the right content is left alone, and so is every file that pip installed. After a plain
    `pip install` of both packages there is nothing to do. pip does not know the files written here and will not remove
    them with the package. `write_hooks(remove=True)` does.

    With an editable nnU-Net, the lookup folders in site-packages form a namespace package `nnunetv2` that hides the
    checkout, and every nnU-Net command fails. The cure is a path file in site-packages that names the checkout's
    folder. Python prefers a package with an `__init__.py` wherever it stands on the path. pip itself writes such a file
    with `--config-settings editable_mode=compat`.

    Returns:
        The files written, or those removed. Empty if there was nothing to do.

    Raises:
        FileNotFoundError: If nnU-Net is not installed.
        RuntimeError: If a folder cannot be written, or a file of pip differs from this version's.
    """
    nnunetv2_folder, hidden = find_nnunetv2()
    contents = {nnunetv2_folder / target: source.read_bytes() for source, target in _lookup_files()}
    path_file = Path(sysconfig.get_path("purelib"), PATH_FILE)
    if hidden:
        contents[path_file] = f"{nnunetv2_folder.parent}\n".encode()
    try:
        changed = _remove([*contents, path_file]) if remove else _write(contents)
    except OSError as error:
        raise RuntimeError(
            f"cannot change {error.filename or nnunetv2_folder}: {error.strerror or error}. Run the command as the "
            "owner of that folder, or install nnU-Net and nnunet_ext in a virtual environment of your own."
        ) from error
    importlib.invalidate_caches()
    return changed


def outdated_hooks() -> list[Path]:
    """Lookup modules in nnU-Net's package that another version of ours wrote there.

    Raises:
        FileNotFoundError: If nnU-Net is not installed.
    """
    nnunetv2_folder, _ = find_nnunetv2()
    there = {nnunetv2_folder / target: source for source, target in _lookup_files()}
    return [path for path, source in there.items() if path.is_file() and path.read_bytes() != source.read_bytes()]


def find_nnunetv2() -> tuple[Path, bool]:
    """Folder of nnU-Net's package, and whether a namespace package of the same name hides it from `import`.

    nnU-Net is not imported. See `write_hooks` for how it comes to be hidden.

    Raises:
        FileNotFoundError: If nnU-Net is not installed.
    """
    hidden = False
    for finder in sys.meta_path:
        spec = finder.find_spec("nnunetv2", None)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent, hidden
        hidden |= spec is not None
    raise FileNotFoundError(
        "nnU-Net (nnunetv2) is not installed in the environment of this Python "
        f"({sys.executable}). Run: pip install 'nnunetv2>=2.8,<2.9'"
    )


def _lookup_files() -> Iterator[tuple[Path, str]]:
    for folder, target in LOOKUP_FOLDERS.items():
        for name in LOOKUP_FILES:  # the module first: a folder becomes a package only when it is complete
            yield Path(__file__).parents[1] / "hooks" / folder / name, f"{target}/{name}"


def _write(contents: dict[Path, bytes]) -> list[Path]:
    pip_owned = _files_of_pip()
    written = []
    for path, content in contents.items():
        if path.is_file() and path.read_bytes() == content:
            continue
        if path.resolve() in pip_owned:
            raise RuntimeError(
                f"{path} was installed by pip and differs from the one of this version. "
                "Reinstall nnunet_ext: pip install --force-reinstall --no-deps, as you installed it."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
        written.append(path)
    return written


def _remove(paths: list[Path]) -> list[Path]:
    pip_owned = _files_of_pip()
    removed = []
    for path in dict.fromkeys(paths):
        if not path.is_file() or path.resolve() in pip_owned:
            continue
        path.unlink()
        removed.append(path)
        compiled = path.parent / "__pycache__"
        for bytecode in compiled.glob(f"{path.stem}.*.pyc"):
            bytecode.unlink()
        if path.name in LOOKUP_FILES:
            for folder in (compiled, path.parent):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    return removed


def _files_of_pip() -> set[Path]:
    # All distributions of the name: in a checkout, its egg-info comes before what is installed.
    files = [file for found in distributions(name="nnunet_ext") for file in found.files or []]
    return {Path(file.locate()).resolve() for file in files}
