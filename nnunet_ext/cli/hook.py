"""`nnunet_ext hook`: the lookup modules within nnU-Net."""

import argparse

from nnunet_ext.cli.arguments import Options

SUMMARY = "put our lookup modules into an editable nnU-Net, or for an editable install of ours"
EXAMPLE = "nnunet_ext hook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="take away what this verb wrote; pip's files stay")


def run(options: Options) -> int:
    from nnunet_ext import write_hooks

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
