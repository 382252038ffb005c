# What the networks make of mixed images, and where their features put the unknowns.


rule scan_mixing:
    input:
        code="workflow_scripts/scan_mixing.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        weights=[f"{SPLIT}/{run}/weights.safetensors" for run in EXPERIMENT.analyzed_runs],
        configs=[f"{SPLIT}/{run}/config.json" for run in EXPERIMENT.analyzed_runs],
    output:
        mixing=f"{SPLIT}/mixing.csv",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_scan_mixing.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_scan_mixing.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("inference").threads
    resources:
        **resources_of("inference"),
    params:
        settings=literal(as_json(EXPERIMENT.analysis_job())),
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        weights=lambda wildcards, input: options("--weights", input.weights),
        configs=lambda wildcards, input: options("--config", input.configs),
    shell:
        "python {input.code} --settings {params.settings:q} --seed {wildcards.seed} --prepared {params.prepared:q} "
        "{params.others:q} --split {input.split:q} --description {input.description:q} {params.weights:q} "
        "{params.configs:q} --mixing {output.mixing:q} --threads {threads} > {log:q} 2>&1"


# All runs in one job: each is compared with the teacher, whose features are read once.
rule measure_feature_geometry:
    input:
        code="workflow_scripts/feature_geometry.py",
        outputs=[f"{SPLIT}/{run}/outputs.npz" for run in EXPERIMENT.runs],
        weights=[f"{SPLIT}/{run}/weights.safetensors" for run in EXPERIMENT.runs],
    output:
        features=f"{SPLIT}/features.csv",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_feature_geometry.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_feature_geometry.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("feature_geometry").threads
    resources:
        **resources_of("feature_geometry"),
    params:
        runs=lambda wildcards, input: options("--run", named(EXPERIMENT.runs, input.outputs)),
        heads=lambda wildcards, input: options("--head", named(EXPERIMENT.runs, input.weights)),
        teacher=literal(options("--teacher", EXPERIMENT.teacher_runs[:1])),
    shell:
        "python {input.code} {params.runs:q} {params.heads:q} {params.teacher:q} --features {output.features:q} "
        "> {log:q} 2>&1"


# Pictures are of one split and seed, so only those are asked for.
rule compute_gradcam:
    input:
        code="workflow_scripts/gradcam.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        weights=[f"{SPLIT}/{run}/weights.safetensors" for run in EXPERIMENT.analyzed_runs],
        configs=[f"{SPLIT}/{run}/config.json" for run in EXPERIMENT.analyzed_runs],
    output:
        attention=f"{SPLIT}/attention.csv",
        pictures=f"{SPLIT}/pictures.csv",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_gradcam.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_gradcam.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("inference").threads
    resources:
        **resources_of("inference"),
    params:
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        weights=lambda wildcards, input: options("--weights", input.weights),
        configs=lambda wildcards, input: options("--config", input.configs),
        pairs=SETTINGS.analysis.attention_samples,
    shell:
        "python {input.code} --pairs {params.pairs} --seed {wildcards.seed} --prepared {params.prepared:q} "
        "{params.others:q} --split {input.split:q} --description {input.description:q} {params.weights:q} "
        "{params.configs:q} --attention {output.attention:q} --pictures {output.pictures:q} --threads {threads} "
        "> {log:q} 2>&1"


# One split is drawn in the figure, so only that one is embedded.
rule embed_features:
    input:
        code="workflow_scripts/embed.py",
        description=f"{SPLIT}/split.json",
        outputs=f"{RUN}/outputs.npz",
    output:
        embedding=f"{RUN}/embedding.csv",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_{{run}}_embed.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_{{run}}_embed.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("small").threads
    resources:
        **resources_of("small"),
    params:
        samples=SETTINGS.analysis.embedding_samples,
    shell:
        "python {input.code} --outputs {input.outputs:q} --description {input.description:q} "
        "--samples {params.samples} --seed {wildcards.seed} --embedding {output.embedding:q} > {log:q} 2>&1"
