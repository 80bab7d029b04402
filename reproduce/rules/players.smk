# Scripted players on the agent benchmarks: what doing nothing, chance and an expert score.
rule play_scripted:
    input:
        plan.benchmark_files("agents"),
    output:
        plan.player_records("{player}") or [plan.results("{player}", "nothing_played")],
    log:
        plan.results("logs", "play_scripted_{player}.log"),
    wildcard_constraints:
        player=alternatives(plan.players),
    threads: plan.threads("benchmark")
    resources:
        **plan.resources("benchmark"),
    params:
        arguments=lambda wc: plan.play_arguments(wc.player),
        numerics=plan.numerics,
    shell:
        "{PYTHON} evals.agents.baselines --player {wildcards.player} {params.arguments} > {log} 2>&1"
