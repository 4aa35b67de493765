"""One case converted, beside the cases that are converted at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.cases.case import SourceCase
from nnunet_ext.cases.preparing import prepare_channels
from nnunet_ext.cases.training_form import learned_resampling
from nnunet_ext.dataset_conversion.conversion_page import FOLDER as PREVIEWS
from nnunet_ext.dataset_conversion.dataset import read_record, remove_case, versions
from nnunet_ext.dataset_conversion.finding import HEADERS
from nnunet_ext.dataset_conversion.labels import PlacedLabels, check_organs_covered, place_labels
from nnunet_ext.dataset_conversion.settings import FILE_ENDING, Settings
from nnunet_ext.files import in_one_line, write_json
from nnunet_ext.images.channels import reference_channel
from nnunet_ext.images.checks import check_images
from nnunet_ext.images.geometry import orientation_code, to_canonical
from nnunet_ext.images.writing import write_image
from nnunet_ext.messages import Message, in_english
from nnunet_ext.processes import KILLED, run_each
from nnunet_ext.steps import OTHER, step

#: Raised when the same input and options give other files than before: cases are then converted again.
FORMAT = 5


def split_of(case: SourceCase) -> str:
    """`Tr` or `Ts`, of the folders that a case goes to."""
    return "Ts" if case.test or not case.has_labels else "Tr"


@dataclass(frozen=True)
class Job:
    """One case to convert, as a worker process gets it. `partial` is the folder for what is not complete yet."""

    case: SourceCase
    settings: Settings
    dataset: Path
    partial: Path
    preview: bool = False
    source: str = ""  # `hashed_source`


@dataclass(frozen=True)
class Failed:
    """Why a case failed. It is `outdated` if its own files are bad, so that an earlier result of them is wrong too."""

    reason: str
    outdated: bool = False


class _OtherCase(ValueError):
    """The dataset holds a case of this name that was made from other files of another source."""


def run_jobs(
    jobs: Sequence[Job], n_processes: int, show_progress: bool
) -> Generator[tuple[Job, Failed | list[Message] | None], None, None]:
    """Each job as it finishes, with the reason if it failed, None if nothing was to do, else its warnings."""
    from tqdm import tqdm

    convert_one = _convert_in_step if n_processes == 1 else _convert_case  # only steps of this process are recorded
    with (
        tqdm(total=len(jobs), desc="convert", unit="case", disable=not show_progress) as bar,
        contextlib.closing(run_each(convert_one, jobs, n_processes)) as outcomes,
    ):
        for job, outcome in outcomes:
            if outcome is KILLED:
                outcome = Failed("its process was killed, probably out of memory; convert with -np 1 or more memory")
            yield job, outcome
            bar.update()


def _convert_in_step(job: Job) -> Failed | list[Message] | None:
    with step(OTHER, case=job.case.identifier):
        return _convert_case(job)


def _convert_case(job: Job) -> Failed | list[Message] | None:
    """Convert one case if needed. The files of an earlier run stay until the new ones are complete."""
    case, dataset = job.case, job.dataset
    partial = job.partial / case.identifier
    earlier = read_record(dataset / "provenance" / f"{case.identifier}.json") or {}
    hashes: dict[str, str] = {}
    try:
        hashes = {name: _sha256(path) for name, path in case.inputs().items()}
        fingerprint = _fingerprint(case, job.settings, hashes)
        if _is_done(dataset, case, fingerprint) and (
            not job.preview or (dataset / PREVIEWS / case.identifier).is_dir()
        ):
            return None
        replaced = _check_earlier(job, hashes, earlier)
        partial.mkdir(parents=True, exist_ok=True)
        files, provenance, warnings = _build(job, partial)
        warnings += replaced
        provenance = {
            "case": case.name,
            "identifier": case.identifier,
            "fingerprint": fingerprint,
            "source": job.source,
            "inputs_sha256": hashes,
            "outputs": sorted(files),
            "options": job.settings.as_dict(),
            "versions": versions(),
            **provenance,
            "warnings": in_english(warnings),
            "messages": [warning.to_json() for warning in warnings],
        }
        write_json(provenance, partial / "provenance.json")
        remove_case(dataset, case.identifier)
        try:
            _move_case(job, partial, files)
        except BaseException:
            remove_case(dataset, case.identifier)
            raise
        return warnings
    except Exception as error:  # one case must not stop the others
        changed = hashes != earlier.get("inputs_sha256")
        outdated = changed and isinstance(error, ValueError) and not isinstance(error, _OtherCase)
        return Failed(case.public(in_one_line(error)), outdated)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_case(job: Job, partial: Path, files: Sequence[str]) -> None:
    """Move a complete case into the dataset, its provenance last."""
    dataset, identifier = job.dataset, job.case.identifier
    if job.preview:
        (dataset / PREVIEWS).mkdir(exist_ok=True)
        (partial / PREVIEWS).rename(dataset / PREVIEWS / identifier)
    for file in files:
        (dataset / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / Path(file).name if not file.startswith("labels") else partial / "label" / Path(file).name,
                   dataset / file)  # fmt: skip
    (dataset / "provenance").mkdir(exist_ok=True)
    os.replace(partial / "provenance.json", dataset / "provenance" / f"{identifier}.json")


def _check_earlier(job: Job, hashes: Mapping[str, str], earlier: Mapping) -> list[Message]:
    """Refuse to replace another source's case of the same name. Warns if the same source now has other files.

    It is the same case if one of its images is among the files it was converted from before, wherever they lay then.

    Raises:
        _OtherCase: If neither a file nor the source is the same.
    """
    case, dataset = job.case, job.dataset
    labels = case.roles()["labels"]
    drawn = {file for files in labels.values() for file in files} if isinstance(labels, Mapping) else {labels}
    # Masks without the organ and headers apart from their voxels can be equal for two patients.
    images = {sha for name, sha in hashes.items() if Path(name).name not in drawn and not name.endswith(HEADERS)}
    if not earlier.get("inputs_sha256") or not images.isdisjoint(earlier["inputs_sha256"].values()):
        return []
    if earlier.get("source") != job.source:
        raise _OtherCase(
            f"{dataset.name} holds a case {case.identifier!r} that was converted from other images in another folder; "
            f"rename this case (DICOM: convert both folders in one run), or delete provenance/{case.identifier}.json there "
            "to replace the earlier one"
        )
    return [Message("files_replaced")]


def _build(job: Job, partial: Path) -> tuple[list[str], dict, list[Message]]:
    """Write a case's channels and labels below `partial`.

    Returns names of the files in the dataset, the record, and warnings.
    """
    case, settings = job.case, job.settings
    labels: PlacedLabels | None = None
    with step("read"):
        read = case.read_images()
    images = read.images
    warnings = [*case.notes, *read.warnings]
    check_images(images)
    name = reference_channel(list(images))
    if case.has_labels:
        with step("labels"):
            reference = to_canonical(images[name])
            labels = place_labels(case, images, reference, settings.table, registered=settings.channels.register)
        warnings += labels.warnings
    organs = None if labels is None else sitk.GetArrayFromImage(labels.label_map)
    channels = prepare_channels(
        images,
        settings.channels,
        keep=None if organs is None else organs > 0,
        same_frame=read.same_frame,
        keep_steps=job.preview,
        learned=learned_resampling(settings.channels, [job.dataset]),
    )
    warnings += channels.warnings
    if organs is not None:
        warnings += check_organs_covered(organs, channels.fields_of_view, settings.table)
    files = []
    with step("write"):
        for number, image in enumerate(channels.images.values()):
            file = f"images{split_of(case)}/{case.identifier}_{number:04d}{FILE_ENDING}"
            write_image(image, partial / Path(file).name)
            files.append(file)
        if labels is not None:
            file = f"labels{split_of(case)}/{case.identifier}{FILE_ENDING}"
            (partial / "label").mkdir(exist_ok=True)
            write_image(labels.label_map, partial / "label" / Path(file).name)
            files.append(file)
    if job.preview:
        try:
            with step("pictures"):
                from nnunet_ext.dataset_conversion.preview import draw_previews  # needs matplotlib, which arrays do not

                draw_previews(case.identifier, partial / PREVIEWS, channels=channels, labels=organs,
                              label_values=settings.table.values, pairs=settings.table.pairs)  # fmt: skip
        except Exception as error:  # a picture is no reason to lose a case
            warnings.append(Message("pictures_not_drawn", {"error": in_one_line(error)}))
    record = {
        "channels": {
            modality: {
                "file": read.sources[modality],
                "size": list(image.GetSize()),
                "spacing_mm": [round(mm, 6) for mm in image.GetSpacing()],
                "orientation": orientation_code(image),
                "direction": [round(cosine, 8) for cosine in image.GetDirection()],
                **channels.record[modality],
            }
            for modality, image in images.items()
        },
        "reference_channel": name,
        "label_voxels": None if labels is None else labels.voxels,
        "ignored_files": list(case.ignored),
        "files": case.files.as_dict(),
    }
    return files, record, warnings


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def hashed_source(source: Path, dataset: Path) -> str:
    """Tells sources of one dataset apart without naming their paths.

    It is slow to compute, so that nobody can guess them.
    """
    path = os.path.normcase(source.resolve())
    return hashlib.pbkdf2_hmac("sha256", path.encode(errors="surrogateescape"), dataset.name.encode(), 100_000).hex()


def _fingerprint(case: SourceCase, settings: Settings, hashes: Mapping[str, str]) -> str:
    """Hash of all that decides the content and the place of a case's files."""
    content = {
        "format": FORMAT,
        "split": split_of(case),
        "options": settings.as_dict(),
        "files": dict(hashes),
        **case.roles(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=False).encode()).hexdigest()


def _is_done(dataset: Path, case: SourceCase, fingerprint: str) -> bool:
    provenance = read_record(dataset / "provenance" / f"{case.identifier}.json")
    if not provenance or provenance.get("fingerprint") != fingerprint:
        return False
    return all((dataset / file).is_file() for file in provenance.get("outputs", ("missing",)))
