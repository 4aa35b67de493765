"""Whether versions, device, nnU-Net's folders and lookups work together here, and the remedy if not."""

import inspect
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from nnunet_ext.installation.devices import GIB, device_findings, probes_of
from nnunet_ext.installation.findings import Finding, one_line
from nnunet_ext.installation.hooking import LOOKUP_FOLDERS, find_nnunetv2, outdated_hooks

NNUNET_FOLDERS = {
    "nnUNet_raw": "raw data sets",
    "nnUNet_preprocessed": "plans and preprocessed cases",
    "nnUNet_results": "trained models",
}


def doctor() -> list[Finding]:
    """Findings on this environment, in the order to mend them. Nothing is changed, and no finding raises."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("nnU-Net", _nnunet),
        ("device", _device),
        ("folders", _folders),
        ("classes", _classes),
    ]
    findings: list[Finding] = []
    for topic, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken environment can fail in any way, and that is what we are here to report
            findings.append(
                Finding(topic, one_line(error), "this check failed: mend what is reported above, then repeat")
            )
    return findings


def _versions() -> Iterator[Finding]:
    """Versions of the packages we need, against the ranges that our own metadata declares."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        declared = requires("nnunet_ext") or []
        yield Finding("nnunet_ext", version("nnunet_ext"))
    except PackageNotFoundError:
        yield Finding(
            "nnunet_ext", "not installed, only a folder of it is on the path", "run `pip install .` in its checkout"
        )
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding(
            "packaging", "not installed; without it, no other version can be checked", "run: pip install packaging"
        )
        return
    for requirement in map(Requirement, declared):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        supported, install = str(requirement.specifier), f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "not installed", f"run: {install}")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Finding(requirement.name, f"{found} (supported: {supported})", "" if fits else f"run: {install}")


def _nnunet() -> Iterator[Finding]:
    try:
        folder, hidden = find_nnunetv2()
    except FileNotFoundError as error:
        yield Finding("nnU-Net's folder", "none", one_line(error))
        return
    advice = "editable nnU-Net is hidden by its namesake in site-packages: run `nnunet_ext hook`" if hidden else ""
    yield Finding("nnU-Net's folder", str(folder), advice)
    if old := outdated_hooks():
        yield Finding(
            "lookup modules",
            f"of another version: {', '.join(str(path.relative_to(folder)) for path in old)}",
            "run `nnunet_ext hook`; if pip installed them, reinstall nnunet_ext",
        )


def _device() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB of memory"
    yield Finding("cpu", f"{cores} cores{memory}")
    try:
        import torch
    except Exception as error:  # not only ImportError: a missing shared library raises OSError
        yield Finding("device", f"torch cannot be imported: {one_line(error)}", "reinstall torch for this machine")
        return
    yield from device_findings(probes_of(torch))


def _folders() -> Iterator[Finding]:
    for variable, use in NNUNET_FOLDERS.items():
        value = os.environ.get(variable)
        if not value:
            yield Finding(variable, "not set", f"choose a folder for {use}: export {variable}=FOLDER")
        elif Path(value).is_file():
            yield Finding(variable, f"{value} is a file, not a folder", "move it away, or choose another folder")
        elif not Path(value).is_dir():
            yield Finding(variable, f"{value} is not a folder", f"run: mkdir -p '{value}'")
        elif not os.access(value, os.W_OK):
            yield Finding(variable, f"{value} cannot be written", "change its owner or mode, or choose another folder")
        else:
            yield Finding(variable, f"{value} ({shutil.disk_usage(value).free / GIB:.1f} GiB free)")


def _classes() -> Iterator[Finding]:
    """Each class of ours, asked for the way nnU-Net's commands do."""
    try:
        _, hidden = find_nnunetv2()
    except FileNotFoundError:
        hidden = True
    if hidden:
        return  # reported by `_nnunet`; nothing could be found
    for folder in LOOKUP_FOLDERS:
        for name in import_module(f"nnunet_ext.hooks.{folder}.lookup").LOOKUPS:
            yield _class(name, folder)


def _class(name: str, folder: str) -> Finding:
    try:
        found = _find_as_nnunet_does(name, folder)
        file = None if found is None else inspect.getfile(found)
    except Exception as error:  # importing a class runs whatever its modules import
        return Finding(name, one_line(error), "its module cannot be imported: reinstall nnunet_ext and nnunetv2")
    if found is None:
        return Finding(name, "nnU-Net does not find it", "run `nnunet_ext hook`")
    ours = found.__module__.startswith("nnunet_ext.")
    return Finding(name, str(file), "" if ours else "another class of that name comes before ours: delete or rename it")


def _find_as_nnunet_does(name: str, folder: str) -> type | None:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    if folder != "training":
        searched = Path(LOOKUP_FOLDERS[folder]).parent
        module = ".".join(("nnunetv2", *searched.parts))
        return recursive_find_python_class(str(Path(nnunetv2.__path__[0], searched)), name, module)
    try:
        return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        if "Could not find" in str(error):
            return None
        raise
