"""The rows of the ASAN tables: every model trained and judged in the same way, one fold at a time.

All networks: Adam, squared error of the standardised gap, batches of 64, training molecules turned anew in each epoch
(uniform in SO(3)), stopped once the validation fold has not improved for 25 epochs, with the weights of its best epoch.
The paper states neither batch size nor learning rate nor patience: these are ours. Each fold's model is tested on the
same held-out molecules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from symkern import Normalized, training
from symkern.data import Batch, Dataset
from symkern.experiments.asan import qm9
from symkern.experiments.asan.pair_histograms import pair_histograms
from symkern.experiments.asan.qm9 import TARGET
from symkern.models import ASAN, EGNN, CoordinateMLP, InvariantMLP, SchNet
from symkern.training.order import derived_seed
from symkern.units import ENERGY_IN_EV

FOLDS = 5
ROTATIONS = 64
EPOCHS, PATIENCE = 300, 25
EV = ENERGY_IN_EV["Ha"]


@dataclass(frozen=True)
class Network:
    """A row that is trained.

    Attributes:
        title: the paper's name, or ours where it has none.
        construction: what stands for it here; None where the title says so.
        make: with the number of angles d.
        cutoff: Å of the graph that batches bring along; None where the network needs none.
    """

    title: str
    construction: str | None
    make: Callable[[int], nn.Module]
    cutoff: float | None = None


NETWORKS = {
    "CoordinateMLP": Network("Baseline", "CoordinateMLP", lambda _: CoordinateMLP()),
    "InvariantMLP": Network("MIT-Inspired", "InvariantMLP", lambda _: InvariantMLP()),
    "outer": Network("ASAN", 'pooling "outer"', lambda d: ASAN(pooling="outer", num_angles=d)),
    "gram": Network("ASAN (gram)", None, lambda d: ASAN(pooling="gram", num_angles=d)),
    "moment": Network("ASAN (moment)", None, lambda d: ASAN(pooling="moment", num_angles=d)),
    "released": Network("ASAN (released)", None, lambda d: ASAN(variant="released", num_angles=d)),
    "masked": Network("ASAN (masked)", None, lambda d: ASAN(variant="masked", num_angles=d), 5.0),
    "SchNet": Network("SchNet", None, lambda _: SchNet(1, 32, 32, 3, 25, 5.0, readout="mean"), 5.0),
    "EGNN": Network("EGNN", None, lambda _: EGNN(1, 32, 3, cutoff=None, readout="mean")),
}


def settings(seed: int, epochs: int = EPOCHS) -> training.Settings:
    """How every network is trained."""
    return training.Settings(
        epochs=epochs,
        batch_size=64,
        eval_batch_size=200,
        drop_last=True,  # batch norm has no statistics of a single molecule
        optimizer="adam",
        learning_rate=2e-3,
        patience=PATIENCE,
        monitor=f"{TARGET}_mse",
        seed=seed,
    )


def parts(data: str | None, split: str, fold: int, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Molecules to train on, those of the validation fold, and the test set."""
    whole, test = qm9.split(data, split)
    chosen, held = training.k_folds(len(whole), FOLDS, seed)[fold]
    return whole.subset(chosen), whole.subset(held), test


# ---- cells -----------------------------------------------------------------------------------------------------------


