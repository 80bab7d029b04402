PAPER_TABLES = ["table1", "table2", "table3"]
EVIDENCE = [
    f"{REPORT}/paper_{t}.{k}" for t in PAPER_TABLES for k in ("csv", "md", "tex")
]
EVIDENCE_FIGURES = ["forest", "power", "seeds", "subsets"]
EVIDENCE += [f"{REPORT}/{f}.svg" for f in EVIDENCE_FIGURES]
EVIDENCE += [f"{REPORT}/quality.csv", f"{REPORT}/quality.md"]


rule scores:
    input:
        lambda wc: plan.records([wc.arm]),
    output:
        plan.results("{arm}", "scores.csv"),
    log:
        plan.results("logs", "scores_{arm}.log"),
    resources:
        **plan.resources("report"),
    params:
        code=plan.report_code,
    shell:
        "{PYTHON} reports.scores --records {input} --out {output} > {log} 2>&1"


use rule scores as scores_of_players with:
    input:
        lambda wc: plan.player_records(wc.player),
    output:
        plan.results("{player}", "scores.csv"),
    log:
        plan.results("logs", "scores_{player}.log"),
    wildcard_constraints:
        player=alternatives(plan.players),


rule table1:
    input:
        [plan.results(arm, "scores.csv") for arm in plan.arms],
    output:
        csv=f"{REPORT}/table1.csv",
        contrasts=f"{REPORT}/contrasts.csv",
        tex=f"{REPORT}/table1.tex",
        md=report(
            f"{REPORT}/table1.md",
            caption="../../reports/captions/table1.rst",
            category="Tables",
        ),
    log:
        plan.results("logs", "table1.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        code=plan.report_code,
    shell:
        "{PYTHON} reports.tables --scores {input} --benchmarks {params.benchmarks:q} --out-dir {REPORT} > {log} 2>&1"


rule quality:
    input:
        [plan.results(arm, "scores.csv") for arm in plan.arms],
    output:
        csv=f"{REPORT}/quality.csv",
        md=report(
            f"{REPORT}/quality.md",
            caption="../../reports/captions/quality.rst",
            category="Tables",
        ),
    log:
        plan.results("logs", "quality.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        code=plan.report_code,
    shell:
        "{PYTHON} reports.quality --scores {input} --benchmarks {params.benchmarks:q} --out-dir {REPORT} > {log} 2>&1"


rule plot_arms:
    input:
        f"{REPORT}/table1.csv",
    output:
        svg=report(
            f"{REPORT}/arms.svg",
            caption="../../reports/captions/arms.rst",
            category="Figures",
        ),
        png=f"{REPORT}/arms.png",
    log:
        plan.results("logs", "plot_arms.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        code=plan.report_code,
    shell:
        "{PYTHON} reports.plots arms --table {input} --benchmarks {params.benchmarks:q} --out {REPORT}/arms > {log} 2>&1"


rule plot_curves:
    input:
        plan.runs(plan.trained, "steps.jsonl"),
    output:
        svg=report(
            f"{REPORT}/curves.svg",
            caption="../../reports/captions/curves.rst",
            category="Figures",
        ),
        png=f"{REPORT}/curves.png",
    log:
        plan.results("logs", "plot_curves.log"),
    resources:
        **plan.resources("report"),
    params:
        code=plan.report_code,
    shell:
        "{PYTHON} reports.plots curves --steps {input} --out {REPORT}/curves > {log} 2>&1"


rule paper_tables:
    input:
        scores=[plan.results(arm, "scores.csv") for arm in plan.arms],
        players=[plan.results(player, "scores.csv") for player in plan.players],
        registry=of_clone("reproduce/published.yaml"),
        rules=of_clone("config/verdicts.yaml"),
    output:
        csv=[f"{REPORT}/paper_{t}.csv" for t in PAPER_TABLES],
        tex=[f"{REPORT}/paper_{t}.tex" for t in PAPER_TABLES],
        md=report(
            [f"{REPORT}/paper_{t}.md" for t in PAPER_TABLES],
            caption="../../reports/captions/paper_tables.rst",
            category="Tables",
        ),
    log:
        plan.results("logs", "paper_tables.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        left_out=[
            word
            for name, why in plan.not_measured.items()
            for word in ("--not-measured", f"{name}={why}")
        ],
        code=plan.report_code,
    shell:
        "{PYTHON} reports.paper_tables --scores {input.scores} --players {input.players} "
        "--benchmarks {params.benchmarks:q} {params.left_out:q} --out-dir {REPORT} > {log} 2>&1"


rule plot_evidence:
    input:
        table=f"{REPORT}/table1.csv",
        scores=[plan.results(arm, "scores.csv") for arm in plan.arms],
        registry=of_clone("reproduce/published.yaml"),
        rules=of_clone("config/verdicts.yaml"),
    output:
        forest=report(
            f"{REPORT}/forest.svg",
            caption="../../reports/captions/forest.rst",
            category="Figures",
        ),
        power=report(
            f"{REPORT}/power.svg",
            caption="../../reports/captions/power.rst",
            category="Figures",
        ),
        seeds=report(
            f"{REPORT}/seeds.svg",
            caption="../../reports/captions/seeds.rst",
            category="Figures",
        ),
        subsets=report(
            f"{REPORT}/subsets.svg",
            caption="../../reports/captions/subsets.rst",
            category="Figures",
        ),
        png=[f"{REPORT}/{f}.png" for f in EVIDENCE_FIGURES],
    log:
        plan.results("logs", "plot_evidence.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        code=plan.report_code,
    shell:
        "{PYTHON} reports.evidence_plots --table {input.table} --scores {input.scores} --benchmarks {params.benchmarks:q} "
        "--out-dir {REPORT} > {log} 2>&1"


# a measurement, not a part of the report: whoever reports again from a bundle has neither the benchmarks nor the pictures
rule contamination:
    input:
        train=[plan.results("data", f"{stage}.jsonl") for stage in plan.used_stages],
        benchmarks=[f for h in PROMPTED for f in plan.benchmark_files(h)],
        downloaded=plan.after_downloads(),
    output:
        plan.results("contamination.json"),
    log:
        plan.results("logs", "contamination.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=",".join(plan.probed),
        train=lambda wc, input: [
            word for path in input.train for word in ("--train", path)
        ],
        folder=plan.results("benchmarks"),
        where=plan.probe_arguments(),
        code=plan.code_of(
            "evals", "contamination.py", "pictures.py", "training_texts.py"
        ),
    shell:
        "{PYTHON} reproduce.cli contamination --benchmarks {params.benchmarks:q} --benchmark-dir {params.folder:q} "
        "--if-there {params.where:q} {params.train:q} --out {output} > {log} 2>&1"


rule page:
    input:
        table=f"{REPORT}/table1.csv",
        contrasts=f"{REPORT}/contrasts.csv",
        scores=[plan.results(arm, "scores.csv") for arm in plan.arms],
        players=[plan.results(player, "scores.csv") for player in plan.players],
        paper=[f"{REPORT}/paper_{t}.csv" for t in PAPER_TABLES],
        figures=[f"{REPORT}/{f}.svg" for f in ("arms", "curves", *EVIDENCE_FIGURES)],
        images=plan.benchmark_files("vlmevalkit"),
        limits=of_clone("config/report.yaml"),
        manifests=plan.runs(plan.arms, "manifest.json"),
        completions=plan.runs(plan.trained, "completions.jsonl"),
        timings=plan.timings(),
        styles=[f"{REPORT}/prompts.csv"] if plan.evaluations.styles else [],
        protocols=([f"{REPORT}/protocols.csv"] if plan.evaluations.protocols else []),
        contamination=[plan.results("contamination.json")] if plan.probed else [],
    output:
        report(
            f"{REPORT}/index.html",
            caption="../../reports/captions/index.rst",
            category="Report",
        ),
    log:
        plan.results("logs", "page.log"),
    resources:
        **plan.resources("report"),
    params:
        benchmarks=list(plan.benchmarks),
        optional=lambda wc, input: [
            word
            for option, paths in {
                "--prompt-styles": input.styles,
                "--protocols": input.protocols,
                "--contamination": input.contamination,
            }.items()
            for path in paths
            for word in (option, path)
        ],
        code=plan.report_code,
    shell:
        "{PYTHON} reports.page --out {output} --table {input.table} --contrasts {input.contrasts} "
        "--paper-tables {input.paper} --scores {input.scores} --players {input.players} --figures {input.figures} --images {input.images} "
        "--manifests {input.manifests} --completions {input.completions} --timings {input.timings} "
        "{params.optional:q} --benchmarks {params.benchmarks:q} > {log} 2>&1"


rule readme:
    input:
        table=f"{REPORT}/table1.md",
        csv=f"{REPORT}/table1.csv",
        played=f"{REPORT}/paper_table3.csv",
        scores=[plan.results(arm, "scores.csv") for arm in plan.arms],
        manifests=plan.runs(plan.arms, "manifest.json"),
        timings=plan.timings(),
    log:
        plan.results("logs", "readme.log"),
    resources:
        **plan.resources("report"),
    shell:
        "{PYTHON} reports.readme --readme README.md --table {REPORT}/table1 --records docs/table1_records.csv "
        "--played {input.played} --scores {input.scores} --manifests {input.manifests} --timings {input.timings} > {log} 2>&1"


rule audit:
    log:
        plan.results("logs", "audit.log"),
    resources:
        **plan.resources("report"),
    shell:
        "{PYTHON} reports.paper_audit --out docs/audit.md > {log} 2>&1"


rule check:
    input:
        plan.records(plan.arms),
    log:
        plan.results("logs", "check.log"),
    resources:
        **plan.resources("report"),
    params:
        candidates=[plan.results(arm) for arm in plan.arms if arm != "baseline"],
        baseline=plan.results("baseline"),
        benchmarks=list(plan.benchmarks),
        out=plan.results("check"),
        code=plan.report_code,
    shell:
        "{PYTHON} reports.gate --records {params.candidates:q} --against {params.baseline:q} --out {params.out:q} "
        "--benchmarks {params.benchmarks:q} 2> {log}"
