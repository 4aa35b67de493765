"""`python -m nnunet_ext`: the same as the command `nnunet_ext`."""

from nnunet_ext.cli.main import command

if __name__ == "__main__":
    command()
