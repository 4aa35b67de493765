"""The command `nnunet_ext`: one verb per job; each parses its arguments and calls one function of the same name.

Options that are not given are not passed on, so a default is defined in one place, the function. Modules are imported
by the verb that needs them: `--help` is quick, and a broken dependency stops only its own verb.
"""

import argparse
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nnunet_ext._version import __version__
from nnunet_ext.files import in_one_line

Options = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    0: all went well. 1: something failed, and a line on standard error says what. 2: the arguments make no sense
    (raised as SystemExit by argparse). 130: interrupted.
    """
    options = vars(_parser().parse_args(argv))
    verb, run, debug = options.pop("verb"), options.pop("run"), options.pop("debug", False)
    options.pop("kind", None)  # of a benchmark; `run` is its function
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Chinese organ names on a console that has no such letters
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("nnunet_ext").setLevel(logging.DEBUG if debug else logging.INFO)
    terminate = _interrupt_on_terminate()
    try:
        return run(options)
    except KeyboardInterrupt:
        return _complain(verb, "interrupted", exit_code=130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, ImportError):
            return _complain(verb, f"{error}. Run `nnunet_ext doctor` to see what is missing")
        return _complain(verb, in_one_line(error))
    finally:
        if terminate is not None:
            signal.signal(signal.SIGTERM, terminate)


def _interrupt_on_terminate() -> Any:
    """SIGTERM, a batch system's way to interrupt, then ends a run as Ctrl-C does; the handler that was there before."""
    if threading.current_thread() is not threading.main_thread():  # of a program that calls `main`, and its business
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def command() -> NoReturn:
    """The command of a shell: `main`, and the end of its process."""
    code = main()
    if any(thread.name.startswith("nnunet_ext") for thread in threading.enumerate()):
        # Interrupted while a thread reads the next case: a library of C++ that comes back to an interpreter which has
        # ended takes the process down with it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(verb: str, message: str, *, exit_code: int = 1) -> int:
    print(f"nnunet_ext {verb}: error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


# --- the verbs: options as parsed -> exit code ------------------------------------------------------------------------


def _phantom(options: Options) -> int:
    from nnunet_ext.phantom.making import make_phantoms

    out = options.pop("out")
    print(f"{out}: {len(make_phantoms(out, **options))} cases")
    return 0


def _convert(options: Options) -> int:
    from nnunet_ext.dataset_conversion.triplets import convert

    summary = convert(options.pop("source"), **options)
    if options.get("dry_run"):
        print("\n".join(summary.listing))
        return 1 if summary.failed else 0
    print(f"{summary.dataset_folder}: {_counts(summary)}")
    print(summary.files)
    return _report_failed("convert", summary.failed)


def _register(options: Options) -> int:
    from nnunet_ext.registration.registering import register_files

    out = options["out"]
    result = register_files(**options)
    for line in result.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for name, found in result.channels.items():
        print(f"{out}: {name}: kept {found.kept}; {found.reason}")
    return 0


def _predict(options: Options) -> int:
    from nnunet_ext.prediction.predicting import predict

    summary = predict(**options)
    for case, messages in summary.warnings.items():
        for message in messages:
            print(f"warning: case '{case}': {message}", file=sys.stderr)
    print(f"{options['out']}: {_counts(summary)}")
    print(summary.files)
    return _report_failed("predict", summary.failed)


def _rtstruct(options: Options) -> int:
    from nnunet_ext.dicom.rtstruct_writer import rtstruct

    notes: list[str] = []
    empty = rtstruct(**options, notes=notes)
    notes += [f"{organ} has no voxel in {options['mask']}: it has no contour" for organ in empty]
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    print(options["out"])
    return 0


def _install(options: Options) -> int:
    from nnunet_ext.installation.models import install_model

    for folder in install_model(**options):
        print(f"installed {folder}")
    return 0


def _evaluate(options: Options) -> int:
    from nnunet_ext.evaluation.evaluating import evaluate

    report = evaluate(options.pop("predictions"), options.pop("references"), options.pop("out"), **options)
    print(report.table_markdown)
    return _report_failed("evaluate", report.failed)


def _report(options: Options) -> int:
    from nnunet_ext.reporting.reporting import report

    content = report(options.pop("runs"), options.pop("out"), **options)
    for remark in content.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(
        f"{content.out / 'report.html'}: {len(content.experiments)} experiments, {len(content.cases)} cases, "
        f"{len(content.tables)} tables, {len(content.pictures)} figures"
    )
    return _report_failed("report", content.failed)


def _view(options: Options) -> int:
    from nnunet_ext.reporting.page import view

    page = view(options.pop("predictions"), options.pop("images"), options.pop("out"), **options)
    print(f"{page.path}: {len(page.case_bytes)} cases to look at, {len(page.left_out)} listed without images")
    return 1 if "failed" in page.left_out.values() else 0  # which and why was logged


def _hook(options: Options) -> int:
    from nnunet_ext.installation.hooking import write_hooks

    changed = write_hooks(**options)
    removing = options.get("remove", False)
    for path in changed:
        print(f"{'removed' if removing else 'wrote'} {path}")
    if not changed and removing:
        print("nothing to remove: what is there, if anything, belongs to pip (`pip uninstall nnunet_ext`)")
    elif not changed:
        print("nothing to do: nnU-Net has our lookup modules already")
    elif not removing:
        print("pip does not know these files: run `nnunet_ext hook --remove` before you uninstall nnunet_ext")
    return 0


def _doctor(options: Options) -> int:
    from nnunet_ext.installation.doctor import doctor

    findings = doctor(**options)
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        advice = f" -> {finding.advice}" if finding.advice else ""
        print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.topic:<{width}}  {finding.value}{advice}")
    n_wrong = sum(not finding.ok for finding in findings)
    print(f"{n_wrong} to mend, see the lines marked MEND" if n_wrong else "everything is in order")
    return 1 if n_wrong else 0


