"The models that learn: a T5 that sees, decoders, and how they sample and load."
