"Files, seeds, devices, processes, statistics and plotting: what every chapter uses."
