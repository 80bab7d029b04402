"""A stage's rollout batches, slowly: Python floats, a plain Hugging Face forward per completion, autograd, AdamW by hand.

Nothing of it is the core's: it is what a step of training means, and tests/test_whole_step.py holds the core to it.
"""

import math
from statistics import fmean, pstdev, stdev

import torch


def slow_stage(policy, reference, critic, batches, cfg, exact):
    """Move policy and critic, by a warmed-up cosine; returns each step's metrics.

    `batches`: per step the groups drawn, each a list of completions with `inputs` (prompt and completion as the model
    takes them), `ids`, `sampler` (log-probabilities), `finish` and `reward`.
    """
    gae, moments, logs = cfg.advantage == "gae", {}, []
    for step, drawn in enumerate(batches, 1):
        chosen = sorted(enumerate(drawn), key=lambda pair: len({row.reward for row in pair[1]}) == 1)[: cfg.num_prompts]
        kept = [group for _, group in sorted(chosen, key=lambda pair: pair[0])]
        rows = [row for group in kept for row in group]
        for group in kept:
            set_advantages(policy, reference, critic, group, cfg, exact)
        if cfg.advantage in ("gae", "reinforce_baseline"):
            flat = [a for row in rows if row.counts for a in row.advantages]
            middle, deviation = fmean(flat), max(1e-4, pstdev(flat))
            for row in rows:
                row.advantages = [(a - middle) / deviation for a in row.advantages]
        size, count, stats = len(rows) // cfg.num_minibatches, cfg.num_minibatches * cfg.num_iterations, []
        for k in range(count):
            now = step - 1 + (k + 1) / count if cfg.lr_per_optimizer_step else step
            factor = min(1, now / cfg.warmup_steps) * (0.55 + 0.45 * math.cos(math.pi * now / cfg.max_steps))
            metrics = backward(policy, critic, rows[k % cfg.num_minibatches * size :][:size], rows, cfg)
            for prefix, net, of in (("", policy, cfg), ("critic/", critic, cfg.critic))[: 1 + gae]:
                found = [p for p in net.parameters() if p.grad is not None]
                norm = metrics[prefix + "grad_norm"] = math.sqrt(sum(p.grad.pow(2).sum().item() for p in found))
                for p in found:
                    p.grad *= min(1, cfg.max_grad_norm / (norm + 1e-6))
                    moments[p] = adam(p, of.learning_rate * factor, cfg, *moments.get(p, (0, 0.0, 0.0)))
            stats.append(metrics | {"learning_rate": cfg.learning_rate * factor})
        logs.append({name: fmean(s[name] for s in stats) for name in stats[0]})
    return logs


def states(net, row):
    return net.model(**row.inputs).last_hidden_state[0, -len(row.ids) - 1 : -1]


def logprobs(net, row, cfg):
    return torch.log_softmax(net.lm_head(states(net, row)) / cfg.sampling.temperature, -1)[range(len(row.ids)), row.ids]


@torch.no_grad()
def set_advantages(policy, reference, critic, group, cfg, exact):
    gae, gamma, rewards = cfg.advantage == "gae", cfg.critic.gamma, [row.reward for row in group]
    for row in group:
        row.counts = row.finish == "stop" or not cfg.loss.mask_truncated_completions
        row.old = row.sampler if exact else logprobs(policy, row, cfg).tolist()
        row.ref = logprobs(reference, row, cfg).tolist()
        row.values = critic.value_head(states(critic, row))[:, 0].tolist() if gae else [0] * len(row.ids)
        paid = [cfg.loss.kl_in_reward * cfg.loss.beta * (q - o) for o, q in zip(row.old, row.ref, strict=True)]
        score = row.reward - (0 if gae else fmean(rewards))
        paid[-1] += score / (stdev(rewards) + 1e-4) if cfg.advantage == "group_norm" else max(-10, min(10, score))
        delta = [r + gamma * w - v for r, v, w in zip(paid, row.values, [*row.values[1:], 0], strict=True)]
        ahead, decay = (delta, gamma * cfg.critic.lam) if gae else (paid, 1)
        row.advantages = [sum(decay**i * d for i, d in enumerate(ahead[t:])) for t in range(len(ahead))]
        row.returns = [a + v for a, v in zip(row.advantages, row.values, strict=True)]


def backward(policy, critic, part, rows, cfg):
    c, sums = cfg.loss, {"loss": 0, "kl": 0, "loss/value_avg": 0}
    beta, high = c.beta * (not c.kl_in_reward), c.epsilon_high or c.epsilon
    here, everywhere = (sum(len(row.ids) for row in some if row.counts) for some in (part, rows))
    policy.zero_grad(), critic.zero_grad()
    for row in (row for row in part if row.counts):
        tokens = {"bnpo": here, "dr_grpo": len(part) * cfg.sampling.max_completion_length}
        tokens |= dict.fromkeys(("dapo", "cispo"), everywhere / cfg.num_minibatches)
        weight = 1 / tokens.get(c.loss_type, len(part) * len(row.ids))
        old, ref, before, returns = map(torch.tensor, (row.old, row.ref, row.values, row.returns))
        trust = (old - torch.tensor(row.sampler)).exp().clamp(max=c.importance_sampling_cap)
        new, a = logprobs(policy, row, cfg), torch.tensor(row.advantages) * trust
        ratio = ((new - old).mean() if c.importance_sampling_level == "sequence" else new - old).exp()
        surrogate = torch.minimum(ratio * a, ratio.clamp(1 - c.epsilon, 1 + high) * a)
        surrogate = ratio.clamp(max=high).detach() * a * new if c.loss_type == "cispo" else surrogate
        k3, value = (ref - new).exp() - (ref - new) - 1, torch.zeros(1)
        if cfg.advantage == "gae":
            values, most = critic.value_head(states(critic, row))[:, 0], cfg.critic.cliprange_value
            near = before + (values - before).clamp(-most, most) - returns
            value = 0.5 * torch.maximum((values - returns) ** 2, near**2)
        loss = weight * (beta * k3 - surrogate).sum()
        (loss + weight * value.sum()).backward()
        terms = {"loss": loss, "kl": k3.sum() * (c.beta > 0) / here, "loss/value_avg": weight * value.sum()}
        sums = {name: sums[name] + term.item() for name, term in terms.items()}
    return sums


@torch.no_grad()
def adam(p, rate, cfg, t, m, v):
    (b1, b2), t = (cfg.adam_beta1, cfg.adam_beta2), t + 1
    m, v = b1 * m + (1 - b1) * p.grad, b2 * v + (1 - b2) * p.grad**2
    p.mul_(1 - rate * cfg.weight_decay).sub_(rate * m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + 1e-8))
    return t, m, v
