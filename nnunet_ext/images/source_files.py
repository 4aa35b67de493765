"""Every file below a source folder, counted as a channel, as a label, or as left over for a reason.

Links are followed as if the files and folders lay there. A folder is read once, under its real path if that lies below the
source, so links that lead in circles end. Broken links, pipes and closed folders are files with a problem.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.images.file_names import broken_link, image_stem

BROKEN = "broken links (copy what they should lead to)"
READ_ALREADY = "links to folders that are read already"
CLOSED = "folders that cannot be opened (give read permission)"
UNREADABLE = "files that cannot be read (give read permission)"
SPECIAL = "pipes, sockets or devices"
SYSTEM = "hidden or system files"
EMPTY = "empty files"
OTHER_IMAGES = "images that are no channel or organ"
NO_IMAGES = "files that are no images"
DICOM = "DICOM files (--layout dicom reads them)"
OF_FAILED = "files of cases that failed"
BESIDE = "files beside the cases"

#: Files that Windows, macOS and Synology leave in folders. Names that begin with a dot are hidden anyway.
_SYSTEM_NAMES = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "@eadir",
}
#: So many names are shown per reason on the console and on the page. A case's provenance lists all.
_NAMES_SHOWN = 3


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, each with one of the reasons above if it cannot be read.

    A folder that is not entered counts as one file. Whether a file may be opened is not tried.
    """
    seen = {_identity(folder)}
    real = [(folder, _above(folder))]
    linked: deque[tuple[Path, frozenset[tuple[int, int]]]] = deque()
    while real or linked:
        if not real:  # links come last, so that what lies below the source is read under its real path
            here, above = linked.popleft()
            # A link to a folder that it lies in would bring in all that lies beside the source.
            if _identity(here) in seen | above:
                yield here, READ_ALREADY
            else:
                seen.add(_identity(here))
                real.append((here, above | _above(here)))
            continue
        here, above = real.pop()
        try:
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield here, CLOSED
            continue
        below = []
        for entry in found:
            path = Path(entry.path)
            if entry.is_symlink():
                problem = _problem(path)
                if problem == _FOLDER:
                    linked.append((path, above))
                else:
                    yield path, problem
            elif entry.is_dir(follow_symlinks=False):
                seen.add(_identity(path))
                below.append((path, above))
            else:
                yield path, "" if entry.is_file(follow_symlinks=False) else SPECIAL
        real += reversed(below)


_FOLDER = "a folder"


def _problem(path: Path) -> str:
    """Kind of a link's target, if that is no file."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return UNREADABLE
    except OSError:  # nothing, or links in a circle
        return BROKEN
    return _FOLDER if stat.S_ISDIR(mode) else "" if stat.S_ISREG(mode) else SPECIAL


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError:
        return (-1, -1)
    return found.st_dev, found.st_ino


def _above(folder: Path) -> frozenset[tuple[int, int]]:
    """The real folders that a folder lies in."""
    return frozenset(_identity(parent) for parent in folder.resolve().parents)


def is_system(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder between it and the source, is hidden or left there by an operating system."""
    return any(
        part.startswith(".") or part.lower() in _SYSTEM_NAMES or part == "Icon\r"
        for part in path.relative_to(folder).parts
    )


