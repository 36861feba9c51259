"Reports, comparisons, costs, plans and model cards."
