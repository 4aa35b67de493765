"""Whether a folder holds cases as folders of images or as DICOM, by the content of the folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.dicom.files import has_dicom
from nnunet_ext.images.file_names import find_channel_files, image_stem
from nnunet_ext.images.source_files import subfolders


def source_layout(source: Path, channels: Sequence[str], *, optional: Sequence[str] = ()) -> str:
    """`folders` or `dicom`. `folders` if nothing is recognised.

    DICOM images make a tree DICOM, unless a folder directly below the source holds the images of all channels as files.
    One converted image beside the series of a patient does not count. If a case may lack every channel, one image is enough
    in a folder without DICOM images.

    Args:
        source: Folder of cases, or DICOM tree.
        channels: Channels of a case.
        optional: Channels that a case may lack.

    Raises:
        ValueError: If some folders hold all channels as files, and others DICOM images and no channel.
    """
    if not source.is_dir():
        return "folders"
    folders, _ = subfolders(source)
    complete, without = [], []
    needed = set(channels) - set(optional)
    for folder in folders:
        kinds = _channels_there(folder, channels)
        converted = not needed and kinds < set(channels) and has_dicom(folder, images_only=True)
        if kinds and needed <= kinds and not converted:
            complete.append(folder)
        elif not kinds:
            without.append(folder)
    if not complete:
        return "dicom" if has_dicom(source, images_only=True) else "folders"
    loose = any(path.is_file() and image_stem(path) is None for path in source.iterdir())
    dicom = [folder for folder in without if has_dicom(folder, images_only=True)]
    if dicom or (loose and has_dicom(source, images_only=True, below=False)):
        where = f"in {len(dicom)} other folders" if dicom else "beside them"
        raise ValueError(
            f"{source.name} holds {len(complete)} folders with an image file per channel, and DICOM images {where}; say "
            "which to read: pass --layout folders or --layout dicom"
        )
    return "folders"


def _channels_there(folder: Path, channels: Sequence[str]) -> set[str]:
    """Channels that have a file, or several, in a folder."""
    found = set()
    for channel in channels:
        try:
            found |= set(find_channel_files(folder, [channel], optional=[channel]))
        except ValueError:  # several files, or a broken link: the case is one of files all the same
            found.add(channel)
        except OSError:
            return set()
    return found
