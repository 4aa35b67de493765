"""What the tests of long runs do in processes of their own: train until killed, and train as one of two ranks."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock

from nnunet_ext.cascade.roi_dataset import InMemoryDataset
from nnunet_ext.cascade.shared_cases import hold_together
from nnunet_ext.trainers import cascade_oar_trainer
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

DDP = stock.DDP


class OnOneDevice(CascadeOARTrainer):
    """Honours the device in a process group: nnU-Net takes it for granted that several processes mean several GPUs.

    Does without scaled gradients, which in the first steps on a GPU may overflow.
    """

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")) -> None:  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device, self.grad_scaler = device, None


OnOneDevice.__name__ = CascadeOARTrainer.__name__


def make(job: dict, cls=CascadeOARTrainer) -> CascadeOARTrainer:
    """The trainer of a job: `folder` of nnU-Net's folders, `plans`, `dataset`, `configuration`, `device` (else the CPU)."""
    folders = {f"nnUNet_{name}": str(Path(job["folder"], name)) for name in ("raw", "preprocessed", "results")}
    os.environ.update(folders | {"nnUNet_n_proc_DA": "0", "nnUNet_compile": job.get("compile", "f")})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stock.nnUNetTrainer.plot_network_architecture = LocalLogger.plot_progress_png = lambda *_: None
    stock.DDP = lambda network, device_ids: DDP(network)
    plans = {**json.loads(json.dumps(job["plans"])), "continue_training": False}
    trainer = cls(plans, job["configuration"], 0, job["dataset"], torch.device(job.get("device", "cpu")))
    trainer.latest_every_s = job.get("latest_every_s", 0.0)
    return trainer


def train_with_a_forkserver(job: dict) -> None:
    """One training with one process per loader, started as Python 3.14 does. Leaves `forkserver.json`."""
    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload([CascadeOARTrainer.__module__])
    trainer = make(job)
    os.environ.update({"nnUNet_n_proc_DA": "1"})
    held, methods, get_datasets, get_loaders = [], [], trainer.get_tr_and_val_datasets, trainer.get_dataloaders

    def datasets():
        made = get_datasets()
        held.extend(len(dataset.held) for dataset in made)
        return made

    def loaders():
        made = get_loaders()
        methods.extend(process._popen.method for loader in made for process in loader._processes)
        return made

    trainer.get_tr_and_val_datasets, trainer.get_dataloaders = datasets, loaders
    trainer.run_training()
    losses = trainer.logger.get_value("train_losses", step=None)
    Path(job["folder"], "forkserver.json").write_text(
        json.dumps({"held": held, "methods": methods, "losses": [float(loss) for loss in losses]})
    )


def kill(*_args, **_kwargs) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rates_of(trainer: CascadeOARTrainer) -> list[tuple[int, int, float]]:
    """Filled while it trains: epoch, iteration, learning rate."""
    rates, train_step = [], trainer.train_step

    def step(batch):
        iteration = trainer.iterations_this_epoch
        output = train_step(batch)
        rates.append((trainer.current_epoch, iteration, trainer.optimizer.param_groups[0]["lr"]))
        return output

    trainer.train_step = step
    return rates


