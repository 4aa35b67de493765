"""The trainer of a leg rounds where the processor can, and its losses do not."""

from __future__ import annotations

import torch

from nnunet_ext.end_to_end.starter.legs import CascadeOARTrainer


def test_losses_and_weights_have_32_bits(make):
    trainer = make(CascadeOARTrainer, recipe={"modality_dropout": 0.5, "dropout_spares": "any"})
    trainer.on_train_start()
    seen = []
    loss = trainer.loss
    trainer.loss = lambda logits, target: seen.extend(part.dtype for part in logits) or loss(logits, target)
    trainer.on_train_epoch_start()
    before = {name: values.clone() for name, values in trainer.network.state_dict().items()}
    result = trainer.train_step(next(trainer.dataloader_train))
    assert set(seen) == {torch.float32}
    assert torch.isfinite(torch.as_tensor(result["loss"]))
    after = trainer.network.state_dict()
    assert {values.dtype for values in after.values()} <= {torch.float32, torch.int64}
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_names_the_trainer_that_predictions_look_up(make):
    assert make(CascadeOARTrainer).__class__.__name__ == "CascadeOARTrainer"
