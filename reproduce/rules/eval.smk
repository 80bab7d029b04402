# One process per arm evaluates all seeds and benchmarks: loading harnesses and model takes longer than answering.
rule evaluate_arm:
    input:
        manifests=lambda wc: plan.runs([wc.arm], "manifest.json"),
        benchmarks=[f for h in HARNESSES for f in plan.benchmark_files(h)],
        judge=lambda wc: plan.judge_file(plan.evaluations.main, wc.arm),
    output:
        plan.evaluations.outputs(plan.seeds),
    log:
        plan.results("logs", "evaluate_arm_{arm}.log"),
    benchmark:
        plan.results("timings", "{arm}", "evaluate_arm.tsv")
    wildcard_constraints:
        arm=alternatives(plan.trained),
    priority: 1  # an arm's evaluation is longer than one training
    threads: plan.threads("evaluate")
    resources:
        **plan.resources("evaluate"),
    params:
        through=lambda wc: through(
            plan.evaluations.main,
            service=plan.judge_file(plan.evaluations.main, wc.arm),
        ),
        arguments=lambda wc: plan.evaluations.arguments(plan.evaluations.main, wc.arm),
    shell:
        EVALUATE


# an adopted checkpoint is the same for every seed, so its evaluation has other outputs
use rule evaluate_arm as evaluate_adopted with:
    output:
        plan.evaluations.outputs(plan.seeds[:1]),
    wildcard_constraints:
        arm=alternatives(plan.adopted),
