"Rollouts, rewards, PPO, supervised fine-tuning and answer adapters."
