"""Trains one network, teacher or student, and records what it says about every test image."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from openset_distill.core.command import natural, positive, run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True, help="resolved settings of the run: JSON text, or a .json file")
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--teacher", action="append", default=[], type=Path, help="weights of a teacher (repeatable)")
    parser.add_argument("--answers", type=Path, help="recording of these teachers' answers, to ask them nothing again")
    parser.add_argument("--weights", required=True, type=Path, help="output: the trained weights")
    parser.add_argument("--history", required=True, type=Path, help="output: one row an epoch, CSV")
    parser.add_argument(
        "--outputs", required=True, type=Path, help="output: features, logits, labels of the test images"
    )
    parser.add_argument(
        "--samples",
        type=natural,
        default=0,
        help="of training images in training_outputs.npz, next to the weights",
    )
    parser.add_argument("--config", required=True, type=Path, help="output: the resolved settings")
    parser.add_argument("--provenance", required=True, type=Path, help="output: versions, hardware, inputs, time")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads, of all processes together")
    parser.add_argument(
        "--processes", type=natural, default=1, help="share the training between as many, each with a GPU; 0 is 1"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    # heavy imports wait until the command line is known to be right
    if arguments.processes > 1 and "LOCAL_RANK" not in os.environ:
        from openset_distill.training.distributed import launch

        launch(arguments.processes, sys.argv)
    from openset_distill.core.device import prepare_device
    from openset_distill.core.files import write_json
    from openset_distill.core.provenance import Provenance
    from openset_distill.models.checkpoint import save_classifier
    from openset_distill.training.distributed import World, started_by_torchrun
    from openset_distill.training.run import Training
    from openset_distill.training.run_config import RunConfig
    from openset_distill.training.setup import (
        check_teachers,
        describe,
        identity,
        make_student,
        open_split,
        save_test_outputs,
        save_training_outputs,
        views,
        with_precision,
        write_history,
    )
    from openset_distill.training.teachers import Recording, load_networks

    config = RunConfig.parse(arguments.job)
    check_teachers(config, arguments.teacher)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    # a manifest holds the hashes of the images
    manifests = [folder / "manifest.json" for folder in (arguments.prepared, *arguments.other)]
    recordings = [arguments.answers] if arguments.answers else []
    given = [Path(config.backbone["weights"])] if config.backbone.get("weights") else []
    device = prepare_device(arguments.threads, config.optimization.precision)
    provenance = Provenance([arguments.split, *manifests, *arguments.teacher, *recordings, *given])
    world = World.join(device) if started_by_torchrun() else None
    if world:
        world.check_batch(config.optimization.batch_size)

    def report(line: str) -> None:
        if world is None or world.leads:
            print(f"{config.run}: {line}", file=sys.stderr, flush=True)

    teacher = None
    if arguments.answers:
        teacher = Recording(arguments.answers, views(config, data, arguments.teacher, device), device)
    elif arguments.teacher:
        precision = config.optimization.precision
        teacher = load_networks(arguments.teacher, data.classes, device, precision=precision, world=world)
    student = make_student(config, data, device)
    training = Training(
        arguments.weights.with_name("state.safetensors"),
        identity(data, arguments.teacher, arguments.answers),
        report,
    )
    history = training.run(config, student, teacher, data, device, world=world)
    if world is None or world.leads:
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
                processes=world.size if world else 1,
                threads=arguments.threads,
                epochs=len(history),
                training_outputs=arguments.samples,
            ),
        )
        save_classifier(arguments.weights, student, describe(config, data))
        training.finish()
    if world:
        world.leave()


if __name__ == "__main__":
    run(main)