def train_until_killed(job: dict, moment: str) -> None:
    trainer = make(job)
    if moment == "in the first epoch":
        trainer.on_validation_epoch_start = kill
    elif moment == "half way through writing the first checkpoint":
        save = torch.save

        def half(checkpoint, name):
            save(checkpoint, name)
            os.truncate(name, os.path.getsize(name) // 2)
            kill()

        torch.save = half
    elif moment == "before the second checkpoint gets its name":
        replace = os.replace
        os.replace = lambda a, b: (
            kill() if trainer.current_epoch == 1 and str(b).endswith("latest.pth") else replace(a, b)
        )
    elif moment == "after the latest, before the best checkpoint":
        save_checkpoint = trainer.save_checkpoint

        def save(name):
            save_checkpoint(name)
            if trainer.current_epoch == 1 and name.endswith("latest.pth"):
                kill()

        trainer.save_checkpoint = save
    elif moment == "in the third epoch":
        start = trainer.on_validation_epoch_start
        trainer.on_validation_epoch_start = lambda: kill() if trainer.current_epoch == 2 else start()
    elif moment == "before the final checkpoint":
        trainer.on_train_end = kill
    elif moment == "after the final checkpoint, before the latest is removed":
        os.remove = kill
    trainer.run_training()
    assert moment == "in the validation", "should be dead by now"
    kill()


def go_on(job: dict) -> tuple[CascadeOARTrainer, list, int]:
    """What `nnUNetv2_train ... --c` does before the validation; the learning rates and the epochs that were done."""
    trainer = make(job)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    done, rates = trainer.current_epoch, rates_of(trainer)
    trainer.run_training()
    return trainer, rates, done


def as_rank(rank: int, job: dict, task: Callable[[int, dict], dict]) -> None:
    """One of several processes, without a word two; what the task returns goes to `rank_*.pt`."""
    dist.init_process_group(
        job.get("backend", "gloo"),
        init_method=f"file://{job['folder']}/init",
        rank=rank,
        world_size=job.get("world_size", 2),
        timeout=timedelta(seconds=job.get("timeout_s", 300)),
    )
    if job.get("backend") == "nccl":
        torch.cuda.set_device(rank)
    torch.save(task(rank, job), Path(job["folder"], f"rank_{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def one_step(trainer: CascadeOARTrainer, batch: dict) -> dict:
    """Loss and gradients of a training step, loss of a validation step."""
    network = trainer.network.module if trainer.is_ddp else trainer.network
    with torch.no_grad():
        trainer.network.eval()
        validation = float(trainer.validation_step({k: copied(v) for k, v in batch.items()})["loss"])
    trainer.network.train()
    loss = float(trainer.train_step(batch)["loss"])
    # One process gives the coarsest output no weight, several give it 1e-6: nnU-Net's, lest DDP miss a gradient.
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in network.named_parameters()}
    return {"loss": loss, "validation": validation, "gradients": gradients}


def copied(value):
    return [v.clone() for v in value] if isinstance(value, list) else value.clone()


def agree_on_the_best(rank: int, job: dict) -> dict:
    """The end of a training whose last epoch was the best. Rank 0 takes three seconds to write it."""
    trainer = make(job, OnOneDevice)
    trainer.initialize()
    trainer.dataloader_train = trainer.dataloader_val = None
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.add_(1.0)  # not what an earlier `best` holds
    if rank == 0:
        earlier = {k: v - 1 for k, v in trainer.network.module.state_dict().items()}
        best = Path(trainer.output_folder, "checkpoint_best.pth")
        trainer.save_checkpoint(str(best))
        checkpoint = torch.load(best, weights_only=False)
        torch.save({**checkpoint, "network_weights": earlier}, best)
    dist.barrier()
    if rank == 0:
        time.sleep(3)
        trainer.save_checkpoint(str(best))
    trainer.current_epoch = 1
    trainer.on_train_end()
    return trainer.network.module.state_dict()


def predict_own_cases(rank: int, job: dict) -> dict:
    """The networks' part of a localizer's final validation, with as many cases as the job gives the rank."""
    trainer = make(job, OnOneDevice)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network  # it takes GPUs only
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    axes = trainer.inference_allowed_mirroring_axes
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json, "", axes
    )
    n_buffers = len(list(trainer.network.module.buffers()))
    image = torch.zeros(3, *trainer.configuration_manager.patch_size)
    for _ in range(job["cases"][rank]):
        predictor.predict_sliding_window_return_logits(image)
    return {"predicted": job["cases"][rank], "buffers": n_buffers}


def proportional_mb() -> float:
    """Memory of this process in MB, of shared pages its share."""
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1000


def hold_cases(rank: int, job: dict) -> dict:
    """What the cases in `cases` take in this process, held by each alone and then by all together."""
    said = {}
    for name in (once := InMemoryDataset(job["cases"])).identifiers:  # what reading itself takes
        once.load_case(name)[0][:].sum()
    for how in ("alone", "together"):
        dataset = InMemoryDataset(job["cases"])
        before = proportional_mb()
        n_bytes = dataset.hold(1e9) if how == "alone" else hold_together(dataset, 1e9, Path(job["folder"]))[0]
        sums = {name: float(dataset.load_case(name)[0].sum()) for name in sorted(dataset.held)}
        dist.barrier()
        said[how] = {"mb": proportional_mb() - before, "bytes": n_bytes, "sums": sums}
        dist.barrier()
        del dataset
        gc.collect()
        dist.barrier()
    missing = Path(job["folder"], "not_there")
    said["problem"] = hold_together(InMemoryDataset(job["cases"]), 1e9, missing)
    said["left"] = [path.name for path in Path(job["folder"]).glob("nnunet_ext_cases_*")]
    return said


def step_on_a_part(rank: int, job: dict) -> dict:
    trainer = make(job, OnOneDevice)
    if job.get("backend") == "nccl":
        trainer.device = torch.device("cuda", rank)
    trainer.initialize()
    assert trainer.batch_size == 2 // dist.get_world_size()
    batch = torch.load(Path(job["folder"], "batch.pt"))
    own = slice(rank * trainer.batch_size, (rank + 1) * trainer.batch_size)
    part = {"data": batch["data"][own], "target": [t[own] for t in batch["target"]]}
    trainer.network.module.load_state_dict(torch.load(Path(job["folder"], "weights.pt"), map_location=trainer.device))
    return one_step(trainer, part)


def train_together(rank: int, job: dict) -> dict:
    """Three trainings: one ended by a time budget, where the clock of rank 1 runs fast; one by STOP; that one again."""
    said = {}
    cascade_oar_trainer.time = lambda: time.time() + 1000 * rank
    trainer = make(job, OnOneDevice)
    rates = rates_of(trainer)
    on_epoch_start = trainer.on_epoch_start

    def start_epoch():
        on_epoch_start()
        if rank == 1 and trainer.current_epoch == 1:
            Path(trainer.output_folder, "STOP").touch()

    trainer.on_epoch_start = start_epoch
    trainer.run_training()
    said["stop"] = {"epochs": trainer.current_epoch, "rates": rates, "weights": trainer.network.module.state_dict()}
    maybe_load_checkpoint(again := make(job, OnOneDevice), continue_training=True, validation_only=False)
    again.train_step = None  # can't
    again.run_training()
    said["again"] = again.current_epoch

    # What nnU-Net's validation does with the cases, without networks and export.
    def read_own_cases(self, _save_probabilities=False):
        cases = self.do_split()[1][rank::2]
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases, self.folder_with_segs_from_previous_stage)
        for case in cases:
            dataset.load_case(case)

    stock.nnUNetTrainer.perform_actual_validation = read_own_cases
    Path(again.output_folder, "validation").mkdir(exist_ok=True)
    again.perform_actual_validation()

    budget = json.loads(json.dumps(job))
    budget["plans"]["plans_name"] = "Budget"
    for c in budget["plans"]["configurations"].values():
        if "training" in c:
            c["training"] |= {"num_epochs": 10**4, "time_budget_h": 2.0 / 3600}
    trainer = make(budget, OnOneDevice)
    rates = rates_of(trainer)
    trainer.run_training()
    said["budget"] = {"epochs": trainer.current_epoch, "rates": rates}
    return said
