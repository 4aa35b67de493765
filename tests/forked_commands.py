"""Console commands without their start-up time: a process that has imported nnU-Net once, and forks for each command.

`python forked_commands.py SOCKET` serves. `python forked_commands.py SOCKET COMMAND ARGUMENT...` runs a console script of an
installed package, or `module:function`, in a fork of the server, with the caller's folder, environment and output, and
exits as it does. Importing nnU-Net takes longer than anything else that a command does to tiny phantoms.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points


def ask(path: str, command: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        message = "\0".join([os.getcwd(), str(len(command)), *command, *(f"{k}={v}" for k, v in os.environ.items())])
        socket.send_fds(connection, [len(message.encode()).to_bytes(4, "big")], [1, 2])
        connection.sendall(message.encode())
        return int(connection.recv(8) or 1)


def serve(path: str) -> None:
    real = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: real("fork" if method == "spawn" else method)
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    for name in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict", "nnunet_ext"):
        scripts[name].load()
    import torch

    import nnunet_ext.dataset_conversion.convert
    import nnunet_ext.evaluation.evaluating
    import nnunet_ext.prediction.predicting  # noqa: F401

    # nnU-Net's commands ask for all cores. Their workers, forks here, would wait for ever for threads that they don't have.
    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection:
                head, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
                length, text = int.from_bytes(head, "big"), b""
                while len(text) < length:
                    text += connection.recv(length - len(text))
                folder, n, *rest = text.decode().split("\0")
                command, environment = rest[: int(n)], rest[int(n) :]
                pid = os.fork()
                if pid == 0:
                    run(scripts, command, folder, dict(line.split("=", 1) for line in environment), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(str(code).encode())


def run(scripts: dict, command: list[str], folder: str, environment: dict[str, str], descriptors: list[int]) -> None:
    """In the fork; does not return."""
    code = 1
    try:
        for target, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, target)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = command
        script = scripts.get(command[0]) or EntryPoint(command[0], command[0], "")
        code = script.load()() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
