# What the terminal shows of a run here; the logic is in workflow_scripts/screen.py. Snakemake's own words are in its log
# file, and on the terminal with --verbose or --printshellcmds.


def show_results():
    """The table of results, below everything else."""
    if TERMINAL:
        TERMINAL.finish()
    show(TIDY, FIGURES_FOLDER, TABLES_FOLDER, CONTEXT)


def show_errors():
    """Why jobs failed, the last lines of a call."""
    if TERMINAL:
        TERMINAL.finish()
    screen.show_reasons(JOBS)


output = workflow.output_settings
TERMINAL, JOBS = None, screen.Jobs(nothing_to_do=show_results)
if not (ON_CLUSTER or workflow.dryrun or output.verbose or output.printshellcmds):
    TERMINAL = screen.take_over(logger, JOBS)
