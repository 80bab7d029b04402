"""The micro world: seven procedural benchmarks, a tiny Qwen2.5-VL and the pretraining of its base."""
