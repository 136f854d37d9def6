"""Two small models trained on scikit-learn's digits, exported, with labeled samples beside them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from isochrone.catalog import AccuracyMetric, BackendName, Datatype, Precision, TensorSpec
from isochrone_builder.request import ArchitectureRequest, BuildRequest

TRAIN_ROWS = 1_000
CALIBRATION_ROWS = 200


class Wide(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.to(torch.float32).reshape(pixels.shape[0], -1) / 16.0
        return functional.softmax(self.layers(flat), dim=1)


class Convolved(nn.Module):
    """Padding, convolution, batch norm and dropout: what the builder rewrites."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)
        self.one = nn.Conv2d(1, 16, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(16 * 16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.float32).unsqueeze(1) / 16.0
        x = functional.relu6(self.norm(self.one(self.pad(x))))
        x = functional.relu(self.two(x))
        x = self.drop(x.view(x.size(0), -1))
        return functional.softmax(self.out(x), dim=1)


def _train(model: nn.Module, pixels: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(12):
        for rows in torch.randperm(len(pixels)).split(100):
            optimizer.zero_grad()
            loss = functional.nll_loss(torch.log(model(pixels[rows]) + 1e-9), labels[rows])
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with both networks in every format, ``labeled.npz`` and ``unlabeled.npz``."""
    folder = tmp_path_factory.mktemp("digits")
    torch.set_num_threads(1)
    torch.manual_seed(7)
    pixels, labels = load_digits(return_X_y=True)
    images = np.unique(pixels.astype(np.uint8).reshape(-1, 8, 8), axis=0, return_index=True)[1]
    order = np.random.default_rng(7).permutation(np.sort(images))
    images, targets = pixels.astype(np.uint8).reshape(-1, 8, 8)[order], labels[order]
    batch = torch.export.Dim("batch", min=1, max=64)
    for name, model in (("wide", Wide()), ("convolved", Convolved())):
        trained = _train(
            model,
            torch.from_numpy(images[:TRAIN_ROWS]),
            torch.from_numpy(targets[:TRAIN_ROWS]).long(),
        )
        example = torch.zeros((2, 8, 8), dtype=torch.uint8)
        program = torch.export.export(trained, (example,), dynamic_shapes={"pixels": {0: batch}})
        torch.export.save(program, folder / f"{name}.pt2")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which its users know
            torch.jit.script(trained).save(folder / f"{name}.script.ts")
            torch.jit.trace(trained, example).save(folder / f"{name}.traced.ts")
            torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["scores"],
                external_data=False,
            ).save(folder / f"{name}.onnx")
        torch.save(trained.state_dict(), folder / f"{name}.pt")
    held_out = {
        "validation/pixels": images[TRAIN_ROWS:],
        "calibration/pixels": images[:CALIBRATION_ROWS],
    }
    np.savez(folder / "labeled.npz", **held_out, **{"validation/label": targets[TRAIN_ROWS:]})
    unlabeled = np.random.default_rng(1).integers(0, 17, (1_000, 8, 8), dtype=np.uint8)
    np.savez(folder / "unlabeled.npz", **{"validation/pixels": unlabeled})
    return folder


@pytest.fixture(scope="session")
def digits_request(digits: Path) -> BuildRequest:
    """Ask for every variant of both models, with labels."""
    return BuildRequest(
        namespace="lab",
        name="digits",
        task="image-classification",
        metric=AccuracyMetric.TOP1,
        inputs=(TensorSpec(name="pixels", datatype=Datatype.UINT8, shape=(-1, 8, 8)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 10)),),
        validation_uri=f"file:{digits / 'labeled.npz'}",
        architectures=tuple(
            ArchitectureRequest(
                name=name,
                uri=f"file:{digits / name}.pt2",
                format="torch-export",
                sha256=None,
                accuracy_ppm=950_000,
            )
            for name in ("convolved", "wide")
        ),
        precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
        backends=(BackendName.TORCH, BackendName.OPENVINO),
        batch_sizes=(1, 2, 4),
    )
