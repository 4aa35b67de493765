"""`nnunet_ext doctor`: a check of this environment."""

import argparse

from nnunet_ext.cli.arguments import Options

SUMMARY = "say what works here, what does not, and what to do"
EXAMPLE = "nnunet_ext doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: Options) -> int:
    from nnunet_ext import doctor

    findings = doctor(**options)
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        advice = f" -> {finding.advice}" if finding.advice else ""
        print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.topic:<{width}}  {finding.value}{advice}")
    n_wrong = sum(not finding.ok for finding in findings)
    print(f"{n_wrong} to mend, see the lines marked MEND" if n_wrong else "everything is in order")
    return 1 if n_wrong else 0
