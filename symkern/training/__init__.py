"""One training engine for all experiments, in one process or several.

    from symkern import training

    settings = training.Settings(epochs=100, batch_size=8, learning_rate=1e-3, schedule="cosine", ema=0.999)
    task = training.EnergyForces(energy_weight=0.01, forces_weight=1.0)
    result = training.fit(model, task, train, valid, settings, out="run", resume=True, test=test)

The same script runs in several processes with ``torchrun --nproc-per-node=2 script.py``.
"""

from symkern.training.ema import EMA
from symkern.training.evaluation import evaluate
from symkern.training.folds import cross_validate, k_folds
from symkern.training.interfaces import Source, Task, Term
from symkern.training.loop import fit
from symkern.training.objective import NonFiniteError
from symkern.training.recipe import train_potential
from symkern.training.run import Result
from symkern.training.schedule import Schedule
from symkern.training.settings import Settings
from symkern.training.state import CheckpointError, load_weights
from symkern.training.tasks import EnergyForces, Property

__all__ = [
    "EMA",
    "CheckpointError",
    "EnergyForces",
    "NonFiniteError",
    "Property",
    "Result",
    "Schedule",
    "Settings",
    "Source",
    "Task",
    "Term",
    "cross_validate",
    "evaluate",
    "fit",
    "k_folds",
    "load_weights",
    "train_potential",
]