def _demo(options: Options) -> int:
    from nnunet_ext.end_to_end.demo import demo

    demo(options.pop("out"))
    return 0


def _benchmark_train(options: Options) -> int:
    from nnunet_ext.end_to_end.training_benchmark import benchmark_train

    print(benchmark_train(**options))
    return 0


def _benchmark_predict(options: Options) -> int:
    from nnunet_ext.end_to_end.prediction_benchmark import benchmark_predict

    print(benchmark_predict(**options))
    return 0


def _benchmark_convert(options: Options) -> int:
    from nnunet_ext.end_to_end.conversion_benchmark import benchmark_convert

    print(benchmark_convert(**options))
    return 0


def _counts(summary: Any) -> str:
    done, skipped, failed = (_count(getattr(summary, name)) for name in ("written", "skipped", "failed"))
    return f"{done} written, {skipped} skipped (already there), {failed} failed"


def _count(cases: Any) -> int:
    return cases if isinstance(cases, int) else len(cases)


def _report_failed(verb: str, failed: Mapping[str, str]) -> int:
    for case, reason in failed.items():
        _complain(verb, f"case '{case}': {reason}")
    return 1 if failed else 0


# --- the arguments ----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    # SUPPRESS: an option that is not given is not in the result at all, also where two parsers share it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error, and more log lines")
    parser = argparse.ArgumentParser(
        prog="nnunet_ext",
        description="A localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2.",
        epilog="To plan and train, use nnU-Net's own commands with -pl CascadeOARPlanner and -tr CascadeOARTrainer.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"nnunet_ext {__version__}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", required=True, metavar="VERB")

    def add_verb(
        run: Callable[[Options], int], summary: str, *, example: str, to: Any = verbs, name: str | None = None
    ) -> argparse.ArgumentParser:
        verb = to.add_parser(
            name or run.__name__.lstrip("_"),
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            parents=[common],
        )
        verb.set_defaults(run=run)
        return verb

    verb = add_verb(
        _phantom,
        "make synthetic CT/T1/T2 head triplets with exact labels",
        example="nnunet_ext phantom phantoms --cases 20 --seed 1 --size small",
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="folder to write OUT/CASE/{CT,T1,T2,label}.nii.gz to")
    verb.add_argument(
        "--cases", dest="n_cases", metavar="N", type=_positive_int, required=True, help="how many to make"
    )
    verb.add_argument("--seed", metavar="S", type=_whole_number(0), help="the same seed makes the same cases")
    verb.add_argument("--size", choices=("tiny", "small", "full"), help="full has the voxel sizes of a planning CT")
    verb.add_argument("--unregistered", action="store_true", help="move T1 and T2 against the CT")
    verb.add_argument("--dicom", action="store_true", help="write DICOM series and an RTSTRUCT instead of NIfTI")
    _add_processes(verb)

    verb = add_verb(
        _convert,
        "write an nnU-Net raw data set from one folder per case, or from a DICOM tree",
        example="nnunet_ext convert phantoms -d 501 -n HeadOAR --test phantom_018 phantom_019",
    )
    verb.add_argument(
        "source", metavar="SRC", type=Path, help="folder with SRC/CASE/{CT,T1,T2,...}, or with DICOM files"
    )
    verb.add_argument("-d", dest="dataset_id", metavar="ID", type=_positive_int, required=True, help="data set ID")
    verb.add_argument("-n", dest="name", metavar="NAME", required=True, help="data set name: DatasetID_NAME")
    verb.add_argument("--modalities", nargs="+", metavar="M", help="channels, in this order: CT T1 T2")
    verb.add_argument(
        "--labels", dest="labels_file", metavar="FILE", type=Path, help="TOML label table: organ = [aliases]"
    )
    verb.add_argument("--test", dest="test_cases", nargs="+", metavar="CASE", help="cases to keep out of training")
    verb.add_argument(
        "--unlabelled",
        action="store_true",
        help="cases without recognised labels are test cases, also if other files beside their images could be labels",
    )
    verb.add_argument(
        "--list", dest="dry_run", action="store_true", help="say what would be taken for what, and write nothing"
    )
    verb.add_argument(
        "--layout", choices=("auto", "folders", "dicom", "hanseg"), help="kind of SRC; without: look what is there"
    )
    verb.add_argument(
        "--series",
        dest="series_file",
        metavar="FILE",
        type=Path,
        help="DICOM: TOML file, which series is which channel",
    )
    verb.add_argument(
        "--key", dest="key_file", metavar="FILE", type=Path, help="DICOM: private file, which case is which patient"
    )
    verb.add_argument("--allow-non-hu", action="store_true", help="accept a CT whose values do not look like HU")
    verb.add_argument(
        "--window-hu", nargs=2, type=float, metavar=("LO", "HI"), action=_PairAction, help="clip the CT to this window"
    )
    verb.add_argument("--no-clean", dest="clean_ct", action="store_false", help="keep couch and mask in the CT")
    verb.add_argument("--no-n4", dest="n4", action="store_false", help="leave the bias field in T1 and T2")
    verb.add_argument("--register", action="store_true", help="register T1 and T2 to the CT first")
    verb.add_argument(
        "--register-backend", choices=("simpleitk", "elastix"), help="elastix needs the package itk-elastix"
    )
    verb.add_argument("--no-preview", dest="preview", action="store_false", help="draw no pictures of the steps")
    _add_processes(verb)

    verb = add_verb(
        _register,
        "bring MR images onto the CT: rigid, then elastic, with a quality report",
        example="nnunet_ext register CT.nii.gz T1.nii.gz T2.nii.gz -o registered",
    )
    verb.add_argument("fixed", metavar="FIXED", type=Path, help="the CT")
    verb.add_argument("moving", metavar="MOVING", type=Path, nargs="+", help="images to bring onto it")
    verb.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the results")
    verb.add_argument("--rigid-only", action="store_true", help="leave the elastic step out")
    verb.add_argument("--backend", choices=("simpleitk", "elastix"), help="elastix needs the package itk-elastix")
    verb.add_argument("--separate", action="store_true", help="MOVING were not acquired in one position")
    verb.add_argument("--fixed-mr", dest="fixed_is_ct", action="store_false", help="FIXED is an MR")
    verb.add_argument(
        "--seed", metavar="S", type=_whole_number(0), help="of the sampling; the same seed, the same result"
    )

    verb = add_verb(
        _predict,
        "contour new cases: localizer, ROI crop and segmenter in one process",
        example="nnunet_ext predict -d 501 -i imagesTs -o contours -f 0 1 2 3 4",
    )
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", dest="dataset_id", metavar="ID", type=_positive_int, help="data set ID")
    which.add_argument(
        "-m", dest="model", metavar="FOLDER", type=Path, help="the model itself, its localizer in the folder beside it"
    )
    verb.add_argument(
        "-i",
        dest="images",
        metavar="IN",
        type=Path,
        required=True,
        help="what to contour: files as nnU-Net names them, one folder per case, or DICOM",
    )
    verb.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the label maps")
    verb.add_argument("-c", dest="configuration", metavar="CONFIGURATION", help="without: 3d_cascade_fullres")
    verb.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds to average; without: all that are trained"
    )
    verb.add_argument("-tr", dest="trainer", metavar="TRAINER", help="without: CascadeOARTrainer")
    verb.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    verb.add_argument("-chk", dest="checkpoint", metavar="NAME", help="without: checkpoint_final.pth")
    verb.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    verb.add_argument(
        "--mirror", dest="use_mirroring", action="store_true", help="average over mirrored images: slower"
    )
    verb.add_argument(
        "--full-precision",
        action="store_true",
        help="on a CPU: compute in 32 bits even where it has the faster bfloat16",
    )
    verb.add_argument("--register", action="store_true", help="register T1 and T2 to the CT first")
    verb.add_argument(
        "--series",
        dest="series_file",
        metavar="FILE",
        type=Path,
        help="DICOM: TOML file, which series is which channel",
    )
    verb.add_argument(
        "--key", dest="key_file", metavar="FILE", type=Path, help="DICOM: private file, which case is which patient"
    )
    verb.add_argument(
        "--layout", choices=("auto", "files", "folders", "dicom"), help="kind of IN; without: look what is there"
    )
    verb.add_argument("--rtstruct", action="store_true", help="DICOM: write an RTSTRUCT beside each label map")
    verb.add_argument("--strict", action="store_true", help="a case with a warning fails")
    verb.add_argument(
        "-num_parts",
        metavar="N",
        type=_positive_int,
        help="share the cases among N processes; this one takes part -part_id",
    )
    verb.add_argument("-part_id", metavar="K", type=_whole_number(0), help="0 to N - 1")
    verb.add_argument("--overwrite", action="store_true", help="redo cases whose label map is there already")

    verb = add_verb(
        _rtstruct,
        "write a label map as RTSTRUCT that a planning system opens beside the CT",
        example="nnunet_ext rtstruct contours/case_01.nii.gz ct_series -o case_01_contours.dcm",
    )
    verb.add_argument("mask", metavar="MASK", type=Path, help="label map on the voxels of the CT")
    verb.add_argument("ct_series", metavar="CT_SERIES", type=Path, help="folder with the CT's DICOM files")
    verb.add_argument("-o", dest="out", metavar="FILE", type=Path, required=True, help="file to write")
    names = verb.add_mutually_exclusive_group()
    names.add_argument("--labels", dest="labels_file", metavar="FILE", type=Path, help="TOML label table")
    names.add_argument(
        "--dataset-json", metavar="FILE", type=Path, help="names of the labels; without: the one beside MASK"
    )

    verb = add_verb(
        _install,
        "unpack a model that nnUNetv2_export_model_to_zip packed, and nothing else",
        example="nnunet_ext install head.zip",
    )
    verb.add_argument("archive", metavar="ZIP", type=Path, help="what nnUNetv2_export_model_to_zip wrote")

    verb = add_verb(
        _evaluate,
        "compare label maps, or a model's cross-validation, with references: DSC, HD95, surface dice",
        example="nnunet_ext evaluate contours labelsTs -o evaluation",
    )
    verb.add_argument(
        "predictions", metavar="PRED", type=Path, help="folder of predicted label maps, or of a trained model"
    )
    verb.add_argument(
        "references",
        metavar="REF",
        type=Path,
        nargs="?",
        default=None,
        help="folder of reference label maps; for a trained model, without: those it was trained on",
    )
    verb.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the tables")
    verb.add_argument(
        "--localizer", metavar="FOLDER", type=Path, help="the localizer's label maps of the same cases, to compare with"
    )
    verb.add_argument(
        "--tolerance-mm",
        nargs="+",
        metavar="X",
        action=_ToleranceAction,
        help="distance that counts as agreement of surfaces: 1.5, or by organ, Lens_L=1 Eye_L=2; without: "
        "expert variability where it is published, else 1",
    )
    _add_processes(verb)

    verb = add_verb(
        _report,
        "compare experiments: tables with tests, box plots, overlays, 3D views, training curves",
        example="nnunet_ext report CT=eval_ct CT+MR=eval_ctmr -o report",
    )
    verb.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=_run,
        help="NAME=FOLDER: a folder `evaluate` wrote, or of a trained model, or of predictions (with --references); the "
        "others are tested against the first",
    )
    verb.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the report")
    verb.add_argument("--references", metavar="REF", type=Path, help="reference label maps, for runs of predictions")
    verb.add_argument(
        "--images", metavar="IN", type=Path, help="images to draw on; without: those beside the references"
    )
    verb.add_argument(
        "--models", nargs="+", metavar="MODEL", type=Path, help="trained models whose training curves to draw too"
    )
    verb.add_argument("--box-organ", metavar="ORGAN", help="organ of the box plots; without: the hardest")
    verb.add_argument(
        "--cases", nargs="+", metavar="CASE", help="cases to draw; without: the worst, the median and the best"
    )
    verb.add_argument("--reference-study", action="store_true", help="show the reference study's published values too")
    _add_viewer_limit(verb)
    _add_processes(verb)

    verb = add_verb(
        _view,
        "look at predictions without references in the browser: one HTML file",
        example="nnunet_ext view predictions -i imagesTs -o predictions.html",
    )
    verb.add_argument("predictions", metavar="PRED", type=Path, help="folder that a prediction was written to")
    verb.add_argument("-i", dest="images", metavar="IN", type=Path, required=True, help="images it was made from")
    verb.add_argument("-o", dest="out", metavar="PAGE", type=Path, required=True, help="HTML file to write")
    _add_viewer_limit(verb)

    verb = add_verb(
        _hook,
        "put our lookup modules into an editable nnU-Net, or for an editable install of ours",
        example="nnunet_ext hook",
    )
    verb.add_argument("--remove", action="store_true", help="take away what this verb wrote; pip's files stay")

    add_verb(
        _doctor,
        "say what works here, what does not, and what to do",
        example="nnunet_ext doctor",
    )

    verb = add_verb(
        _demo,
        "run all of it on phantoms, small enough for two CPU cores",
        example="nnunet_ext demo demo",
    )
    verb.add_argument("out", metavar="OUT", type=Path, nargs="?", default=Path("demo"), help="folder to work in: demo")

    verb = verbs.add_parser("benchmark", help="measure how fast something is", parents=[common])
    kinds = verb.add_subparsers(title="what to measure", dest="kind", required=True, metavar="WHAT")
    kind = add_verb(
        _benchmark_train,
        "iterations per second with real and with cached data, next to stock nnU-Net",
        example="nnunet_ext benchmark train -d 501 -p CascadeOARPlans",
        to=kinds,
        name="train",
    )
    kind.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=_positive_int,
        help="preprocessed data set; without: phantoms made for it",
    )
    kind.add_argument(
        "-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans, for phantoms CascadeOARPlansSmall"
    )
    kind.add_argument(
        "-c", dest="configurations", nargs="+", metavar="CONF", help="without: 3d_lowres 3d_cascade_fullres"
    )
    kind.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    kind.add_argument(
        "-o", dest="out", metavar="OUT", type=Path, help="folder for the table and the JSON file: benchmark"
    )
    kind.add_argument("--iterations", metavar="N", type=_positive_int, help="timed with each kind of data")
    kind.add_argument("--threads", dest="n_threads", metavar="N", type=_positive_int, help="of torch on the CPU")
    kind.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock nnU-Net out")

    kind = add_verb(
        _benchmark_predict,
        "seconds per case and memory from files to masks, next to stock nnU-Net",
        example="nnunet_ext benchmark predict -d 501 -i imagesTs",
        to=kinds,
        name="predict",
    )
    kind.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=_positive_int,
        help="planned data set; without: phantoms made for it",
    )
    kind.add_argument(
        "-i", dest="images", metavar="IN", type=Path, help="images folder; without: the data set's imagesTr"
    )
    kind.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    kind.add_argument("-f", dest="fold", metavar="FOLD", help="of all models; without: 0")
    kind.add_argument("--size", choices=("tiny", "small", "full"), help="of phantoms; without: small")
    kind.add_argument(
        "--cases", dest="n_cases", metavar="N", type=_positive_int, help="how many to predict; without: 2"
    )
    kind.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: cpu")
    kind.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder for table, JSON and models: benchmark")
    kind.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock 3d_fullres out")

    kind = add_verb(
        _benchmark_convert,
        "CPU seconds and memory of making and converting a case, per step, next to stock nnU-Net's preprocessing",
        example="nnunet_ext benchmark convert -i patients --register",
        to=kinds,
        name="convert",
    )
    kind.add_argument(
        "-i", dest="source", metavar="SRC", type=Path, help="what convert takes; without: phantoms made for it"
    )
    kind.add_argument("--modalities", nargs="+", metavar="M", help="channels, in this order: CT T1 T2")
    kind.add_argument("--size", choices=("tiny", "small", "full"), help="of phantoms; without: tiny")
    kind.add_argument("--cases", dest="n_cases", metavar="N", type=_positive_int, help="how many phantoms; without: 2")
    kind.add_argument("--unregistered", action="store_true", help="move T1 and T2 of phantoms against the CT")
    kind.add_argument("--register", action="store_true", help="register T1 and T2 to the CT first")
    kind.add_argument("--no-preview", dest="preview", action="store_false", help="draw no pictures of the steps")
    kind.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder for table, JSON and data: benchmark")
    kind.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock nnU-Net out")
    return parser


