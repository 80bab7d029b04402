# One job per run and benchmark: what a cluster wants.
rule evaluate:
    input:
        manifest=f"{RUN}/manifest.json",
        data=lambda wc: plan.benchmark_file(wc.benchmark),
    output:
        f"{RUN}/eval/{{benchmark}}/record.json",
    log:
        plan.results("logs", "evaluate_{arm}_{seed}_{benchmark}.log"),
    benchmark:
        plan.results("timings", "{arm}", "{seed}", "{benchmark}", "evaluate.tsv")
    threads: plan.threads("evaluate")
    resources:
        **plan.resources("evaluate"),
    params:
        through=lambda wc: through(plan.evaluations.main, [wc.benchmark]),
        arguments=lambda wc: plan.evaluations.arguments(
            plan.evaluations.main, wc.arm, [wc.seed], [wc.benchmark]
        ),
    shell:
        EVALUATE
