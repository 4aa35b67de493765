"""The images and labels of a case folder, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_ext.cases.folder_case import LABEL_MAP_NAMES, FolderCase, drawn_name, is_slicer, names_of_case
from nnunet_ext.cases.label_files import (
    is_channel_name,
    is_unread_label_file,
    label_stem,
    may_be_labels,
    organs_of,
    read_segments,
    without_label_words,
)
from nnunet_ext.cases.organ_masks import check_files_drawn_once
from nnunet_ext.dataset_conversion.settings import Settings
from nnunet_ext.dicom.files import label_modality
from nnunet_ext.images.file_names import broken_link, find_channel_files, image_files, image_stem, refuse_no_file
from nnunet_ext.images.source_files import BROKEN, CLOSED, READ_ALREADY, is_system
from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.labels.volumes import WHOLE_BODY
from nnunet_ext.messages import Message

MASK_FOLDERS = ("masks", "mask", "structures", "segmentations")
#: Header files of formats that keep the voxels in a file of their own.
HEADERS = (".mhd", ".nhdr", ".hdr")


def find_case(
    folder: Path,
    identifier: str,
    test: bool,
    settings: Settings,
    layout: str,
    lost: Sequence[tuple[Path, str]] | None,
) -> FolderCase:
    """The case of one folder. If no labels are recognised, none of the files `lost` may hold labels."""
    from nnunet_ext.dataset_conversion import hanseg

    notes: tuple[Message, ...] = ()
    if layout == "hanseg":
        images = hanseg.find_images(folder, settings.modalities)
        label_files, ignored = hanseg.find_masks(folder, settings.table)
        if len(images) > 1 and not settings.channels.register:
            notes = (hanseg.NOTE,)
    else:
        images = find_channel_files(folder, settings.modalities)
        label_files, ignored = _find_labels(folder, set(images.values()), settings.table)
    if not label_files and lost is not None:
        _refuse_lost_labels(folder, lost, images, settings.table)
    for path in label_files.get(None, ()):
        if is_slicer(path) and (segments := read_segments(path)):
            ignored = [*ignored, *(f"segment {name}" for name in organs_of(segments, settings.table, path)[1])]
    return FolderCase(folder, identifier, test, images, label_files, ignored, notes)


def _find_labels(folder: Path, images: set[Path], table: LabelTable) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Label files of a case and the names of images that are neither channel nor organ."""
    here = sorted(folder.iterdir())
    free = {path: stem for path, stem in _stems(here).items() if path not in images}
    maps = [path for path, stem in free.items() if stem.lower() in LABEL_MAP_NAMES]
    masks = [path for path in here if path.is_dir() and path.name.lower() in MASK_FOLDERS]
    drawn = {path: stem for sub in masks for path, stem in _stems(sorted(sub.iterdir())).items()}
    organs: dict[str | None, list[Path]] = {}
    unknown = []
    for path, stem in (free | drawn).items():
        if path in maps:
            continue
        organ = table.organ(stem)
        if organ is None:
            unknown.append(path)
        else:
            organs.setdefault(organ, []).append(path)
    if not maps:
        maps = _by_other_names(folder, unknown, organs, table, names_of_case(folder, images))
    for path in (*maps, *(path for paths in organs.values() for path in paths)):
        refuse_no_file(path)
    ignored = [path.relative_to(folder).as_posix() for path in unknown]
    names = names_of_case(folder, images)
    drawn_once = ((drawn_name(path, table, names), path) for paths in organs.values() for path in paths)
    check_files_drawn_once(drawn_once, table)
    if len(maps) > 1:
        raise ValueError(f"there are {len(maps)} label maps, {names_of(maps)}; keep one")
    if maps and organs:
        masks = [path for paths in organs.values() for path in paths]
        raise ValueError(f"there is a label map, {maps[0].name}, and masks per organ, {names_of(masks)}; keep one kind")
    if drawn and not organs and not maps:
        raise ValueError(
            f"none of the masks {names_of([*drawn])} is in the label table ({', '.join(table.names)}); "
            "add their names as aliases"
        )
    return ({None: maps} if maps else organs), ignored


