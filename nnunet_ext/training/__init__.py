"""Recipe, schedule, transforms, loss and checkpoints of a training."""
