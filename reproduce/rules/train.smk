rule resolve_config:
    output:
        f"{RUN}/config.yaml",
    log:
        plan.results("logs", "resolve_config_{arm}_{seed}.log"),
    wildcard_constraints:
        arm=alternatives(plan.trained),
    params:
        config=lambda wc: plan.train_config_json(wc.arm, int(wc.seed)),
    shell:
        "printf '%s\\n' {params.config:q} > {output} 2> {log}" + SEAL


rule adopt:
    input:
        lambda wc: plan.results("checkpoints", f"{plan.arms[wc.arm].checkpoint}.json"),
    output:
        f"{RUN}/manifest.json",
    log:
        plan.results("logs", "adopt_{arm}_{seed}.log"),
    wildcard_constraints:
        arm=alternatives(plan.adopted),
    shell:
        "cp {input} {output} 2> {log}" + SEAL


rule train:
    input:
        parent=lambda wc: plan.parent_manifest(wc.arm, wc.seed),
        prompts=lambda wc: plan.results("data", f"{plan.arms[wc.arm].stage}.jsonl"),
        config=f"{RUN}/config.yaml",
    output:
        manifest=f"{RUN}/manifest.json",
        steps=f"{RUN}/steps.jsonl",
        completions=f"{RUN}/completions.jsonl",
        timings=f"{RUN}/timings.jsonl",
    log:
        plan.results("logs", "train_{arm}_{seed}.log"),
    benchmark:
        plan.results("timings", "{arm}", "{seed}", "train.tsv")
    wildcard_constraints:
        arm=alternatives(plan.trained),
    priority: 2  # what most waits for begins first, then the longest: one long job alone at the end idles the other cores
    threads: plan.threads("train")
    resources:
        **plan.resources("train"),
    params:
        out=RUN,
        numerics=plan.numerics,
    shell:
        "{TRAIN} --config {input.config} --parent {input.parent} --prompts {input.prompts} "
        "--out {params.out:q} > {log} 2>&1"
