# One job per run and benchmark: what a cluster or a node of several GPUs wants.
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
        harness=lambda wc: plan.benchmarks[wc.benchmark].harness,
        arguments=lambda wc: plan.eval_arguments_of(wc.arm, wc.seed, wc.benchmark),
    shell:
        "{PYTHON} reproduce.gpu {resources.gpu} env {PYTHON} evals.run --harness {params.harness} {params.arguments} > {log} 2>&1"
