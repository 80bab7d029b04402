# Scripted players on the agent benchmarks: what doing nothing, chance and an expert score.
rule play_scripted:
    input:
        plan.benchmark_files("agents"),
    output:
        plan.player_records("{player}"),
    log:
        plan.results("logs", "play_scripted_{player}.log"),
    wildcard_constraints:
        player=alternatives(plan.players),
    threads: plan.threads("benchmark")
    resources:
        **plan.resources("benchmark"),
    params:
        arguments=lambda wc: plan.evaluations.play_arguments(wc.player),
        numerics=plan.numerics,
    shell:
        "{PYTHON} evals.agents.baselines {params.arguments:q} > {log} 2>&1"
