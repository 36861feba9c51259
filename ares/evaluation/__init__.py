"The judge and the metrics."
