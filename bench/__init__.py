"""Speed, as ratios measured side by side: the core against TRL's GRPOTrainer on the same model, prompts and reward."""
