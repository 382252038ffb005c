# A check from outside: classifiers that others published, evaluated by this project's own code.

CHECKPOINTS = f"{DATA}/raw/published_checkpoints"
CHECKPOINT_IMAGES = f"{DATA}/prepared/tinyimagenet/64x3"
CHECKPOINT_RESULTS = f"{SETTINGS.results}/published_checkpoints"


rule evaluate_published_checkpoints:
    input:
        code="workflow_scripts/published_checkpoints.py",
        record=f"{CHECKPOINTS}/download.json",
        manifest=f"{CHECKPOINT_IMAGES}/manifest.json",
        images=f"{CHECKPOINT_IMAGES}/test_images.npy",
        labels=f"{CHECKPOINT_IMAGES}/test_labels.npy",
        reference="config/reference/protocols.json",
        published="config/reference/published_results.csv",
    output:
        csv=f"{CHECKPOINT_RESULTS}/table.csv",
        markdown=f"{CHECKPOINT_RESULTS}/table.md",
    log:
        f"{CHECKPOINT_RESULTS}/logs/evaluate.log",
    benchmark:
        f"{CHECKPOINT_RESULTS}/benchmarks/evaluate.tsv"
    conda:
        ENVIRONMENT
    threads: wanted("inference").threads
    resources:
        # a batch of 512 images in float32
        **(resources_of("inference") | {"mem_mb": max(4000, wanted("inference").memory_mb)}),
    params:
        prepared=lambda wildcards, input: folder_of(input.manifest),
        checkpoints=literal(options("--checkpoint", EXPERIMENT.published_checkpoints())),
        reference=lambda wildcards, input: folder_of(input.reference),
    shell:
        "python {input.code} --prepared {params.prepared:q} {params.checkpoints:q} --reference {params.reference:q} "
        "--published {input.published:q} --csv {output.csv:q} --markdown {output.markdown:q} --threads {threads} "
        "> {log:q} 2>&1"
