"Who scores, corrects and compares: offline teachers and language models."