class _PairAction(argparse.Action):
    """Store two numbers as a tuple; argparse stores a list."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, tuple(values))


class _ToleranceAction(argparse.Action):
    """`1.5` -> one number; `Lens_L=1 Eye_L=2` -> a mapping."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            if len(values) == 1 and "=" not in values[0]:
                tolerance = float(values[0])
            else:
                tolerance = {organ: float(mm) for organ, mm in (text.split("=") for text in values)}
        except ValueError:
            parser.error(f"{option_string} {' '.join(values)}: give one distance in mm, or ORGAN=MM for each organ")
        setattr(namespace, self.dest, tolerance)


def _add_viewer_limit(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--viewer-limit-mb",
        metavar="MB",
        type=_megabytes,
        help="size of the images in the page, worst cases first; 0 for none, without: 400",
    )


def _add_processes(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-np", dest="n_processes", metavar="N", type=_positive_int, help="processes to run at a time")


def _run(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER`, or a folder named as itself; of a trained model, its configuration's name.

    Names and folders may hold `=` (`lr=0.1`). A text that is a folder is that folder; else the first `=` with a folder to
    its right divides it, or the last `=` where there is none.
    """
    places = [at for at, letter in enumerate(text) if letter == "="]
    if not places or Path(text).exists():
        return Path(text).name.rpartition("__")[2], Path(text)
    at = next((at for at in places if text[at + 1 :] and Path(text[at + 1 :]).exists()), places[-1])
    if not text[at + 1 :]:
        raise argparse.ArgumentTypeError(f"{text} names no folder: NAME=FOLDER")
    return text[:at] or Path(text[at + 1 :]).name.rpartition("__")[2], Path(text[at + 1 :])


def _whole_number(least: int) -> Callable[[str], int]:
    """Reads a number of at least so much; argparse would name the function instead of what is wrong."""

    def read(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
        return int(text)

    return read


_positive_int = _whole_number(1)


def _megabytes(text: str) -> float:
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = -1.0
    if not megabytes >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a size in MB of 0 or more")
    return megabytes
