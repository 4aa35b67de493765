"""Many cases contoured from the training cases of a data set, with a record of each."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ext._version import __version__
from nnunet_ext.atlas.atlases import Atlas, organs_of, read_atlases, read_persons, sha256_of
from nnunet_ext.atlas.cache import TransformCache
from nnunet_ext.atlas.one_case import FUSIONS, Contoured, contour_case
from nnunet_ext.cases.case import Case
from nnunet_ext.cases.case_rtstruct import RtstructOptions, rtstruct_file
from nnunet_ext.cases.key_file import check_key, write_key
from nnunet_ext.cases.prediction_cases import FoundCases, find_cases
from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cases.records import MANIFEST, merge_records, read_manifest, write_record
from nnunet_ext.cases.training_form import check_one_grid, learned_resampling, recorded_options, refuse_non_hu
from nnunet_ext.cleaning.ct import HU_REMEDY_AT_PREDICTION
from nnunet_ext.files import check_folder, check_output_folder, in_one_line, write_json
from nnunet_ext.folder_lock import holding, owned_part
from nnunet_ext.images.channels import image_like, reference_channel
from nnunet_ext.images.checks import check_images
from nnunet_ext.images.file_names import ENDINGS
from nnunet_ext.images.geometry import back_to_grid, to_canonical
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.images.writing import write_image
from nnunet_ext.messages import Message, in_english
from nnunet_ext.nnunet_folders import (
    SAME_PERSON_KEY,
    find_dataset,
    need,
    read_dataset_json,
    read_splits,
)
from nnunet_ext.processes import peak_memory_mb, processor_name, timed, usable_cores
from nnunet_ext.registration.between_people import OPTIONS

if TYPE_CHECKING:
    from nnunet_ext.superresolution.weights import LearnedResampling

log = logging.getLogger(__name__)

#: Folder of the transforms below the output.
TRANSFORMS = "transforms"
#: What a registration took on one core of a desktop, for the announcement before the first case.
LINEAR_S, ELASTIC_S = 5.0, 4.0


@dataclass
class AtlasSummary:
    """Case names written, kept from an earlier run and failed (with reason), and warnings per case.

    `of_atlases` holds messages about the training cases, whatever the case. `files` counts the files of the images folder.
    """

    out: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[Message]] = field(default_factory=dict)
    of_atlases: list[Message] = field(default_factory=list)
    files: FileCount = field(default_factory=FileCount)


@holding(owned_part, "out", "num_parts", "part_id")
def contour_by_atlases(
    *,
    images: Path,
    out: Path,
    dataset_id: int | str,
    fold: int | None = None,
    n_atlases: int = 5,
    channel: str | None = None,
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    rtstruct: bool = False,
    smooth_contours: bool = False,
    n_threads: int | None = None,
    strict: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    overwrite: bool = False,
    show_progress: bool = True,
) -> AtlasSummary:
    """Contour every case from the training cases that are most like it; what `nnunet_ext atlas` does.

    Each training case is brought onto the case by an affine transform, and the nearest by mutual information also by an
    elastic one. Their labels are fused by STAPLE into `out/staple/<case><file ending>`, and by voting, weighted by mutual
    information, into `out/voting/<case><file ending>`. Both lie on the case's own grid, and with `rtstruct` each has its
    `<case>.dcm`. Each folder holds `dataset.json` and `predictions.json`, as those of `nnunet_ext predict` do.

    Transforms are kept in `out/transforms`. So a run that was killed goes on where it stopped, and another number of atlases
    costs little. A case that fails is named, and the others are finished. A case that is there already is skipped unless
    `overwrite`. A case is never its own atlas. Training cases of its name, its image or its person are left out.

    Args:
        images: As for `predict`.
        out: Folder to write to.
        dataset_id: Id or name of the nnU-Net data set whose training cases are the atlases.
        fold: Take the training cases of this fold of `splits_final.json` only. All cases if None.
        n_atlases: How many of the nearest are fused.
        channel: Image that is registered. The CT if None, or the first if there is no CT. A case needs no other.
        layout: Kind of `images`: `files`, `folders` or `dicom`. `auto` finds out.
        series_file: TOML file that says which series is which channel. For DICOM only.
        key_file: Private file that says which patient each case is, `<out>.key.csv` beside `out` if None. For DICOM only.
        rtstruct: Write an RTSTRUCT for each label map. For DICOM only.
        smooth_contours: Of the RTSTRUCT, see `write_rtstruct`.
        n_threads: Registrations at a time. As many as there are cores if None.
        strict: A case with a warning fails.
        num_parts, part_id: Take every `num_parts`-th case from the `part_id`-th on, so that several processes share the
            work. They may share `out`, too.
        overwrite: Contour cases again that are there already. Transforms are kept.
        show_progress: Show progress bars.

    Raises:
        FileNotFoundError: If the images folder or the data set is not there.
        ValueError: If options contradict each other or the images, no training case can be an atlas, or `out` holds contours
            by other atlases.
    """
    images, out = Path(images), Path(out)
    if not 0 <= part_id < num_parts:
        raise ValueError(f"part_id is {part_id}; with num_parts {num_parts} it is 0 to {num_parts - 1}")
    drawing = RtstructOptions(rtstruct, smooth_contours)
    check_folder(images, "images folder")
    check_output_folder(out)
    if images.resolve() in (out.resolve(), *(out.resolve() / fusion for fusion in FUSIONS)):
        raise ValueError(
            f"{images} is a folder of the output; write to another one, or contours would be taken for images"
        )
    raw = find_dataset("nnUNet_raw", dataset_id, "raw data sets")
    dataset_json = read_dataset_json(raw / "dataset.json")
    channel_names = need(dataset_json, "channel_names", raw / "dataset.json")
    channels = [channel_names[number] for number in sorted(channel_names, key=int)]
    chosen = reference_channel(channels) if channel is None else channel
    if chosen not in channels:
        raise ValueError(f"channel {chosen!r} is none of the data set's, {', '.join(channels)}")
    needed = list(dict.fromkeys((reference_channel(channels), chosen)))
    key_file = out.resolve().with_name(f"{out.resolve().name}.key.csv") if key_file is None else Path(key_file)
    found = find_cases(
        images,
        channels=channels,
        optional=[name for name in channels if name not in needed],
        layout=layout,
        series_file=series_file,
        key_file=key_file,
        show_progress=show_progress,
    )
    drawing.check_source(found.kind, images)
    options = None if found.kind == "files" else recorded_options(dataset_json)
    learned = learned_resampling(options, [raw])
    if found.kind == "dicom":
        check_key(key_file, out, numbered=any((out / FUSIONS[0]).glob("case_*")))
        write_key(found.key_rows, key_file)
    organs = organs_of(dataset_json, raw / "dataset.json")
    atlases, messages = read_atlases(
        raw, _cases_of_fold(raw.name, fold), channel=chosen, channel_names=channel_names, organs=organs
    )
    settings = _Settings(
        dataset_json, needed, chosen, organs, options, n_atlases, n_threads or usable_cores(), messages, strict, learned
    )
    run = _Run(settings, atlases, out, drawing)
    run.begin(overwrite=overwrite)
    run.contour(found, slice(part_id, None, num_parts), overwrite=overwrite, show_progress=show_progress)
    return run.summary


def _cases_of_fold(dataset: str, fold: int | None) -> list[str] | None:
    if fold is None:
        return None
    file = find_dataset("nnUNet_preprocessed", dataset, "preprocessed data sets") / "splits_final.json"
    splits = read_splits(file)
    if not 0 <= fold < len(splits):
        raise ValueError(f"{file} holds the folds 0 to {len(splits) - 1}, and no fold {fold}")
    return sorted(splits[fold]["train"])


@dataclass(frozen=True)
class _Settings:
    """What is the same for all cases.

    Attributes:
        dataset_json: Of the training cases.
        needed: Channels that a case needs, the one that gives the grid first.
        channel: The one that is registered.
        organs: Organ -> label value.
        options: How cases are prepared. None if they have the form of the training images.
        n_atlases: How many are fused.
        n_threads: Registrations at a time.
        messages: About the atlases.
        strict: Whether a case with a warning fails.
        learned: The learned resampling that the options name.
    """

    dataset_json: dict[str, Any]
    needed: list[str]
    channel: str
    organs: dict[str, int]
    options: ChannelOptions | None
    n_atlases: int
    n_threads: int
    messages: list[Message]
    strict: bool = False
    learned: LearnedResampling | None = None

    @property
    def ending(self) -> str:
        ending = self.dataset_json.get("file_ending", ENDINGS[0])
        if ending not in ENDINGS:
            raise ValueError(f"file_ending in dataset.json is {ending!r}, not one of {', '.join(ENDINGS)}")
        return ending


@dataclass(frozen=True)
class _PreparedCase:
    """A case in the form of the training images.

    Attributes:
        image: The channel that is registered, canonical.
        grid: The grid of the case as it was given, an image without content.
        warnings: Messages for the user.
    """

    image: sitk.Image
    grid: sitk.Image
    warnings: list[Message]


def _prepare(case: Case, settings: _Settings) -> _PreparedCase:
    """Read a case and bring it into the form of the training images.

    Raises:
        ValueError: If a channel is missing, damaged, no single 3D image, blank, or on another grid.
    """
    read = case.read_images()
    images = {channel: image for channel, image in read.hand_over().items() if channel in settings.needed}
    if missing := [channel for channel in settings.needed if channel not in images]:
        raise ValueError(f"there is no image of {', '.join(missing)}, which the atlases need")
    reference = images[settings.needed[0]]
    grid = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
    grid.CopyInformation(reference)
    warnings = list(read.warnings)
    if case.as_trained or settings.options is None:
        check_images(images)
        recorded = settings.dataset_json.get("nnunet_ext", {"allow_non_hu": True})
        refuse_non_hu(images, recorded, remedy=HU_REMEDY_AT_PREDICTION)
        check_one_grid(images)
    else:
        prepared = prepare_channels(
            images,
            settings.options,
            same_frame=read.same_frame,
            hu_remedy=HU_REMEDY_AT_PREDICTION,
            learned=settings.learned,
        )
        images, warnings = prepared.images, [*warnings, *prepared.warnings]
    return _PreparedCase(to_canonical(images[settings.channel]), grid, warnings)


class _Run:
    """One run over many cases."""

    def __init__(self, settings: _Settings, atlases: Sequence[Atlas], out: Path, drawing: RtstructOptions) -> None:
        self.settings, self.atlases, self.out, self.drawing = settings, atlases, out, drawing
        self.atlases_sha256 = _sha256_of_all(atlases)
        self.persons = read_persons(settings.dataset_json, SAME_PERSON_KEY)
        self.summary = AtlasSummary(out, of_atlases=settings.messages)
        #: What the manifests say of the atlases, once `begin` has run.
        self.header: dict[str, Any] = {}

    def outputs(self, case: str) -> dict[str, list[Path]]:
        """Way to fuse -> the RTSTRUCT if one is wanted, and the label map, which is written last."""
        masks = {fusion: self.out / fusion / f"{case}{self.settings.ending}" for fusion in FUSIONS}
        return {fusion: self.drawing.outputs(mask, case) for fusion, mask in masks.items()}

    def begin(self, *, overwrite: bool) -> None:
        """Begin the manifests before the first case. Refuse to mix with contours by other atlases."""
        self.header = header = {
            "versions": {
                "nnunet_ext": __version__,
                **{package: version(package) for package in ("SimpleITK", "numpy")},
            },
            "models": [],
            "atlases": [atlas.name for atlas in self.atlases],
            "atlases_sha256": self.atlases_sha256,
            "n_atlases": self.settings.n_atlases,
            "channels": [self.settings.channel],
            "warnings": in_english(self.settings.messages),
            "messages": [message.to_json() for message in self.settings.messages],
        }
        decides = ("atlases_sha256", "n_atlases", "channels")
        for fusion in FUSIONS:
            folder = self.out / fusion
            manifest = read_manifest(folder)
            other = [key for key in decides if key in manifest and manifest[key] != header[key]]
            kept = [case for case, record in manifest["cases"].items() if "failed" not in record]
            if other and kept and not overwrite:
                raise ValueError(
                    f"{folder} holds {len(kept)} cases that were contoured with another {', '.join(other)}; write to "
                    "another folder, or contour them again with --overwrite"
                )
            folder.mkdir(parents=True, exist_ok=True)
            write_json(self.settings.dataset_json, folder / "dataset.json", ensure_ascii=False)
            write_json({**header, "fusion": fusion, "cases": manifest["cases"]}, folder / MANIFEST, ensure_ascii=False)

    def contour(self, found: FoundCases, part: slice, *, overwrite: bool, show_progress: bool) -> None:
        """All cases of this part, one by one. The registrations of a case are done in threads."""
        for file, reason in found.others.items():
            message = Message("file_left_out", {"reason": reason})
            if self.settings.strict:
                self.summary.failed[file] = str(message)
            else:
                self.summary.warnings[file] = [message]
        earlier = {fusion: read_manifest(self.out / fusion)["cases"] for fusion in FUSIONS}
        todo: list[Case] = []
        for name in sorted({*found.cases, *found.failed})[part]:
            if overwrite:
                self.remove(name)
                for fusion in FUSIONS:
                    if name in earlier[fusion]:
                        write_record(self.out / fusion, name, None)
            refused = self.settings.strict and any(of.get(name, {}).get("warnings") for of in earlier.values())
            if all(file.is_file() for files in self.outputs(name).values() for file in files) and not refused:
                self.summary.skipped.append(name)
            elif name in found.failed:
                self.fail(name, found.failed[name])
            else:
                todo.append(found.cases[name])
        self.announce(len(todo))
        try:
            for at, case in enumerate(tqdm(todo, desc="Contouring", unit="case", disable=not show_progress)):
                start = perf_counter()
                computed = self.one(case)
                if at == 0 and len(todo) > 1 and computed:
                    rest_s = (perf_counter() - start) * (len(todo) - 1)
                    log.info(
                        "the first case took %s, so the others take about %s",
                        _span(perf_counter() - start),
                        _span(rest_s),
                    )
        finally:
            self.count_files(found)

    def announce(self, n_cases: int) -> None:
        """Say how long it takes, before it does."""
        if not n_cases:
            return
        n, fused = len(self.atlases), min(self.settings.n_atlases, len(self.atlases))
        rounds = [-(-many // self.settings.n_threads) for many in (n, fused)]
        seconds = n_cases * (rounds[0] * LINEAR_S + rounds[1] * ELASTIC_S)
        log.info(
            "%d cases, each with %d affine and %d elastic registrations, %d at a time: about %s, less what is in %s",
            n_cases, n, fused, self.settings.n_threads, _span(seconds), self.out / TRANSFORMS,
        )  # fmt: skip

    def one(self, case: Case) -> int:
        """One case, to its end or to its failure. The number of transforms that were computed."""
        self.remove(case.name)  # of a run that was killed between two files
        try:
            prepared, prepare_s = timed(_prepare, case, self.settings)
            (contoured, n_computed), segment_s = timed(self.segment, case, prepared)
            start = perf_counter()
            masks = {fusion: _mask(labels, prepared) for fusion, labels in contoured.label_maps.items()}
            notes = {fusion: self.write(case, fusion, mask) for fusion, mask in masks.items()}
        except Exception as error:  # whatever is wrong with one case, the others are finished
            self.fail(case.name, case.public(in_one_line(error)))
            return 0
        seconds = {"prepare_s": prepare_s, "segment_s": segment_s, "write_s": perf_counter() - start}
        effort = {
            "transforms_computed": n_computed,
            **{name: round(value, 2) for name, value in seconds.items()},
            "device": f"{processor_name()}, {self.settings.n_threads} thread{'s' * (self.settings.n_threads != 1)}",
            "peak_memory_mb": peak_memory_mb(),
        }
        self.tell(case, prepared, contoured, effort, notes)
        return n_computed

    def write(self, case: Case, fusion: str, mask: sitk.Image) -> list[Message]:
        """Write a case's files of one way to fuse, and return messages on contours that were left out."""
        *_, file = files = self.outputs(case.name)[fusion]
        drawn_by = f"{fusion} of {self.settings.n_atlases} atlases {self.atlases_sha256[:12]}"
        notes = self.drawing.write(mask, case, files[0], labels=self.settings.organs, drawn_by=drawn_by)
        write_image(mask, file)
        return notes

    def tell(
        self,
        case: Case,
        prepared: _PreparedCase,
        contoured: Contoured,
        effort: Mapping[str, Any],
        notes: Mapping[str, list[Message]],
    ) -> None:
        """Write the case's records, and its warnings into the summary. `notes` are on the RTSTRUCT of each way to fuse."""
        common = [message.changed(case.public) for message in (*prepared.warnings, *contoured.warnings)]
        said = list(common)
        records = {}
        for fusion in FUSIONS:
            there = set(np.unique(contoured.label_maps[fusion]).tolist())
            missing = [organ for organ, value in self.settings.organs.items() if value not in there]
            lacking = [Message("no_voxel", {"organs": missing})] if missing else []
            lacking += notes[fusion]
            said += [Message("of_fusion", {"fusion": fusion, "message": message}) for message in lacking]
            records[fusion] = {
                "missing": missing,
                "channels": [self.settings.channel],
                "atlases": {fit.atlas.name: fit.record() for fit in contoured.fits},
                "warnings": in_english([*common, *lacking]),
                "messages": [message.to_json() for message in (*common, *lacking)],
                "notes": in_english(case.notes),
                **({"left_over": list(case.ignored)} if case.ignored else {}),
                **effort,
            }
        if self.settings.strict and said:
            self.fail(case.name, f"strict: {'; '.join(in_english(said))}", records)
            return
        for fusion, record in records.items():
            write_record(self.out / fusion, case.name, record)
        self.summary.written.append(case.name)
        if said:
            self.summary.warnings[case.name] = said

    def segment(self, case: Case, prepared: _PreparedCase) -> tuple[Contoured, int]:
        """The label maps of a prepared case, and how many transforms were not there already."""
        image_sha256 = sha256_of(prepared.image)
        allowed = [atlas for atlas in self.atlases if atlas.name not in self.own(case.name, image_sha256)]
        if not allowed:
            raise ValueError("all atlases are of its own person, or bear its name; it needs another one")
        cache = TransformCache(self.out / TRANSFORMS / case.name, image_sha256, OPTIONS)
        contoured = contour_case(
            prepared.image,
            allowed,
            cache,
            channel=self.settings.channel,
            organs=self.settings.organs,
            n_atlases=self.settings.n_atlases,
            n_threads=self.settings.n_threads,
        )
        return contoured, len(cache.computed)

    def own(self, case: str, image_sha256: str) -> set[str]:
        """Atlases that are the case itself, or of its person."""
        same = {atlas.name for atlas in self.atlases if atlas.name == case or atlas.image_sha256 == image_sha256}
        return same.union(*(self.persons.get(name, frozenset()) for name in same))

    def fail(self, case: str, reason: str, records: Mapping[str, Mapping] | None = None) -> None:
        self.remove(case)
        self.summary.failed[case] = reason
        for fusion in FUSIONS:
            write_record(self.out / fusion, case, {"failed": reason, **(records or {}).get(fusion, {})})

    def remove(self, case: str) -> None:
        for *_, mask in self.outputs(case).values():
            for file in (rtstruct_file(mask, case), mask):
                file.unlink(missing_ok=True)

    def count_files(self, found: FoundCases) -> None:
        """Count the files of the images folder in the manifests, by the outcome of the cases in this and other runs."""

        def counted(cases: Mapping[str, Mapping]) -> dict:
            self.summary.files = found.count([case for case, record in cases.items() if "failed" in record])
            return {"files": self.summary.files.as_dict()}

        for fusion in FUSIONS:
            merge_records(self.out / fusion, {**self.header, "fusion": fusion}, counted)


def _mask(labels: np.ndarray, prepared: _PreparedCase) -> sitk.Image:
    """A label map `(Z, Y, X)` on the canonical grid, brought onto the case's own grid."""
    number = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    return back_to_grid(image_like(labels.astype(number), prepared.image), prepared.grid)


def _sha256_of_all(atlases: Sequence[Atlas]) -> str:
    named = {atlas.name: atlas.sha256 for atlas in atlases}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _span(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
