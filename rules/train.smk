# Teachers and students: one network a job.


# a detector is fitted to training images; the training shows them to its network, so that no GPU is held for seconds
SAMPLES = samples_of_trainings()
FOR_DETECTORS = {"training": f"{RUN}/training_outputs.npz"} if SAMPLES else {}
# one process for each GPU of the job; from a resource, because how a training is launched is no reason to train again
TRAIN = (
    "python {input.code} --job {params.job:q} --prepared {params.prepared:q} {params.others:q} "
    "--split {input.split:q} --description {input.description:q} {params.teachers:q} {params.teacher_logits:q} "
    "--weights {output.weights:q} --history {output.history:q} --outputs {output.outputs:q} "
    "--samples {resources.samples} "
    "--config {output.config:q} --provenance {output.provenance:q} --threads {threads} --processes {resources.processes} "
    "> {log:q} 2>&1"
)


# A teacher sees raw images only and has no teacher.
rule train_teacher:
    input:
        code="workflow_scripts/train.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        given=given_weights_of,
    output:
        **FOR_DETECTORS,
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
        run=any_of(EXPERIMENT.teacher_runs),
    # students wait for their teacher, so teachers go first
    priority: 10
    conda:
        ENVIRONMENT
    threads: wanted("train_teacher").threads
    resources:
        **resources_of("train_teacher"),
        samples=SAMPLES,
    params:
        job=training_job,
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        teachers=[],
        teacher_logits=[],
    shell:
        TRAIN


# Teacher logits of every training batch, once for all students that see the same images.
rule cache_teacher_logits:
    input:
        code="workflow_scripts/cache_teacher_logits.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        teachers=lambda wildcards: teachers_of(wildcards, EXPERIMENT.teacher_logits_keys[wildcards.key]),
    output:
        # kept, as large as it is (epochs x images x classes): made again for a new student, it would have every other
        # student of the teacher trained again too
        logits=f"{SPLIT}/teacher_logits_{{key}}.safetensors",
    log:
        f"{LOGS}/split{{split}}_seed{{seed}}_{{key}}_teacher_logits.log",
    benchmark:
        f"{BENCHMARKS}/split{{split}}_seed{{seed}}_{{key}}_teacher_logits.tsv"
    wildcard_constraints:
        key="[0-9a-f]{12}",
    priority: 10
    conda:
        ENVIRONMENT
    threads: wanted("train_student").threads
    resources:
        **resources_of("train_student", most_gpus=1),
    params:
        job=caching_job,
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        teachers=lambda wildcards, input: options("--teacher", input.teachers),
    shell:
        "python {input.code} --job {params.job:q} --prepared {params.prepared:q} {params.others:q} "
        "--split {input.split:q} --description {input.description:q} {params.teachers:q} "
        "--teacher-logits {output.logits:q} --threads {threads} > {log:q} 2>&1"


# Everything else, baselines and distilled students alike.
use rule train_teacher as train_student with:
    input:
        code="workflow_scripts/train.py",
        manifest=f"{KNOWN}/manifest.json",
        others=[f"{folder}/manifest.json" for folder in OTHERS.values()],
        split=f"{SPLIT}/split.npz",
        description=f"{SPLIT}/split.json",
        given=given_weights_of,
        teachers=teachers_of,
        teacher_logits=teacher_logits_of,
    wildcard_constraints:
        run=any_of(EXPERIMENT.student_runs),
    priority: 0
    threads: wanted("train_student").threads
    resources:
        **resources_of("train_student"),
        samples=SAMPLES,
    params:
        job=training_job,
        prepared=lambda wildcards, input: folder_of(input.manifest),
        others=literal(options("--other", OTHERS.values())),
        teachers=lambda wildcards, input: options("--teacher", input.get("teachers", [])),
        teacher_logits=lambda wildcards, input: options("--teacher-logits", input.get("teacher_logits", [])),
