"""One run's training, on images or, with a frozen backbone, on features: the same for the workflow and `openset`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..core.determinism import named_if_not_deterministic
from ..core.files import alone, remove_stale_temporaries, sha256
from ..methods import Teacher
from ..models.classifier import Classifier
from .distributed import ProcessGroup
from .epoch_hook import epoch_hook
from .features import HeadOnly, cached_batches, folder_of_process, remove_features
from .loop import train
from .run_config import RunConfig
from .setup import SplitData, make_batches


class Training:
    """A run's training in a folder that holds its state until `finish`.

    Args:
        state: where the state is kept while training runs; features of a frozen backbone are kept next to it.
        identity: what the training is computed from beside its settings (`setup.identity`).
        report: is given lines about the course of the training.
    """

    def __init__(self, state: Path, identity: Mapping[str, Any], report: Callable[[str], None]):
        self.state, self.identity, self.report = state, identity, report

    def run(
        self,
        config: RunConfig,
        student: Classifier,
        teacher: Teacher | None,
        data: SplitData,
        device: torch.device,
        *,
        processes: ProcessGroup | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> list[dict[str, float]]:
        """Trains `student` in place and returns one row per epoch. Arguments and errors as in `loop.train`.

        Args:
            watch: is told of the progress of the features of a frozen backbone (`FeatureStore.computed`).
        """
        # the main process of several has the lock for all
        is_main = processes is None or processes.is_main
        once = alone(self.state.parent, f"training {config.run}") if is_main else nullcontext()
        with once:
            weights = config.backbone.get("weights")
            if weights:  # a file of the user's, which may change under the same name
                self.identity = {**self.identity, "weights": sha256(weights)}
            common = {
                "identity": self.identity,
                "state_path": self.state,
                "processes": processes,
                "report": self.report,
            }
            common["on_epoch"] = epoch_hook(config, self.report) if is_main else None
            if not config.caches_features:
                if config.backbone.get("freeze"):
                    self.report("images are mixed or there is a teacher: the frozen backbone runs at every step")
                batches = make_batches(config, data, device, processes)
                with named_if_not_deterministic(student):
                    return train(config, student, teacher, batches, data.validation(device), **common)
            # each process computes all features, in a folder of its own: they are the same, and heads are small
            folder = folder_of_process(self.state.parent, 0 if processes is None else processes.rank)
            batches, validation, store = cached_batches(
                config,
                student,
                data.training(device),
                torch.from_numpy(data.train_label).to(device),
                data.validation(device),
                data.normalize(config, device),
                identity=self.identity,
                folder=folder,
                report=self.report,
                watch=watch,
            )
            common["identity"] = {**self.identity, "features": store.key}
            history = train(config, HeadOnly(student), None, batches, validation, **common)
            student.precision = None  # what is trained in bfloat16 is tested in float32
            if folder != self.state.parent:
                shutil.rmtree(folder, ignore_errors=True)
            return history

    def finish(self) -> None:
        """Removes the state and the features, once the results are written."""
        remove_features(self.state.parent)
        self.state.unlink(missing_ok=True)
        remove_stale_temporaries(self.state)
