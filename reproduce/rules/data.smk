rule profile:
    output:
        plan.results("profile.json"),
    log:
        plan.results("logs", "profile.log"),
    params:
        settings=plan.recorded,
    shell:
        "printf '%s\\n' {params.settings:q} > {output} 2> {log}"


rule prompts:
    input:
        checkpoint=lambda wc: plan.prompts_checkpoint(wc.stage),
    output:
        prompts=plan.results("data", "{stage}.jsonl"),
        card=plan.results("data", "{stage}.card.json"),
    log:
        plan.results("logs", "prompts_{stage}.log"),
    retries: 2
    threads: plan.threads("prompts")
    resources:
        **plan.resources("prompts"),
    params:
        spec=lambda wc: plan.prompts_spec(wc.stage),
        checkpoint=lambda wc, input: [
            word for path in input.checkpoint for word in ("--checkpoint", path)
        ],
        numerics=plan.numerics,
    shell:
        "{PYTHON} reproduce.prepare prompts --spec {params.spec:q} {params.checkpoint:q} --out {output.prompts} > {log} 2>&1"


rule text_benchmark:
    output:
        plan.results("benchmarks", "{benchmark}.jsonl"),
    log:
        plan.results("logs", "benchmark_{benchmark}.log"),
    wildcard_constraints:
        benchmark=alternatives(plan.micro_benchmarks("lm_eval")),
    threads: plan.threads("benchmark")
    resources:
        **plan.resources("benchmark"),
    params:
        n=plan.profile.micro.items,
        numerics=plan.numerics,
    shell:
        "{PYTHON} reproduce.prepare benchmark --name {wildcards.benchmark:q} --items {params.n} --out {output[0]} > {log} 2>&1"


use rule text_benchmark as image_benchmark with:
    output:
        plan.results("benchmarks", "{benchmark}.tsv"),
    wildcard_constraints:
        benchmark=alternatives(plan.micro_benchmarks("vlmevalkit")),


use rule text_benchmark as level_benchmark with:
    output:
        plan.results("benchmarks", "{benchmark}.txt"),
        plan.results("benchmarks", "{benchmark}.card.json"),
    wildcard_constraints:
        benchmark=alternatives(plan.micro_benchmarks("agents")),
    params:
        n=plan.profile.micro.levels,
        numerics=plan.numerics,


rule checkpoint:
    output:
        plan.results("checkpoints", "{checkpoint}.json"),
    log:
        plan.results("logs", "checkpoint_{checkpoint}.log"),
    benchmark:
        plan.results("timings", "{checkpoint}", "checkpoint.tsv")
    wildcard_constraints:
        checkpoint="base|candidate|released",
    threads: workflow.cores if plan.profile.world == "micro" else plan.threads("checkpoint")
    resources:
        **plan.resources("checkpoint"),
    params:
        spec=lambda wc: plan.base_spec(wc.checkpoint),
    shell:
        "{PYTHON} reproduce.prepare checkpoint --spec {params.spec:q} --out {output} > {log} 2>&1"