def train_network(
    model: str,
    split: str,
    fold: int,
    seed: int,
    data: str | None,
    augment: bool = True,
    num_angles: int = 5,
    epochs: int = EPOCHS,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a network of `NETWORKS` and judge it; weights, order and rotations depend on seed and fold alone."""
    network = NETWORKS[model]
    train, valid, test = parts(data, split, fold, seed)
    own = derived_seed("asan", seed, fold)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own)
        module = Normalized.fit(network.make(num_angles), train, TARGET)
    sources = [part.loader(network.cutoff, targets=[TARGET]) for part in (train, valid)]
    source = sources[0].augmented(seed=own) if augment else sources[0]
    task = training.Property(TARGET)
    result = training.fit(module, task, source, sources[1], settings(own, epochs), device=device, progress=False)

    def predict(batch: Batch) -> Tensor:
        here = batch.to(device)
        with torch.no_grad():
            out: Tensor = module(here.z, here.pos, here.batch, nb=here.nb)
        return out.flatten().cpu()

    return {
        **judge(predict, valid, test, network.cutoff),
        "best_epoch": result.best_epoch,
        "stopped_epoch": len(result.history),
        "training_seconds": result.seconds,
        "parameters": sum(p.numel() for p in module.parameters()),
    }


def predict_mean(split: str, fold: int, seed: int, data: str | None) -> dict[str, Any]:
    """The mean of the training labels, whatever the molecule."""
    train, valid, test = parts(data, split, fold, seed)
    mean = train.per_structure[TARGET].mean()
    return {**judge(lambda batch: mean.expand(batch.num_structures), valid, test, None), "parameters": 1}


def kernel_ridge(split: str, fold: int, seed: int, data: str | None) -> dict[str, Any]:
    """Kernel ridge regression on element-pair histograms; settings chosen on the validation fold."""
    import sklearn.kernel_ridge  # noqa: F401  (loads the BLAS whose threads are to be limited)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    with threadpool_limits(1):  # sums depend on how many share them
        return _kernel_ridge(*parts(data, split, fold, seed))


def _kernel_ridge(train: Dataset, valid: Dataset, test: Dataset) -> dict[str, Any]:
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics import pairwise_distances

    def features(batch: Batch) -> Any:
        return pair_histograms(batch.z, batch.pos.double(), batch.ptr).numpy()

    x, x_valid = (features(_all(part)) for part in (train, valid))
    y, y_valid = (part.per_structure[TARGET].numpy() for part in (train, valid))
    middle = y.mean()
    best, ridge, chosen = np.inf, KernelRidge(), ("", 0.0, 0.0)
    for metric in ("manhattan", "sqeuclidean"):  # the kernels exp(-gamma |x - y|) and exp(-gamma |x - y|^2)
        own, other = pairwise_distances(x, metric=metric), pairwise_distances(x_valid, x, metric=metric)
        for factor in (0.03, 0.1, 0.3, 1.0, 3.0):
            gamma = factor / np.median(own)
            for alpha in (1e-6, 1e-4, 1e-3, 1e-2, 1e-1):
                tried = KernelRidge(alpha=alpha, kernel="precomputed").fit(np.exp(-gamma * own), y - middle)
                error = np.square(tried.predict(np.exp(-gamma * other)) + middle - y_valid).mean()
                if error < best:
                    best, ridge, chosen = error, tried, (metric, float(gamma), alpha)

    def predict(batch: Batch) -> Tensor:
        metric, gamma, _ = chosen
        kernel = np.exp(-gamma * pairwise_distances(features(batch), x, metric=metric))
        return torch.from_numpy(ridge.predict(kernel) + middle)

    judged = judge(predict, valid, test, None)
    return {**judged, "chosen": dict(zip(("metric", "gamma", "alpha"), chosen, strict=True)), "parameters": len(y)}


def judge(predict: Callable[[Batch], Tensor], valid: Dataset, test: Dataset, cutoff: float | None) -> dict[str, float]:
    """Errors on the validation fold and the test set, in Ha and Ha^2, also for turned molecules.

    Each test molecule is turned 64 times, uniformly in SO(3); its spread is the standard deviation of the predictions.
    """
    held = _all(valid, cutoff)
    loader = test.loader(cutoff, targets=[TARGET])
    everything = torch.arange(len(test))
    labels = test.per_structure[TARGET]
    turned = loader.augmented(seed=derived_seed("asan rotations"))
    predicted = []
    for k in range(ROTATIONS):
        turned.set_epoch(k)
        predicted.append(predict(turned.collate(everything)).double())
    spread = torch.stack(predicted).std(0, correction=0)
    as_stored = predict(loader.collate(everything)).double()
    return {
        "valid_mse": float((predict(held).double() - held.targets[TARGET]).square().mean()),
        "mae": float((as_stored - labels).abs().mean()),
        "mae_turned": float((torch.stack(predicted) - labels).abs().mean()),
        "rotation_spread": float(spread.mean()),
        "rotation_spread_largest": float(spread.max()),
    }


def _all(part: Dataset, cutoff: float | None = None) -> Batch:
    return part.loader(cutoff, targets=[TARGET]).collate(torch.arange(len(part)))