def _stems(paths: Iterable[Path]) -> dict[Path, str]:
    """Image files -> name without ending."""
    return {path: stem for path in paths if not path.is_dir() and (stem := image_stem(path))}


def _by_other_names(
    folder: Path, unknown: list[Path], organs: dict[str | None, list[Path]], table: LabelTable, known: Sequence[str]
) -> list[Path]:
    """Label maps among files of unknown names. Masks of organs that have none yet are put into `organs`.

    Label maps count only if there are no masks. Files in a folder that is not one of `MASK_FOLDERS` count only if there
    is nothing else. Files beside labels of the usual names are drafts or copies. Files that are found are taken out of
    `unknown`.
    """
    groups = [list(unknown)]
    if not organs:
        groups.append(_in_label_folders(folder, known))
    maps: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for group in groups:
        for path in group:
            stem = label_stem(path) or ""
            # In a folder of labels, a file with the case's name is its label map.
            named = path.parent == folder or is_channel_name(stem, ())
            rest = without_label_words(stem if named else f"label_{stem}", known)
            organ = table.organ(stem) or table.organ(rest or "")
            if organ is None and (rest == "" or is_slicer(path)):
                maps.append(path)
            elif organ is not None and organ not in organs:
                masks.setdefault(organ, []).append(path)
        if maps or masks:
            break
    maps = [] if organs else maps
    organs.update(masks)
    taken = {*maps, *(path for paths in masks.values() for path in paths)}
    unknown[:] = [path for path in dict.fromkeys([*unknown, *group]) if path not in taken]
    return maps


def _in_label_folders(folder: Path, known: Sequence[str]) -> list[Path]:
    """Images in folders such as `labels`, `case_rois` or `gt`."""
    names = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name.lower() not in MASK_FOLDERS]
    subs = [sub for sub in names if without_label_words(sub.name, known) is not None]
    return [path for sub in subs for path in sorted(sub.iterdir()) if not path.is_dir() and image_stem(path)]


def _refuse_lost_labels(
    folder: Path, files: Sequence[tuple[Path, str]], images: Mapping[str, Path], table: LabelTable
) -> None:
    """ValueError if a case without labels has a file that could be its labels. It would become a test case."""
    used = {file for path in images.values() for file in image_files(path)}
    known = names_of_case(folder, images.values())
    for path, problem in files:
        below = folder in path.parents
        if path in used or problem == READ_ALREADY or is_system(path, folder if below else path.parent):
            continue
        name = path.relative_to(folder).as_posix() if below else path.name
        stem, ending = image_stem(path), path.name[len(image_stem(path) or "") :]
        named = [stem or path.name, *(part for part in Path(name).parts[:-1])]
        means_labels = any(without_label_words(part, known) is not None for part in named)
        possible = means_labels or (stem is not None and not is_channel_name(stem, images))
        if problem and (possible or problem == CLOSED):
            reason = broken_link(path) if problem == BROKEN else f"{name} is among the {problem}"
            raise ValueError(f"not recognised as labels: {reason}; or pass --unlabelled")
        if problem:
            continue
        if stem and normalise_name(stem) in WHOLE_BODY:
            continue  # an outline of the patient says nothing about organs
        if stem and possible and may_be_labels(path):
            raise ValueError(
                f"not recognised as labels: {name}; name it label{ending}, or {table.names[0]}{ending} if it is the mask of "
                "that organ, or pass --unlabelled"
            )
        if not stem and is_unread_label_file(path, known):
            raise ValueError(
                f"not recognised as labels: {name}; write it as NIfTI or NRRD and name it label.nii.gz, or pass --unlabelled"
            )
        if not stem and (modality := label_modality(path)):
            raise ValueError(
                f"not recognised as labels: {name} is a DICOM {modality}, which refers to DICOM images; give these "
                "with --layout dicom, or write it as label.nii.gz, or pass --unlabelled"
            )


def names_of(paths: Sequence[Path], most: int = 4) -> str:
    """Names of the first few files, for messages."""
    names = " and ".join(path.name for path in paths[:most])
    return names + (f" and {len(paths) - most} more" if len(paths) > most else "")
