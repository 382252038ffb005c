# Teachers and students: one network a job.


TRAIN = (
    "python {input.code} --job {params.job:q} --prepared {params.prepared:q} {params.others:q} "
    "--split {input.split:q} --description {input.description:q} {params.teachers:q} "
    "--weights {output.weights:q} --history {output.history:q} --outputs {output.outputs:q} "
    "--config {output.config:q} --provenance {output.provenance:q} --threads {threads} > {log:q} 2>&1"
)


# A teacher sees raw images only and learns from nobody.
rule train_teacher:
    input:
        code="workflow_scripts/train.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
    output:
        weights=f"{RUN}/weights.safetensors",
        history=f"{RUN}/history.csv",
        outputs=f"{RUN}/outputs.npz",
        config=f"{RUN}/config.json",
        provenance=f"{RUN}/provenance.json",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_{{run}}_train.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_{{run}}_train.tsv"
    wildcard_constraints:
        run="|".join(EXPERIMENT.teacher_runs) or "none",
    # students wait for their teacher, so teachers go first
    priority: 10
    conda:
        ENVIRONMENT
    threads: wanted("train_teacher").threads
    resources:
        **resources_of("train_teacher"),
    params:
        job=training_job,
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=options("--other", OTHERS.values()),
        teachers=[],
    shell:
        TRAIN


# Everything else, baselines and distilled students alike.
use rule train_teacher as train_student with:
    input:
        code="workflow_scripts/train.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        teachers=teachers_of,
    wildcard_constraints:
        run="|".join(EXPERIMENT.student_runs) or "none",
    priority: 0
    threads: wanted("train_student").threads
    resources:
        **resources_of("train_student"),
    params:
        job=training_job,
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=options("--other", OTHERS.values()),
        teachers=lambda wildcards, input: options("--teacher", input.get("teachers", [])),
