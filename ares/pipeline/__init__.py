"From a parameter file to a finished run, and to many of them."
