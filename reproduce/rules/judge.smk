# The judge of one evaluation: a service that this evaluation alone consumes. One service for all arms would be one group,
# which begins when the last arm is trained and is killed as a whole when the first evaluation fails.
rule judge:
    output:
        service(plan.results("{arm}", "judge.json")),
    log:
        plan.results("logs", "judge_{arm}.log"),
    threads: 0  # its cores are among those of the evaluation: a group must fit into as many as its evaluation
    resources:
        gpu=plan.evaluations.judge_gpus,  # beside those of the evaluation: Snakemake adds up a group's
    params:
        model=lambda wc: plan.evaluations.judge_of(plan.evaluations.main),
    shell:
        # the file at once (docs/paper_scale.md), and a shell that stays: it is what Snakemake ends
        'printf \'{{"pid": %d, "workflow": %d, "log": "%s"}}\' $$ $PPID {log:q} > {output:q}.new && mv {output:q}.new {output:q} '
        "&& {PYTHON} reproduce.judge_service --model {params.model:q} {output:q} {OWN_GPUS} > {log:q} 2>&1 || exit $?"
