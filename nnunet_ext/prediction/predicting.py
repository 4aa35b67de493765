"""Many cases through both stages in one process, with a record of each."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ext._version import __version__
from nnunet_ext.cases.case import Case
from nnunet_ext.cases.case_list import LIST, UNSEEN_S, list_folder, remove_list, unfinished
from nnunet_ext.cases.case_rtstruct import RtstructOptions, rtstruct_file
from nnunet_ext.cases.key_file import check_key, write_key
from nnunet_ext.cases.prediction_cases import FoundCases, find_cases
from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.cases.records import MANIFEST, merge_records, read_manifest, write_record
from nnunet_ext.files import check_folder, check_output_folder, in_one_line, write_json
from nnunet_ext.folder_lock import holding, owned_part
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.images.writing import write_image
from nnunet_ext.messages import Message, in_english
from nnunet_ext.prediction.cascade_predictor import CascadePredictor, CaseInSteps, CasePrediction, PreparedCase
from nnunet_ext.prediction.case_list import options_of, read_part, write_found
from nnunet_ext.prediction.chosen_model import choose_model
from nnunet_ext.prediction.loading import choose_device
from nnunet_ext.processes import in_background, timed
from nnunet_ext.starter.shipped import Starter
from nnunet_ext.training.compute_device import device_use

log = logging.getLogger(__name__)


@dataclass
class PredictionSummary:
    """Case names written, kept from an earlier run and failed (with reason), and warnings per case.

    `of_models` holds messages about the models, whatever the case. `files` counts the files of the images folder by their
    use. `listed` names the cases that a scan has listed.
    """

    out: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[Message]] = field(default_factory=dict)
    of_models: list[Message] = field(default_factory=list)
    files: FileCount = field(default_factory=FileCount)
    listed: list[str] = field(default_factory=list)


@holding(owned_part, "out", "num_parts", "part_id")
def predict(
    *,
    images: Path,
    out: Path,
    dataset_id: int | str | None = None,
    model: Path | None = None,
    configuration: str | None = None,
    folds: Sequence[int | str] | None = None,
    trainer: str | None = None,
    plans: str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    starter: Path | None = None,
    use_starter: bool = True,
    device: str | None = None,
    use_mirroring: bool = False,
    full_precision: bool = False,
    use_postprocessing: bool = True,
    register: bool = False,
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    rtstruct: bool = False,
    smooth_contours: bool = False,
    strict: bool = False,
    scan: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    finish: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PredictionSummary:
    """Segment every case, with both stages in one process.

    Each case gives `out/<case><file ending>` on its own grid, and with `rtstruct` also `out/<case>.dcm`.
    `out/dataset.json` tells `nnunet_ext evaluate` the labels, and the organs that the configuration leaves out.
    `out/predictions.json` records the models, and per case its box, fallback, warnings, seconds and the peak memory of the
    process until then. While the networks see one case, the next is read and the one before is written. On a GPU, the
    logits of the one before are put onto its grid meanwhile, too.

    A case that fails is named and leaves no output, and the others are finished. A case that was predicted before is
    skipped unless `overwrite`. Cases of a DICOM tree get numbers, as in `nnunet_ext convert`. Only a private key file
    beside `out` says whose they are.

    Args:
        images: Folder with `<case>_0000<ending>`, `<case>_0001<ending>`, ... in the form of the training images. Or a
            folder with one folder per case that holds one image per channel. Or a folder with DICOM series of any nesting.
            Folders and DICOM are prepared as `nnunet_ext convert` prepared the training images.
        out: Folder to write to.
        dataset_id: Id or name of the nnU-Net dataset that the models were trained on.
        model: Folder of the trained configuration, with its localizer in the folder beside it. It takes the place of
            `dataset_id`, `trainer`, `plans` and `configuration` for a model without nnU-Net's folders.
        configuration: Any configuration that is trained, `3d_cascade_fullres` if None. If its plan names a localizer, that
            one is used.
        folds: Folds to average, all that are trained if None.
        trainer, plans: `CascadeOARTrainer` and `CascadeOARPlans` if None.
        checkpoint: File name of the weights in each fold's folder.
        starter: Folder of another starter than the one in this package.
        use_starter: Whether the starter is used if neither `dataset_id` nor `model` is given. It is a small model for
            research and for trying things out. A warning says so.
        device: `cuda`, `cpu` or `mps`. None takes the GPU if there is one.
        use_mirroring, full_precision: See `CascadePredictor`.
        use_postprocessing: Apply the postprocessing that the model brings, its `organ_postprocessing.json` or else nnU-Net's
            `postprocessing.json`. Of nnU-Net's pickle nothing is read.
        layout: Kind of `images`: `files`, `folders` or `dicom`. `auto` finds out.
        register: Register the MR to the CT, or to the first MR if there is no CT. It is done even if the training
            images were not registered by `convert`.
        series_file: TOML file that says which series is which channel (see `cases.dicom_cases`). For DICOM only.
        key_file: Private file that says which patient each case is, `<out>.key.csv` beside `out` if None. For DICOM only.
        rtstruct: Write an RTSTRUCT for each case. For DICOM only.
        smooth_contours: Of the RTSTRUCT, see `write_rtstruct`.
        strict: A case with a warning fails.
        scan: Only find the cases, number those of a DICOM tree, and write their list, a hidden folder beside the key file.
            The parts take their cases from it and read no others.
        num_parts, part_id: Take every `num_parts`-th case from the `part_id`-th on, so that several processes share the
            work. They may share `out`, too. Without a list of `scan`, each looks for all cases.
        finish: Contour nothing. Say what became of the cases of the list, once all parts have ended.
        overwrite: Delete earlier predictions and predict their cases again.
        show_progress: Show progress bars.

    Raises:
        FileNotFoundError: If the images folder, a case or a model is not there.
        ValueError: If options contradict each other or the images, `out` holds predictions of another model, or a part is
            missing at the end.
    """
    images, out = Path(images), Path(out)
    if not 0 <= part_id < num_parts:
        raise ValueError(f"part_id is {part_id}; with num_parts {num_parts} it is 0 to {num_parts - 1}")
    asked = [word for word, wanted in (("--scan", scan), ("-num_parts", num_parts > 1), ("--finish", finish)) if wanted]
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} are steps of their own; give one of them")
    if finish and overwrite:
        raise ValueError("--finish contours nothing: give --overwrite to the parts")
    drawing = RtstructOptions(rtstruct, smooth_contours)
    check_folder(images, "images folder")
    check_output_folder(out)
    if out.resolve() == images.resolve():
        raise ValueError(
            f"{out} is the folder of the images; write to another folder, for predictions would be taken for images"
        )
    chosen = choose_model(
        dataset_id,
        model,
        configuration=configuration,
        trainer=trainer,
        plans=plans,
        folds=folds,
        checkpoint=checkpoint,
        starter=starter,
        use_starter=use_starter,
    )
    if chosen.starter is not None:
        log.warning("%s", Message("starter_is_used", {"version": chosen.starter.version}))
    predictor = CascadePredictor(
        chosen.folder,
        folds=chosen.folds,
        checkpoint=chosen.checkpoint,
        device=choose_device(device),
        use_mirroring=use_mirroring,
        full_precision=full_precision,
        check_heads=chosen.starter is not None,
        use_postprocessing=use_postprocessing,
    )
    key_file = out.resolve().with_name(f"{out.resolve().name}.key.csv") if key_file is None else Path(key_file)
    channels = {"channels": predictor.channels, "optional": predictor.optional}
    listed = list_folder(out.resolve(), key_file)
    if finish or (num_parts > 1 and (listed / LIST).is_file()):
        wanted = options_of(images, **channels, layout=layout, series_file=series_file)
        found, names = read_part(listed, wanted, num_parts, part_id)
    else:
        found = find_cases(
            images.absolute() if scan else images,  # a part may run in another folder
            **channels,
            layout=layout,
            series_file=series_file,
            key_file=key_file,
            show_progress=show_progress,
        )
        names = sorted({*found.cases, *found.failed})[part_id::num_parts]
        if num_parts == 1:
            remove_list(listed)
    options = preparation(predictor, found.kind, register=register, of_starter=chosen.starter is not None)
    drawing.check_source(found.kind, images)
    if found.kind == "dicom":
        check_key(key_file, out, numbered=any(out.glob("case_*")))
        if found.key_rows:  # a part with a list has none
            write_key(found.key_rows, key_file)
    if scan:
        write_found(listed, found, options_of(images, **channels, layout=layout, series_file=series_file))
        return PredictionSummary(
            out, failed=found.failed, of_models=predictor.messages, files=found.count(), listed=sorted(found.cases)
        )
    if predictor.ranges is None:
        log.warning("the model's plans hold no ranges of its training labels: volumes and positions are not checked")
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(
        predictor,
        options,
        out,
        starter=chosen.starter,
        drawing=drawing,
        strict=strict,
    )
    run.begin(overwrite=overwrite, register=register)
    if finish:
        run.finish_parts(found, names)
        return run.summary
    run.predict(found, names, overwrite=overwrite, show_progress=show_progress)
    return run.summary


def preparation(
    predictor: CascadePredictor, kind: str, *, register: bool, of_starter: bool = False
) -> ChannelOptions | None:
    """Options that bring cases into the form of the training images, or None if all are in that form.

    The starter was trained on synthetic heads. If no conversion is on record, its cases are prepared as `convert` does
    without options.

    Raises:
        ValueError: If files in that form are to be registered, or the model's dataset does not record its preparation.
        FileNotFoundError: If the learned resampling that it records is not there.
    """
    if kind == "files":
        if register:
            raise ValueError(
                "files named <case>_0000, ... are taken as they are, like the training images: leave out --register, or "
                "give one folder per case"
            )
        return None
    unrecorded = of_starter and "nnunet_ext" not in predictor.dataset_json
    options = ChannelOptions() if unrecorded else predictor.recorded_options()
    predictor.learned_resampling(options)
    return replace(options, register=options.register or register)


@dataclass
class _Segmented:
    """A case whose logits are there. Its mask is made and written while the networks see the next case."""

    case: Case
    prepared: PreparedCase | None
    steps: CaseInSteps | None
    seconds: dict[str, float]
    record: dict = field(default_factory=dict)
    mask: sitk.Image | None = None
    notes: list[Message] = field(default_factory=list)
    strict_about: list[str] = field(default_factory=list)


class _Run:
    """One run over many cases, with all that `predict` and its three steps share."""

    def __init__(
        self,
        predictor: CascadePredictor,
        options: ChannelOptions | None,
        out: Path,
        *,
        starter: Starter | None,
        drawing: RtstructOptions,
        strict: bool,
    ) -> None:
        self.predictor, self.options, self.out = predictor, options, out
        self.drawing, self.strict = drawing, strict
        self.model_sha256 = model_sha256(predictor)
        #: Of the starter, which is named by its version. Other models are named by their folders.
        self.starter_name = None if starter is None else starter.named(self.model_sha256)
        self.summary = PredictionSummary(out, of_models=predictor.messages)
        #: What the manifest says of the models, once `begin` has run.
        self.header: dict = {}

    # --- the output folder --------------------------------------------------------------------------------------------

    def outputs(self, case: str) -> list[Path]:
        """The RTSTRUCT if one is wanted, and the label map, which is written last."""
        return self.drawing.outputs(self.out / f"{case}{self.predictor.dataset_json['file_ending']}", case)

    def begin(self, *, overwrite: bool, register: bool) -> None:
        """Begin the manifest before the first case. Refuse to mix with the predictions of another model."""
        brings = self.predictor.postprocessing
        self.header = header = {
            "versions": {
                "nnunet_ext": __version__,
                **{package: version(package) for package in ("nnunetv2", "torch")},
            },
            **({} if self.starter_name is None else {"model": self.starter_name}),
            "models": [folder.name for folder in self.predictor.models],
            "model_sha256": self.model_sha256,
            "channels": self.predictor.channels,
            "use_mirroring": self.predictor.use_mirroring,
            "register": register,
            "postprocessing": brings and brings.to_json(),
            "warnings": in_english(self.predictor.messages),
            "messages": [message.to_json() for message in self.predictor.messages],
        }
        manifest = read_manifest(self.out)
        decides = ("model_sha256", "use_mirroring", "register", "postprocessing")
        other = [k for k in decides if k in manifest and manifest[k] != header[k]]
        kept = [c for c, record in manifest["cases"].items() if "failed" not in record]
        if other and kept and not overwrite:
            raise ValueError(
                f"{self.out} holds {len(kept)} cases that were predicted with another {', '.join(other)}; write to "
                "another folder, or predict them again with --overwrite"
            )
        write_json(self.predictor.dataset_json, self.out / "dataset.json", ensure_ascii=False)
        write_json({**header, "cases": manifest["cases"]}, self.out / MANIFEST, ensure_ascii=False)

    # --- the cases ---------------------------------------------------------------------------------------------------

    def predict(self, found: FoundCases, names: Sequence[str], *, overwrite: bool, show_progress: bool) -> None:
        """The cases of these names, each in three steps. At most one case is ahead of the networks, and one behind them."""
        for file, reason in found.others.items():
            message = Message("file_left_out", {"reason": reason})
            if self.strict:
                self.summary.failed[file] = str(message)
            else:
                self.summary.warnings[file] = [message]
        earlier = read_manifest(self.out)["cases"]
        todo: list[Case] = []
        for name in names:
            if overwrite:
                self.remove(name)
                if name in earlier:
                    write_record(self.out, name, None)
            refused = self.strict and earlier.get(name, {}).get("warnings")
            if all(file.is_file() for file in self.outputs(name)) and not refused:
                self.summary.skipped.append(name)
            elif name in found.failed:
                self.fail(name, found.failed[name])
            else:
                todo.append(found.cases[name])
        ahead = in_background(timed, self.prepare, todo[0]) if todo else None
        behind: tuple[_Segmented, Future] | None = None
        try:
            for at, case in enumerate(tqdm(todo, desc="Predicting", unit="case", disable=not show_progress)):
                self.remove(case.name)  # an incomplete output, or one that strict refused
                prepared = ahead
                assert prepared is not None  # every case is begun one round ahead
                wait([prepared])
                ahead = in_background(timed, self.prepare, todo[at + 1]) if at + 1 < len(todo) else None
                segmented = self.segment(case, prepared)
                if behind is not None:
                    self.finish(*behind)
                behind = None if segmented is None else (segmented, in_background(self.complete, segmented))
        finally:  # also when interrupted, so that files under way are finished
            if behind is not None:
                self.finish(*behind)
            self.count_files(found)

    def finish_parts(self, found: FoundCases, names: Sequence[str]) -> None:
        """Gather what the parts have made of these cases, once all that they wrote is seen here.

        Raises:
            ValueError: If a case is neither contoured nor failed.
        """
        until_s = time.monotonic() + UNSEEN_S
        while True:
            last = time.monotonic() > until_s
            records = read_manifest(self.out)["cases"]
            failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
            done = [name for name in names if all(file.is_file() for file in self.outputs(name))]
            over = {*done, *failed}
            missing = [name for name in names if name not in over]
            if last or not missing:
                break
            time.sleep(1.0)
        if missing:
            raise unfinished(missing, len(names), "contoured")
        self.summary.skipped = done
        self.summary.failed = {name: failed[name] for name in names if name in failed}
        self.count_files(found)

    def count_files(self, found: FoundCases) -> None:
        """Count the files of the images folder in the manifest, by the outcome of the cases in this and other runs."""

        def counted(cases: Mapping[str, Mapping]) -> dict:
            self.summary.files = found.count([case for case, record in cases.items() if "failed" in record])
            return {"files": self.summary.files.as_dict()}

        merge_records(self.out, self.header, counted)

    def prepare(self, case: Case) -> PreparedCase:
        """Read a case and do all that needs no network."""
        options = None if case.as_trained else self.options
        read = case.read_images()
        warnings = read.warnings
        if options is not None and not options.register and read.may_be_apart:
            warnings.append(Message("not_registered"))
        prepared = self.predictor.prepare(read.hand_over(), options=options, same_frame=read.same_frame)
        return replace(prepared, warnings=[*warnings, *prepared.warnings])

    def segment(self, case: Case, prepared: Future) -> _Segmented | None:
        """The networks' part of a case that is read. None if it failed.

        On a CPU it is all but the writing. The networks use all cores there, and one case less is in memory.
        """
        try:
            prepared_case, prepare_s = prepared.result()
            steps, segment_s = timed(self.predictor.begin, prepared_case)
            segmented = _Segmented(case, prepared_case, steps, {"prepare_s": prepare_s, "segment_s": segment_s})
            if self.predictor.device.type == "cpu":
                while not self.export(segmented):
                    self.use_networks_again(segmented)
            return segmented
        except Exception as error:  # whatever is wrong with one case, the others are finished
            self.fail(case.name, case.public(in_one_line(error)))
            return None

    def export(self, segmented: _Segmented) -> bool:
        """Make mask and record of a case. False if it needs the networks again."""
        assert segmented.steps is not None
        assert segmented.prepared is not None  # both are let go of at the end
        done, export_s = timed(segmented.steps.export)
        segmented.seconds["segment_s"] += export_s
        if not done:
            return False
        prediction = segmented.steps.prediction
        assert prediction is not None
        segmented.record = self.describe(segmented.case, prediction, **segmented.seconds)
        if self.strict and segmented.record["warnings"]:
            segmented.strict_about = segmented.record["warnings"]
        else:
            segmented.mask = self.predictor.mask(prediction, segmented.prepared)
        segmented.steps = segmented.prepared = None
        return True

    def use_networks_again(self, segmented: _Segmented) -> None:
        assert segmented.steps is not None
        _, again_s = timed(segmented.steps.use_networks)
        segmented.seconds["segment_s"] += again_s

    def complete(self, segmented: _Segmented) -> bool:
        """Make the mask of a case, unless it is made, and write it. False if it needs the networks again."""
        if segmented.steps is not None and not self.export(segmented):
            return False
        if segmented.mask is not None:
            segmented.notes, write_s = timed(self.write, segmented.case, segmented.mask)
            segmented.record["write_s"] = round(write_s, 2)
        return True

    def describe(self, case: Case, prediction: CasePrediction, **seconds: float) -> dict:
        """The entry of a case in the manifest, as plain JSON."""
        warnings = [message.changed(case.public) for message in prediction.warnings]
        return {
            **prediction.record(),
            "notes": in_english(case.notes),
            **({"left_over": list(case.ignored)} if case.ignored else {}),
            "warnings": in_english(warnings),
            "messages": [message.to_json() for message in warnings],
            **{name: round(value, 2) for name, value in seconds.items()},
            **device_use(self.predictor.device),
        }

    def write(self, case: Case, mask: sitk.Image) -> list[Message]:
        """Write the case's files, the label map last, and return messages on contours that were left out."""
        labels = self.predictor.dataset_json["labels"]
        organs = {n: v for n, v in labels.items() if v != 0 and n not in self.predictor.left_out}
        drawn_by = self.starter_name or f"{self.predictor.models[-1].name} {self.model_sha256[:12]}"
        notes = self.drawing.write(mask, case, self.outputs(case.name)[0], labels=organs, drawn_by=drawn_by)
        write_image(mask, self.outputs(case.name)[-1])
        return notes

    def finish(self, segmented: _Segmented, completed: Future) -> None:
        """Wait until a case is written, and say so. If it needs the networks again, it gets them now."""
        case = segmented.case
        try:
            while not completed.result():
                self.use_networks_again(segmented)
                completed = in_background(self.complete, segmented)
        except Exception as error:
            self.fail(case.name, case.public(in_one_line(error)))
            return
        record, notes = segmented.record, segmented.notes
        if segmented.strict_about:
            self.fail(case.name, f"strict: {'; '.join(segmented.strict_about)}", record)
            return
        record["warnings"] = [*record["warnings"], *in_english(notes)]
        record["messages"] = [*record["messages"], *(note.to_json() for note in notes)]
        write_record(self.out, case.name, record)
        self.summary.written.append(case.name)
        if record["messages"]:
            self.summary.warnings[case.name] = [Message.from_json(message) for message in record["messages"]]

    def fail(self, case: str, reason: str, record: Mapping | None = None) -> None:
        self.remove(case)
        self.summary.failed[case] = reason
        write_record(self.out, case, {"failed": reason, **(record or {})})

    def remove(self, case: str) -> None:
        mask = self.outputs(case)[-1]
        for file in (rtstruct_file(mask, case), mask):
            file.unlink(missing_ok=True)


def model_sha256(predictor: CascadePredictor) -> str:
    """Hash of the plans and weights of every stage and fold, which decide the networks' output."""
    digest = hashlib.sha256()
    for stage in predictor.stages:
        digest.update(json.dumps(stage.plans_manager.plans, sort_keys=True).encode())
        for weights in stage.list_of_parameters:
            for name in sorted(weights):
                values = np.ascontiguousarray(weights[name].cpu().numpy())
                digest.update(name.encode())
                digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
