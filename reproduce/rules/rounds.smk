# Every arm asked in further ways: under each further protocol and each further prompt style, in folders of their own.
def way(wc):
    return plan.evaluations.further_round(wc.kind, wc.key)


FOLDERS = [r.folder for r in plan.evaluations.further]


rule evaluate_round:
    input:
        manifests=lambda wc: plan.runs([wc.arm], "manifest.json"),
        benchmarks=[f for h in PROMPTED for f in plan.benchmark_files(h)],
        judge=lambda wc: plan.judge_file(way(wc), wc.arm),
    output:
        plan.evaluations.further_outputs(plan.seeds),
    log:
        plan.results("logs", "evaluate_round_{kind}_{key}_{arm}.log"),
    benchmark:
        plan.results("timings", "{kind}", "{key}", "{arm}", "evaluate_round.tsv")
    wildcard_constraints:
        kind=alternatives({kind for kind, _ in FOLDERS}),
        key=alternatives({key for _, key in FOLDERS}),
        arm=alternatives(plan.trained),
    threads: plan.threads("evaluate")
    resources:
        **plan.resources("evaluate"),
    params:
        through=lambda wc: through(way(wc), service=plan.judge_file(way(wc), wc.arm)),
        arguments=lambda wc: plan.evaluations.arguments(way(wc), wc.arm),
    shell:
        EVALUATE


use rule evaluate_round as evaluate_round_adopted with:
    output:
        plan.evaluations.further_outputs(plan.seeds[:1]),
    wildcard_constraints:
        kind=alternatives({kind for kind, _ in FOLDERS}),
        key=alternatives({key for _, key in FOLDERS}),
        arm=alternatives(plan.adopted),


use rule judge as judge_round with:
    output:
        service(plan.results("{kind}", "{key}", "{arm}", "judge.json")),
    log:
        plan.results("logs", "judge_{kind}_{key}_{arm}.log"),
    wildcard_constraints:
        kind=alternatives({kind for kind, _ in FOLDERS}),
        key=alternatives({key for _, key in FOLDERS}),
    params:
        model=lambda wc: plan.evaluations.judge_of(way(wc)),


use rule scores as round_scores with:
    input:
        lambda wc: plan.evaluations.records(way(wc), wc.arm),
    output:
        plan.results("{kind}", "{key}", "{arm}", "scores.csv"),
    log:
        plan.results("logs", "scores_{kind}_{key}_{arm}.log"),
    wildcard_constraints:
        kind=alternatives({kind for kind, _ in FOLDERS}),
        key=alternatives({key for _, key in FOLDERS}),


if plan.evaluations.styles:

    rule prompt_styles:
        input:
            plan.evaluations.scores(plan.evaluations.styles),
        output:
            csv=f"{REPORT}/prompts.csv",
            md=report(
                f"{REPORT}/prompts.md",
                caption="../../reports/captions/prompts.rst",
                category="Tables",
            ),
        log:
            plan.results("logs", "prompt_styles.log"),
        resources:
            **plan.resources("report"),
        params:
            benchmarks=plan.evaluations.prompted,
            code=plan.report_code,
        shell:
            "{PYTHON} reports.prompt_styles --scores {input} --benchmarks {params.benchmarks:q} --out-dir {REPORT} > {log} 2>&1"


if plan.evaluations.protocols:

    rule protocols:
        input:
            scores=[plan.results(arm, "scores.csv") for arm in plan.arms],
            others=plan.evaluations.scores(plan.evaluations.protocols),
        output:
            csv=f"{REPORT}/protocols.csv",
            md=report(
                f"{REPORT}/protocols.md",
                caption="../../reports/captions/protocols.rst",
                category="Tables",
            ),
        log:
            plan.results("logs", "protocols.log"),
        resources:
            **plan.resources("report"),
        params:
            main=plan.evaluations.main.protocol,
            benchmarks=plan.evaluations.prompted,
            code=plan.report_code,
        shell:
            "{PYTHON} reports.protocols --main {params.main:q} --scores {input.scores} --others {input.others} "
            "--benchmarks {params.benchmarks:q} --out-dir {REPORT} > {log} 2>&1"
