"Problems, data sets, prompts, sentences and pictures."
