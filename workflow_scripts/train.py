"""Trains one network, teacher or student, and stores its outputs for every test image."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from openset_distill.core.command import natural, positive, renamed, run


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True, help="resolved settings of the run: JSON text, or a .json file")
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--teacher", action="append", default=[], type=Path, help="weights of a teacher (repeatable)")
    parser.add_argument("--teacher-logits", type=Path, help="cached teacher logits; the teachers are then not run")
    renamed(parser, "--answers", "--teacher-logits")
    parser.add_argument("--weights", required=True, type=Path, help="output: the trained weights")
    parser.add_argument("--history", required=True, type=Path, help="output: one row per epoch, CSV")
    parser.add_argument(
        "--outputs", required=True, type=Path, help="output: features, logits, labels of the test images"
    )
    parser.add_argument(
        "--samples",
        type=natural,
        default=0,
        help="number of training images in training_outputs.npz, which is written next to the weights",
    )
    parser.add_argument("--config", required=True, type=Path, help="output: the resolved settings")
    parser.add_argument("--provenance", required=True, type=Path, help="output: versions, hardware, inputs, time")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of all processes together")
    parser.add_argument(
        "--processes",
        type=natural,
        default=1,
        help="number of processes that share the training, each with one GPU; 0 means 1",
    )
    return parser.parse_args()


def main() -> None:
    """Trains the network of a run configuration, and writes its weights, history and test outputs."""
    arguments = parse()
    # heavy imports wait until the command line is known to be right
    if arguments.processes > 1 and "LOCAL_RANK" not in os.environ:
        from openset_distill.training.distributed import launch

        launch(arguments.processes, sys.argv)
    from openset_distill.core.device import prepare_device
    from openset_distill.core.files import write_json
    from openset_distill.core.provenance import Provenance
    from openset_distill.models.checkpoint import save_classifier
    from openset_distill.training.distributed import ProcessGroup, started_by_torchrun
    from openset_distill.training.run import Training
    from openset_distill.training.run_config import RunConfig
    from openset_distill.training.setup import (
        cache_key,
        check_teachers,
        describe,
        identity,
        make_student,
        open_split,
        save_test_outputs,
        save_training_outputs,
        with_precision,
        write_history,
    )
    from openset_distill.training.teachers import CachedTeacher, load_teachers

    config = RunConfig.parse(arguments.job)
    check_teachers(config, arguments.teacher)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    # a manifest holds the hashes of the images
    manifests = [folder / "manifest.json" for folder in (arguments.prepared, *arguments.other)]
    cached = [arguments.teacher_logits] if arguments.teacher_logits else []
    given = [Path(config.backbone["weights"])] if config.backbone.get("weights") else []
    device = prepare_device(arguments.threads, config.optimization.precision)
    provenance = Provenance([arguments.split, *manifests, *arguments.teacher, *cached, *given])
    processes = ProcessGroup.join(device) if started_by_torchrun() else None
    if processes:
        processes.check_batch(config.optimization.batch_size)

    def report(line: str) -> None:
        if processes is None or processes.is_main:
            print(f"{config.run}: {line}", file=sys.stderr, flush=True)

    teacher = None
    if arguments.teacher_logits:
        teacher = CachedTeacher(arguments.teacher_logits, cache_key(config, data, arguments.teacher, device), device)
    elif arguments.teacher:
        precision = config.optimization.precision
        teacher = load_teachers(arguments.teacher, data.classes, device, precision=precision, processes=processes)
    student = make_student(config, data, device)
    training = Training(
        arguments.weights.with_name("state.safetensors"),
        identity(data, arguments.teacher, arguments.teacher_logits),
        report,
    )
    history = training.run(config, student, teacher, data, device, processes=processes)
    if processes is None or processes.is_main:
        save_test_outputs(arguments.outputs, student, data, config, device)
        if arguments.samples:  # detectors are fitted to them
            path = arguments.weights.with_name("training_outputs.npz")
            save_training_outputs(path, student, data, config, device, samples=arguments.samples)
        write_history(arguments.history, history)
        stored = with_precision(config, device)
        write_json(arguments.config, stored.plain())
        write_json(
            arguments.provenance,
            provenance.record(
                command=sys.argv,
                device=str(device),
                precision=stored.optimization.precision,
                processes=processes.size if processes else 1,
                threads=arguments.threads,
                epochs=len(history),
                training_outputs=arguments.samples,
            ),
        )
        save_classifier(arguments.weights, student, describe(config, data))
        training.finish()
    if processes:
        processes.leave()


if __name__ == "__main__":
    run(main)
