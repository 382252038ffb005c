# Outputs of a run -> its metrics; the metrics of all runs -> tidy tables.

GRID = {"split": EXPERIMENT.splits, "seed": EXPERIMENT.seeds}


# A network's outputs for its training images, which detectors are fitted to: for runs that were trained before there
# were detectors. Else their trainings write it.
ruleorder: train_teacher > train_student > training_outputs


rule training_outputs:
    input:
        code="workflow_scripts/training_outputs.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        weights=f"{RUN}/weights.safetensors",
        config=f"{RUN}/config.json",
    output:
        training=f"{RUN}/training_outputs.npz",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_{{run}}_training_outputs.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_{{run}}_training_outputs.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("inference").threads
    resources:
        **resources_of("inference"),
    params:
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        samples=SETTINGS.evaluation.detector_samples,
    shell:
        "python {input.code} --prepared {params.prepared:q} {params.others:q} --split {input.split:q} "
        "--description {input.description:q} --weights {input.weights:q} --config {input.config:q} "
        "--samples {params.samples} --training {output.training:q} --threads {threads} > {log:q} 2>&1"


# Predictions on a user's own images are listed by file.
PREDICTIONS = {"predictions": f"{RUN}/predictions.csv"} if EXPERIMENT.has_own_images else {}


# Needs no network, only what training left in outputs.npz: a new score or metric costs no training.
rule evaluate:
    input:
        code="workflow_scripts/evaluate.py",
        outputs=f"{RUN}/outputs.npz",
        training=[f"{RUN}/training_outputs.npz"] if EXPERIMENT.detectors else [],
        split=[f"{SPLIT}/split.npz", f"{SPLIT}/split.json"] if PREDICTIONS else [],
        prepared=[f"{folder}/manifest.json" for folder in (KNOWN, *OTHERS.values())] if PREDICTIONS else [],
    output:
        **PREDICTIONS,
        metrics=f"{RUN}/metrics.json",
        curves=f"{RUN}/curves.csv",
        activations=f"{RUN}/activations.csv",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_{{run}}_evaluate.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_{{run}}_evaluate.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("small").threads
    resources:
        **resources_of("small"),
    params:
        settings=literal(as_json(EXPERIMENT.evaluation_job())),
        training=lambda wildcards, input: options("--training", input.training),
        predictions=lambda wildcards, input, output: options_of_predictions(input, output) if PREDICTIONS else [],
    shell:
        "python {input.code} --outputs {input.outputs:q} {params.training:q} --settings {params.settings:q} "
        "--seed {wildcards.seed} {params.predictions:q} "
        "--metrics {output.metrics:q} --curves {output.curves:q} --activations {output.activations:q} "
        "> {log:q} 2>&1"


# Always from the runs of this experiment, also while kept results are redrawn.
rule aggregate:
    input:
        code="workflow_scripts/aggregate.py",
        splits=expand(f"{SPLIT}/split.json", **GRID),
        tables=[path for name in EXPERIMENT.tidy_tables for path in sources_of(TIDY_TABLES[name])],
    output:
        **{name: f"{RESULTS}/tidy/{name}.csv" for name in EXPERIMENT.tidy_tables},
        headline=f"{RESULTS}/tidy/headline.json",
        checksums=f"{RESULTS}/tidy/SHA256SUMS",
        metrics=expand(f"{RESULTS}/metrics/{{run}}.json", run=EXPERIMENT.runs),
    log:
        f"{LOGS}/aggregate.log",
    benchmark:
        f"{BENCHMARKS}/aggregate.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("small").threads
    resources:
        **resources_of("small"),
    params:
        results=lambda wildcards, output: folder_of(folder_of(output.headline)),
        layout=literal(as_json(EXPERIMENT.layout())),
        folder=lambda wildcards, output: folder_of(output.headline),
        metrics=lambda wildcards, output: folder_of(output.metrics[0]),
    shell:
        "python {input.code} --results {params.results:q} --layout {params.layout:q} --folder {params.folder:q} "
        "--metrics {params.metrics:q} > {log:q} 2>&1"


# Everything between the images and the figures that is kept. Among the targets, because Snakemake looks only at these: a
# file in between that was damaged and deleted would stay missing, and what hangs on it old, as long as the figures are
# there. Cached teacher logits, which may be deleted to save space, are made again for the runs that still need them.
MADE = (
    []
    if SETTINGS.redraw
    else [
        *rules.aggregate.input,
        *rules.aggregate.output,
        *expand(f"{SPLIT}/split.npz", **GRID),
        *expand(
            f"{RUN}/{{file}}",
            **GRID,
            run=EXPERIMENT.runs,
            file=["weights.safetensors", "outputs.npz", "config.json", "provenance.json"],
        ),
        *expand(PREDICTIONS.values(), **GRID, run=EXPERIMENT.runs),
    ]
)
RUNS_ARE_HERE = any(Path(RESULTS).glob("split*"))
