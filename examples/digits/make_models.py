"""Makes what the `digits` example serves: two small classifiers, trained in seconds, with labels.

Run once before ``isochrone up -f examples/digits``::

    python examples/digits/make_models.py

It writes into ``build/digits`` (or ``--out``): ``linear.pt2`` and ``perceptron.pt2``, trained on
scikit-learn's handwritten digits, and ``digits.safetensors``, the labeled images that neither has
seen. It is the shortest path from a model of one's own to a service: see docs/add-a-model.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

PIXEL_MAX: Final = 16.0
"""scikit-learn's digits have 8 × 8 pixels from 0 to 16."""
TRAINING_ROWS: Final = 1_200
CALIBRATION_ROWS: Final = 97
EPOCHS: Final = 200
BATCH_MAX: Final = 16
SEED: Final = 7


class Digits(nn.Module):
    """UINT8 images ``[batch, 8, 8]`` in; class probabilities FP32 ``[batch, 10]`` out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of each digit for each row of ``image``."""
        pixels = image.to(torch.float32).flatten(1) / PIXEL_MAX
        return torch.softmax(self.network(pixels), dim=1)


NETWORKS: Final = {
    "linear": lambda: nn.Linear(64, 10),
    "perceptron": lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
}


def train(network: nn.Module, images: Tensor, labels: Tensor) -> Digits:
    """Return ``network`` trained on ``images`` (UINT8 ``[rows, 8, 8]``) and ``labels``."""
    digits = Digits(network)
    optimizer = torch.optim.Adam(digits.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(torch.log(digits(images) + 1e-9), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return digits.eval()


def main(arguments: list[str]) -> int:
    """Train, export and write everything; say what is written."""
    parser = argparse.ArgumentParser(description="Make the models of the digits example.")
    parser.add_argument("--out", type=Path, default=Path("build/digits"))
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.images))
    images = data.images[order].astype(np.uint8)
    labels = data.target[order].astype(np.int64)
    train_images = torch.from_numpy(images[:TRAINING_ROWS])
    train_labels = torch.from_numpy(labels[:TRAINING_ROWS])
    for name, make in NETWORKS.items():
        digits = train(make(), train_images, train_labels)
        batch = torch.export.Dim("batch", min=1, max=BATCH_MAX)
        program = torch.export.export(
            digits, (train_images[:2],), dynamic_shapes={"image": {0: batch}}
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names this machine's files
        torch.export.save(program, out / f"{name}.pt2")
        print(f"{out / name}.pt2: written")
    seen = TRAINING_ROWS + CALIBRATION_ROWS
    save_file(
        {
            "calibration/image": images[TRAINING_ROWS:seen],
            "validation/image": images[seen:],
            "validation/label": labels[seen:],
        },
        out / "digits.safetensors",
    )
    print(f"{out / 'digits.safetensors'}: {len(images) - seen} labeled images, never trained on")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
