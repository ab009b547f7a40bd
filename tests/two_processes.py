"""What two processes train, and a program that torchrun starts in both: it loads no
more than it needs."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_nb.training.loop import train

ROWS = 600
OPTIONS = {
    "monitor": "valid_loss",
    "lr": 0.01,
    "batch_size": 61,  # makes unequal parts
    "patience": None,
    "device": "cpu",
    "precision": "fp32",
    "progress": False,
    "seed": 3,
}


class Ranker(torch.nn.Module):
    "Layers beside a table with sparse gradients."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(40, 8, sparse=True)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(11, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def forward(self, dense, codes):
        inputs = torch.cat([dense, self.table(codes)], 1)
        return self.layers(inputs).squeeze(1)


def make_examples(n=ROWS, seed=1):
    g = torch.Generator().manual_seed(seed)
    dense = torch.randn(n, 3, generator=g)
    codes = torch.randint(40, (n,), generator=g)
    noise = torch.randn(n, generator=g)
    label = (dense.sum(1) + codes % 2 + noise > 0.5) * 1.0
    return {"dense": dense, "codes": codes, "label": label}


class InOrder:
    "Batches of examples in their order, as an object gives them."

    def __init__(self, data):
        self.data = data
        self.n_rows = len(data["label"])

    def steps(self, batch_size, world=1):
        return -(-self.n_rows // batch_size)

    def fingerprint(self):
        return "in order"

    def batches(self, batch_size, seed, epoch, rank=0, world=1):
        for start in range(0, self.n_rows, batch_size):
            yield {
                name: t[start : start + batch_size].tensor_split(world)[rank]
                for name, t in self.data.items()
            }


def log_loss(model, batch):
    logits = model(batch["dense"], batch["codes"])
    return binary_cross_entropy_with_logits(logits, batch["label"])


def train_ranker(epochs=4, on_step=lambda: None, data=None, **changes):
    data = make_examples() if data is None else data
    model, others = Ranker(), make_examples(seed=2)

    def loss(model, batch):
        on_step()
        return log_loss(model, batch)

    options = OPTIONS | {"clip_grad": 0.1, "weight_decay": 0.01} | changes
    valid = {"valid": lambda model: {"valid_loss": log_loss(model, others)}}
    return model, train(model, loss, data, **valid, epochs=epochs, **options).epochs


def run_until_killed(folder):
    "The first is killed between the writing of epoch 3 and its renaming."
    replace = os.replace

    def kill(source, target):
        if Path(target).name.startswith("epoch-00003"):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = kill
    train_ranker(4, folder=folder)


if __name__ == "__main__":
    run_until_killed(Path(sys.argv[1]))
