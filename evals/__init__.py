"""Evaluation: text benchmarks through lm-eval, multimodal ones through VLMEvalKit, one record format for both."""