def subfolders(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Folders directly in a folder, without hidden ones, and names of those that are broken links -> why.

    Of two folders that are the same one the link is left out.
    """
    found = sorted(folder.iterdir())
    folders = [path for path in found if path.is_dir() and not is_system(path, folder)]
    real = {_identity(path) for path in folders if not path.is_symlink()} | {_identity(folder)} | _above(folder)
    kept = []
    for path in folders:
        if path.is_symlink():
            if _identity(path) in real:
                continue
            real.add(_identity(path))
        kept.append(path)
    broken = {
        path.name: broken_link(path)
        for path in found
        if not path.suffix and not is_system(path, folder) and path.is_symlink() and not path.exists()
    }
    return kept, broken


def reason_of(path: Path, problem: str, folder: Path) -> str:
    """Why a file that is neither channel nor label is left over, as far as its name and size tell."""
    if is_system(path, folder):
        return SYSTEM
    if problem:
        return problem
    try:
        if not path.stat().st_size:
            return EMPTY
    except OSError:
        return UNREADABLE
    if path.suffix.lower() in (".dcm", ".ima"):
        return DICOM
    return OTHER_IMAGES if image_stem(path) else NO_IMAGES


def reason_of_failed(path: Path, problem: str, folder: Path) -> str:
    """`reason_of` for the files of a case that failed. Its images are not odd, only not used."""
    reason = reason_of(path, problem, folder)
    return OF_FAILED if reason in (OTHER_IMAGES, NO_IMAGES, DICOM) else reason


def reason_beside(path: Path, problem: str, folder: Path) -> str:
    """`reason_of` for the files of no case."""
    reason = reason_of(path, problem, folder)
    return BESIDE if reason in (OTHER_IMAGES, NO_IMAGES) else reason


@dataclass
class FileCount:
    """How many files are channels, how many labels, how many left over.

    Attributes:
        channels, labels: Files that are used.
        left_over: Reason -> files.
        names: Reason -> names of these files, if names may be shown.
    """

    channels: int = 0
    labels: int = 0
    left_over: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> int:
        return self.channels + self.labels + self.left_over.total()

    def leave(self, reason: str, name: str | None = None) -> None:
        """Count a file that is neither channel nor label, with the reason and, if it may be said, its name."""
        self.left_over[reason] += 1
        if name is not None:
            self.names.setdefault(reason, []).append(name)

    def add(self, other: FileCount, *, below: str = "") -> None:
        """Count another's files too. Their names stand below a folder."""
        self.channels += other.channels
        self.labels += other.labels
        self.left_over += other.left_over
        for reason, names in other.names.items():
            self.names.setdefault(reason, []).extend(f"{below}{name}" for name in names)

    def of_failed(self) -> FileCount:
        """The count of the same files after their case failed, so that none is used."""
        used = Counter({OF_FAILED: self.channels + self.labels})
        return FileCount(0, 0, self.left_over + used, self.names)

    def reasons(self) -> list[str]:
        """`2 empty files [a.txt, b.txt]`, one per reason."""
        return [f"{count} {reason}{self._named(reason)}" for reason, count in sorted(self.left_over.items()) if count]

    def _named(self, reason: str) -> str:
        names = [] if reason in (SYSTEM, OF_FAILED, DICOM) else self.names.get(reason, [])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return f" [{', '.join(sorted(names)[:_NAMES_SHOWN])}{more}]" if names else ""

    def __str__(self) -> str:
        used = f"{self.files} files: {self.channels} used as channels, {self.labels} as labels"
        reasons = self.reasons()
        return f"{used}, {self.left_over.total()} left over" + (f": {', '.join(reasons)}" if reasons else "")

    def as_dict(self) -> dict:
        """Plain JSON, with all names that may be shown."""
        left_over = {reason: count for reason, count in sorted(self.left_over.items()) if count}
        named = {"left_over_files": dict(sorted(self.names.items()))} if self.names else {}
        return {"channels": self.channels, "labels": self.labels, "left_over": left_over, **named}


def count_files(
    folder: Path,
    walked: Iterable[tuple[Path, str]],
    *,
    channels: Iterable[Path] = (),
    labels: Iterable[Path] = (),
    reason: Callable[[Path, str, Path], str] = reason_of,
) -> FileCount:
    """The count of the files of one folder, names relative to it.

    Args:
        folder: For example a case.
        walked: Its files, as `walk` gives them.
        channels, labels: Those that are used, also under paths that the walk does not take.
        reason: Path, problem and folder -> why a file is left over.
    """
    channels = set(channels)
    labels = set(labels) - channels
    count = FileCount(len(channels), len(labels))
    for path, problem in walked:
        if path not in channels and path not in labels:
            count.leave(reason(path, problem, folder), path.relative_to(folder).as_posix())
    return count


def total(counts: Mapping[str, FileCount], beside: FileCount, failed: Iterable[str] = ()) -> FileCount:
    """The count of a whole source, of its cases, some of which failed, and of the files beside them."""
    failed, result = set(failed), FileCount()
    result.add(beside)
    for case, count in counts.items():
        result.add(count.of_failed() if case in failed else count, below=f"{case}/")
    return result
