# Targets. The steps behind them are in rules/, what they run in workflow_scripts/, their settings in config/.
#
#   snakemake --cores all paper_figures                                         the embedded digits
#   snakemake --cores all paper_figures --configfile config/experiments/X.yaml  another experiment
#   snakemake --cores all two_sides                                             one figure, by its name

from snakemake.utils import min_version

min_version("9.27")


# for `--sdm apptainer`; container/openset-distill.def makes it
container: "openset-distill.sif"


include: "rules/common.smk"
include: "rules/slurm.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/analysis.smk"
include: "rules/figures.smk"
include: "rules/published.smk"
include: "rules/screen.smk"


# small steps: a cluster runs them where the workflow itself runs
localrules:
    paper_figures,
    paper_tables,
    paper_training,
    paper_runs,
    published_checkpoints,
    download_dataset,
    fetch_weights,
    aggregate,


# Every figure, and the tables beside them.
rule paper_figures:
    default_target: True
    input:
        FIGURE_FILES,
        TABLE_FILES,
        made,


rule paper_tables:
    input:
        TABLE_FILES,
        made,


# Every network with its metrics, without the analysis: the part that needs GPUs.
rule paper_training:
    input:
        expand(
            f"{RUN}/{{file}}",
            **GRID,
            run=EXPERIMENT.runs,
            file=["metrics.json", "outputs.npz", "weights.safetensors", "config.json", "provenance.json"],
        ),


# Every network with its metrics and its analysis, up to the tidy tables.
rule paper_runs:
    input:
        rules.aggregate.input,


# The classifiers that Vaze et al. 2022 published, on the real Tiny-ImageNet.
rule published_checkpoints:
    input:
        rules.evaluate_published_checkpoints.output,


check_targets()


onstart:
    handle_in_thread(signal.SIGTERM)
    if workflow.executor_plugin.name == "slurm":
        begin_on_slurm()
    elif workflow.executor_plugin.name == "local":
        begin_here()


onsuccess:
    show_results()


onerror:
    if workflow.executor_plugin.name == "slurm":
        show_failed_jobs()
    show_errors()
