# One process per arm and harness evaluates all seeds and benchmarks: loading the harness takes longer than answering.
rule eval_lm_eval:
    input:
        manifests=lambda wc: plan.runs([wc.arm], "manifest.json"),
        benchmarks=plan.benchmark_files("lm_eval"),
    output:
        plan.eval_outputs("lm_eval", plan.seeds),
    log:
        plan.results("logs", "eval_lm_eval_{arm}.log"),
    benchmark:
        plan.results("timings", "{arm}", "eval_lm_eval.tsv")
    wildcard_constraints:
        arm=alternatives(plan.trained if plan.of_harness("lm_eval") else []),
    threads: plan.threads("evaluate")
    resources:
        **plan.resources("evaluate"),
    params:
        harness="lm_eval",
        arguments=lambda wc: plan.eval_arguments("lm_eval", wc.arm),
    shell:
        "{PYTHON} evals.run --harness {params.harness} {params.arguments} > {log} 2>&1"


use rule eval_lm_eval as eval_lm_eval_adopted with:
    output:
        plan.eval_outputs("lm_eval", plan.seeds[:1]),
    wildcard_constraints:
        arm=alternatives(plan.adopted if plan.of_harness("lm_eval") else []),


use rule eval_lm_eval as eval_vlmevalkit with:
    input:
        manifests=lambda wc: plan.runs([wc.arm], "manifest.json"),
        benchmarks=plan.benchmark_files("vlmevalkit"),
    output:
        plan.eval_outputs("vlmevalkit", plan.seeds),
    log:
        plan.results("logs", "eval_vlmevalkit_{arm}.log"),
    benchmark:
        plan.results("timings", "{arm}", "eval_vlmevalkit.tsv")
    wildcard_constraints:
        arm=alternatives(plan.trained if plan.of_harness("vlmevalkit") else []),
    priority: 1  # images take longest
    params:
        harness="vlmevalkit",
        arguments=lambda wc: plan.eval_arguments("vlmevalkit", wc.arm),


use rule eval_vlmevalkit as eval_vlmevalkit_adopted with:
    output:
        plan.eval_outputs("vlmevalkit", plan.seeds[:1]),
    wildcard_constraints:
        arm=alternatives(plan.adopted if plan.of_harness("vlmevalkit") else []),


use rule eval_lm_eval as eval_agents with:
    input:
        manifests=lambda wc: plan.runs([wc.arm], "manifest.json"),
        benchmarks=plan.benchmark_files("agents"),
    output:
        plan.eval_outputs("agents", plan.seeds),
    log:
        plan.results("logs", "eval_agents_{arm}.log"),
    benchmark:
        plan.results("timings", "{arm}", "eval_agents.tsv")
    wildcard_constraints:
        arm=alternatives(plan.trained if plan.of_harness("agents") else []),
    params:
        harness="agents",
        arguments=lambda wc: plan.eval_arguments("agents", wc.arm),


use rule eval_agents as eval_agents_adopted with:
    output:
        plan.eval_outputs("agents", plan.seeds[:1]),
    wildcard_constraints:
        arm=alternatives(plan.adopted if plan.of_harness("agents") else []),
