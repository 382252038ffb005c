# Figures and tables, drawn from the tidy tables alone. Each figure is a target of its own name: `snakemake two_sides`.

from openset_distill.report.figures import FIGURES
from openset_distill.report.tables import TABLES

FIGURE_FILES = [f"{FIGURES_FOLDER}/{name}.{kind}" for name in EXPERIMENT.figures for kind in ("pdf", "png", "csv")]
TABLE_FILES = [f"{TABLES_FOLDER}/{name}.{kind}" for name in EXPERIMENT.tables for kind in ("md", "tex", "csv")]

if REPORTS and Path(TIDY, "runs.csv").exists():
    # the page that a report opens on
    INTRODUCTION = Path(".snakemake/introduction.rst")
    INTRODUCTION.parent.mkdir(exist_ok=True)
    INTRODUCTION.write_text(introduction(TIDY, FIGURES_FOLDER, CONTEXT), encoding="utf-8")

    report: str(INTRODUCTION.resolve())


for figure in EXPERIMENT.figures:

    # A figure, and the tables that say the same in numbers.
    rule:
        name:
            figure
        input:
            multiext(f"{FIGURES_FOLDER}/{figure}", ".pdf", ".png", ".csv"),
            [
                multiext(f"{TABLES_FOLDER}/{table}", ".md", ".tex", ".csv")
                for table in FIGURES[figure].beside
                if table in EXPERIMENT.tables
            ],
            # a figure is drawn from tidy tables alone where nothing else is here, as after a `dvc pull` of these
            made if RUNS_ARE_HERE else [],
        localrule: True

    rule:
        name:
            f"figure_{figure}"
        input:
            code="workflow_scripts/figure.py",
            drawing=f"src/openset_distill/report/figures/{figure}.py",
            tables=tidy_tables(FIGURES[figure].tables),
        output:
            png=report(
                f"{FIGURES_FOLDER}/{figure}.png",
                caption="captions/item.rst",
                category="Figures",
                labels={"figure": FIGURES[figure].title},
            ),
            pdf=report(
                f"{FIGURES_FOLDER}/{figure}.pdf",
                caption="captions/item.rst",
                category="Downloads",
                labels={"file": f"{FIGURES[figure].title} (PDF)"},
            ),
            csv=f"{FIGURES_FOLDER}/{figure}.csv",
        log:
            f"{LOGS}/figure_{figure}.log",
        benchmark:
            f"{BENCHMARKS}/figure_{figure}.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        threads: wanted("small").threads
        resources:
            **resources_of("small"),
        params:
            *reported(FIGURES[figure]),
            **drawing(figure, FIGURES[figure]),
        shell:
            "python {input.code} --name {params.name} {params.tables:q} --context {params.context:q} "
            "--pdf {output.pdf:q} --png {output.png:q} --csv {output.csv:q} > {log:q} 2>&1"


for table in EXPERIMENT.tables:

    rule:
        name:
            f"table_{table}"
        input:
            code="workflow_scripts/table.py",
            making=f"src/openset_distill/report/tables/{table}.py",
            published="config/reference/published_results.csv",
            tables=tidy_tables(TABLES[table].tables),
        output:
            html=report(
                f"{TABLES_FOLDER}/{table}.html",
                caption="captions/item.rst",
                category="Tables",
                labels={"table": TABLES[table].title},
            ),
            csv=report(
                f"{TABLES_FOLDER}/{table}.csv",
                caption="captions/item.rst",
                category="Downloads",
                labels={"file": f"{TABLES[table].title} (CSV)"},
            ),
            markdown=f"{TABLES_FOLDER}/{table}.md",
            latex=f"{TABLES_FOLDER}/{table}.tex",
        log:
            f"{LOGS}/table_{table}.log",
        benchmark:
            f"{BENCHMARKS}/table_{table}.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        threads: wanted("small").threads
        resources:
            **resources_of("small"),
        params:
            *reported(TABLES[table]),
            **drawing(table, TABLES[table]),
        shell:
            "python {input.code} --name {params.name} {params.tables:q} --context {params.context:q} "
            "--published {input.published:q} --csv {output.csv:q} --markdown {output.markdown:q} "
            "--latex {output.latex:q} --html {output.html:q} > {log:q} 2>&1"
