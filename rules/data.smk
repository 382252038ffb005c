# Archives -> memory-mapped arrays -> the images of each split.

# `own` tells one set of a user's own images from another, and is empty for every other dataset
PREPARED = f"{DATA}/prepared/{{dataset}}{{own}}/{{size}}x{{channels}}"
KNOWN = EXPERIMENT.prepared(SETTINGS.data.dataset)
OTHERS = {name: EXPERIMENT.prepared(name) for name in SETTINGS.data.others}


# With a mirror folder (data.mirror, or the variable OPENSET_MIRROR) nothing is fetched from the internet.
rule download_dataset:
    input:
        code="workflow_scripts/download.py",
    output:
        record=f"{DATA}/raw/{{dataset}}/download.json",
    log:
        f"{DATA}/logs/download_{{dataset}}.log",
    benchmark:
        f"{DATA}/benchmarks/download_{{dataset}}.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("download").threads
    resources:
        **resources_of("download"),
    params:
        folder=lambda wildcards, output: folder_of(output.record),
        told=lambda wildcards: EXPERIMENT.download_options(wildcards.dataset),
    shell:
        "python {input.code} --dataset {wildcards.dataset} --folder {params.folder:q} {params.told:q} "
        "--record {output.record:q} > {log:q} 2>&1"


# Into timm's cache, which nodes share with the machine that has internet.
rule fetch_weights:
    input:
        code="workflow_scripts/fetch_weights.py",
    output:
        record=f"{DATA}/raw/weights/{{model}}.json",
    log:
        f"{DATA}/logs/weights_{{model}}.log",
    benchmark:
        f"{DATA}/benchmarks/weights_{{model}}.tsv"
    wildcard_constraints:
        model=r"[\w.-]+",
    conda:
        ENVIRONMENT
    threads: wanted("download").threads
    resources:
        **resources_of("download"),
    shell:
        "python {input.code} --model {wildcards.model} --record {output.record:q} > {log:q} 2>&1"


rule prepare_dataset:
    input:
        code="workflow_scripts/prepare.py",
        record=f"{DATA}/raw/{{dataset}}/download.json",
        images=lambda wildcards: EXPERIMENT.images(wildcards.dataset),
    output:
        train_images=f"{PREPARED}/train_images.npy",
        train_labels=f"{PREPARED}/train_labels.npy",
        test_images=f"{PREPARED}/test_images.npy",
        test_labels=f"{PREPARED}/test_labels.npy",
        manifest=f"{PREPARED}/manifest.json",
    log:
        f"{DATA}/logs/prepare_{{dataset}}{{own}}_{{size}}x{{channels}}.log",
    benchmark:
        f"{DATA}/benchmarks/prepare_{{dataset}}{{own}}_{{size}}x{{channels}}.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("prepare").threads
    resources:
        **resources_of("prepare"),
    params:
        raw=lambda wildcards, input: input.images or folder_of(input.record),
    shell:
        "python {input.code} --dataset {wildcards.dataset} --raw {params.raw:q} --size {wildcards.size} "
        "--channels {wildcards.channels} --workers {threads} --train-images {output.train_images:q} "
        "--train-labels {output.train_labels:q} --test-images {output.test_images:q} "
        "--test-labels {output.test_labels:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule make_split:
    input:
        code="workflow_scripts/split.py",
        reference="config/reference/protocols.json",
        manifest=f"{KNOWN}/manifest.json",
        labels=[f"{KNOWN}/train_labels.npy", f"{KNOWN}/test_labels.npy"],
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
    output:
        arrays=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_make_split.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_make_split.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("small").threads
    resources:
        **resources_of("small"),
    params:
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", [f"{name}={folder}" for name, folder in OTHERS.items()])),
        protocol=literal(as_json(EXPERIMENT.protocol)),
        published=literal(options("--published", EXPERIMENT.published_splits())),
        validation=SETTINGS.data.validation_fraction,
    shell:
        "python {input.code} --prepared {params.prepared:q} {params.others:q} --protocol {params.protocol:q} "
        "{params.published:q} --split {wildcards.split} --seed {wildcards.seed} "
        "--validation-fraction {params.validation} --arrays {output.arrays:q} "
        "--description {output.description:q} > {log:q} 2>&1"
